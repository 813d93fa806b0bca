//! The one thing a coordinator reads in the metadata of `consumer` members: which topics they read.
//!
//! The metadata comes from clients; whatever does not parse says nothing, and nothing expires because of it.

use bytes::{Buf, Bytes};
use tidemark_proto::kafka::text::Text;

/// The protocol type of Kafka's own consumers.
pub const PROTOCOL_TYPE: &str = "consumer";

/// The topics of a consumer's subscription: `version: i16, topics: [string], …`; later fields are not read.
pub fn topics(metadata: &Bytes) -> Option<Vec<Text>> {
    let mut rest = metadata.clone();
    if rest.try_get_i16().ok()? < 0 {
        return None;
    }
    let count = usize::try_from(rest.try_get_i32().ok()?).ok()?;
    // Every name takes two bytes at least: nothing is allocated for a count that cannot be.
    if count > rest.len() / 2 {
        return None;
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::try_from(rest.try_get_i16().ok()?).ok()?;
        if length > rest.len() {
            return None;
        }
        topics.push(Text::try_from(rest.split_to(length)).ok()?.detached());
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(count: i32, names: &[&str]) -> Bytes {
        let mut out = vec![0, 3];
        out.extend(count.to_be_bytes());
        for name in names {
            out.extend(i16::try_from(name.len()).unwrap().to_be_bytes());
            out.extend(name.as_bytes());
        }
        Bytes::from(out)
    }

    #[test]
    fn topics_are_read_and_what_follows_is_not() {
        let mut blob = metadata(2, &["a", "bc"]).to_vec();
        blob.extend([0xff; 9]);
        assert_eq!(topics(&blob.into()).unwrap(), ["a", "bc"].map(Text::from));
    }

    #[test]
    fn a_count_of_two_billion_is_refused_before_allocation() {
        assert_eq!(topics(&metadata(i32::MAX, &["a"])), None);
    }

    #[test]
    fn every_truncation_says_nothing() {
        let whole = metadata(2, &["a", "bc"]);
        for end in 0..whole.len() {
            assert_eq!(topics(&whole.slice(..end)), None, "{end}");
        }
        assert_eq!(topics(&metadata(-1, &[])), None);
    }
}
