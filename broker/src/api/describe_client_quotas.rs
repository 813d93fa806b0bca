//! DescribeClientQuotas (key 48, v0-1): quotas by filter.
//!
//! Each component of a filter is for one type of entity: this name, the default, or any. Strict: entities that have other
//! types too do not match.

use std::sync::Arc;

use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use tidemark_proto::kafka::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};
use tidemark_proto::kafka::text::Text;

use super::view::View;
use super::{Ctx, Operation, Resource};
use crate::cluster::quota::{Entity, Part};
use crate::node::Node;

const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const ANY: i8 = 2;

/// Kafka's names of the types, in the order in which entities are shown.
const TYPES: [&str; 3] = ["user", "client-id", "ip"];

/// What a filter asks of one type.
#[derive(Clone, Debug, PartialEq)]
enum Match {
    Is(Part),
    Any,
}

type Filter = [Option<Match>; 3];

/// Answers.
pub async fn handle(
    node: Arc<Node>,
    ctx: Arc<Ctx>,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    let image = node.cluster.image();
    respond(&View::of(&node, &image, &ctx), &request)
}

fn respond(view: &View<'_>, request: &DescribeClientQuotasRequest) -> DescribeClientQuotasResponse {
    let refused = |code: ErrorCode, why: String| DescribeClientQuotasResponse {
        error_code: code.code(),
        error_message: Some(Text::from(why)),
        entries: None,
        ..Default::default()
    };
    if !view.allows(Operation::DescribeConfigs, Resource::Cluster) {
        return refused(ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed.".into());
    }
    let filter = match filter(request) {
        Ok(filter) => filter,
        Err((code, why)) => return refused(code, why),
    };
    let rows = view.image.quotas().iter().filter(|(entity, _)| matches(&filter, entity, request.strict));
    let entries = rows.map(|(entity, values)| EntryData {
        entity: shown(entity),
        values: values
            .iter()
            .map(|(key, rate)| ValueData {
                key: Text::from(key.as_str()),
                value: rate.value(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    DescribeClientQuotasResponse {
        entries: Some(entries.collect()),
        error_message: None,
        ..Default::default()
    }
}

fn filter(request: &DescribeClientQuotasRequest) -> Result<Filter, (ErrorCode, String)> {
    let mut filter: Filter = [None, None, None];
    for component in &request.components {
        let kind = component.entity_type.as_str();
        if kind.is_empty() {
            return Err((ErrorCode::InvalidRequest, "Unexpected empty filter component entity type".into()));
        }
        let Some(at) = TYPES.iter().position(|name| *name == kind) else {
            let why = format!("Custom entity type '{}' not supported", kind.escape_debug());
            return Err((ErrorCode::UnsupportedVersion, why));
        };
        let wanted = match (component.match_type, &component.r#match) {
            (EXACT, Some(name)) => Match::Is(Part::Named(name.as_str().to_owned())),
            (EXACT, None) => {
                let why = "Request specified MATCH_TYPE_EXACT, but the match string was null.";
                return Err((ErrorCode::InvalidRequest, why.into()));
            }
            (DEFAULT | ANY, Some(_)) => {
                let why = "Request specified a match type that takes no match string, but there is one.";
                return Err((ErrorCode::InvalidRequest, why.into()));
            }
            (DEFAULT, None) => Match::Is(Part::Default),
            (ANY, None) => Match::Any,
            (other, _) => return Err((ErrorCode::InvalidRequest, format!("Unknown match type {other}"))),
        };
        if filter[at].replace(wanted).is_some() {
            let why = format!("Entity type {kind} cannot appear more than once in the filter.");
            return Err((ErrorCode::InvalidRequest, why));
        }
    }
    if filter[2].is_some() && (filter[0].is_some() || filter[1].is_some()) {
        let why = "Invalid entity filter component combination, IP filter component should not be used with \
                   user or clientId filter component.";
        return Err((ErrorCode::InvalidRequest, why.into()));
    }
    Ok(filter)
}

fn parts(entity: &Entity) -> [Option<&Part>; 3] {
    [entity.user.as_ref(), entity.client.as_ref(), entity.ip.as_ref()]
}

fn matches(filter: &Filter, entity: &Entity, strict: bool) -> bool {
    filter.iter().zip(parts(entity)).all(|(wanted, part)| match (wanted, part) {
        (None, part) => !strict || part.is_none(),
        (Some(_), None) => false,
        (Some(Match::Any), Some(_)) => true,
        (Some(Match::Is(wanted)), Some(part)) => wanted == part,
    })
}

fn shown(entity: &Entity) -> Vec<EntityData> {
    let parts = TYPES.iter().zip(parts(entity));
    let parts = parts.filter_map(|(kind, part)| {
        Some(EntityData {
            entity_type: Text::from_static(kind),
            entity_name: part?.name().map(Text::from),
            ..Default::default()
        })
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::describe_client_quotas_request::ComponentData;

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::quota::Rate;
    use crate::cluster::record::Record;

    fn world() -> World {
        let mut world = World::new();
        let part = |name: &str| Part::from_name((name != "*").then(|| name.to_owned()));
        for (user, client, ip) in [
            (Some("u"), None, None),
            (Some("u"), Some("c"), None),
            (Some("*"), None, None),
            (None, Some("c"), None),
            (None, None, Some("10.0.0.1")),
        ] {
            let entity = Entity { user: user.map(part), client: client.map(part), ip: ip.map(part) };
            let set = vec![("producer_byte_rate".to_owned(), Some(Rate::new(1.0)))];
            world.image.apply(&Record::QuotasSet { entity, set });
        }
        world
    }

    fn ask(components: &[(&str, i8, Option<&str>)], strict: bool) -> Result<Vec<String>, i16> {
        let components = components.iter().map(|(kind, match_type, name)| ComponentData {
            entity_type: (*kind).into(),
            match_type: *match_type,
            r#match: name.map(Text::from),
            ..Default::default()
        });
        let request =
            DescribeClientQuotasRequest { components: components.collect(), strict, ..Default::default() };
        let world = world();
        let answer = respond(&world.view(48, 1).look(), &request);
        let Some(entries) = answer.entries else { return Err(answer.error_code) };
        let name = |part: &EntityData| {
            format!("{}={}", part.entity_type, part.entity_name.as_deref().unwrap_or("*"))
        };
        Ok(entries.iter().map(|e| e.entity.iter().map(name).collect::<Vec<_>>().join(" ")).collect())
    }

    #[test]
    fn filters_match_names_defaults_and_all() {
        let all = |list: &[&str]| Ok(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(ask(&[], false).map(|rows| rows.len()), Ok(5));
        assert_eq!(ask(&[], true), all(&[]));
        assert_eq!(ask(&[("user", EXACT, Some("u"))], true), all(&["user=u"]));
        assert_eq!(ask(&[("user", EXACT, Some("u"))], false), all(&["user=u", "user=u client-id=c"]));
        assert_eq!(ask(&[("user", DEFAULT, None)], true), all(&["user=*"]));
        assert_eq!(ask(&[("client-id", ANY, None)], true), all(&["client-id=c"]));
        assert_eq!(ask(&[("user", ANY, None), ("client-id", ANY, None)], true), all(&["user=u client-id=c"]));
        assert_eq!(ask(&[("ip", ANY, None)], true), all(&["ip=10.0.0.1"]));
    }

    #[test]
    fn filters_that_cannot_be_are_refused() {
        for (components, code) in [
            (&[("user", EXACT, None)][..], 42),
            (&[("user", ANY, Some("u"))], 42),
            (&[("user", 9, None)], 42),
            (&[("", ANY, None)], 42),
            (&[("user", ANY, None), ("user", ANY, None)], 42),
            (&[("user", ANY, None), ("ip", ANY, None)], 42),
            (&[("planet", ANY, None)], 35),
        ] {
            assert_eq!(ask(components, false), Err(code), "{components:?}");
        }
        let world = world();
        let view = world.view(48, 1).denying(Operation::DescribeConfigs, "");
        assert_eq!(respond(&view.look(), &DescribeClientQuotasRequest::default()).error_code, 31);
    }
}
