//! `tidemark cluster lanes`, `chains` and the reasons of `moves`: what Kafka's protocol has no words for.
//!
//! Asked over HTTP, `/cluster` of any broker. Where that is, DescribeQuorum says: brokers tell it as a listener named
//! HTTP. `--http` names another way in.

use std::time::Duration;

use serde_json::Value;
use tidemark_proto::kafka::messages::describe_quorum_request::{PartitionData, TopicData};
use tidemark_proto::kafka::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;
use super::client::{Cluster, address, refused};
use super::output::{Table, show, show_text};

/// The longest answer that is taken.
const ANSWER_MAX: u64 = 64 << 20;

/// Time for a broker's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lives and lanes.
pub async fn lanes(cluster: &Cluster, http: Option<&str>, json: bool) -> Result<(), Failure> {
    let all = look(cluster, http, "/cluster").await?;
    show_text(json, &all, || {
        let mut brokers = Table::new(&[">BROKER", ">EPOCH", "LIFE", "ALIVE", "DRAINS", ">LEADS", "PEER"]);
        for row in rows(&all, "brokers") {
            let cells = ["node", "epoch", "life", "alive", "drains", "leads", "peer"];
            brokers.row(cells.map(|cell| said(&row[cell])));
        }
        let mut lanes = Table::new(&["LANE", ">BROKER", ">LOW", ">SEALED", ">RECOVERER"]);
        for row in rows(&all, "lanes") {
            lanes.row(["lane", "node", "low", "sealed", "recoverer"].map(|cell| said(&row[cell])));
        }
        format!("{}\n{}\n{}", controller(&all), brokers.text(), lanes.text())
    })
}

fn controller(all: &Value) -> String {
    let controller = &all["controller"];
    format!(
        "controller: broker {}, generation {}, life {}, {}; metadata at {}/{}, {} records\n",
        said(&controller["node"]),
        said(&controller["generation"]),
        said(&controller["life"]),
        said(&controller["address"]),
        said(&all["generation"]),
        said(&all["seq"]),
        said(&all["version"]),
    )
}

/// The chain of each partition of a topic.
pub async fn chains(cluster: &Cluster, http: Option<&str>, topic: &str, json: bool) -> Result<(), Failure> {
    let legal = topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !legal {
        return Err(Failure::Wrong(format!("{topic} is no topic's name")));
    }
    let all = look(cluster, http, &format!("/cluster/chains/{topic}")).await?;
    show(json, &all, || {
        let mut table = Table::new(&[">PARTITION", ">LEADER", ">EPOCH", "LANE", ">FROM", ">TO"]);
        for row in rows(&all, "partitions") {
            for entry in rows(row, "chain") {
                table.row([
                    said(&row["partition"]),
                    said(&row["leader"]),
                    said(&entry["leader_epoch"]),
                    said(&entry["lane"]),
                    said(&entry["from"]),
                    said(&entry["to"]),
                ]);
            }
        }
        table
    })
}

/// What the balancer said last, if the controller can be asked.
pub async fn why(cluster: &Cluster) -> Option<String> {
    let all = look(cluster, None, "/cluster").await.ok()?;
    all["balancer"].as_str().map(str::to_owned)
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The controller's answer, or of whichever broker gives one.
async fn look(cluster: &Cluster, http: Option<&str>, path: &str) -> Result<Value, Failure> {
    let doors = match http {
        Some(http) => vec![http.to_owned()],
        None => doors(cluster).await?,
    };
    let mut why = "no broker serves HTTP: set tidemark.http.listen, or pass --http HOST:PORT".to_owned();
    for door in doors {
        match timeout(PATIENCE, get(&door, path)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => why = format!("http://{door}{path}: {error}"),
            Err(_) => why = format!("http://{door}{path} does not answer"),
        }
    }
    Err(Failure::Failed(format!("{why}; --http HOST:PORT names another broker's tidemark.http.listen")))
}

/// Where brokers listen for HTTP, the controller first.
async fn doors(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let partition = PartitionData { partition_index: 0 };
    let topic = TopicData { topic_name: "__cluster_metadata".into(), partitions: vec![partition] };
    let request = DescribeQuorumRequest { topics: vec![topic] };
    let answer = cluster.any().await?.call(i16::MAX, &request).await?;
    refused("the quorum", answer.error_code, answer.error_message.as_ref())?;
    Ok(told(&answer))
}

fn told(answer: &DescribeQuorumResponse) -> Vec<String> {
    let leader = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.leader_id).next();
    let mut doors: Vec<(bool, String)> = Vec::new();
    for node in &answer.nodes {
        let http = node.listeners.iter().filter(|listener| &*listener.name == "HTTP");
        let at = http.map(|listener| address(&listener.host, i32::from(listener.port)));
        doors.extend(at.map(|at| (Some(node.node_id) != leader, at)));
    }
    doors.sort();
    doors.into_iter().map(|(_, at)| at).collect()
}

async fn get(door: &str, path: &str) -> Result<Value, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut io = TcpStream::connect(door).await.map_err(said)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {door}\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = Vec::new();
    io.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(said)?;
    parse(&answer)
}

/// The body of a whole answer that is well.
fn parse(answer: &[u8]) -> Result<Value, String> {
    let text = str::from_utf8(answer).map_err(|_| "not text")?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body).map_err(|error| error.to_string()),
        Some(code) => Err(format!("{code} {}", body.trim())),
        None => Err("no HTTP answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_proto::kafka::messages::describe_quorum_response::{self, Listener, Node};

    use super::*;

    #[test]
    fn the_controllers_door_is_tried_first_and_other_listeners_are_no_doors() {
        let node = |node_id, name: &str, port| Node {
            node_id,
            listeners: vec![Listener { name: name.into(), host: "h".into(), port }],
        };
        let partition = describe_quorum_response::PartitionData { leader_id: 3, ..Default::default() };
        let topic = describe_quorum_response::TopicData { partitions: vec![partition], ..Default::default() };
        let nodes = vec![node(1, "HTTP", 1), node(2, "PLAINTEXT", 2), node(3, "HTTP", 3)];
        let answer = DescribeQuorumResponse { topics: vec![topic], nodes, ..Default::default() };
        assert_eq!(told(&answer), ["h:3", "h:1"]);
    }

    #[test]
    fn only_a_good_answer_is_taken_and_another_says_why() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nx: y\r\n\r\n{\"a\":1}").unwrap()["a"], 1);
        assert_eq!(parse(b"HTTP/1.0 404 No\r\n\r\nthere is none\n").unwrap_err(), "404 there is none");
        assert!(parse(b"SSH-2.0").is_err());
        assert!(parse(b"HTTP/1.0 200 OK\r\n\r\n{").is_err());
    }
}
