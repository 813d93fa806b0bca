//! What requests cost, by price table (`tidemark.bucket.price`). List prices in US dollars of the first region.
//!
//! A table is for telling what it costs, and for knowing where a request costs nothing; bills are the store's.

use std::fmt;
use std::str::FromStr;

use super::meter::Verb;

/// A price table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prices {
    /// Amazon S3 Standard.
    S3,
    /// Amazon S3 Express One Zone.
    S3Express,
    /// Google Cloud Storage, standard class.
    Gcs,
    /// Azure Blob Storage, hot tier.
    Azure,
    /// One's own store: a directory, memory, a server of one's own.
    #[default]
    Free,
}

impl Prices {
    /// All tables.
    pub const ALL: [Prices; 5] = [Prices::S3, Prices::S3Express, Prices::Gcs, Prices::Azure, Prices::Free];

    /// The table's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Prices::S3 => "s3",
            Prices::S3Express => "s3-express",
            Prices::Gcs => "gcs",
            Prices::Azure => "azure",
            Prices::Free => "free",
        }
    }

    /// Dollars for one request that moves `bytes`.
    pub fn dollars(self, verb: Verb, bytes: u64) -> f64 {
        let write = matches!(verb, Verb::Put | Verb::List);
        let per_1000 = match (self, verb) {
            (Prices::Free, _) | (_, Verb::Delete) => 0.0,
            (Prices::S3Express, _) if write => 0.00113,
            (Prices::S3Express, _) => 0.00003,
            _ if write => 0.005,
            _ => 0.0004,
        };
        let per_gib = match (self, verb) {
            (Prices::S3Express, Verb::Put) => 0.0032,
            (Prices::S3Express, Verb::Get) => 0.0006,
            _ => 0.0,
        };
        per_1000 / 1000.0 + per_gib * bytes as f64 / (1u64 << 30) as f64
    }

    /// Dollars for keeping a GiB for a month.
    pub fn per_gib_month(self) -> f64 {
        match self {
            Prices::S3 => 0.023,
            Prices::S3Express => 0.11,
            Prices::Gcs => 0.020,
            Prices::Azure => 0.018,
            Prices::Free => 0.0,
        }
    }

    /// Whether requests cost nothing.
    pub fn is_free(self) -> bool {
        self == Prices::Free
    }
}

impl fmt::Display for Prices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Prices {
    type Err = String;

    fn from_str(name: &str) -> Result<Prices, String> {
        let known = Prices::ALL.into_iter().find(|p| p.name() == name);
        known.ok_or_else(|| format!("'{name}' is no price table; use s3, s3-express, gcs, azure or free"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_puts_and_gets_cost_what_the_price_list_says() {
        let thousand = |p: Prices, v| p.dollars(v, 0) * 1000.0;
        assert!((thousand(Prices::S3, Verb::Put) - 0.005).abs() < 1e-9);
        assert!((thousand(Prices::S3, Verb::Get) - 0.0004).abs() < 1e-9);
        assert!((thousand(Prices::Gcs, Verb::List) - 0.005).abs() < 1e-9);
        assert_eq!(thousand(Prices::S3, Verb::Delete), 0.0);
        assert_eq!(thousand(Prices::Free, Verb::Put), 0.0);
        assert!(Prices::S3Express.dollars(Verb::Put, 1 << 30) > 0.0032);
    }

    #[test]
    fn tables_are_named_in_the_configuration() {
        for table in Prices::ALL {
            assert_eq!(table.name().parse(), Ok(table));
        }
        assert!("cheap".parse::<Prices>().unwrap_err().contains("'cheap'"));
    }
}
