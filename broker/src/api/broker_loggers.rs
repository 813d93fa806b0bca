//! Resource type BROKER_LOGGER of DescribeConfigs and IncrementalAlterConfigs: the levels of this broker's log lines.
//!
//! Levels are this process's and forgotten with it, as in Kafka. All changes of a request are judged before the first is
//! made.

use tidemark_proto::id::BrokerId;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::messages::describe_configs_response::DescribeConfigsResourceResult;
use tidemark_proto::kafka::messages::incremental_alter_configs_request::AlterableConfig;
use tidemark_proto::kafka::text::Text;
use tracing::level_filters::LevelFilter;

use super::view::View;
use super::{Operation, Resource};
use crate::cluster::command::Refusal;
use crate::config::ConfigSource;
use crate::loggers::{LEVELS, Loggers, NAMES, ROOT, level_named};

/// Every logger of the broker that `name` names, if it is this one.
pub fn describe(
    view: &View<'_>,
    loggers: &Loggers,
    name: &str,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    if name.is_empty() {
        return Err(Refusal::new(ErrorCode::InvalidRequest, "Broker id must not be empty"));
    }
    is_this_broker(view, name)?;
    let row = |(name, level)| DescribeConfigsResourceResult {
        name: Text::from_static(name),
        value: Some(Text::from_static(level)),
        config_source: ConfigSource::BrokerLogger as i8,
        ..Default::default()
    };
    Ok(loggers.levels().into_iter().map(row).collect())
}

/// Sets and resets levels.
pub fn alter(
    view: &View<'_>,
    loggers: &Loggers,
    name: &str,
    asked: &[AlterableConfig],
    validate_only: bool,
) -> Result<(), Refusal> {
    if !view.allows(Operation::AlterConfigs, Resource::Cluster) {
        return Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, "Authorization failed."));
    }
    is_this_broker(view, name)?;
    let changes = asked.iter().map(change).collect::<Result<Vec<_>, Refusal>>()?;
    if !validate_only && !changes.is_empty() {
        loggers.set(&changes);
    }
    Ok(())
}

fn is_this_broker(view: &View<'_>, name: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::InvalidRequest, why));
    match name.parse().map(BrokerId) {
        Ok(id) if id == view.node => Ok(()),
        Ok(id) => refuse(format!("Unexpected broker id, expected {} but received {id}", view.node)),
        Err(_) => refuse(format!("Broker id must be an integer, but it is: {}", name.escape_debug())),
    }
}

fn change(asked: &AlterableConfig) -> Result<(String, Option<LevelFilter>), Refusal> {
    let (name, shown) = (asked.name.as_str(), asked.name.escape_debug());
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidRequest, why);
    let wrong = |why: String| Refusal::new(ErrorCode::InvalidConfig, why);
    let known = || match name == ROOT || NAMES.contains(&name) {
        true => Ok(()),
        false => Err(wrong(format!("Logger {shown} does not exist!"))),
    };
    match asked.config_operation {
        0 => {
            let value = asked.value.as_deref().ok_or_else(|| invalid(format!("{shown} has no value.")))?;
            known()?;
            let level = level_named(value).ok_or_else(|| {
                let words = LEVELS.map(|(word, _)| word).join(", ");
                wrong(format!("{shown}: '{}' is no log level; allowed: {words}", value.escape_debug()))
            })?;
            Ok((name.to_owned(), Some(level)))
        }
        1 if name == ROOT => Err(invalid("Removing the log level of the root logger is not allowed".into())),
        1 => known().map(|()| (name.to_owned(), None)),
        2 | 3 => Err(invalid("Levels are no lists: only SET and DELETE are allowed.".into())),
        other => Err(invalid(format!("Unknown operation {other}."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::World;

    fn ask(name: &str, config_operation: i8, value: Option<&str>) -> AlterableConfig {
        let value = value.map(Text::from);
        AlterableConfig { name: name.into(), config_operation, value, ..Default::default() }
    }

    #[test]
    fn a_level_is_set_told_and_reset() {
        let (world, loggers) = (World::new(), Loggers::default());
        let seen = world.view(44, 1);
        let view = seen.look();
        let level = |name: &str| {
            let rows = describe(&view, &loggers, "1").unwrap();
            let row = rows.iter().find(|row| &*row.name == name).unwrap();
            (row.value.as_deref().unwrap_or("").to_owned(), row.config_source, row.synonyms.len())
        };
        let name = "tidemark_broker.group";
        assert_eq!(level(name), ("INFO".into(), 6, 0));
        let set = ask(name, 0, Some("DEBUG"));
        assert_eq!(alter(&view, &loggers, "1", std::slice::from_ref(&set), true), Ok(()));
        assert_eq!(level(name).0, "INFO", "only validated");
        assert_eq!(alter(&view, &loggers, "1", &[set], false), Ok(()));
        assert_eq!((level(name).0.as_str(), level(ROOT).0.as_str()), ("DEBUG", "INFO"));
        assert_eq!(alter(&view, &loggers, "1", &[ask(name, 1, None)], false), Ok(()));
        assert_eq!(level(name).0, "INFO");
    }

    #[test]
    fn wrong_changes_of_levels_have_kafkas_codes_and_change_nothing() {
        let (world, loggers) = (World::new(), Loggers::default());
        let seen = world.view(44, 1);
        let code = |node: &str, asked: &[AlterableConfig]| {
            alter(&seen.look(), &loggers, node, asked, false).map_err(|r| r.code.code())
        };
        assert_eq!(code("1", &[ask("no.such", 0, Some("DEBUG"))]), Err(40));
        assert_eq!(code("1", &[ask(ROOT, 0, Some("WARN")), ask(ROOT, 0, Some("debug"))]), Err(40));
        assert_eq!(code("1", &[ask(ROOT, 1, None)]), Err(42));
        assert_eq!(code("1", &[ask(ROOT, 2, Some("WARN"))]), Err(42));
        assert_eq!(code("1", &[ask(ROOT, 0, None)]), Err(42));
        assert_eq!([code("2", &[]), code("", &[]), code("x", &[])], [Err(42), Err(42), Err(42)]);
        assert_eq!(describe(&seen.look(), &loggers, "").unwrap_err().code.code(), 42);
        assert!(loggers.levels().iter().all(|(_, level)| *level == "INFO"));
        let denied = world.view(44, 1).denying(Operation::AlterConfigs, "");
        assert_eq!(alter(&denied.look(), &loggers, "1", &[], false).unwrap_err().code.code(), 31);
    }
}
