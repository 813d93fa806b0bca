//! `tidemark cluster drain` and `undrain`: a broker that stays gives all it leads to others, and gets nothing until told.
//!
//! Both set one config of that broker, `tidemark.drain`, as any Kafka tool could; it outlives the broker's restarts.

use std::time::Duration;

use serde::Serialize;
use tidemark_proto::kafka::messages::IncrementalAlterConfigsRequest;
use tidemark_proto::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tokio::time::{Instant, sleep};

use super::Failure;
use super::client::{Cluster, by_leader, refused};
use super::output::{self, show_text};

/// The config.
const KEY: &str = "tidemark.drain";

/// Kafka's number of a broker's configs.
const BROKER: i8 = 4;

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Drained {
    broker: i32,
    led: usize,
    leads: usize,
    done: bool,
}

/// Drains `node` and, unless `patience` is `None`, waits until it leads nothing.
pub async fn drain(
    cluster: &Cluster,
    node: i32,
    patience: Option<Duration>,
    json: bool,
) -> Result<(), Failure> {
    let others = living(cluster, node).await?;
    if others.is_empty() {
        let why = format!("broker {node} is the only one: there is nobody to take what it leads");
        return Err(Failure::Failed(why));
    }
    let led = leads(cluster, node).await?;
    set(cluster, node, Some("true")).await?;
    let end = Instant::now() + patience.unwrap_or_default();
    let mut told = led;
    let left = loop {
        let left = leads(cluster, node).await?;
        if left == 0 || patience.is_none() {
            break left;
        }
        if left != told && !json {
            super::say(&format!("broker {node} still leads {left} of {led} partitions\n"));
            told = left;
        }
        if Instant::now() >= end {
            break left;
        }
        sleep(LOOK).await;
    };
    let drained = Drained { broker: node, led, leads: left, done: left == 0 };
    output::show_text(json, &drained, || match (left, patience) {
        (0, _) => {
            format!("broker {node} leads nothing; `tidemark cluster undrain {node}` lets it lead again\n")
        }
        (_, None) => format!("broker {node} drains: {left} partitions to go\n"),
        (_, Some(_)) => String::new(),
    })?;
    match (left, patience) {
        (1.., Some(patience)) => Err(Failure::Failed(format!(
            "broker {node} still leads {left} partitions after {} s; it goes on draining: see `tidemark cluster moves`",
            patience.as_secs()
        ))),
        _ => Ok(()),
    }
}

/// Lets `node` lead again.
pub async fn undrain(cluster: &Cluster, node: i32, json: bool) -> Result<(), Failure> {
    set(cluster, node, None).await?;
    let leads = leads(cluster, node).await?;
    let undrained = Drained { broker: node, led: leads, leads, done: true };
    show_text(json, &undrained, || {
        format!("broker {node} may lead again; it is given its share in a moment\n")
    })
}

/// The living brokers but `node`, which must be one of them.
async fn living(cluster: &Cluster, node: i32) -> Result<Vec<i32>, Failure> {
    let metadata = cluster.metadata(Some(&[])).await?;
    let (same, others): (Vec<i32>, Vec<i32>) =
        metadata.brokers.iter().map(|broker| broker.node_id).partition(|id| *id == node);
    match same.is_empty() {
        true => {
            let list = others.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::Wrong(format!("there is no living broker {node}; there are {list}")))
        }
        false => Ok(others),
    }
}

async fn leads(cluster: &Cluster, node: i32) -> Result<usize, Failure> {
    let metadata = cluster.retry(async || cluster.metadata(None).await).await?;
    Ok(by_leader(&metadata.topics).get(&node).map_or(0, Vec::len))
}

async fn set(cluster: &Cluster, node: i32, value: Option<&str>) -> Result<(), Failure> {
    let config = AlterableConfig {
        name: KEY.into(),
        config_operation: i8::from(value.is_none()), // 0 sets, 1 deletes
        value: value.map(Into::into),
    };
    let resource = AlterConfigsResource {
        resource_type: BROKER,
        resource_name: node.to_string().into(),
        configs: vec![config],
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = cluster.ask_controller(&request).await?;
    let Some(result) = answer.responses.first() else {
        return Err(Failure::Failed(format!("the cluster says nothing about broker {node}")));
    };
    Ok(refused(&format!("broker {node}"), result.error_code, result.error_message.as_ref())?)
}
