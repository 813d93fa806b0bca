//! Scripts as goldens: every line of `testdata/cluster/*.txt` is a command, what follows `----` its outcome.
//!
//! `UPDATE_EXPECT=1` rewrites them; the difference is the review. After every record the invariants are
//! checked, and at the end of a script the image is written and read back as a snapshot.

use std::fmt::Write;
use std::path::PathBuf;

use tidemark_proto::id::{
    BrokerEpoch, BrokerId, LaneId, LeaderEpoch, Life, Millis, Offset, PartitionIndex, Seq, TopicId,
    TopicPartition,
};
use uuid::Uuid;

use super::super::command::{Command, NewTopic, Outcome, Reply, Sealed, TopicRef};
use super::super::image::{CheckpointRow, Image, RunRow};
use super::super::quota::{Entity, Part, Rate};
use super::super::record::{Carried, Record, Scope};
use super::super::state::Rules;
use super::super::wire::{Entry, snapshot_from, snapshot_of};

struct Script {
    image: Image,
    rules: Rules,
    topics: u128,
}

/// `key=value` of a line's words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number<T: std::str::FromStr>(words: &[&str], key: &str, default: T) -> T {
    value(words, key).map_or(default, |v| v.parse().ok().unwrap_or_else(|| panic!("{key}={v}")))
}

impl Script {
    fn new() -> Script {
        let check = |key: &str, value: Option<&str>| match (key, value) {
            ("retention.ms", Some(v)) if v.parse::<i64>().is_err() => {
                Err(format!("retention.ms must be a number, not '{v}'"))
            }
            ("retention.ms" | "cleanup.policy", _) => Ok(()),
            _ => Err(format!("there is no topic config '{key}'")),
        };
        let rules =
            Rules { topic_config: std::sync::Arc::new(check), partitions_max: 1_000, ..Rules::default() };
        Script { image: Image::default(), rules, topics: 0 }
    }

    /// A lane by its epoch.
    fn lane(&self, epoch: &str) -> LaneId {
        let epoch = BrokerEpoch(epoch.parse().unwrap());
        let found = self.image.lanes().map(|(id, _)| id).find(|id| id.epoch == epoch);
        found.unwrap_or(LaneId { epoch, lane: 0, life: Life(0) })
    }

    /// `seal=EPOCH@SEQ`, as often as it stands there.
    fn sealed(&self, words: &[&str]) -> Vec<Sealed> {
        let seals = words.iter().filter_map(|word| word.strip_prefix("seal="));
        seals
            .map(|seal| {
                let (epoch, at) = seal.split_once('@').unwrap();
                Sealed { lane: self.lane(epoch), at: Seq(at.parse().unwrap()) }
            })
            .collect()
    }

    fn fresh_topic(&mut self) -> TopicId {
        self.topics += 1;
        TopicId(Uuid::from_u128(self.topics))
    }

    fn new_topic(&mut self, name: &str, words: &[&str]) -> NewTopic {
        let assign = value(words, "assign").unwrap_or("");
        let assignments = assign.split(';').filter(|part| !part.is_empty()).zip(0..);
        let nodes = |part: &str| part.split(',').map(|n| BrokerId(n.parse().unwrap())).collect();
        let configs = words.iter().filter_map(|w| w.strip_prefix("config:")?.split_once('='));
        NewTopic {
            name: name.to_owned(),
            id: self.fresh_topic(),
            partitions: number(words, "partitions", -1),
            replication: number(words, "rf", -1),
            assignments: assignments.map(|(part, n)| (n.into(), nodes(part))).collect(),
            configs: configs.map(|(k, v)| (k.to_owned(), Some(v.to_owned()))).collect(),
        }
    }

