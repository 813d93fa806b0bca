//! Clients: idempotent producers, readers and committers that behave as real ones do, and write down what they saw.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::id::{Millis, ProducerEpoch, ProducerId};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tidemark_proto::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_proto::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tidemark_proto::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemark_proto::kafka::messages::offset_fetch_request::OffsetFetchRequestTopic;
use tidemark_proto::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use tidemark_proto::kafka::messages::{
    CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
};
use tidemark_proto::kafka::pieces::Pieces;
use tidemark_proto::kafka::text::Text;
use tidemark_proto::record::build::Builder;
use tidemark_proto::record::records::{self, Header, Records};
use tidemark_proto::record::view::Batches;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Session, World};
use crate::history::{Event, Log, Record, Value};
use crate::net::Net;

/// The topic of every run.
pub const TOPIC: &str = "ledger";
/// Another one, of one partition, which is compacted.
pub const LATEST: &str = "latest";
/// What the compacted topic's partition is called here.
pub const COMPACTED: i32 = 50;
/// Header of its records that tells which one it is: what deletes a key has no value to tell it.
const NAME: &[u8] = b"name";

/// The topic and index of a partition.
fn place(partition: i32) -> (&'static str, i32) {
    if partition == COMPACTED { (LATEST, 0) } else { (TOPIC, partition) }
}

/// The inverse of [`place`].
pub fn partition_of(topic: &str, index: i32) -> i32 {
    if topic == LATEST { COMPACTED } else { index }
}

