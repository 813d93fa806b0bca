//! A place to read from or to move to, as one writes it: beginning, end, an offset, so many before the end, a time.

use std::collections::BTreeMap;

use tidemark_proto::id::Millis;
use tidemark_proto::kafka::error::ErrorCode;

use super::client::{Cluster, EARLIEST, LATEST, Place, Spot, Trouble, refused};
use super::when;

/// A place in every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record there is.
    Beginning,
    /// Behind the last.
    End,
    /// An offset.
    Offset(i64),
    /// So many before the end.
    BeforeEnd(i64),
    /// The first record at or after a time; the end where there is none.
    Time(Millis),
}

impl Position {
    /// Reads `beginning`, `end`, `42`, `-5`, or a time.
    pub fn parse(text: &str, now: Millis) -> Result<Position, String> {
        Ok(match text {
            "beginning" | "earliest" | "start" => Position::Beginning,
            "end" | "latest" => Position::End,
            text => match text.parse::<i64>() {
                Ok(offset) if offset >= 0 => Position::Offset(offset),
                Ok(before) => Position::BeforeEnd(before.saturating_neg()),
                Err(_) => Position::Time(when::parse(text, now).map_err(|why| {
                    format!("{why}; or beginning, end, an offset, -5 (five before the end)")
                })?),
            },
        })
    }

    /// The offsets it stands for, within what each partition holds but for an offset that was named.
    pub async fn resolve(
        self,
        cluster: &Cluster,
        places: &[Place],
        read_committed: bool,
    ) -> Result<BTreeMap<Place, i64>, Trouble> {
        let of = async |when| {
            let found = cluster.offsets(places, when, read_committed).await?;
            found
                .into_iter()
                .map(|(place, spot)| Ok((place.clone(), known(&place, spot)?)))
                .collect::<Result<_, Trouble>>()
        };
        let mut offsets: BTreeMap<Place, i64> = match self {
            Position::Beginning => of(EARLIEST).await?,
            Position::End => of(LATEST).await?,
            Position::Offset(offset) => places.iter().map(|place| (place.clone(), offset)).collect(),
            Position::BeforeEnd(before) => {
                let starts: BTreeMap<Place, i64> = of(EARLIEST).await?;
                let mut ends: BTreeMap<Place, i64> = of(LATEST).await?;
                for (place, end) in &mut ends {
                    *end = (*end - before).max(starts.get(place).copied().unwrap_or(0));
                }
                ends
            }
            Position::Time(at) => of(at.0.max(0)).await?,
        };
        // No record is that late.
        if offsets.values().any(|offset| *offset < 0) {
            let ends: BTreeMap<Place, i64> = of(LATEST).await?;
            for (place, offset) in offsets.iter_mut().filter(|(_, offset)| **offset < 0) {
                *offset = ends.get(place).copied().unwrap_or(0);
            }
        }
        Ok(offsets)
    }
}

/// The offset, or the partition's error.
pub fn known(place: &Place, spot: Result<Spot, ErrorCode>) -> Result<i64, Trouble> {
    match spot {
        Ok(spot) => Ok(spot.offset),
        Err(code) => {
            refused(&format!("offsets of {}-{}", place.0, place.1), code.code(), None)?;
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_one_writes_them() {
        let now = Millis(10_000_000);
        for (text, position) in [
            ("beginning", Position::Beginning),
            ("latest", Position::End),
            ("0", Position::Offset(0)),
            ("42", Position::Offset(42)),
            ("-5", Position::BeforeEnd(5)),
            ("10s", Position::Time(Millis(9_990_000))),
            ("1970-01-02", Position::Time(Millis(86_400_000))),
        ] {
            assert_eq!(Position::parse(text, now), Ok(position), "{text}");
        }
        assert!(Position::parse("tomorrow", now).is_err());
    }
}
