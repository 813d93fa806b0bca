//! Against the `kafka-protocol` crate: what we write it reads and writes the same, and what it writes
//! we read and write the same, in every version both speak.

use bytes::Bytes;

use crate::all_versions;
use crate::random::{self, Extra};
use crate::typed::typed;

#[test]
fn the_kafka_protocol_crate_reads_and_writes_the_same_bytes() {
    let mut compared = 0;
    for (message, version) in all_versions() {
        let one = typed(&message.name);
        let Some(((low, high), peer)) = one.peer else { continue };
        if !(low..=high).contains(&version) {
            continue;
        }
        for seed in 0..16 {
            let bytes = Bytes::from(random::message(message, version, seed, Extra::None));
            let theirs =
                peer(bytes.clone(), version).map_err(|why| format!("{} {version}: {why}", message.name));
            assert_eq!(theirs.as_ref(), Ok(&bytes), "{} version {version} seed {seed}", message.name);
            assert_eq!((one.ours)(bytes.clone(), version), Ok(bytes));
        }
        compared += 1;
    }
    println!("{compared} (message, version) pairs agree with kafka-protocol");
    assert!(compared > 300, "only {compared} pairs compared");
}
