//! The life of a segment, as KIP-405 has it (`RemoteLogSegmentState`).
//!
//! ```text
//! (nothing) ─▶ CopyStarted ─▶ CopyFinished ─▶ DeleteStarted ─▶ DeleteFinished
//!                   └──────────────────────────────▲
//! ```
//! A copy that has begun is known to who makes it only: until the metadata names the segment its objects are garbage, and
//! their names say so. A segment is read while its copy is finished and its deletion has not begun; a deletion that has
//! begun stays in the metadata until the objects are gone, whoever ends it. Pure.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Objects are being written.
    CopyStarted,
    /// All objects are there, and the metadata names them.
    #[default]
    CopyFinished,
    /// Nobody reads it any more; objects are being deleted.
    DeleteStarted,
    /// Nothing of it is left.
    DeleteFinished,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [State; 4] =
        [State::CopyStarted, State::CopyFinished, State::DeleteStarted, State::DeleteFinished];

    /// Whether a segment in this state may go to `next`. To where it is already, it may: what is sent twice does no harm.
    pub fn may_become(self, next: State) -> bool {
        use State::{CopyFinished, CopyStarted, DeleteFinished, DeleteStarted};
        self == next
            || matches!(
                (self, next),
                (CopyStarted, CopyFinished | DeleteStarted)
                    | (CopyFinished, DeleteStarted)
                    | (DeleteStarted, DeleteFinished)
            )
    }

    /// Whether readers may go there.
    pub fn is_readable(self) -> bool {
        self == State::CopyFinished
    }

    /// Whether the metadata has a row of it.
    pub fn is_named(self) -> bool {
        matches!(self, State::CopyFinished | State::DeleteStarted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_one_way() {
        let allowed: Vec<(State, State)> = State::ALL
            .into_iter()
            .flat_map(|from| State::ALL.map(|to| (from, to)))
            .filter(|(from, to)| from != to && from.may_become(*to))
            .collect();
        use State::{CopyFinished, CopyStarted, DeleteFinished, DeleteStarted};
        let expected = [
            (CopyStarted, CopyFinished),
            (CopyStarted, DeleteStarted),
            (CopyFinished, DeleteStarted),
            (DeleteStarted, DeleteFinished),
        ];
        assert_eq!(allowed, expected);
        assert!(
            State::ALL.into_iter().all(|state| state.may_become(state)),
            "what is sent twice does no harm"
        );
        let readable: Vec<State> = State::ALL.into_iter().filter(|state| state.is_readable()).collect();
        assert_eq!(readable, [CopyFinished], "neither half-copied nor half-deleted data is read");
    }
}
