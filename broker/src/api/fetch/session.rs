//! Fetch sessions (KIP-227): what a client need not repeat and a broker need not answer again.
//!
//! Pure but for the ids it is handed. `begin` takes a request in, `finish` a response out; the state that decides
//! what may be left out changes only in `finish`, once per response that is sent. Knows no log.

use std::collections::{BTreeMap, VecDeque};

use tidemark_proto::id::{Millis, Offset};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;
use uuid::Uuid;

/// A session may be pushed out by a new one after this long without a request.
pub const EVICTION_MS: i64 = 120_000;

/// Partitions one session remembers at most.
pub const PARTITIONS_MAX: usize = 200_000;

/// A topic as the client names it: by id from v13 on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicKey {
    /// By name.
    Name(Text),
    /// By id.
    Id(Uuid),
}

/// A partition as the client names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The topic.
    pub topic: TopicKey,
    /// The partition's index.
    pub partition: i32,
}

/// What the client wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// First offset.
    pub offset: i64,
    /// Epoch the client believes in; -1 unknown.
    pub leader_epoch: i32,
    /// Epoch of the last record the client has; -1 unknown.
    pub last_epoch: i32,
    /// Bytes at most.
    pub bytes_max: i32,
}

/// What the last response said of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// High watermark.
    pub hw: Offset,
    /// Log start.
    pub log_start: Offset,
}

/// How a response came out for one partition.
#[derive(Clone, Debug)]
pub struct Came {
    /// Which.
    pub key: Key,
    /// Its bounds, where there was no error.
    pub said: Option<Said>,
    /// Whether it carries records.
    pub records: bool,
    /// Whether it carries an error or anything else that must be told.
    pub notable: bool,
}

#[derive(Debug)]
struct Cached {
    want: Want,
    said: Option<Said>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    /// Whether its topics are named by id.
    by_id: bool,
    parts: BTreeMap<Key, Cached>,
    order: VecDeque<Key>,
    born: Millis,
    used: Millis,
}

/// A request taken in.
#[derive(Debug)]
pub struct Begun {
    /// Session the response belongs to; 0 for none.
    pub id: i32,
    /// Everything to look at, in the order in which bytes are handed out.
    pub wants: Vec<(Key, Want)>,
    incremental: bool,
}

impl Begun {
    /// Whether the session was there before the request.
    pub fn goes_on(&self) -> bool {
        self.incremental
    }
}

/// The sessions of one broker.
#[derive(Debug)]
pub struct Sessions {
    slots: usize,
    open: BTreeMap<i32, Session>,
}

