//! `proto/APIS.md` is generated from the tables; `UPDATE_EXPECT=1` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use tidemark_proto::kafka::api::ApiKey;

use crate::TABLES;

/// APIs a client may send that the codec does not speak, and why.
fn left_out(key: ApiKey) -> &'static str {
    match key {
        ApiKey::CreateDelegationToken
        | ApiKey::RenewDelegationToken
        | ApiKey::ExpireDelegationToken
        | ApiKey::DescribeDelegationToken => "delegation tokens are not built",
        ApiKey::AddRaftVoter | ApiKey::RemoveRaftVoter => "there is no Raft quorum; the bucket elects",
        ApiKey::ShareGroupHeartbeat
        | ApiKey::ShareGroupDescribe
        | ApiKey::ShareFetch
        | ApiKey::ShareAcknowledge
        | ApiKey::DescribeShareGroupOffsets
        | ApiKey::AlterShareGroupOffsets
        | ApiKey::DeleteShareGroupOffsets => "share groups are not built",
        ApiKey::StreamsGroupHeartbeat | ApiKey::StreamsGroupDescribe => "streams groups are not built",
        _ => panic!("{key} needs a table in proto/schema or a reason here"),
    }
}

const DIFFERENCES: &str = include_str!("../../differences.tsv");

fn page() -> String {
    let mut page = String::from(
        "# Kafka APIs the codec speaks\n\
         Generated from `proto/schema`; do not edit. `UPDATE_EXPECT=1 cargo test -p tidemark-proto` writes it anew.\n\
         Versions are Apache Kafka 4.3.1's. What a broker answers, and in which versions, is its own table's business:\n\
         ask it (`kafka-broker-api-versions.sh`).\n\n\
         | key | API | versions | and, for old clients, from | flexible from | fields |\n|---|---|---|---|---|---|\n",
    );
    let fields =
        |message: &crate::table::Message| message.structs.iter().map(|one| one.fields.len()).sum::<usize>();
    for api in &TABLES.apis {
        let ((oldest, _), (low, high)) = (api.request.versions, api.request.kafka);
        let oldest = if oldest < low { oldest.to_string() } else { String::new() };
        let flexible = api.request.flexible.map_or("never".to_owned(), |first| first.to_string());
        let count = fields(&api.request) + fields(&api.response);
        _ = writeln!(page, "| {} | {} | {low}-{high} | {oldest} | {flexible} | {count} |", api.key, api.name);
    }
    page.push_str("\n## Not spoken\n\n| key | API | why |\n|---|---|---|\n");
    for key in ApiKey::ALL.iter().filter(|key| key.row().is_none()) {
        _ = writeln!(page, "| {} | {key} | {} |", key.as_i16(), left_out(*key));
    }
    page.push_str("\n## Answered otherwise than Apache Kafka 4.3.1\n\n\
         From `differences.tsv`, which the differential script (`broker/tests/compat`) holds to. Request and field are regular expressions.\n\n\
         | request | field | why |\n|---|---|---|\n");
    for row in DIFFERENCES.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<String> = row.split('\t').map(|cell| cell.replace('|', "\\|")).collect();
        let [request, field, why] = &*cells else { panic!("three columns: {row}") };
        _ = writeln!(page, "| `{request}` | `{field}` | {why} |");
    }
    page.push_str("\n## Records and blobs\n\n| name | versions | flexible from |\n|---|---|---|\n");
    for data in &TABLES.data {
        let flexible = data.flexible.map_or("never".to_owned(), |first| first.to_string());
        _ = writeln!(page, "| {} | {}-{} | {flexible} |", data.name, data.versions.0, data.versions.1);
    }
    page
}

#[test]
fn the_page_of_apis_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("APIS.md");
    let page = page();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &page).expect("APIS.md is writable");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "proto/APIS.md is stale; run with UPDATE_EXPECT=1");
}
