//! Questions and plans as the messages of `proto/src/rpc/peer.proto`.
//!
//! Bounded before anything is decoded, and checked against what was asked: an answer has one row per partition, its
//! batches follow each other, lie within their parcel and below the bound that it names. One that does not is no answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tidemark_proto::id::{
    BrokerEpoch, LaneId, LeaderEpoch, Life, Millis, Offset, PartitionIndex, Position, ProducerEpoch,
    ProducerId, Seq, TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::rpc::peer::v1 as pb;
use tidemark_tiering::keys;
use tidemark_tiering::parcel::footer::{BatchEntry, Footer, Part};
use uuid::Uuid;

use super::{Hunger, Question};
use crate::partition::index::{Appetite, Parcel, Source, Stored};
use crate::partition::producer::Aborted;
use crate::partition::{Ask, Bounds, Look};

/// Bytes of a question.
const QUESTION: usize = 1 << 20;
/// Bytes of an answer.
const ANSWER: usize = 8 << 20;
/// Partitions in one question; a fetch's partitions beyond are the leader's own business.
pub const ASKS: usize = 10_000;
/// Batches, and aborted transactions, in one answer.
const ITEMS: usize = 32_768;
/// Bytes of one parcel.
const PARCEL: u64 = 1 << 30;

/// What a leader lets be served, in the order of the question.
pub type Rows = Vec<Result<Look, ErrorCode>>;

/// A plan.
#[derive(Clone, Debug)]
pub struct Answer {
    /// One per partition asked for.
    pub rows: Rows,
    /// How far the leader had applied the metadata.
    pub at: Position,
    /// Answered without waiting, for want of room.
    pub crowded: bool,
}

/// The question on the wire.
pub fn question_to(question: &Question) -> Bytes {
    let ask = |ask: &Ask| pb::PlanAsk {
        topic: Bytes::copy_from_slice(ask.tp.topic.0.as_bytes()),
        partition: ask.tp.partition.0,
        offset: ask.offset.0,
        bytes_max: ask.bytes_max as u64,
        leader_epoch: ask.leader_epoch.map_or(-1, |epoch| epoch.0),
        committed: ask.committed,
    };
    let message = pb::Plan {
        asks: question.asks.iter().map(ask).collect(),
        bytes_max: question.hunger.bytes_max as u64,
        bytes_min: question.hunger.bytes_min as u64,
        wait_ms: u32::try_from(question.wait.as_millis()).unwrap_or(u32::MAX),
    };
    message.encode_to_vec().into()
}

/// A question from the wire.
pub fn question_from(body: Bytes) -> Result<Question, String> {
    if body.len() > QUESTION {
        return Err(format!("a question of {} bytes", body.len()));
    }
    let message = pb::Plan::decode(body).map_err(|error| error.to_string())?;
    if message.asks.len() > ASKS {
        return Err(format!("a question about {} partitions", message.asks.len()));
    }
    let ask = |ask: pb::PlanAsk| {
        let topic = Uuid::from_slice(&ask.topic).map_err(|error| error.to_string())?;
        Ok(Ask {
            tp: TopicPartition { topic: TopicId(topic), partition: PartitionIndex(ask.partition) },
            offset: Offset(ask.offset),
            bytes_max: bytes(ask.bytes_max),
            leader_epoch: (ask.leader_epoch >= 0).then_some(LeaderEpoch(ask.leader_epoch)),
            committed: ask.committed,
        })
    };
    Ok(Question {
        asks: message.asks.into_iter().map(ask).collect::<Result<_, String>>()?,
        hunger: Hunger { bytes_max: bytes(message.bytes_max), bytes_min: bytes(message.bytes_min) },
        wait: Duration::from_millis(message.wait_ms.into()),
    })
}

fn bytes(sent: u64) -> usize {
    usize::try_from(sent).unwrap_or(usize::MAX)
}

/// The answer on the wire. Rows beyond what an answer may hold are refused, which sends their readers to the leader.
pub fn answer_to(answer: Answer) -> Bytes {
    let mut room = ITEMS;
    let rows = answer.rows.into_iter().map(|row| match row {
        Ok(look) => row_to(look, &mut room),
        Err(code) => refused(code),
    });
    let message = pb::PlanReply {
        rows: rows.collect(),
        generation: answer.at.generation.0,
        seq: answer.at.seq.0,
        crowded: answer.crowded,
    };
    message.encode_to_vec().into()
}

fn refused(code: ErrorCode) -> pb::PlanRow {
    pb::PlanRow { error: i32::from(code.code()), ..pb::PlanRow::default() }
}

