//! AlterClientQuotas (key 49, v0-1): sets and removes quotas of users, client ids and addresses.
//!
//! Any broker takes it and forwards. One row per entity; each is decided by itself.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::alter_client_quotas_request as asked;
use tidemark_proto::kafka::messages::alter_client_quotas_response::{EntityData, EntryData};
use tidemark_proto::kafka::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};

use super::config_change::told;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Refusal;
use crate::cluster::quota::{Entity, Part, Rate};
use crate::cluster::{Command, Reply};
use crate::node::Node;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: AlterClientQuotasRequest,
) -> AlterClientQuotasResponse {
    let allowed = node.allows(&ctx, Operation::AlterConfigs, Resource::Cluster);
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let outcome = match allowed {
            false => {
                Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed."))
            }
            true => match command(&entry, request.validate_only) {
                Ok(command) => submit(&node, command).await,
                Err(why) => Err(Refusal::new(ErrorCode::InvalidRequest, why)),
            },
        };
        let (code, error_message) = told(outcome);
        let entity = entry.entity.into_iter().map(|part| EntityData {
            entity_type: part.entity_type,
            entity_name: part.entity_name,
            ..Default::default()
        });
        entries.push(EntryData {
            error_code: code.code(),
            error_message,
            entity: entity.collect(),
            ..Default::default()
        });
    }
    AlterClientQuotasResponse { entries, ..Default::default() }
}

async fn submit(node: &Node, command: Command) -> Result<(), Refusal> {
    match node.cluster.submit(command).await {
        Ok(Reply::Row(row)) => row,
        Ok(_) => Err(Refusal::new(ErrorCode::UnknownServerError, "")),
        Err(code) => Err(Refusal::new(code, "")),
    }
}

fn command(entry: &asked::EntryData, validate_only: bool) -> Result<Command, String> {
    let mut entity = Entity::default();
    for part in &entry.entity {
        let kind = part.entity_type.as_str();
        let slot = match kind {
            "user" => &mut entity.user,
            "client-id" => &mut entity.client,
            "ip" => &mut entity.ip,
            _ => return Err(format!("Unhandled client quota entity type: {}", kind.escape_debug())),
        };
        let named = Part::from_name(part.entity_name.as_deref().map(str::to_owned));
        if slot.replace(named).is_some() {
            return Err(format!("Duplicate entity type: {kind}"));
        }
    }
    let mut set: Vec<(String, Option<Rate>)> = Vec::with_capacity(entry.ops.len());
    for op in &entry.ops {
        if set.iter().any(|(key, _)| **key == *op.key) {
            return Err(format!("Duplicate quota key: {}", op.key.escape_debug()));
        }
        set.push((op.key.as_str().to_owned(), (!op.remove).then(|| Rate::new(op.value))));
    }
    Ok(Command::SetQuotas { entity, set, validate_only })
}