/// The settings of topics that are not compacted.
pub fn plain(world: &World) -> [(&'static str, String); 1] {
    [("remote.storage.enable", world.tiered.to_string())]
}

/// Creates a topic, however long it takes.
pub async fn create_topic(session: &mut Session, name: &str, partitions: i32, configs: &[(&str, String)]) {
    loop {
        let config = |(name, value): &(&str, String)| CreatableTopicConfig {
            name: Text::from(*name),
            value: Some(Text::from(value.as_str())),
        };
        let topic = CreatableTopic {
            name: Text::from(name),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 5_000, ..Default::default() };
        let port = session.any_port();
        let answer = session.call(port, 7, &request).await;
        let code = answer.and_then(|r| r.topics.first().map(|t| ErrorCode::from_code(t.error_code)));
        if matches!(code, Some(ErrorCode::None | ErrorCode::TopicAlreadyExists)) {
            return session.world.note(Event::Created { topic: name.to_owned() });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Creates topics and asks for producer ids, until `until`.
pub async fn administer(world: World, number: u32, until: Instant) {
    let mut session = Session::new(&world, number);
    for topic in 0.. {
        if Instant::now() >= until {
            return;
        }
        let plain = plain(&session.world);
        create_topic(&mut session, &format!("side-{topic}"), 1, &plain).await;
        producer_id(&mut session).await;
        sleep(Duration::from_millis(500 + world.entropy.below(3_000))).await;
    }
}

/// The names of all topics, once a broker tells them.
pub async fn topics(session: &mut Session) -> BTreeSet<String> {
    loop {
        let port = session.any_port();
        let request = MetadataRequest { topics: None, ..Default::default() };
        if let Some(response) = session.call(port, 12, &request).await {
            let names = response.topics.iter().filter_map(|t| t.name.as_ref());
            return names.map(|name| name.to_string()).collect();
        }
        sleep(Duration::from_millis(200)).await;
    }
}

struct Pending {
    sequence: i32,
    values: Vec<Value>,
}

/// An idempotent producer of one partition with several batches in flight, resent in order. Runs until `until`, then
/// until all is acknowledged. Gives the number of records acknowledged, or why it could not go on.
pub async fn produce(world: World, number: u32, partition: i32, until: Instant) -> Result<u32, String> {
    let mut session = Session::new(&world, number);
    // An impatient client sends again while the first copy is still on its way.
    session.patience = [Duration::from_millis(400), Duration::from_secs(2), session.patience]
        [usize::try_from(world.entropy.below(3)).expect("small")];
    let lingers = world.entropy.below(2);
    let (id, epoch) = producer_id(&mut session).await;
    let (mut sequence, mut next, mut acked) = (0i32, 0u32, 0u32);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    loop {
        while Instant::now() < until && pending.len() < 4 {
            let count = 1 + u32::try_from(world.entropy.below(4)).expect("small");
            let values: Vec<Value> =
                (next..next + count).map(|number_in| Value { producer: number, number: number_in }).collect();
            next += count;
            world.note(Event::Sent { at: world.now(), partition, values: values.clone() });
            pending.push_back(Pending { sequence, values });
            sequence += i32::try_from(count).expect("small");
        }
        if pending.is_empty() {
            return Ok(acked);
        }
        let port = session.leader(partition).await;
        let Some(client) = session.client(port) else {
            session.forget(partition);
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let requests: Vec<ProduceRequest> =
            pending.iter().map(|p| request(id, epoch, partition, p, &world)).collect();
        // They are sent while the first is on its way, so that what befalls the leader falls between them.
        let linger = Duration::from_millis(lingers * world.entropy.below(40));
        let calls = (0u32..).zip(&requests).map(|(at, request)| {
            let call = client.call(9, request);
            timeout(session.patience, async move {
                sleep(linger * at).await;
                call.await
            })
        });
        let answers = futures::future::join_all(calls).await;
        let mut settled = 0;
        for (batch, answer) in pending.iter().zip(answers) {
            let Ok(Ok(response)) = answer else {
                session.close(port);
                break;
            };
            let row = &response.responses[0].partition_responses[0];
            match ErrorCode::from_code(row.error_code) {
                ErrorCode::None => {
                    let values = batch.values.clone();
                    acked += u32::try_from(values.len()).expect("small");
                    world.note(Event::Acked { at: world.now(), partition, values, base: row.base_offset });
                    settled += 1;
                }
                ErrorCode::DuplicateSequenceNumber => settled += 1,
                code if code.is_retriable() => break,
                ErrorCode::OutOfOrderSequenceNumber if settled < pending.len() && settled > 0 => break,
                code => return Err(format!("producer {number}: {code} for sequence {}", batch.sequence)),
            }
        }
        if settled < pending.len() {
            session.forget(partition);
            sleep(Duration::from_millis(20 + world.entropy.below(80))).await;
        }
        pending.drain(..settled);
        sleep(Duration::from_millis(world.entropy.below(250))).await;
    }
}

async fn producer_id(session: &mut Session) -> (ProducerId, ProducerEpoch) {
    loop {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        let port = session.any_port();
        match session.call(port, 4, &request).await {
            Some(r) if r.error_code == 0 => {
                session.world.note(Event::ProducerId { id: r.producer_id });
                return (ProducerId(r.producer_id), ProducerEpoch(r.producer_epoch));
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn request(
    id: ProducerId,
    epoch: ProducerEpoch,
    partition: i32,
    batch: &Pending,
    world: &World,
) -> ProduceRequest {
    let at = Millis(1_767_225_600_000 + i64::try_from(world.now()).expect("a short run"));
    let (topic, index) = place(partition);
    let mut builder = Builder::new().producer(id, epoch, batch.sequence).base_timestamp(at);
    for value in &batch.values {
        let name = encode(*value);
        if partition == COMPACTED {
            let named = Header { key: NAME.into(), value: Some(Bytes::copy_from_slice(&name)) };
            let text = (!value.deletes()).then_some(&name[..]);
            builder.append_with(at, Some(&value.key().to_be_bytes()), text, &[named]);
        } else {
            builder.append(at, None, Some(&name));
        }
    }
    let records = Some(Pieces::from(builder.build().bytes().clone()));
    ProduceRequest {
        acks: -1,
        timeout_ms: 6_000,
        topic_data: vec![TopicProduceData {
            name: Text::from(topic),
            partition_data: vec![PartitionProduceData { index, records }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn encode(value: Value) -> [u8; 8] {
    (u64::from(value.producer) << 32 | u64::from(value.number)).to_be_bytes()
}

fn decode(bytes: &[u8]) -> Value {
    let raw = u64::from_be_bytes(bytes.try_into().expect("eight bytes were sent"));
    Value { producer: (raw >> 32) as u32, number: raw as u32 }
}

/// Reads one partition from its start, again from somewhere behind, and asks for its end now and then, until `until`. One
/// with a rack reads from the replica it is sent to, now from there and now from the leader.
pub async fn read(world: World, number: u32, partition: i32, until: Instant, rack: String) {
    let mut session = Session::new(&world, number);
    session.rack = rack;
    let mut offset = 0i64;
    while Instant::now() < until {
        match world.entropy.below(30) {
            0..6 => drop(end(&mut session, number, partition).await),
            6 => offset = i64::try_from(world.entropy.below(offset.unsigned_abs() + 1)).expect("an offset"),
            7 => session.forget(partition),
            8 => session.leave_replica(partition),
            _ => {}
        }
        match fetch(&mut session, number, partition, offset).await {
            Ok((_, next)) => offset = next,
            Err(below) => {
                if below && let Some(start) = bound(&mut session, partition, EARLIEST).await {
                    offset = offset.max(start);
                }
                session.forget(partition);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Everything the partition holds, read by a client nobody disturbs.
pub async fn read_all(world: &World, number: u32, partition: i32) -> Option<Log> {
    let mut session = Session::new(world, number);
    let (mut log, mut next, mut tries) = (Log::default(), 0, 0);
    loop {
        let end = end(&mut session, number, partition).await;
        if let Some(end) = end.filter(|end| next >= *end) {
            return Some(Log { end, ..log });
        }
        match fetch(&mut session, number, partition, next).await {
            Ok((records, read)) => {
                log.records.extend(records);
                next = read;
            }
            Err(below) => {
                // What was read may be deleted behind the reader's back, or before it comes to it: it begins anew.
                if below && let Some(start) = bound(&mut session, partition, EARLIEST).await {
                    (log, next) = (Log { start, ..Log::default() }, start);
                }
                session.forget(partition);
                tries += 1;
                sleep(Duration::from_millis(200)).await;
            }
        }
        if tries > 200 {
            return None;
        }
    }
}

async fn end(session: &mut Session, number: u32, partition: i32) -> Option<i64> {
    let asked = session.world.now();
    let end = bound(session, partition, NEWEST).await?;
    session.world.note(Event::End { client: number, asked, partition, end });
    Some(end)
}

const NEWEST: i64 = -1;
const EARLIEST: i64 = -2;

async fn bound(session: &mut Session, partition: i32, timestamp: i64) -> Option<i64> {
    let port = session.leader(partition).await;
    let (topic, partition_index) = place(partition);
    let ask = ListOffsetsPartition { partition_index, timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: Text::from(topic), partitions: vec![ask] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let response = session.call(port, 7, &request).await?;
    let row = &response.topics[0].partitions[0];
    if row.error_code != 0 {
        session.forget(partition);
        return None;
    }
    Some(row.offset)
}

/// What is there from `offset` on and where to go on, or else whether the partition says that nothing is.
async fn fetch(
    session: &mut Session,
    number: u32,
    partition: i32,
    offset: i64,
) -> Result<(Vec<Record>, i64), bool> {
    let port = session.reads_from(partition).await;
    let (topic, index) = place(partition);
    let want = FetchPartition {
        partition: index,
        fetch_offset: offset,
        partition_max_bytes: 4_096,
        ..Default::default()
    };
    let request = FetchRequest {
        replica_id: -1,
        max_wait_ms: 300,
        min_bytes: 1,
        max_bytes: 65_536,
        topics: vec![FetchTopic { topic: Text::from(topic), partitions: vec![want], ..Default::default() }],
        rack_id: Text::from(session.rack.as_str()),
        ..Default::default()
    };
    let response = session.call(port, 12, &request).await.ok_or(false)?;
    let row = response.responses.first().and_then(|topic| topic.partitions.first()).ok_or(false)?.clone();
    match ErrorCode::from_code(row.error_code) {
        ErrorCode::None => {}
        ErrorCode::OffsetOutOfRange => {
            session.world.note(Event::OutOfRange { client: number, partition, offset });
            return Err(true);
        }
        _ => return Err(false),
    }
    if let Ok(slot) = usize::try_from(row.preferred_read_replica - 1) {
        session.sent_to(partition, Net::port(slot));
    }
    let bytes = row.records.unwrap_or_default().into_bytes().map_err(|_| false)?;
    let (mut records, mut next) = (Vec::new(), offset);
    for batch in Batches::new(bytes) {
        let batch = batch.expect("whole batches are served");
        batch.verify_crc().expect("what is served is intact");
        let epoch = batch.partition_leader_epoch().0;
        for record in Records::new(&batch).expect("well-formed") {
            let record = record.expect("well-formed");
            let value = decode(&named(&record));
            if record.offset.0 >= offset {
                records.push(Record { offset: record.offset.0, value, epoch });
            }
        }
        // Records may be gone from its end, or all of them.
        next = next.max(batch.next_offset().0);
    }
    let hw = row.high_watermark;
    let event = Event::Read { client: number, partition, asked: offset, records: records.clone(), hw };
    session.world.note(event);
    Ok((records, next))
}

fn named(record: &records::Record) -> Bytes {
    let name = record.headers.iter().find(|header| header.key == NAME);
    name.map_or(&record.value, |header| &header.value).clone().expect("each record is named")
}

/// Commits rising offsets for a group of its own and reads them back, until `until`.
pub async fn commit(world: World, number: u32, until: Instant) {
    let mut session = Session::new(&world, number);
    let group = Text::from(format!("group-{number}"));
    let key = i32::try_from(number).expect("small");
    let mut next = 1i64;
    while Instant::now() < until {
        let Some(port) = coordinator(&mut session, &group).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        if world.entropy.below(2) == 0 {
            let partition = OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: next,
                ..Default::default()
            };
            let topic = OffsetCommitRequestTopic {
                name: Text::from(TOPIC),
                partitions: vec![partition],
                ..Default::default()
            };
            let request = OffsetCommitRequest {
                group_id: group.clone(),
                generation_id_or_member_epoch: -1,
                topics: vec![topic],
                ..Default::default()
            };
            let answer = session.call(port, 8, &request).await;
            if answer.is_some_and(|r| r.topics[0].partitions[0].error_code == 0) {
                world.note(Event::Committed { at: world.now(), partition: key, offset: next });
            }
            next += 1;
        } else {
            let asked = world.now();
            let topic = OffsetFetchRequestTopic { name: Text::from(TOPIC), partition_indexes: vec![0] };
            let request = OffsetFetchRequest {
                group_id: group.clone(),
                topics: Some(vec![topic]),
                ..Default::default()
            };
            if let Some(r) = session.call(port, 7, &request).await
                && r.error_code == 0
                && r.topics[0].partitions[0].error_code == 0
            {
                let offset = r.topics[0].partitions[0].committed_offset;
                world.note(Event::Fetched { asked, partition: key, offset });
            }
        }
        sleep(Duration::from_millis(30 + world.entropy.below(100))).await;
    }
}

async fn coordinator(session: &mut Session, group: &Text) -> Option<u16> {
    let request = FindCoordinatorRequest { key: group.clone(), key_type: 0, ..Default::default() };
    let port = session.any_port();
    let response = session.call(port, 3, &request).await?;
    (response.error_code == 0).then(|| u16::try_from(response.port).expect("a port"))
}