impl Sessions {
    /// At most `slots` sessions (`max.incremental.fetch.session.cache.slots`).
    pub fn new(slots: usize) -> Sessions {
        Sessions { slots, open: BTreeMap::new() }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes a request in: `(id, epoch)` as the client sent them and whether it names topics by id, what it names, what
    /// it forgets. `fresh` is a random id for a session that may be opened.
    ///
    /// # Errors
    /// `FetchSessionIdNotFound`, `InvalidFetchSessionEpoch`, and `FetchSessionTopicIdError` where a session begun with
    /// names goes on with ids or the other way: as in Kafka it stays as it was, its epoch too.
    pub fn begin(
        &mut self,
        (id, epoch, by_id): (i32, i32, bool),
        named: Vec<(Key, Want)>,
        forgotten: &[Key],
        fresh: i32,
        now: Millis,
    ) -> Result<Begun, ErrorCode> {
        if epoch <= 0 {
            if id != 0 {
                self.open.remove(&id);
            }
            let id = if epoch == 0 { self.create(&named, by_id, fresh, now) } else { 0 };
            return Ok(Begun { id, wants: named, incremental: false });
        }
        let session = self.open.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.epoch = epoch.checked_add(1).unwrap_or(1);
        session.used = now;
        for key in forgotten {
            if session.parts.remove(key).is_some() {
                session.order.retain(|k| k != key);
            }
        }
        for (key, want) in named {
            let room = session.parts.len() < PARTITIONS_MAX;
            match session.parts.get_mut(&key) {
                Some(cached) => cached.want = want,
                None if room => {
                    session.order.push_back(key.clone());
                    session.parts.insert(key, Cached { want, said: None });
                }
                None => {}
            }
        }
        if session.parts.is_empty() {
            // As in Kafka a session with nothing left in it ends.
            self.open.remove(&id);
            return Ok(Begun { id: 0, wants: Vec::new(), incremental: false });
        }
        let wants = session.order.iter().map(|k| (k.clone(), session.parts[k].want)).collect();
        Ok(Begun { id, wants, incremental: true })
    }

    /// The response to `begun` says nothing for now: an incremental session stays as it is, one that the request would have
    /// opened is not. Returns the session that the response names.
    pub fn withhold(&mut self, begun: &Begun) -> i32 {
        if begun.incremental {
            return begun.id;
        }
        self.open.remove(&begun.id);
        0
    }

    /// Takes a response out: which of its partitions have to be sent. Partitions that carried records go to the back, so
    /// that nobody starves.
    pub fn finish(&mut self, begun: &Begun, came: &[Came]) -> Vec<bool> {
        let Some(session) = self.open.get_mut(&begun.id) else { return vec![true; came.len()] };
        let mut send = Vec::with_capacity(came.len());
        for partition in came {
            let Some(cached) = session.parts.get_mut(&partition.key) else {
                send.push(true);
                continue;
            };
            let news = partition.records || partition.notable || partition.said != cached.said;
            send.push(news || !begun.incremental);
            if partition.said.is_some() {
                cached.said = partition.said;
            }
            if partition.notable {
                cached.said = None; // an error is followed by a full row
            }
        }
        let moved: Vec<&Key> = came.iter().filter(|c| c.records).map(|c| &c.key).collect();
        if !moved.is_empty() && moved.len() < session.order.len() {
            let back: std::collections::BTreeSet<&Key> = moved.into_iter().collect();
            let (mut front, served): (VecDeque<Key>, VecDeque<Key>) =
                session.order.drain(..).partition(|k| !back.contains(k));
            front.extend(served);
            session.order = front;
        }
        send
    }

    fn create(&mut self, named: &[(Key, Want)], by_id: bool, fresh: i32, now: Millis) -> i32 {
        if self.slots == 0 || fresh <= 0 || named.len() > PARTITIONS_MAX || self.open.contains_key(&fresh) {
            return 0;
        }
        if self.open.len() >= self.slots && !self.make_room(named.len(), now) {
            return 0;
        }
        let order: VecDeque<Key> = named.iter().map(|(k, _)| k.clone()).collect();
        let parts = named.iter().map(|(k, w)| (k.clone(), Cached { want: *w, said: None })).collect();
        self.open.insert(fresh, Session { epoch: 1, by_id, parts, order, born: now, used: now });
        fresh
    }

    /// Ends the session that has been silent longest, if for long; else the smallest, if it has lived long and a session of
    /// `partitions` is worth more. Whether one was ended.
    fn make_room(&mut self, partitions: usize, now: Millis) -> bool {
        let is_long = |since: Millis| now.0 - since.0 > EVICTION_MS;
        let silent = self.open.iter().min_by_key(|(_, s)| s.used).filter(|(_, s)| is_long(s.used));
        let small = || {
            let grown = self.open.iter().filter(|(_, s)| is_long(s.born));
            grown.min_by_key(|(_, s)| s.parts.len()).filter(|(_, s)| s.parts.len() < partitions)
        };
        let ended = silent.or_else(small).map(|(id, _)| *id);
        ended.is_some_and(|id| self.open.remove(&id).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> Key {
        Key { topic: TopicKey::Name(Text::from("t")), partition }
    }

    fn want(offset: i64) -> Want {
        Want { offset, leader_epoch: -1, last_epoch: -1, bytes_max: 100 }
    }

    fn came(partition: i32, hw: i64, records: bool) -> Came {
        Came {
            key: key(partition),
            said: Some(Said { hw: Offset(hw), log_start: Offset(0) }),
            records,
            notable: false,
        }
    }

    fn full(sessions: &mut Sessions) -> Begun {
        let named = vec![(key(0), want(0)), (key(1), want(0))];
        sessions.begin((0, 0, false), named, &[], 77, Millis(0)).expect("a new session")
    }

    #[test]
    fn an_incremental_response_leaves_out_what_has_not_changed() {
        let mut sessions = Sessions::new(10);
        let begun = full(&mut sessions);
        assert_eq!(begun.id, 77);
        assert_eq!(sessions.finish(&begun, &[came(0, 5, true), came(1, 0, false)]), [true, true]);
        let begun =
            sessions.begin((77, 1, false), vec![(key(0), want(5))], &[], 0, Millis(1)).expect("goes on");
        let order: Vec<i32> = begun.wants.iter().map(|(k, _)| k.partition).collect();
        assert_eq!(order, [1, 0], "the partition that was served goes to the back");
        assert_eq!(sessions.finish(&begun, &[came(1, 0, false), came(0, 5, false)]), [false, false]);
        let begun = sessions.begin((77, 2, false), vec![], &[], 0, Millis(2)).expect("goes on");
        assert_eq!(sessions.finish(&begun, &[came(1, 3, false), came(0, 5, false)]), [true, false]);
    }

    #[test]
    fn a_wrong_epoch_and_an_unknown_session_are_refused() {
        let mut sessions = Sessions::new(10);
        full(&mut sessions);
        assert_eq!(
            sessions.begin((77, 5, false), vec![], &[], 0, Millis(0)).map(|b| b.id),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(
            sessions.begin((78, 1, false), vec![], &[], 0, Millis(0)).map(|b| b.id),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
    }

    #[test]
    fn a_session_does_not_mix_names_and_ids_and_stays_as_it_was_where_a_client_tries() {
        let mut sessions = Sessions::new(10);
        full(&mut sessions);
        let code = |begun: Result<Begun, ErrorCode>| begun.map(|b| b.id).map_err(ErrorCode::code);
        let mut ask = |epoch, by_id| code(sessions.begin((77, epoch, by_id), vec![], &[], 0, Millis(0)));
        assert_eq!(ask(1, true), Err(106));
        assert_eq!(ask(2, true), Err(71), "the epoch is looked at first");
        assert_eq!(ask(1, false), Ok(77), "the refused request did not count");
        assert_eq!(ask(-1, true), Ok(0), "a last request may name as it likes");
    }

    #[test]
    fn forgotten_partitions_are_gone_and_a_final_epoch_closes() {
        let mut sessions = Sessions::new(10);
        full(&mut sessions);
        let begun = sessions.begin((77, 1, false), vec![], &[key(0)], 0, Millis(0)).expect("goes on");
        assert_eq!((begun.id, begun.wants.len()), (77, 1));
        let begun =
            sessions.begin((77, -1, false), vec![(key(1), want(0))], &[], 0, Millis(0)).expect("a last one");
        assert_eq!((begun.id, sessions.len()), (0, 0));
    }

    #[test]
    fn a_session_with_nothing_left_in_it_ends() {
        let mut sessions = Sessions::new(10);
        full(&mut sessions);
        let begun = sessions.begin((77, 1, false), vec![], &[key(0), key(1)], 0, Millis(0)).expect("goes on");
        assert_eq!((begun.id, begun.wants.len(), sessions.len()), (0, 0, 0));
    }

    #[test]
    fn a_full_cache_gives_no_session_until_one_has_been_idle() {
        let mut sessions = Sessions::new(1);
        full(&mut sessions);
        let again = |sessions: &mut Sessions, at| {
            sessions.begin((0, 0, false), vec![(key(0), want(0))], &[], 99, Millis(at)).expect("taken in").id
        };
        assert_eq!(again(&mut sessions, 10), 0);
        assert_eq!(again(&mut sessions, EVICTION_MS + 1), 99);
        assert_eq!(sessions.len(), 1);
    }
    #[test]
    fn a_larger_session_takes_the_place_of_a_smaller_one_that_has_lived_long() {
        let mut sessions = Sessions::new(1);
        let open = |sessions: &mut Sessions, id, partitions, at| {
            let named = (0..partitions).map(|n| (key(n), want(0))).collect();
            sessions.begin((0, 0, false), named, &[], id, Millis(at)).expect("taken in").id
        };
        let beat = |sessions: &mut Sessions, epoch, at| {
            sessions.begin((5, epoch, false), vec![], &[], 0, Millis(at)).map(|begun| begun.id)
        };
        assert_eq!(open(&mut sessions, 5, 2, 0), 5);
        assert_eq!(beat(&mut sessions, 1, EVICTION_MS), Ok(5));
        assert_eq!(open(&mut sessions, 6, 9, EVICTION_MS), 0, "it is young");
        assert_eq!(open(&mut sessions, 7, 2, EVICTION_MS + 1), 0, "the other is worth no more");
        assert_eq!(open(&mut sessions, 8, 3, EVICTION_MS + 1), 8);
        assert_eq!(beat(&mut sessions, 2, EVICTION_MS + 2), Err(ErrorCode::FetchSessionIdNotFound));
    }

    #[test]
    fn an_epoch_wraps_to_one() {
        let mut sessions = Sessions::new(1);
        full(&mut sessions);
        sessions.open.get_mut(&77).expect("it is open").epoch = i32::MAX;
        for epoch in [i32::MAX, 1, 2] {
            let begun = sessions.begin((77, epoch, false), vec![], &[], 0, Millis(0));
            assert_eq!(begun.map(|b| b.id), Ok(77), "epoch {epoch}");
        }
    }
}
