//! Tests of one group: scripts with goldens, and random commands.

mod bench_group;
mod property;
mod script;

use super::partition_of;

#[test]
fn groups_lie_where_kafkas_tools_look_for_them() {
    // Java: Utils.abs("…".hashCode()) % 50
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("a", 50), 47); // 97
    assert_eq!(partition_of("hello", 50), 22); // 99162322
    assert_eq!(partition_of("polygenelubricants", 50), 0); // Integer.MIN_VALUE
    assert_eq!(partition_of("console-consumer-1", 1), 0);
    assert_eq!(partition_of("é", 50), 33); // 233
    assert_eq!(partition_of("𝄞", 50), 44); // 55348 * 31 + 56606: a surrogate pair
}
