//! Questions, answers and updates as the messages of `proto/src/rpc/peer.proto`.

use bytes::Bytes;
use prost::Message;
use tidemark_proto::id::{
    BrokerEpoch, BrokerId, ClusterId, Life, PartitionIndex, Position, TopicId, TopicPartition,
};
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::rpc::peer::v1 as pb;
use uuid::Uuid;

use super::super::load::{HEAVIEST, Load};
use super::{Answer, Beat, Heartbeat, PeerError, Question, Status, Update};

fn life_to(life: Life) -> Bytes {
    Bytes::copy_from_slice(&life.to_bytes())
}

fn life_from(bytes: &[u8]) -> Option<Life> {
    Some(Life::from_bytes(bytes.try_into().ok()?))
}

fn at(generation: u64, seq: u64) -> Position {
    Position { generation: generation.into(), seq: seq.into() }
}

fn load_to(load: &Load) -> pb::Load {
    let heavy = |(tp, weight): &(TopicPartition, u64)| pb::Heavy {
        topic: Bytes::copy_from_slice(tp.topic.0.as_bytes()),
        partition: tp.partition.0,
        weight: *weight,
    };
    pb::Load { heaviest: load.heaviest.iter().map(heavy).collect(), rest: load.rest }
}

fn load_from(load: pb::Load) -> Result<Load, String> {
    let heavy = |row: pb::Heavy| {
        let topic = Uuid::from_slice(&row.topic).map_err(|_| "a topic's id has 16 bytes")?;
        let tp = TopicPartition { topic: TopicId(topic), partition: PartitionIndex(row.partition) };
        Ok::<_, String>((tp, row.weight))
    };
    let heaviest = load.heaviest.into_iter().take(HEAVIEST).map(heavy).collect::<Result<_, _>>()?;
    Ok(Load { heaviest, rest: load.rest })
}

pub(super) fn question_to(question: &Question) -> Result<Bytes, PeerError> {
    use pb::question::Kind;
    let kind = match question {
        Question::Status => Kind::Status(pb::Status {}),
        Question::Heartbeat(h) => Kind::Heartbeat(pb::Heartbeat {
            node: h.node.0,
            epoch: h.epoch.0,
            life: life_to(h.life),
            has_readers: h.has_readers,
            generation: h.applied.generation.0,
            seq: h.applied.seq.0,
            level: i32::from(h.level),
            load: h.load.as_ref().map(load_to),
        }),
        Question::Submit(command) => {
            let command = serde_json::to_vec(command).map_err(|e| PeerError::Unreachable(e.to_string()))?;
            Kind::Submit(pb::Submit { command: command.into() })
        }
        Question::Read(body) => Kind::Read(body.clone()),
    };
    Ok(pb::Question { kind: Some(kind) }.encode_to_vec().into())
}

pub(super) fn question_from(body: Bytes) -> Result<Question, String> {
    use pb::question::Kind;
    let question = pb::Question::decode(body).map_err(|e| e.to_string())?;
    Ok(match question.kind.ok_or("an unknown question")? {
        Kind::Status(_) => Question::Status,
        Kind::Heartbeat(h) => Question::Heartbeat(Heartbeat {
            node: BrokerId(h.node),
            epoch: BrokerEpoch(h.epoch),
            life: life_from(&h.life).ok_or("a life has 16 bytes")?,
            has_readers: h.has_readers,
            applied: at(h.generation, h.seq),
            level: i16::try_from(h.level).unwrap_or_default(),
            load: h.load.map(load_from).transpose()?,
        }),
        Kind::Submit(submit) => {
            Question::Submit(serde_json::from_slice(&submit.command).map_err(|e| e.to_string())?)
        }
        Kind::Read(body) => Question::Read(body),
        Kind::Follow(_) => return Err("follow is a call of its own".to_owned()),
    })
}

