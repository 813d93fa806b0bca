//! UpdateFeatures (key 57, v0-2): finalizes feature levels, all of a request or none.
//!
//! Any broker takes it and forwards. A level must be one that this broker knows; going down has to be said. As in Kafka a
//! refusal is the code at the top alone (95, whatever is wrong with a level); what is done has a row per feature up to v1.

use std::sync::Arc;
use std::time::Duration;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::update_features_request::FeatureUpdateKey;
use tidemark_proto::kafka::messages::update_features_response::UpdatableFeatureResult;
use tidemark_proto::kafka::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use tidemark_proto::kafka::text::Text;

use super::features::{Feature, KRAFT};
use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::command::Refusal;
use crate::cluster::{Command, Reply, level};
use crate::node::Node;

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let image = node.cluster.image();
    let outcome = match judge(&View::of(&node, &image, &ctx), &request) {
        Ok(changes) if !request.validate_only => {
            let wait = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0).max(1));
            match tokio::time::timeout(wait, submit(&node, changes)).await {
                Ok(done) => done,
                Err(_) => Err(Refusal::new(ErrorCode::RequestTimedOut, "The update took too long.")),
            }
        }
        judged => judged.map(|_| ()),
    };
    respond(ctx.version, &request, outcome)
}

async fn submit(node: &Node, changes: Vec<(String, i16)>) -> Result<(), Refusal> {
    for (name, level) in changes {
        let command = match name == level::FEATURE {
            true => Command::FinalizeVersion { level, known: Vec::new() },
            false => Command::SetFeature { name, level },
        };
        match node.cluster.submit(command).await {
            Ok(Reply::Row(row)) => row?,
            Ok(_) => {}
            Err(code) => return Err(Refusal::new(code, code.to_string())),
        }
    }
    Ok(())
}

/// The levels that change.
fn judge(view: &View<'_>, request: &UpdateFeaturesRequest) -> Result<Vec<(String, i16)>, Refusal> {
    if !view.allows(Operation::Alter, Resource::Cluster) {
        let why = "Cluster authorization failed.";
        return Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, why));
    }
    let mut changes = Vec::new();
    for update in &request.feature_updates {
        let checked = check(view, update).map_err(|why| {
            let (name, level) = (update.feature.escape_debug(), update.max_version_level);
            let all = "The update failed for all features since the following feature had an error";
            let why = format!("{all}: Invalid update version {level} for feature {name}. {why}");
            Refusal::new(ErrorCode::InvalidUpdateVersion, why)
        });
        changes.extend(checked?);
    }
    Ok(changes)
}

fn check(view: &View<'_>, update: &FeatureUpdateKey) -> Result<Option<(String, i16)>, String> {
    let kind = match (view.ctx.version, update.allow_downgrade) {
        (0, true) => SAFE_DOWNGRADE,
        (0, false) => UPGRADE,
        _ => update.upgrade_type,
    };
    if !matches!(kind, UPGRADE | SAFE_DOWNGRADE | UNSAFE_DOWNGRADE) {
        return Err("The controller does not support the given upgrade type.".into());
    }
    let level = update.max_version_level;
    if level < 0 {
        return Err("A feature version cannot be less than 0.".into());
    }
    let Some(feature) = Feature::find(&update.feature) else {
        return Err("No broker supports this feature.".into());
    };
    let now = feature.finalized(view.image);
    if level < feature.min || level > feature.max || (feature.name == KRAFT && level != now) {
        return Err(format!("Only versions {}-{} are supported.", feature.min, feature.max));
    }
    if feature.name == level::FEATURE && level < now {
        return Err("It does not go down: what was written at it is in the log.".into());
    }
    match (level.cmp(&now), kind) {
        (std::cmp::Ordering::Less, UPGRADE) => Err("Can't downgrade the version of this feature without \
            setting the upgrade type to either safe or unsafe downgrade."
            .into()),
        (std::cmp::Ordering::Greater, SAFE_DOWNGRADE | UNSAFE_DOWNGRADE) => {
            Err("Can't downgrade to a newer version.".into())
        }
        (std::cmp::Ordering::Equal, _) => Ok(None),
        _ => Ok(Some((feature.name.to_owned(), level))),
    }
}

