//! The client commands against a broker of ours: what they print, and how they fail.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use crate::{Broker, TIDEMARK, eventually, fails, signal};

/// A broker, and commands that talk to it.
struct House {
    broker: Broker,
    _dir: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        House { broker: Broker::dev(dir.path()), _dir: dir }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(TIDEMARK);
        command.args(line.split_whitespace()).env("TIDEMARK_BOOTSTRAP", self.broker.address("PLAINTEXT"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What it prints; it must succeed.
    fn says(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        succeeded(line, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, as JSON.
    fn json(&self, line: &str) -> serde_json::Value {
        let said = self.says(&format!("{line} --json"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{line}: {error}: {said}"))
    }

    /// Feeds it `input`; it must succeed.
    fn feed(&self, line: &str, input: &str) -> String {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        succeeded(line, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// It fails with `code` and a sentence that has all of `words`.
    fn fails(&self, line: &str, code: i32, words: &[&str]) {
        let address = self.broker.address("PLAINTEXT");
        let args: Vec<&str> = line.split_whitespace().chain(["--bootstrap", &address]).collect();
        fails(&args, code, words);
    }

    fn start(&self, line: &str) -> Child {
        self.command(line).spawn().unwrap()
    }
}

fn succeeded(line: &str, output: &Output) {
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn topics_are_made_described_grown_and_deleted_by_name_or_pattern() {
    let house = House::new();
    assert_eq!(
        house.says("topics create a1 a2 b -p 2 -c retention.ms=5000"),
        "created a1\ncreated a2\ncreated b\n"
    );
    house.fails("topics create a1", 1, &["TOPIC_ALREADY_EXISTS", "--if-not-exists"]);
    assert_eq!(house.says("topics create a1 --if-not-exists"), "left a1\n");
    assert_eq!(house.says("topics create c --dry-run"), "could create c\n");
    let listed = house.says("topics list a*");
    assert_eq!(words(&listed)[0][..2], ["TOPIC", "PARTITIONS"]);
    assert_eq!(words(&listed).iter().map(|line| line[0]).collect::<Vec<_>>(), ["TOPIC", "a1", "a2"]);
    assert_eq!(house.says("topics alter b --partitions 3"), "altered b\n");
    house.fails("topics alter b --partitions 1", 1, &["INVALID_PARTITIONS", "never taken away"]);
    let described = house.json("topics describe b");
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 3, "{described}");
    assert_eq!(described[0]["partitions"][2]["leader"], 1);
    house.fails("topics delete a*", 2, &["--yes"]);
    assert_eq!(house.says("topics delete a* --yes"), "deleted a1\ndeleted a2\n");
    house.fails("topics describe a1", 1, &["there is no topic a1", "tidemark topics list"]);
    assert_eq!(house.json("topics list").as_array().unwrap().len(), 1);
}

#[test]
fn lines_become_records_and_records_lines() {
    let house = House::new();
    house.says("topics create t -p 3");
    let sent = house.feed("produce t -k : -H trace=7 -c zstd --null NULL --json", "a:1\nb:2\na:3\nc:NULL\n");
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    assert_eq!((sent["records"].as_u64(), sent["bytes"].as_u64()), (Some(4), Some(19)));
    let mut lines =
        house.says(r"consume t --format %k=%v[%h]\n").lines().map(str::to_owned).collect::<Vec<_>>();
    let of_a: Vec<String> = lines.iter().filter(|line| line.starts_with('a')).cloned().collect();
    assert_eq!(of_a, ["a=1[trace=7]", "a=3[trace=7]"], "one key, one partition, in order");
    lines.sort();
    assert_eq!(lines, ["a=1[trace=7]", "a=3[trace=7]", "b=2[trace=7]", "c=null[trace=7]"]);
    house.feed("produce t --partition 1 --acks 0 -q", "last\n");
    eventually("the record is there", || house.says("consume t -p 1 --from -1") == "last\n");
    let line = house.says("consume t -p 1 --from -1 --json");
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((record["value"].as_str(), record["key"].is_null()), (Some("last"), true));
    assert_eq!(house.says("consume t -n 2").lines().count(), 2);
    assert_eq!(house.says("consume t --from 2100-01-01"), "");
    house.fails("consume t --from yesterday", 2, &["'yesterday' is no time"]);
    house.fails("consume t --format %q", 2, &["%q means nothing"]);
    house.fails("consume nope", 1, &["there is no topic nope", "topics create nope"]);
    house.fails("produce nope", 1, &["there is no topic nope"]);
    house.fails("produce t --partition 9", 1, &["no partition 9", "0 to 2"]);
}

#[test]
fn a_range_is_exported_as_kafkas_files_and_as_lines_and_nothing_is_written_over() {
    let house = House::new();
    house.says("topics create t -p 1");
    for line in ["one\n", "two\n", "three\n"] {
        house.feed("produce t --acks all -q", line);
    }
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().display();
    let said = house.says(&format!("export t --dir {into} --segment-bytes 1"));
    assert!(said.starts_with("t-0: offsets 0 to 2 in 3 files, "), "{said}");
    let first = folder.path().join("t-0/00000000000000000000.log");
    let third = folder.path().join("t-0/00000000000000000002.log");
    let bytes = std::fs::read(&third).unwrap();
    assert_eq!((bytes[..8].to_vec(), bytes[16]), (2i64.to_be_bytes().to_vec(), 2), "a batch of its offset");
    assert!(folder.path().join("t-0/00000000000000000002.index").exists() && first.exists());
    house.fails(&format!("export t --dir {into}"), 1, &["cannot write", "00000000000000000000.log"]);
    let said = house.says(&format!("export t --dir {into} --format json --from 1 --to 2"));
    assert!(said.starts_with("t-0: offsets 1 to 1 in 1 files"), "{said}");
    let lines = std::fs::read_to_string(folder.path().join("t-0.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((line["value"].as_str(), line["offset"].as_i64()), (Some("two"), Some(1)));
    let said = house.says(&format!("export t --dir {into} --format parquet"));
    assert!(said.starts_with("t-0: offsets 0 to 2 in 1 files"), "{said}");
    let table = std::fs::read(folder.path().join("t-0.parquet")).unwrap();
    assert!(table.starts_with(b"PAR1") && table.ends_with(b"PAR1"), "whole");
    house.fails("export nope --dir x", 1, &["there is no topic nope"]);
}

#[test]
fn a_range_is_replayed_as_planned_at_a_rate_and_within_a_budget() {
    let house = House::new();
    house.says("topics create t -p 2");
    house.feed("produce t --partition 0 --acks all -q", "one\ntwo\nthree\n");
    house.feed("produce t --partition 1 --acks all -q", &format!("{}\n", "x".repeat(300_000)));
    let plan = house.json("replay t --plan --rate 1 --from 1 -p 0");
    assert_eq!((plan["sum"]["offsets"].as_u64(), plan["sum"]["requests"].as_u64()), (Some(2), Some(1)));
    assert_eq!(plan["partitions"][0]["from"], 1);
    let told = house.says("replay t --plan --price s3");
    assert_eq!(words(&told).last().map(|line| (line[0], line[3])), Some(("(all)", "4")), "{told}");
    assert_eq!(house.says("replay t -p 0 --from 1 --to 2"), "two\n");
    assert_eq!(house.says("replay t -p 0 --from -1 --to 99"), "three\n", "as far as there is something");
    assert_eq!(house.says("replay t -p 0 --from end"), "");
    let began = std::time::Instant::now();
    let warmed = house.json("replay t --prewarm --rate 0.5");
    assert_eq!(warmed["offsets"], 4);
    assert!(warmed["bytes"].as_u64().unwrap() > 300_000, "{warmed}");
    let least = warmed["bytes"].as_f64().unwrap() / f64::from(1 << 19);
    assert!(began.elapsed().as_secs_f64() >= least, "as slowly as was asked for");
    house.fails("replay t --max-dollars 0.0000001", 1, &["may cost $0.0000", "--plan"]);
    house.fails("replay nope", 1, &["there is no topic nope"]);
}

#[test]
fn a_follower_prints_what_comes_and_ends_well_on_ctrl_c_and_when_nobody_reads() {
    let house = House::new();
    house.says("topics create t -p 1");
    let mut followers = [house.start("consume t --follow"), house.start("consume t --follow")];
    house.feed("produce t", "one\n");
    for follower in &mut followers {
        let mut line = String::new();
        BufReader::new(follower.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "one\n");
    }
    let [follower, mut reader] = followers;
    signal(&follower, "INT");
    let ended = follower.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
    drop(reader.stdout.take());
    house.feed("produce t", "two\n");
    let ended = reader.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn groups_read_on_where_they_were_show_their_lag_and_can_be_moved() {
    let house = House::new();
    house.says("topics create t -p 1");
    house.feed("produce t", "0\n1\n2\n3\n4\n");
    assert_eq!(house.says("consume t --group g -n 2"), "0\n1\n");
    let described = house.json("groups describe g");
    assert_eq!((described[0]["lag"].as_i64(), described[0]["state"].as_str()), (Some(3), Some("Empty")));
    assert_eq!(house.says("consume t --group g"), "2\n3\n4\n");
    assert_eq!(house.says("consume t --group g"), "");
    assert_eq!(words(&house.says("groups list g"))[1][..2], ["g", "Empty"]);
    house.says("groups reset-offsets g --all-topics --to-offset 4");
    assert_eq!(house.json("groups describe g")[0]["lag"], 0, "a dry run");
    house.says("groups reset-offsets g --topic t:0 --shift-by -2 --execute");
    assert_eq!(house.says("consume t --group g"), "3\n4\n");
    house.says("groups reset-offsets g --all-topics --to-earliest --execute");
    assert_eq!(house.json("offsets t --group g")[0]["lag"], 5);
    let nowhere = house.command("groups reset-offsets g --all-topics").output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
    let mut member = house.start("consume t --group g --follow");
    let mut lines = BufReader::new(member.stdout.take().unwrap()).lines();
    let printed: Vec<String> = (0..5).map(|_| lines.next().unwrap().unwrap()).collect();
    assert_eq!(printed, ["0", "1", "2", "3", "4"]);
    let described = house.json("groups describe g");
    assert_eq!(
        (described[0]["state"].as_str(), described[0]["assignor"].as_str()),
        (Some("Stable"), Some("range"))
    );
    assert_eq!(described[0]["members"][0]["partitions"], serde_json::json!(["t-0"]));
    house.fails("groups reset-offsets g --all-topics --to-latest --execute", 1, &["has members"]);
    house.fails("groups delete g --yes", 1, &["NON_EMPTY_GROUP", "stop its consumers"]);
    signal(&member, "INT");
    assert_eq!(member.wait().unwrap().code(), Some(0));
    assert_eq!(house.json("groups describe g")[0]["lag"], 0, "what was printed is committed");
    assert_eq!(house.says("groups delete g --yes"), "deleted g\n");
    house.fails("groups describe g", 1, &["there is no group g"]);
}

#[test]
fn offsets_are_told_by_partition_by_time_and_as_sums_and_old_records_can_go() {
    let house = House::new();
    house.says("topics create t -p 2");
    house.feed("produce t -p 1", "a\nb\nc\n");
    let table = house.says("offsets t --at 1h");
    assert_eq!(words(&table)[0], ["TOPIC", "PARTITION", "START", "END", "RECORDS", "AT"]);
    assert_eq!(words(&table)[2], ["t", "1", "0", "3", "3", "0"]);
    house.fails("topics delete-records t --before 2", 2, &["Delete up to 2 records", "--yes"]);
    let cut = house.json("topics delete-records t --before 2 --yes");
    assert_eq!(cut, serde_json::json!([{"partition": 1, "start": 2}]));
    assert_eq!(house.json("offsets t --sum")[0]["records"], 1);
    assert_eq!(house.says("consume t"), "c\n");
    house.fails("topics delete-records t -p 7 --before end --yes", 1, &["no partition 7"]);
}

#[test]
fn configs_say_where_they_come_from_and_can_be_set_and_unset() {
    let house = House::new();
    house.says("topics create t");
    assert_eq!(house.says("configs set topic t retention.ms=7000"), "changed retention.ms of topic t\n");
    let set = house.json("configs get topic t");
    assert_eq!(set.as_array().unwrap().len(), 1, "{set}");
    assert_eq!((set[0]["value"].as_str(), set[0]["source"].as_str()), (Some("7000"), Some("topic")));
    assert!(set[0]["synonyms"].as_array().is_some_and(|synonyms| synonyms.len() >= 2), "{set}");
    assert!(house.json("configs get topic t --all").as_array().unwrap().len() > 10);
    house.fails("configs set topic t retention.ms=soon", 1, &["topic t", "INVALID_CONFIG"]);
    house.fails("configs set topic t retention.ms", 2, &["retention.ms=86400000"]);
    house.fails("configs get topic nope", 1, &["topic nope", "UNKNOWN_TOPIC_OR_PARTITION"]);
    house.says("configs unset topic t retention.ms");
    assert_eq!(house.json("configs get topic t"), serde_json::json!([]));
    house.says("configs set broker default message.max.bytes=100000");
    let of_broker = house.says("configs get broker 1 message.max.bytes --wide");
    assert!(of_broker.contains("all brokers"), "{of_broker}");
    house.fails("configs get broker 99", 1, &["no broker 99"]);
}

#[test]
fn configs_of_a_group_are_there_before_the_group_is() {
    let house = House::new();
    assert_eq!(house.json("configs get group g"), serde_json::json!([]));
    let all = house.json("configs get group g --all");
    let value = |name: &str| {
        let row = all.as_array().unwrap().iter().find(|row| row["key"] == name).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(value("consumer.session.timeout.ms"), ("45000".into(), "default".into()), "{all}");
    house.says("configs set group g consumer.session.timeout.ms=50000");
    let set = house.json("configs get group g");
    assert_eq!(
        (set[0]["key"].as_str(), set[0]["value"].as_str()),
        (Some("consumer.session.timeout.ms"), Some("50000"))
    );
    assert_eq!((set.as_array().unwrap().len(), set[0]["source"].as_str()), (1, Some("group")), "{set}");
    assert_eq!(house.json("configs get group h"), serde_json::json!([]), "another group's are its own");
    house.fails("configs set group g consumer.session.timeout.ms=1", 1, &["group g", "INVALID_CONFIG"]);
    house.fails(
        "configs set group g retention.ms=1",
        1,
        &["group g", "Unknown group config name: retention.ms"],
    );
    house.says("configs unset group g consumer.session.timeout.ms");
    assert_eq!(house.json("configs get group g"), serde_json::json!([]));
}

#[test]
fn the_cluster_its_versions_and_its_features_are_shown() {
    let house = House::new();
    let cluster = house.json("cluster");
    assert_eq!(
        (cluster["controller"].as_i64(), cluster["brokers"][0]["answers"].as_bool()),
        (Some(1), Some(true))
    );
    assert_eq!(words(&house.says("cluster"))[1][..2], ["BROKER", "ADDRESS"]);
    let versions = house.says("cluster versions");
    assert!(words(&versions).iter().any(|line| line[1] == "Produce"), "{versions}");
    assert!(house.says("cluster features").starts_with("FEATURE"));
    assert_eq!(house.json("cluster moves").as_array().map(Vec::len), Some(0));
}

#[test]
fn watch_tells_what_changes_and_top_prints_a_frame() {
    let house = House::new();
    house.says("topics create t -p 2");
    house.feed("produce t -p 1", "a\nb\nc\n");
    house.says("consume t --group g -n 1");
    let mut watch = house.start("watch --every 200ms --json");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = |event: &str| -> serde_json::Value {
        loop {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    };
    assert_eq!(next("watching")["partitions"], 2);
    house.feed("produce t -p 0", "d\n");
    let moved = next("records");
    assert_eq!((moved["topic"].as_str(), moved["partition"].as_i64()), (Some("t"), Some(0)), "{moved}");
    assert_eq!((moved["records"].as_i64(), moved["end"].as_i64()), (Some(1), Some(1)), "{moved}");
    house.says("topics create u -p 1");
    assert_eq!(next("topic created")["topic"], "u");
    house.says("topics delete u --yes");
    assert_eq!(next("topic deleted")["topic"], "u");
    signal(&watch, "INT");
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    let frame = house.says("top --once --every 100ms");
    let lines = words(&frame);
    let topic = lines.iter().find(|line| line.first() == Some(&"t")).unwrap_or_else(|| panic!("{frame}"));
    assert_eq!(topic[1], "2", "{frame}");
    let group = lines.iter().find(|line| line.first() == Some(&"g")).unwrap_or_else(|| panic!("{frame}"));
    assert_eq!(group[1..3], ["Empty", "2"], "{frame}");
    let view = house.json("top --once --every 100ms");
    assert_eq!(
        (view["groups"][0]["lag"].as_i64(), view["brokers"][0]["leads"].as_u64().is_some()),
        (Some(2), true)
    );
    house.fails("top", 2, &["no terminal", "--once"]);
    for span in ["fast", "1ms", "100000000000d"] {
        house.fails(&format!("watch --every {span}"), 2, &["--every", "500ms"]);
    }
    for line in ["topics list --timeout 18446744073709551615", "produce t --batch-bytes 4000000000"] {
        let wrong = house.command(line).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{line}: {}", String::from_utf8_lossy(&wrong.stderr));
    }
}

#[test]
fn an_address_where_nobody_answers_ends_with_1_and_says_what_to_do() {
    let nobody = ["topics", "list", "--bootstrap", "127.0.0.1:1"];
    fails(&nobody, 1, &["127.0.0.1:1", "tidemark dev", "--bootstrap"]);
    let script = crate::run(&["completions", "bash"]);
    let script = String::from_utf8_lossy(&script.stdout).into_owned();
    assert!(script.contains("reset-offsets") && script.contains("_tidemark"), "it completes every command");
}
