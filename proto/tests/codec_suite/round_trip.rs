//! The generated codec against the tables' own writer, in every version of every message.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use tidemark_proto::kafka::api::{ApiKey, TABLE};

use crate::random::{self, Extra, Random};
use crate::typed::{ALL, typed};
use crate::{TABLES, all_messages, all_versions};

#[test]
fn every_message_of_the_tables_is_tested_and_every_api_has_its_row() {
    let listed: BTreeSet<&str> = ALL.iter().map(|one| one.name).collect();
    let declared: BTreeSet<&str> = all_messages().map(|message| message.name.as_str()).collect();
    assert_eq!(listed, declared);
    assert_eq!(TABLE.len(), TABLES.apis.len());
    for (row, api) in TABLE.iter().zip(&TABLES.apis) {
        assert_eq!((row.key.as_i16(), row.name), (api.key, api.name.as_str()));
        assert_eq!((row.min, row.max), api.request.kafka);
        assert_eq!((row.oldest, row.max), api.request.versions);
    }
    for one in ALL {
        let api = one.key.map(ApiKey::name).unwrap_or(one.name);
        assert!(one.name.starts_with(api), "{} belongs to {api}", one.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_version_of_every_message_comes_back_byte_for_byte(seed: u64) {
        for (message, version) in all_versions() {
            let bytes = Bytes::from(random::message(message, version, seed, Extra::None));
            let again = (typed(&message.name).ours)(bytes.clone(), version);
            prop_assert_eq!(again, Ok(bytes), "{} version {}", message.name, version);
        }
    }

    #[test]
    fn unknown_tagged_fields_change_nothing(seed: u64) {
        for (message, version) in all_versions() {
            let plain = Bytes::from(random::message(message, version, seed, Extra::None));
            let tagged = Bytes::from(random::message(message, version, seed, Extra::UnknownTags));
            prop_assert_eq!(tagged != plain, message.is_flexible(version));
            let again = (typed(&message.name).ours)(tagged, version);
            prop_assert_eq!(again, Ok(plain), "{} version {}", message.name, version);
        }
    }

    #[test]
    fn every_truncation_is_an_error_and_so_is_a_byte_too_many(seed: u64) {
        for (message, version) in all_versions() {
            let bytes = Bytes::from(random::message(message, version, seed, Extra::None));
            let step = 1 + bytes.len() / 200;
            for end in (0..bytes.len()).step_by(step) {
                let read = (typed(&message.name).ours)(bytes.slice(..end), version);
                prop_assert!(read.is_err(), "{} version {} cut at {end}", message.name, version);
            }
            let longer = Bytes::from([&bytes[..], b"\0"].concat());
            prop_assert!((typed(&message.name).ours)(longer, version).is_err());
        }
    }

    #[test]
    fn damaged_bytes_never_panic_and_what_is_read_can_be_written(seed: u64) {
        let mut random = Random(seed);
        for (message, version) in all_versions() {
            let mut bytes = random::message(message, version, seed, Extra::UnknownTags);
            for _ in 0..20 {
                if bytes.is_empty() {
                    break;
                }
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
                // `ours` asserts that what was decoded encodes, and decodes to the same again.
                _ = (typed(&message.name).ours)(Bytes::from(bytes.clone()), version);
            }
        }
    }
}