fn row_to(look: Look, room: &mut usize) -> pb::PlanRow {
    let Look { bounds, sources, aborted, .. } = look;
    let (mut extents, mut archived_until) = (Vec::new(), 0);
    for source in &sources {
        match source {
            Source::Stored(stored) => extents.push(stored),
            Source::Archived { until, .. } => archived_until = until.0,
            Source::Memory(_) => return refused(ErrorCode::NotLeaderOrFollower),
        }
    }
    let aborted = aborted.unwrap_or_default();
    if aborted.len() > *room {
        return refused(ErrorCode::NotLeaderOrFollower);
    }
    *room -= aborted.len();
    let extents = extents.into_iter().map_while(|stored| extent_to(stored, room)).collect();
    let aborted =
        aborted.iter().map(|txn| pb::PlanAborted { producer: txn.producer.0, first: txn.first.0 }).collect();
    pb::PlanRow {
        error: 0,
        log_start: bounds.log_start.0,
        high_watermark: bounds.hw.0,
        last_stable: bounds.lso.0,
        leader_epoch: bounds.leader_epoch.0,
        extents,
        archived_until,
        aborted,
    }
}

/// `None` where there is no room for all of it, so that nothing behind it is told either.
fn extent_to(stored: &Stored, room: &mut usize) -> Option<pb::PlanExtent> {
    let entries = stored.entries();
    *room = room.checked_sub(entries.len())?;
    let batch = |entry: &BatchEntry| pb::PlanBatch {
        base_offset: entry.base_offset.0,
        last_offset: entry.last_offset.0,
        length: entry.length,
        crc: entry.crc,
        leader_epoch: entry.leader_epoch.0,
    };
    let lane = stored.parcel.lane;
    Some(pb::PlanExtent {
        epoch: lane.epoch.0,
        lane: lane.lane,
        life: Bytes::copy_from_slice(&lane.life.to_bytes()),
        seq: stored.parcel.seq.0,
        size: stored.parcel.size,
        position: stored.bytes.start,
        batches: entries.iter().map(batch).collect(),
    })
}

/// The answer to `question` from the wire.
pub fn answer_from(body: Bytes, question: &Question) -> Result<Answer, String> {
    if body.is_empty() || body.len() > ANSWER {
        return Err(format!("an answer of {} bytes", body.len()));
    }
    let message = pb::PlanReply::decode(body).map_err(|error| error.to_string())?;
    if message.rows.len() != question.asks.len() {
        return Err(format!("{} rows for {} partitions", message.rows.len(), question.asks.len()));
    }
    let items =
        |row: &pb::PlanRow| row.aborted.len() + row.extents.iter().map(|e| e.batches.len()).sum::<usize>();
    if message.rows.iter().map(items).sum::<usize>() > ITEMS {
        return Err("more batches than an answer may have".to_owned());
    }
    let (mut rows, mut room, mut first) = (Rows::new(), question.hunger.bytes_max, true);
    for (row, ask) in message.rows.into_iter().zip(&question.asks) {
        // A refusal is a row; a row that makes no sense spoils the answer.
        if row.error != 0 {
            rows.push(Err(ErrorCode::from_code(i16::try_from(row.error).unwrap_or(-1))));
            continue;
        }
        let appetite = Appetite { bytes_max: ask.bytes_max.min(room), at_least_one: first };
        let look = look_from(row, ask, appetite)?;
        first &= look.bytes == 0;
        room = room.saturating_sub(look.bytes);
        rows.push(Ok(look));
    }
    let at = Position { generation: message.generation.into(), seq: message.seq.into() };
    Ok(Answer { rows, at, crowded: message.crowded })
}

fn look_from(row: pb::PlanRow, ask: &Ask, appetite: Appetite) -> Result<Look, String> {
    let bounds = Bounds {
        log_start: Offset(row.log_start),
        hw: Offset(row.high_watermark),
        lso: Offset(row.last_stable),
        leader_epoch: LeaderEpoch(row.leader_epoch),
    };
    if row.log_start < 0 || row.log_start > row.high_watermark || row.last_stable > row.high_watermark {
        return Err(format!("bounds that cross: {bounds:?}"));
    }
    let until = if ask.committed { bounds.lso } else { bounds.hw };
    let (mut sources, mut bytes, mut next) = (Vec::new(), 0usize, None);
    for extent in row.extents {
        let stored = stored_from(extent, ask.tp)?;
        let entries = stored.entries();
        let (first, last) = (entries[0].base_offset, entries[entries.len() - 1].last_offset);
        let follows = next.map_or(first <= ask.offset, |next| first == next);
        // R25: what the leader calls committed, and nothing beyond.
        if !follows || last >= until {
            return Err(format!("batches {first} to {last} for {} below {until}", ask.offset));
        }
        bytes += (stored.bytes.end - stored.bytes.start) as usize;
        next = Some(last.plus(1));
        sources.push(Source::Stored(stored));
    }
    if row.archived_until > 0 && sources.is_empty() {
        let archived = Offset(row.archived_until);
        if archived <= ask.offset || archived > until {
            return Err(format!("runs up to {archived} for {} below {until}", ask.offset));
        }
        sources.push(Source::Archived { from: ask.offset, until: archived, appetite });
        bytes = appetite.bytes_max.max(1);
    }
    let aborted = |txn: &pb::PlanAborted| Aborted {
        producer: ProducerId(txn.producer),
        first: Offset(txn.first),
        marker: Offset(txn.first),
    };
    let aborted = ask.committed.then(|| row.aborted.iter().map(aborted).collect());
    Ok(Look { bounds, sources, bytes, aborted })
}