fn respond(
    version: i16,
    request: &UpdateFeaturesRequest,
    outcome: Result<(), Refusal>,
) -> UpdateFeaturesResponse {
    let (code, why) = outcome.err().map_or((ErrorCode::None, None), |r| (r.code, Some(Text::from(r.why))));
    let row = |update: &FeatureUpdateKey| UpdatableFeatureResult {
        feature: update.feature.clone(),
        ..Default::default()
    };
    let rows = request.feature_updates.iter().map(row).filter(|_| version < 2 && code == ErrorCode::None);
    UpdateFeaturesResponse {
        results: rows.collect(),
        error_code: code.code(),
        error_message: why,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::api::ApiKey;

    use super::*;
    use crate::api::features::METADATA;
    use crate::api::testing::{World, node};

    fn update(feature: &str, level: i16, kind: i8) -> UpdateFeaturesRequest {
        let update = FeatureUpdateKey {
            feature: feature.into(),
            max_version_level: level,
            upgrade_type: kind,
            ..Default::default()
        };
        UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() }
    }

    #[test]
    fn only_levels_that_are_known_are_taken_and_going_down_has_to_be_said() {
        let world = World::new();
        let judged = |name, level, kind| {
            judge(&world.view(57, 2).look(), &update(name, level, kind)).map_err(|r| r.code.code())
        };
        assert_eq!(judged(METADATA, 30, UPGRADE), Ok(vec![]));
        assert_eq!(judged(level::FEATURE, 2, UPGRADE), Ok(vec![(level::FEATURE.to_owned(), 2)]));
        assert_eq!(judged(METADATA, 29, SAFE_DOWNGRADE), Ok(vec![(METADATA.to_owned(), 29)]));
        for (name, level, kind) in [
            (METADATA, 29, UPGRADE),
            (METADATA, 31, UPGRADE),
            (METADATA, 6, UNSAFE_DOWNGRADE),
            (METADATA, -1, UNSAFE_DOWNGRADE),
            (METADATA, 30, 0),
            (KRAFT, 0, UNSAFE_DOWNGRADE),
            (level::FEATURE, 3, UPGRADE),
            (level::FEATURE, 0, UNSAFE_DOWNGRADE),
            ("group.version", 1, UPGRADE),
        ] {
            assert_eq!(judged(name, level, kind), Err(95), "{name} {level} {kind}");
        }
        let view = world.view(57, 2).denying(Operation::Alter, "");
        assert_eq!(judge(&view.look(), &update(METADATA, 30, UPGRADE)).unwrap_err().code.code(), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_was_set_is_finalized_and_validation_alone_sets_nothing() {
        let node = node().await;
        let level = || Feature::find(METADATA).unwrap().finalized(&node.cluster.image());
        let ask = |version, request| {
            handle(node.clone(), Arc::new(Ctx::local(ApiKey::UpdateFeatures, version)), request)
        };
        let dry = UpdateFeaturesRequest { validate_only: true, ..update(METADATA, 20, SAFE_DOWNGRADE) };
        let answer = ask(2, dry).await;
        assert_eq!((answer.error_code, answer.error_message, answer.results.len()), (0, None, 0));
        assert_eq!(level(), 30);
        let answer = ask(1, update(METADATA, 20, SAFE_DOWNGRADE)).await;
        assert_eq!((answer.error_code, answer.results.len(), level()), (0, 1, 20));
        let answer = ask(1, update(METADATA, 19, UPGRADE)).await;
        assert_eq!((answer.error_code, answer.results.len(), level()), (95, 0, 20));
    }
}
