//! Keys of a subscription to clients' metrics (KIP-714).

use crate::config::table::Kind::{Int, List};
use crate::config::table::{Key, key};

/// The rows.
pub const KEYS: &[Key] = &[
    key("interval.ms", Int, "300000", "How often a client pushes its metrics.").between(100, 3_600_000),
    key(
        "match",
        List,
        "",
        "Which clients are asked: a list of what=pattern, all of which a client must fit. What: client_id, \
         client_instance_id, client_software_name, client_software_version, client_source_address, client_source_port.",
    ),
    key("metrics", List, "", "Prefixes of the names of the metrics that are asked for; * means all."),
];
