//! DeleteTopics (key 20, v0-6): by name, from v6 also by id.
//!
//! Any broker takes it and forwards. One row per topic asked for. Internal topics are refused. An id whose topic may not
//! be described is unknown to the asker.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::id::TopicId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::delete_topics_request::DeleteTopicState;
use tidemark_proto::kafka::messages::delete_topics_response::DeletableTopicResult;
use tidemark_proto::kafka::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::{Refusal, TopicRef};
use crate::cluster::{Command, Reply};
use crate::node::{Node, is_internal};

/// What becomes of one row.
#[derive(Debug)]
enum Verdict {
    Refused(DeletableTopicResult),
    Wanted(DeletableTopicResult, TopicRef),
}

/// Answers.
pub async fn handle(node: Arc<Node>, ctx: Arc<Ctx>, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let image = node.cluster.image();
    let verdicts = judge(&View::of(&node, &image, &ctx), &request);
    let topics: Vec<TopicRef> = verdicts
        .iter()
        .filter_map(
            |verdict| if let Verdict::Wanted(_, topic) = verdict { Some(topic.clone()) } else { None },
        )
        .collect();
    let count = topics.len();
    let wait = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0).max(1));
    let outcome = match count {
        0 => Ok(Vec::new()),
        _ => match tokio::time::timeout(wait, node.cluster.submit(Command::DeleteTopics { topics })).await {
            Err(_) => Err(ErrorCode::RequestTimedOut),
            Ok(Err(code)) => Err(code),
            Ok(Ok(Reply::Deleted(rows))) if rows.len() == count => Ok(rows),
            Ok(Ok(_)) => Err(ErrorCode::UnknownServerError),
        },
    };
    let mut deleted = outcome.as_ref().map(|rows| rows.iter());
    let responses = verdicts.into_iter().map(|verdict| match verdict {
        Verdict::Refused(row) => row,
        Verdict::Wanted(row, _) => match &mut deleted {
            Err(code) => refuse(row, **code, ""),
            Ok(rows) => match rows.next() {
                Some(Ok((name, id))) => {
                    node.metrics.topics.forget(name);
                    DeletableTopicResult { topic_id: id.0, name: Some(Text::from(name)), ..row }
                }
                Some(Err(Refusal { code, why })) => refuse(row, *code, why),
                None => refuse(row, ErrorCode::UnknownServerError, ""),
            },
        },
    });
    DeleteTopicsResponse { responses: responses.collect(), ..Default::default() }
}

fn refuse(row: DeletableTopicResult, code: ErrorCode, why: &str) -> DeletableTopicResult {
    let why = if why.is_empty() { code.to_string() } else { why.to_owned() };
    DeletableTopicResult { error_code: code.code(), error_message: Some(Text::from(why)), ..row }
}

fn judge(view: &View<'_>, request: &DeleteTopicsRequest) -> Vec<Verdict> {
    let by_name = request
        .topic_names
        .iter()
        .map(|name| DeleteTopicState { name: Some(name.clone()), ..Default::default() });
    let asked: Vec<DeleteTopicState> = request.topics.iter().cloned().chain(by_name).collect();
    let mut verdicts = Vec::with_capacity(asked.len());
    for topic in &asked {
        let row =
            DeletableTopicResult { name: topic.name.clone(), topic_id: topic.topic_id, ..Default::default() };
        let twice = asked.iter().filter(|other| same(other, topic)).count() > 1;
        verdicts.push(match one(view, topic, twice) {
            Ok(found) => Verdict::Wanted(row, found),
            Err((code, why)) => Verdict::Refused(refuse(row, code, why)),
        });
    }
    verdicts
}

fn same(a: &DeleteTopicState, b: &DeleteTopicState) -> bool {
    if a.topic_id.is_nil() { b.topic_id.is_nil() && a.name == b.name } else { a.topic_id == b.topic_id }
}