    fn command(&mut self, line: &str) -> Command {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, subject) = (words[0], words.get(1).copied().unwrap_or(""));
        let dry = words.contains(&"dry");
        match verb {
            "register" => Command::RegisterBroker {
                node: subject.parse().ok().map(BrokerId),
                life: Life(number(&words, "life", 1)),
                endpoints: vec![],
                rack: value(&words, "rack").map(str::to_owned),
                peer: String::new(),
                sealed: self.sealed(&words),
            },
            "takeover" => Command::TakeOver {
                node: BrokerId(subject.parse().unwrap()),
                epoch: BrokerEpoch(number(&words, "epoch", 0)),
                sealed: self.sealed(&words),
            },
            "unregister" => Command::UnregisterBroker { node: BrokerId(subject.parse().unwrap()) },
            "create" => {
                let names: Vec<&str> = subject.split('+').collect();
                let topics = names.into_iter().map(|name| self.new_topic(name, &words)).collect();
                Command::CreateTopics { topics, validate_only: dry }
            }
            "grow" => Command::CreatePartitions {
                topic: subject.to_owned(),
                count: number(&words, "to", 0),
                assignments: Vec::new(),
                validate_only: dry,
            },
            "delete" => {
                let topics = subject.split('+').map(|name| TopicRef::Name(name.to_owned())).collect();
                Command::DeleteTopics { topics }
            }
            "cut" => self.cut(subject, &words),
            "replace" => {
                let ids = |key| -> Vec<Uuid> {
                    let list = value(&words, key).unwrap_or("").split(',').filter(|id| !id.is_empty());
                    list.map(|id| Uuid::from_u128(id.parse().unwrap())).collect()
                };
                let drop = ids("drop");
                let covers = drop.iter().filter_map(|id| self.image.run(*id)).map(|run| run.committed).max();
                let committed = number(&words, "covers", covers.unwrap_or(0));
                let row = |id: Uuid| RunRow { id, committed, level: 1, ..RunRow::default() };
                let first = self.image.partitions().map(|(tp, _)| tp).next();
                let start = value(&words, "start").and_then(|at| Some((first?, Offset(at.parse().unwrap()))));
                let version = number(&words, "version", self.image.version());
                let carried = ids("carried").first().map(|id| Carried {
                    row: CheckpointRow { id: *id, committed: version, ..CheckpointRow::default() },
                    of: first.map(|tp| (tp.topic, vec![tp.partition])).into_iter().collect(),
                });
                Command::ReplaceRuns {
                    by: BrokerEpoch(number(&words, "by", 1)),
                    add: ids("add").into_iter().map(row).collect(),
                    starts: start.into_iter().collect(),
                    cleaned: first
                        .zip(value(&words, "cleaned"))
                        .map(|(tp, at)| (tp, Offset(at.parse().unwrap())))
                        .into_iter()
                        .collect(),
                    drop,
                    carried: carried.map(Box::new),
                }
            }
            "forget" => Command::ForgetLane { lane: self.lane(subject) },
            "producers" => Command::AllocateProducerIds { by: BrokerEpoch(subject.parse().unwrap()) },
            "start" => {
                let (name, index) = subject.rsplit_once('-').unwrap();
                let topic = self.image.topic_named(name).map_or(TopicId::default(), |t| t.id);
                let tp = TopicPartition { topic, partition: PartitionIndex(index.parse().unwrap()) };
                let at = (tp, LeaderEpoch(number(&words, "epoch", 0)), Offset(number(&words, "to", 0)));
                Command::MoveLogStarts { by: BrokerEpoch(number(&words, "by", 1)), starts: vec![at] }
            }
            "quota" => {
                let part =
                    |key| value(&words, key).map(|v| Part::from_name((v != "*").then(|| v.to_owned())));
                let entity = Entity { user: part("user"), client: part("client"), ip: part("ip") };
                let set = words.iter().filter_map(|w| w.strip_prefix("set:")?.split_once('='));
                let rate = |v: &str| (!v.is_empty()).then(|| Rate::new(v.parse().unwrap()));
                let set = set.map(|(k, v)| (k.to_owned(), rate(v))).collect();
                Command::SetQuotas { entity, set, validate_only: dry }
            }
            "config" => {
                let scope = match subject.split_once(':') {
                    Some(("group", name)) => Scope::Group(name.to_owned()),
                    Some(("metrics", name)) => Scope::ClientMetrics(name.to_owned()),
                    _ => Scope::Topic(self.image.topic_named(subject).map_or(TopicId::default(), |t| t.id)),
                };
                let set = words[2..]
                    .iter()
                    .filter_map(|w| w.split_once('='))
                    .map(|(k, v)| (k.to_owned(), Some(v).filter(|v| !v.is_empty()).map(str::to_owned)));
                let set = set.collect();
                Command::SetConfig { scope, set, validate_only: dry }
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn cut(&self, lane: &str, words: &[&str]) -> Command {
        let (id, low) = (self.lane(lane), Seq(number(words, "low", 0)));
        let run = |n: u128| RunRow { id: Uuid::from_u128(n), key: format!("run/{n}"), ..RunRow::default() };
        let checkpoint = value(words, "check").map(|n| CheckpointRow {
            id: Uuid::from_u128(n.parse().unwrap()),
            key: format!("check/{n}"),
            lane: id,
            upto: low,
            ..CheckpointRow::default()
        });
        Command::CommitCut {
            by: BrokerEpoch(number(words, "by", id.epoch.0)),
            lane: id,
            low,
            runs: value(words, "run").map(|n| run(n.parse().unwrap())).into_iter().collect(),
            checkpoint,
            version: number(words, "version", self.image.version()),
        }
    }

    fn line(&mut self, line: &str) -> String {
        if line == "show" {
            return self.show();
        }
        let command = self.command(line);
        let json = serde_json::to_vec(&command).unwrap();
        assert_eq!(serde_json::from_slice::<Command>(&json).unwrap(), command, "commands travel");
        let Outcome { records, reply } = match self.image.decide(&self.rules, Millis(0), &command) {
            Ok(outcome) => outcome,
            Err(code) => return format!("{code}\n"),
        };
        let json = serde_json::to_vec(&reply).unwrap();
        assert_eq!(serde_json::from_slice::<Reply>(&json).unwrap(), reply, "replies travel");
        let entry = Entry { records, ..Entry::default() };
        assert_eq!(Entry::decode(entry.encode()).unwrap(), entry, "records come back");
        let mut out = say(&reply);
        for record in &entry.records {
            self.image.apply(record);
            writeln!(out, "  {}", name(record)).unwrap();
        }
        self.image.check(); // one commit is one step: between its records things may look odd
        out
    }

    fn show(&self) -> String {
        let mut out = String::new();
        for broker in self.image.brokers() {
            let state = if broker.alive { "alive" } else { "fenced" };
            writeln!(
                out,
                "broker {}: epoch {}, {state}, leads {}",
                broker.node,
                broker.epoch,
                self.image.led(broker.node)
            )
            .unwrap();
        }
        for (id, lane) in self.image.lanes() {
            let sealed = lane.sealed.map_or("open".to_owned(), |at| format!("sealed {at}"));
            let recoverer = lane.recoverer.map_or(String::new(), |n| format!(", broker {n} recovers"));
            writeln!(out, "lane {id} of {}: low {}, {sealed}{recoverer}", lane.node, lane.low).unwrap();
        }
        for topic in self.image.topics() {
            for (n, p) in (0..).zip(&topic.partitions) {
                let leader = p.leader.map_or("none".to_owned(), |n| n.to_string());
                let replicas: Vec<String> =
                    self.image.replicas(topic, n.into()).iter().map(ToString::to_string).collect();
                let chain = p.chain.iter().map(|e| {
                    let to = e.to.map_or("..".to_owned(), |to| format!("..{to}"));
                    format!("{}@{}:{}{to}", e.lane, e.leader_epoch, e.from)
                });
                let chain = chain.collect::<Vec<_>>().join(" ");
                let home = p.home.map_or(String::new(), |id| format!(", home {}", id.as_u128()));
                let start = match p.log_start {
                    Offset(0) => String::new(),
                    start => format!(", starts at {start}"),
                };
                let (name, epoch, replicas) = (&topic.name, p.leader_epoch, replicas.join(","));
                writeln!(
                    out,
                    "{name}-{n}: leader {leader}, epoch {epoch}, replicas {replicas}, chain [{chain}]{home}{start}"
                )
                .unwrap();
            }
        }
        let runs = self.image.runs().filter(|run| run.level > 0);
        runs.for_each(|run| writeln!(out, "run {} of {}", run.id.as_u128(), run.committed).unwrap());
        for (entity, row) in self.image.quotas() {
            let part = |kind, part: &Option<Part>| {
                part.as_ref().map(|p| format!("{kind} {}", p.name().unwrap_or("*")))
            };
            let whose = [part("user", &entity.user), part("client", &entity.client), part("ip", &entity.ip)];
            let whose = whose.into_iter().flatten().collect::<Vec<_>>().join(", ");
            let row: Vec<String> = row.iter().map(|(key, rate)| format!("{key}={}", rate.value())).collect();
            writeln!(out, "quota of {whose}: {}", row.join(" ")).unwrap();
        }
        let groups = self.image.group_configs().map(|row| ("group", row));
        let metrics = self.image.client_metrics().map(|row| ("metrics", row));
        for (kind, (name, configs)) in groups.chain(metrics) {
            let set: Vec<String> = configs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            writeln!(out, "configs of {kind} {name}: {}", set.join(" ")).unwrap();
        }
        out
    }
}

fn say(reply: &Reply) -> String {
    let row = |code: &super::super::command::Refusal| format!("{}: {}", code.code, code.why);
    match reply {
        Reply::Done => "done\n".to_owned(),
        Reply::SealFirst { lane, low } => format!("seal lane {lane} first, from {low}\n"),
        Reply::Registered { node, epoch } => format!("broker {node} has epoch {epoch}\n"),
        Reply::Created(rows) => rows
            .iter()
            .map(|(name, made)| match made {
                Ok(made) => format!("{name}: {} partitions, rf {}\n", made.partitions, made.replication),
                Err(refusal) => format!("{name}: {}\n", row(refusal)),
            })
            .collect(),
        Reply::Deleted(rows) => rows
            .iter()
            .map(|gone| match gone {
                Ok((name, _)) => format!("{name}: deleted\n"),
                Err(refusal) => format!("{}\n", row(refusal)),
            })
            .collect(),
        Reply::Row(Ok(())) => "ok\n".to_owned(),
        Reply::Row(Err(refusal)) => format!("{}\n", row(refusal)),
        Reply::Released(rows) => {
            rows.iter().map(|gone| if *gone { "released\n" } else { "kept\n" }).collect()
        }
        Reply::Moved(rows) => {
            rows.iter().map(|led| if *led { "moved\n" } else { "not the leader\n" }).collect()
        }
        Reply::Producers { first, count } => format!("producer ids from {first}, {count}\n"),
    }
}

fn name(record: &Record) -> String {
    let text = format!("{record:?}");
    let end = text.find([' ', '{', '(']).unwrap_or(text.len());
    let detail = match record {
        Record::PartitionsMoved { to, partitions, .. } => {
            let count: usize = partitions.iter().map(|(_, list)| list.len()).sum();
            let to = to.map_or("nobody".to_owned(), |to| format!("broker {}", to.node));
            format!(" {count} to {to}")
        }
        Record::LaneSealed { lane, at, .. } => format!(" {lane} at {at}"),
        Record::LaneForgotten { lane } => format!(" {lane}"),
        _ => String::new(),
    };
    format!("{}{detail}", &text[..end])
}

fn run(text: &str) -> String {
    let mut script = Script::new();
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        } else if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "> {command}").unwrap();
            out.push_str(&script.line(command));
        }
    }
    let (cluster, position) = (script.image.cluster(), script.image.position());
    let again = snapshot_from(cluster, position, snapshot_of(&script.image)).unwrap();
    assert_eq!(again, script.image, "a snapshot is the whole image");
    out
}

#[test]
fn scripts_end_as_they_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/cluster");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 8, "the scripts are there");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let is = run(&text);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&file, is).unwrap();
        } else {
            assert_eq!(is, text, "{} (UPDATE_EXPECT=1 rewrites it)", file.display());
        }
    }
}
