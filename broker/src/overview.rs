//! The metadata as an operator looks at it: brokers and their lives, lanes, chains, the controller, moves.
//!
//! Made of an image alone, as JSON for `/cluster`; what Kafka's protocol has no words for is shown by
//! `tidemark cluster` from here. Bounded: chains are shown of one topic at a time, moves up to [`MOVES`].

use serde_json::{Value, json};
use tidemark_proto::id::BrokerId;

use crate::cluster::Image;
use crate::cluster::image::{Broker, Lane};

/// Moves that are listed; all are counted.
const MOVES: usize = 1_000;

/// The whole but for chains; `why` is the balancer's last word, where this broker is the controller.
pub fn cluster(image: &Image, why: Option<String>) -> Value {
    let moves: Vec<_> = image.moving().collect();
    let listed = moves.iter().take(MOVES).map(|(tp, successor)| {
        json!({
            "topic": image.topic(tp.topic).map(|topic| topic.name.to_string()),
            "partition": tp.partition.0,
            "from": image.partition(*tp).and_then(|p| p.leader).map(|node| node.0),
            "to": successor.node.0,
            "ready": successor.ready,
        })
    });
    json!({
        "generation": image.position().generation.0,
        "seq": image.position().seq.0,
        "version": image.version(),
        "controller": image.controller().map(|c| json!({
            "generation": c.generation.0,
            "node": image.controller_node().map(|node| node.0),
            "life": c.life.to_string(),
            "address": c.address,
        })),
        "brokers": image.brokers().map(|row| broker(image, row)).collect::<Vec<_>>(),
        "lanes": image.lanes().map(|(id, row)| lane(&id.to_string(), row)).collect::<Vec<_>>(),
        "moves": listed.collect::<Vec<_>>(),
        "moves_under_way": moves.len(),
        "balancer": why,
    })
}

fn broker(image: &Image, row: &Broker) -> Value {
    json!({
        "node": row.node.0,
        "epoch": row.epoch.0,
        "life": row.life.to_string(),
        "alive": row.alive,
        "drains": image.drains(row.node),
        "rack": row.rack,
        "peer": row.peer,
        "leads": image.led(row.node),
    })
}

fn lane(id: &str, row: &Lane) -> Value {
    json!({
        "lane": id,
        "node": row.node.0,
        "low": row.low.0,
        "sealed": row.sealed.map(|at| at.0),
        "recoverer": row.recoverer.map(|BrokerId(node)| node),
    })
}

/// The chains of one topic's partitions; `None` where there is no such topic.
pub fn chains(image: &Image, topic: &str) -> Option<Value> {
    let topic = image.topic_named(topic)?;
    let partitions = topic.partitions().map(|(tp, p)| {
        let chain = p.chain.iter().map(|entry| {
            json!({
                "lane": entry.lane.to_string(),
                "leader_epoch": entry.leader_epoch.0,
                "from": entry.from.0,
                "to": entry.to.map(|at| at.0),
            })
        });
        json!({
            "partition": tp.partition.0,
            "leader": p.leader.map(|node| node.0),
            "leader_epoch": p.leader_epoch.0,
            "assigned": p.assigned.iter().map(|node| node.0).collect::<Vec<_>>(),
            "chain": chain.collect::<Vec<_>>(),
        })
    });
    Some(json!({ "topic": &*topic.name, "partitions": partitions.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use tidemark_proto::id::PartitionIndex;

    use super::*;
    use crate::api::testing::World;
    use crate::cluster::record::Record;

    #[test]
    fn brokers_lanes_moves_and_chains_are_shown_as_the_image_has_them() {
        let mut world = World::new();
        let partitions = vec![(world.orders, vec![PartitionIndex(2)])];
        world.image.apply(&Record::MovesPlanned { to: Some(BrokerId(2)), partitions });
        let all = cluster(&world.image, Some("to even out".into()));
        assert_eq!(
            (all["brokers"][0]["node"].as_i64(), all["brokers"][0]["leads"].as_i64()),
            (Some(1), Some(3))
        );
        assert_eq!(
            (all["lanes"].as_array().map(Vec::len), &all["lanes"][1]["sealed"]),
            (Some(2), &Value::Null)
        );
        assert_eq!(
            all["moves"],
            json!([{ "topic": "orders", "partition": 2, "from": 1, "to": 2, "ready": false }])
        );
        assert_eq!(all["balancer"], "to even out");
        let chains = chains(&world.image, "orders").unwrap();
        assert_eq!(chains["partitions"].as_array().map(Vec::len), Some(4));
        assert_eq!(chains["partitions"][1]["chain"][0]["lane"], all["lanes"][1]["lane"]);
        assert_eq!(super::chains(&world.image, "nope"), None);
    }
}