pub(super) fn answer_to(answer: &Answer) -> Result<Bytes, String> {
    use pb::answer::Kind;
    let kind = match answer {
        Answer::Status(s) => Kind::Status(pb::StatusReply {
            life: life_to(s.life),
            cluster: Bytes::copy_from_slice(s.cluster.0.as_bytes()),
            generation: s.applied.generation.0,
            seq: s.applied.seq.0,
            controller: s.controller,
            address: s.address.clone(),
            heard_ms: s.heard_ms,
        }),
        Answer::Heartbeat(beat) => Kind::Heartbeat(pb::HeartbeatReply {
            granted: *beat == Beat::Granted,
            fenced: *beat == Beat::Fenced,
            not_controller: *beat == Beat::NotController,
            ..pb::HeartbeatReply::default()
        }),
        Answer::Reply(reply, at) => {
            let (reply, error) = match reply {
                Ok(reply) => (serde_json::to_vec(reply).map_err(|e| e.to_string())?, ErrorCode::None),
                Err(code) => (Vec::new(), *code),
            };
            Kind::Submit(pb::SubmitReply {
                reply: reply.into(),
                error: i32::from(error.code()),
                generation: at.generation.0,
                seq: at.seq.0,
            })
        }
        Answer::Read(body) => Kind::Read(body.clone()),
    };
    Ok(pb::Answer { kind: Some(kind) }.encode_to_vec().into())
}

/// `None`: ask again.
pub(super) fn answer_from(body: Bytes) -> Result<Option<Answer>, PeerError> {
    use pb::answer::Kind;
    let unreadable = |why: String| PeerError::Unreachable(why);
    let answer = pb::Answer::decode(body).map_err(|e| unreadable(e.to_string()))?;
    Ok(Some(match answer.kind.ok_or_else(|| unreadable("an unknown answer".to_owned()))? {
        Kind::Again(_) => return Ok(None),
        Kind::Status(s) => Answer::Status(Status {
            life: life_from(&s.life).ok_or_else(|| unreadable("a life has 16 bytes".to_owned()))?,
            cluster: ClusterId(Uuid::from_slice(&s.cluster).map_err(|e| unreadable(e.to_string()))?),
            applied: at(s.generation, s.seq),
            controller: s.controller,
            address: s.address,
            heard_ms: s.heard_ms,
        }),
        Kind::Heartbeat(h) => Answer::Heartbeat(match (h.not_controller, h.fenced, h.granted) {
            (true, _, _) => Beat::NotController,
            (_, true, _) => Beat::Fenced,
            (_, _, true) => Beat::Granted,
            _ => Beat::Alive,
        }),
        Kind::Submit(s) => {
            let reply = match i16::try_from(s.error).unwrap_or(-1) {
                0 => Ok(serde_json::from_slice(&s.reply).map_err(|e| unreadable(e.to_string()))?),
                code => Err(ErrorCode::from_code(code)),
            };
            Answer::Reply(reply, at(s.generation, s.seq))
        }
        Kind::Read(body) => Answer::Read(body),
    }))
}

pub(super) fn update_to(update: &Update) -> Bytes {
    use pb::update::Kind;
    let kind = match update {
        Update::Object(bytes) => Kind::Object(bytes.clone()),
        Update::Seal(bytes) => Kind::Seal(bytes.clone()),
        Update::Snapshot(bytes) => Kind::Snapshot(bytes.clone()),
        Update::Alive => Kind::Alive(true),
    };
    pb::Update { kind: Some(kind) }.encode_to_vec().into()
}

/// `None`: ask again.
pub(super) fn update_from(body: Bytes) -> Result<Option<Update>, PeerError> {
    use pb::update::Kind;
    let update = pb::Update::decode(body).map_err(|e| PeerError::Unreachable(e.to_string()))?;
    Ok(update.kind.map(|kind| match kind {
        Kind::Object(bytes) => Update::Object(bytes),
        Kind::Seal(bytes) => Update::Seal(bytes),
        Kind::Snapshot(bytes) => Update::Snapshot(bytes),
        Kind::Alive(_) => Update::Alive,
    }))
}