fn one(
    view: &View<'_>,
    topic: &DeleteTopicState,
    twice: bool,
) -> Result<TopicRef, (ErrorCode, &'static str)> {
    if !view.config.delete_topics {
        let code =
            if view.ctx.version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled };
        return Err((code, "Topic deletion is disabled (delete.topic.enable)."));
    }
    if twice {
        return Err((ErrorCode::InvalidRequest, "Duplicate topic."));
    }
    let may = |operation, name: &str| view.allows(operation, Resource::Topic(name));
    let denied = (ErrorCode::TopicAuthorizationFailed, "Authorization failed.");
    let internal = (ErrorCode::InvalidRequest, "Internal topics cannot be deleted.");
    match (&topic.name, topic.topic_id.is_nil()) {
        (Some(_), false) => Err((ErrorCode::InvalidRequest, "Name or id, not both.")),
        (None, true) => Err((ErrorCode::InvalidRequest, "Neither name nor id.")),
        (Some(name), true) if !may(Operation::Delete, name) => Err(denied),
        (Some(name), true) if is_internal(name) => Err(internal),
        (Some(name), true) => Ok(TopicRef::Name(name.as_str().to_owned())),
        (None, false) => match view.image.topic(TopicId(topic.topic_id)) {
            Some(found) if !may(Operation::Describe, &found.name) => Err(denied),
            Some(found) if !may(Operation::Delete, &found.name) => Err(denied),
            Some(found) if is_internal(&found.name) => Err(internal),
            Some(found) => Ok(TopicRef::Id(found.id)),
            None => Err((ErrorCode::UnknownTopicId, "")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;
    use crate::node::OFFSETS_TOPIC;

    fn codes(verdicts: &[Verdict]) -> Vec<i16> {
        let code = |verdict: &Verdict| match verdict {
            Verdict::Refused(row) => row.error_code,
            Verdict::Wanted(..) => 0,
        };
        verdicts.iter().map(code).collect()
    }

    fn names(names: &[&str]) -> DeleteTopicsRequest {
        DeleteTopicsRequest { topic_names: names.iter().map(|n| (*n).into()).collect(), ..Default::default() }
    }

    fn state(name: Option<&str>, id: u128) -> DeleteTopicState {
        DeleteTopicState {
            name: name.map(Text::from),
            topic_id: uuid::Uuid::from_u128(id),
            ..Default::default()
        }
    }

    #[test]
    fn every_row_is_judged_by_itself() {
        let world = World::new();
        let view = world.view(20, 6);
        assert_eq!(
            codes(&judge(&view.look(), &names(&["orders", OFFSETS_TOPIC, "x", "x"]))),
            [0, 42, 42, 42]
        );
        let topics = vec![state(None, 7), state(Some("a"), 7), state(None, 0), state(None, 99)];
        let request = DeleteTopicsRequest { topics, ..Default::default() };
        assert_eq!(codes(&judge(&view.look(), &request)), [42, 42, 42, 100], "7 is there twice");
    }

    #[test]
    fn rights_are_asked_by_name_and_behind_an_id() {
        let world = World::new();
        for operation in [Operation::Delete, Operation::Describe] {
            let view = world.view(20, 6).denying(operation, "orders");
            let by_id = DeleteTopicsRequest { topics: vec![state(None, 7)], ..Default::default() };
            let verdicts = judge(&view.look(), &by_id);
            assert_eq!(codes(&verdicts), [29]);
            assert!(
                matches!(&verdicts[0], Verdict::Refused(row) if row.name.is_none()),
                "the name is not revealed"
            );
        }
        let view = world.view(20, 6).denying(Operation::Delete, "orders");
        assert_eq!(codes(&judge(&view.look(), &names(&["orders"]))), [29]);
    }

    #[test]
    fn deletion_can_be_switched_off() {
        let mut world = World::new();
        world.config.delete_topics = false;
        for (version, code) in [(2, 42), (3, 73)] {
            assert_eq!(codes(&judge(&world.view(20, version).look(), &names(&["orders"]))), [code]);
        }
    }
}
