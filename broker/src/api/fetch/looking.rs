//! What there is for a fetch, and waiting until it is enough.
//!
//! Partitions led here are looked up with their task, those led elsewhere with their leaders, all at a time; a wait
//! ends with the first that has news. Says who reads where (KIP-392). Reads nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{BrokerId, Offset, PartitionIndex};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::FetchRequest;
use tokio::time::{Instant, timeout_at};

use super::session::Want;
use super::{Row, epoch};
use crate::api::Ctx;
use crate::cluster::Image;
use crate::cluster::image::Topic;
use crate::near::{self, Hunger, Seat, within};
use crate::node::Node;
use crate::partition::waiters::Waiter;
use crate::partition::{Ask, Look};

/// What holds for all partitions of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Only below the last stable offset.
    pub committed: bool,
    /// Bytes of all together.
    pub hunger: Hunger,
}

/// Who reads from whom, where replicas serve.
pub struct Reading<'a> {
    seat: Seat<'a>,
    rack: &'a str,
}

impl<'a> Reading<'a> {
    /// `None` where only leaders serve: by configuration, or for a client older than racks.
    pub fn of(node: &Node, ctx: &'a Ctx, request: &'a FetchRequest) -> Option<Reading<'a>> {
        let seat = Seat { me: node.id(), listener: &ctx.listener };
        (node.config.near_reads && ctx.version >= 11).then_some(Reading { seat, rack: &request.rack_id })
    }

    /// The leader to be asked, or the replica to be named. Who tells what it has of the log is the leader's business.
    pub fn place(
        &self,
        image: &Image,
        topic: &Topic,
        index: i32,
        want: Want,
    ) -> (Option<BrokerId>, Option<BrokerId>) {
        if want.last_epoch >= 0 {
            return (None, None);
        }
        let index = PartitionIndex(index);
        let leader = near::to_ask(image, topic, index, self.seat.me);
        (leader, near::nearest(image, topic, index, self.rack, self.seat))
    }
}

/// One entry per row, `None` where the row was not asked for.
pub type Looks = Vec<Option<Result<Look, ErrorCode>>>;

/// Looks until there is enough, an error to tell, or the deadline; once only where there is none.
pub async fn gather(node: &Node, rows: &[Row], terms: Terms, deadline: Option<Instant>) -> Looks {
    let elsewhere = rows.iter().any(|row| row.found.is_ok() && row.by_leave_of.is_some());
    loop {
        let waiter = Arc::new(Waiter::default());
        let mut looks = here(node, rows, terms, waiter.clone()).await;
        let bytes: usize = looks.iter().flatten().flatten().map(|look| look.bytes).sum();
        let late = |at: &Instant| Instant::now() >= *at;
        let enough = bytes >= terms.hunger.bytes_min || deadline.as_ref().is_none_or(late);
        let hurry = if elsewhere { looks.iter().flatten().any(Result::is_err) } else { hurried(&looks) };
        let until = deadline.filter(|_| !enough && !hurry);
        if !elsewhere {
            match until {
                None => return looks,
                Some(until) => drop(timeout_at(until, waiter.woken()).await),
            }
            continue;
        }
        let patience = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        tokio::select! {
            biased;
            told = there(node, rows, terms, patience) => told.into_iter().for_each(|(at, look)| looks[at] = Some(look)),
            () = waiter.woken(), if until.is_some() => continue,
        }
        within(looks.iter_mut().flatten().flatten(), terms.hunger.bytes_max);
        let bytes: usize = looks.iter().flatten().flatten().map(|look| look.bytes).sum();
        if hurried(&looks) || bytes >= terms.hunger.bytes_min || until.as_ref().is_none_or(late) {
            return looks;
        }
    }
}

/// What there is now.
pub async fn look(node: &Node, rows: &[Row], terms: Terms) -> Looks {
    gather(node, rows, terms, None).await
}

/// Whether an answer cannot wait: nothing is there to be waited for, or a partition has an error to tell. Partitions that
/// are not there do not count: who asks for one again and again beside others is paced by those.
fn hurried(looks: &[Option<Result<Look, ErrorCode>>]) -> bool {
    let mut looks = looks.iter().flatten().peekable();
    looks.peek().is_none() || looks.any(Result::is_err)
}

fn ask(row: &Row, terms: Terms) -> Option<Ask> {
    Some(Ask {
        tp: row.found.ok()?,
        // What strayed is asked for its bounds only, from where it did.
        offset: row.stray.and_then(Result::ok).map_or(Offset(row.want.offset), |(_, end)| end),
        bytes_max: usize::try_from(row.want.bytes_max).unwrap_or(0),
        leader_epoch: epoch(row.want.leader_epoch),
        committed: terms.committed,
    })
}

/// What this broker leads; `waiter` is woken by news of it.
async fn here(node: &Node, rows: &[Row], terms: Terms, waiter: Arc<Waiter>) -> Looks {
    let own = |row: &Row| if row.by_leave_of.is_none() { ask(row, terms) } else { None };
    let asks: Vec<Ask> = rows.iter().filter_map(own).collect();
    let asked = asks.len();
    if asked == 0 {
        return rows.iter().map(|_| None).collect();
    }
    let answers = match node.may_serve_reads().await {
        true => node.partitions.plan(asks, terms.hunger.bytes_max, Some(waiter)).await,
        false => Err(ErrorCode::NotLeaderOrFollower),
    };
    let mut answers = answers.unwrap_or_else(|c| (0..asked).map(|_| Err(c)).collect()).into_iter();
    rows.iter().map(|row| own(row).and_then(|_| answers.next())).collect()
}

/// What the leaders of the others say may be served here, by the numbers of the rows.
async fn there(
    node: &Node,
    rows: &[Row],
    terms: Terms,
    patience: Duration,
) -> Vec<(usize, Result<Look, ErrorCode>)> {
    let mut leaders: BTreeMap<BrokerId, Vec<(usize, Ask)>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        if let (Some(leader), Some(ask)) = (row.by_leave_of, ask(row, terms)) {
            leaders.entry(leader).or_default().push((at, ask));
        }
    }
    node.near.plan(leaders, terms.hunger, patience).await
}
