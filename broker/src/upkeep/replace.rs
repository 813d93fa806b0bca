//! Replaces runs: commits what stands for them, and lets go of their objects.
//!
//! R18: nothing counts before the commit. R20: objects go after it and after a grace. What a takeover would have read
//! of runs that go (end offset, epochs, producers) is written down once more, and is the home of those partitions by
//! the same commit. Where two replace the same runs, one wins; the other's objects are never named, and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::{Offset, PartitionIndex, Seq, TopicId, TopicPartition};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_tiering::bucket::{Kind, Patience};
use tidemark_tiering::error::Error;
use tidemark_tiering::planted::{self, Bug};
use tidemark_tiering::run::State;
use tidemark_tiering::upkeep::cut;
use tidemark_tiering::witness::{Sight, saw};
use uuid::Uuid;

use super::discard;
use crate::cluster::command::{Command, Reply};
use crate::cluster::image::{Image, RunRow};
use crate::cluster::record::Carried;
use crate::node::Node;
use crate::ownership::Owned;

/// Wait before a commit whose outcome is not known is sent again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the metadata may take to show why a commit was refused.
const EXPLAINED: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Debug, Default)]
pub struct Replacement {
    /// Named no more.
    pub drop: Vec<Arc<RunRow>>,
    /// Named in their place.
    pub add: Vec<RunRow>,
    /// Log starts that rise with it.
    pub starts: Vec<(TopicPartition, Offset)>,
    /// Partitions of which no share is left in what is added, each with the version at which the newest of the dropped
    /// runs that hold it was named.
    pub gone: BTreeMap<TopicPartition, u64>,
    /// How far compaction has come by it.
    pub cleaned: Vec<(TopicPartition, Offset)>,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// It is committed.
    Well,
    /// Somebody else has replaced some of the runs, or this broker may not any more.
    Lost,
}

/// Checkpoints that were written to carry states, and are still named: who wrote them deletes them.
#[derive(Debug, Default)]
pub struct Carriers(BTreeMap<Uuid, String>);

impl Carriers {
    /// Deletes those that are nobody's home any more.
    pub fn let_go(&mut self, node: &Arc<Node>, image: &Image) {
        let over: Vec<String> =
            self.0.extract_if(.., |id, _| image.checkpoint(*id).is_none()).map(|(_, key)| key).collect();
        discard(node, Kind::Checkpoint, over, node.live.now().delete_grace());
    }
}

/// Carries it out, as planned on `image`.
///
/// # Errors
/// Where the states of partitions that lose their runs cannot be read or written; nothing has happened then.
pub async fn replace(
    node: &Arc<Node>,
    image: &Image,
    owned: Owned,
    what: Replacement,
    carriers: &mut Carriers,
) -> Result<Went, Error> {
    let Replacement { drop, add, starts, gone, cleaned } = what;
    let carried = carry(node, image, owned, &gone).await?;
    if planted::is(Bug::RunsDroppedBeforeCommit) {
        let keys = drop.iter().map(|run| run.key.clone()).collect();
        node.bucket.delete(Kind::Run, keys, Patience::Forever).await?;
        return Ok(Went::Lost);
    }
    let fresh: Vec<(Kind, Uuid, String)> = add
        .iter()
        .map(|run| (Kind::Run, run.id, run.key.clone()))
        .chain(carried.iter().map(|c| (Kind::Checkpoint, c.row.id, c.row.key.clone())))
        .collect();
    let carrier = carried.as_ref().map(|carried| (carried.row.id, carried.row.key.clone()));
    let ids: Vec<Uuid> = drop.iter().map(|run| run.id).collect();
    let command = Command::ReplaceRuns {
        by: owned.lane.epoch,
        drop: ids.clone(),
        add,
        starts,
        carried: carried.map(Box::new),
        cleaned,
    };
    if committed(node, owned, &command, &ids).await {
        carriers.0.extend(carrier);
        let keys = drop.iter().map(|run| run.key.clone()).collect();
        discard(node, Kind::Run, keys, node.live.now().delete_grace());
        return Ok(Went::Well);
    }
    saw(Sight::ReplaceLost);
    abandon(node, &ids, fresh);
    Ok(Went::Lost)
}

/// States of the partitions that would lose the newest one there is of them.
async fn carry(
    node: &Node,
    image: &Image,
    owned: Owned,
    gone: &BTreeMap<TopicPartition, u64>,
) -> Result<Option<Carried>, Error> {
    let loses =
        |(tp, named): &(&TopicPartition, &u64)| image.uncovered(**tp).is_some_and(|since| **named >= since);
    let partitions: Vec<TopicPartition> = gone.iter().filter(loses).map(|(tp, _)| *tp).collect();
    if partitions.is_empty() || planted::is(Bug::StatesNotCarried) {
        return Ok(None);
    }
    let mut states: BTreeMap<TopicPartition, State> = BTreeMap::new();
    for (tp, base) in node.archive.states(image, &partitions).await {
        states.insert(tp, base?.to_state());
    }
    let (cluster, at) = (image.cluster(), (owned.lane, Seq(0)));
    let epoch = owned.lane.epoch;
    let mut row = cut::checkpoint(&node.bucket, &node.seams, cluster, epoch, at, &states).await?;
    // It knows the runs of `image`, and nothing that was named since.
    row.committed = image.version();
    let mut of: Vec<(TopicId, Vec<PartitionIndex>)> = Vec::new();
    for tp in states.keys() {
        match of.last_mut() {
            Some((topic, indexes)) if *topic == tp.topic => indexes.push(tp.partition),
            _ => of.push((tp.topic, vec![tp.partition])),
        }
    }
    Ok(Some(Carried { row, of }))
}

/// Sends it until what became of it is known.
async fn committed(node: &Node, owned: Owned, command: &Command, drop: &[Uuid]) -> bool {
    loop {
        match node.cluster.submit(command.clone()).await {
            Ok(Reply::Done) => return true,
            Err(ErrorCode::RequestTimedOut | ErrorCode::NotController | ErrorCode::UnknownServerError)
                if node.owned() == Some(owned) =>
            {
                tokio::time::sleep(RETRY).await;
            }
            refused => {
                // An earlier send may have done it: the objects it named say so, or, where it named none, that the
                // dropped ones are gone.
                tracing::debug!(?refused, "runs were not replaced, or were before");
                let mut images = node.cluster.watch();
                let told = images.wait_for(|image| is_settled(image, drop));
                tokio::time::timeout(EXPLAINED, told).await.ok();
                return is_done(&node.cluster.image(), command);
            }
        }
    }
}

/// Whether some of the runs are replaced: no command that drops them can be carried out any more, late as it may come.
fn is_settled(image: &Image, drop: &[Uuid]) -> bool {
    drop.iter().any(|id| image.run(*id).is_none())
}

fn is_done(image: &Image, command: &Command) -> bool {
    let Command::ReplaceRuns { drop, add, .. } = command else { return false };
    match add.first() {
        Some(run) => image.run(run.id).is_some(),
        None => !drop.is_empty() && drop.iter().all(|id| image.run(*id).is_none()),
    }
}

/// Deletes what was written and is never named. Where that is not certain, it is left to the sweep.
fn abandon(node: &Arc<Node>, drop: &[Uuid], fresh: Vec<(Kind, Uuid, String)>) {
    let image = node.cluster.image();
    if !is_settled(&image, drop) {
        return;
    }
    for (kind, id, key) in fresh {
        if image.run(id).is_none() && image.checkpoint(id).is_none() {
            discard(node, kind, vec![key], node.live.now().delete_grace());
        }
    }
}