fn stored_from(extent: pb::PlanExtent, tp: TopicPartition) -> Result<Stored, String> {
    let life: [u8; 16] = extent.life[..].try_into().map_err(|_| "a life has 16 bytes".to_owned())?;
    let lane = LaneId { epoch: BrokerEpoch(extent.epoch), lane: extent.lane, life: Life::from_bytes(life) };
    let batches: Vec<BatchEntry> = extent.batches.iter().map(entry_from).collect();
    let length: u64 = extent.batches.iter().map(|batch| u64::from(batch.length)).sum();
    let ordered = batches.iter().all(|b| b.base_offset.0 >= 0 && b.base_offset <= b.last_offset)
        && batches.windows(2).all(|pair| pair[0].last_offset.plus(1) == pair[1].base_offset);
    let end = extent.position.checked_add(length).filter(|end| *end <= extent.size);
    let (Some(end), false, true) = (end, batches.is_empty() || extent.size > PARCEL, ordered) else {
        return Err(format!("batches that do not lie in parcel {} of {lane}", extent.seq));
    };
    let seq = Seq(extent.seq);
    let (count, bytes) = (batches.len(), extent.position..end);
    let part = Part { of: tp, internal: false, position: bytes.start, length, batches };
    let footer = Arc::new(Footer { parts: vec![part], facts: Vec::new() });
    let parcel = Parcel { lane, seq, key: keys::parcel(&lane, seq), footer, size: extent.size };
    Ok(Stored { parcel: Arc::new(parcel), part: 0, batches: 0..count, bytes, shared: true })
}

/// What bytes are verified by; the rest of an entry is for recovery and not told.
fn entry_from(batch: &pb::PlanBatch) -> BatchEntry {
    BatchEntry {
        base_offset: Offset(batch.base_offset),
        last_offset: Offset(batch.last_offset),
        length: batch.length,
        crc: batch.crc,
        count: 0,
        attributes: 0,
        base_timestamp: Millis(0),
        max_timestamp: Millis(0),
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        leader_epoch: LeaderEpoch(batch.leader_epoch),
        marker: None,
        by_reference: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TP: TopicPartition =
        TopicPartition { topic: TopicId(Uuid::from_u128(5)), partition: PartitionIndex(3) };

    fn question(committed: bool) -> Question {
        let ask =
            Ask { tp: TP, offset: Offset(10), bytes_max: 900, leader_epoch: Some(LeaderEpoch(4)), committed };
        let hunger = Hunger { bytes_max: 5_000, bytes_min: 1 };
        Question { asks: vec![ask], hunger, wait: Duration::from_millis(250) }
    }

    fn batch(base_offset: i64, last_offset: i64, length: u32) -> pb::PlanBatch {
        pb::PlanBatch { base_offset, last_offset, length, crc: 7, leader_epoch: 4 }
    }

    /// Offsets 8 to 19 in one parcel, below a high watermark of 20 and a last stable offset of 20.
    fn plan() -> pb::PlanRow {
        let extent = pb::PlanExtent {
            epoch: 6,
            lane: 0,
            life: Bytes::copy_from_slice(&[9; 16]),
            seq: 33,
            size: 1_000,
            position: 100,
            batches: vec![batch(8, 12, 200), batch(13, 19, 300)],
        };
        pb::PlanRow {
            high_watermark: 20,
            last_stable: 20,
            leader_epoch: 4,
            extents: vec![extent],
            ..pb::PlanRow::default()
        }
    }

    fn read(rows: Vec<pb::PlanRow>, committed: bool) -> Result<Answer, String> {
        let reply = pb::PlanReply { rows, generation: 2, seq: 8, crowded: false };
        answer_from(reply.encode_to_vec().into(), &question(committed))
    }

    #[test]
    fn a_question_arrives_as_it_was_sent() {
        let sent = question(true);
        let came = question_from(question_to(&sent)).unwrap();
        assert_eq!(format!("{came:?}"), format!("{sent:?}"));
    }

    #[test]
    fn a_plan_names_bytes_of_parcels_and_what_they_are_verified_by() {
        let answer = read(vec![plan()], false).unwrap();
        let look = answer.rows[0].as_ref().unwrap();
        assert_eq!((look.bytes, look.aborted.is_none()), (500, true));
        let [Source::Stored(stored)] = &look.sources[..] else { panic!("{look:?}") };
        assert_eq!((stored.bytes.clone(), stored.shared, stored.parcel.seq), (100..600, true, Seq(33)));
        assert_eq!(stored.parcel.key, keys::parcel(&stored.parcel.lane, Seq(33)));
        assert_eq!(stored.entries()[1].crc, 7);
        let again = read(vec![row_to(look.clone(), &mut ITEMS.clone())], false).unwrap();
        assert_eq!(
            format!("{:?}", again.rows),
            format!("{:?}", answer.rows),
            "what is told is what was told"
        );
    }

    #[test]
    fn aborted_transactions_and_runs_come_through() {
        let aborted = vec![pb::PlanAborted { producer: 12, first: 9 }];
        let look = read(vec![pb::PlanRow { aborted, ..plan() }], true).unwrap().rows.remove(0).unwrap();
        assert_eq!(look.aborted.unwrap()[0].first, Offset(9));
        let archived = pb::PlanRow { extents: Vec::new(), archived_until: 15, ..plan() };
        let look = read(vec![archived], false).unwrap().rows.remove(0).unwrap();
        let [Source::Archived { from, until, appetite }] = &look.sources[..] else { panic!("{look:?}") };
        assert_eq!((from.0, until.0, appetite.bytes_max, appetite.at_least_one), (10, 15, 900, true));
    }

    #[test]
    fn r25_what_lies_beyond_the_bound_it_names_is_not_served() {
        let above = pb::PlanRow { high_watermark: 19, last_stable: 19, ..plan() };
        assert!(read(vec![above], false).is_err());
        let unstable = pb::PlanRow { last_stable: 13, ..plan() };
        assert!(read(vec![unstable.clone()], false).is_ok());
        assert!(read(vec![unstable], true).is_err(), "for who reads committed data the bound is another");
        let runs = pb::PlanRow { extents: Vec::new(), archived_until: 21, ..plan() };
        assert!(read(vec![runs], false).is_err());
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_no_plan() {
        let with = |change: fn(&mut pb::PlanRow)| {
            let mut row = plan();
            change(&mut row);
            read(vec![row], false).is_err()
        };
        assert!(with(|row| row.extents[0].batches[1].base_offset = 14), "a gap");
        assert!(with(|row| row.extents[0].batches[0].base_offset = 13), "batches that cross");
        assert!(with(|row| row.extents[0].batches[1].length = 900), "beyond its parcel");
        assert!(with(|row| row.extents[0].position = u64::MAX), "nowhere");
        assert!(with(|row| row.extents[0].size = u64::MAX), "too large a parcel");
        assert!(with(|row| row.extents[0].batches.clear()), "no batch");
        assert!(with(|row| row.extents[0].life = Bytes::new()), "nobody's");
        assert!(
            with(|row| {
                row.extents[0].batches.remove(0);
            }),
            "behind what was asked for"
        );
        assert!(with(|row| row.log_start = 30), "bounds that cross");
        assert!(read(vec![], false).is_err(), "too few rows");
        assert!(answer_from(Bytes::new(), &question(false)).is_err(), "no answer");
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_made_of_them() {
        assert!(question_from(Bytes::from(vec![0; QUESTION + 1])).is_err());
        assert!(answer_from(Bytes::from(vec![0; ANSWER + 1]), &question(false)).is_err());
        let many = vec![pb::PlanAsk::default(); ASKS + 1];
        let body = pb::Plan { asks: many, ..pb::Plan::default() }.encode_to_vec();
        assert!(question_from(body.into()).is_err());
        let aborted = vec![pb::PlanAborted::default(); ITEMS + 1];
        assert!(read(vec![pb::PlanRow { aborted, ..plan() }], true).is_err());
    }

    #[test]
    fn an_answer_without_room_ends_where_a_whole_extent_does_or_sends_the_reader_to_the_leader() {
        let look = read(vec![plan()], false).unwrap().rows.remove(0).unwrap();
        assert_eq!(row_to(look.clone(), &mut 1).extents.len(), 0);
        let aborted = Some(vec![Aborted { producer: ProducerId(1), first: Offset(9), marker: Offset(9) }; 3]);
        let row = row_to(Look { aborted, ..look }, &mut 2);
        assert_eq!(row.error, i32::from(ErrorCode::NotLeaderOrFollower.code()));
    }
}
