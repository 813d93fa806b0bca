//! Scripts as goldens: `testdata/group/*.txt` hold commands and, indented, all that followed.
//!
//! `UPDATE_EXPECT=1 cargo test -p tidemark-broker scripts` rewrites them; the diff is the review.
//! A member is called by a letter; `a-1` is the first member id that `a` was given.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tidemark_proto::kafka::error::ErrorCode;
use tidemark_proto::kafka::text::Text;

use super::bench_group::{Answer, Bench};
use crate::group::command::{
    Caller, Command, Commit, CommitOne, Committed, Join, Leaver, Protocol, Record, Reply, Sync, Timer, Token,
};
use crate::group::members::Phase;
use crate::group::state::Group;
use crate::group::subscription;

#[derive(Default)]
struct Stage {
    bench: Bench,
    ids: BTreeMap<String, Text>,
    instances: BTreeMap<String, Text>,
    asked: BTreeMap<Token, String>,
    made: u32,
    out: String,
}

/// `name key=value key=value …`
struct Line<'a> {
    verb: &'a str,
    who: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Line<'a> {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("a line has a verb");
        let (options, who): (Vec<&str>, Vec<&str>) = words.partition(|w| w.contains('='));
        let options = options.into_iter().filter_map(|w| w.split_once('=')).collect();
        Line { verb, who, options }
    }

    fn list(&self, key: &str) -> Vec<&'a str> {
        self.options.get(key).map_or_else(Vec::new, |v| v.split(',').collect())
    }

    fn time(&self, key: &str, default: Duration) -> Duration {
        self.options.get(key).map_or(default, |v| duration(v))
    }
}

fn duration(text: &str) -> Duration {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).expect("a unit"));
    let (_, ms) = units.iter().find(|(name, _)| *name == unit).expect("ms, s, m, h or d");
    Duration::from_millis(digits.parse::<u64>().expect("a number") * ms)
}

fn ms(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap()
}

fn partition(text: &str) -> (Text, i32) {
    let (topic, partition) = text.rsplit_once('-').expect("topic-partition");
    (Text::from(topic), partition.parse().expect("a partition"))
}

/// The subscription of Kafka's own consumers, version 0.
fn subscription_to(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 0];
    out.extend(i32::try_from(topics.len()).unwrap().to_be_bytes());
    for topic in topics {
        out.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((-1i32).to_be_bytes());
    out.into()
}

fn shown(bytes: &Bytes) -> String {
    match subscription::topics(bytes) {
        Some(topics) if bytes.len() > 4 => {
            format!("reads {}", topics.iter().map(Text::as_str).collect::<Vec<_>>().join("+"))
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

impl Stage {
    fn id(&self, name: &str) -> Text {
        self.ids.get(name).cloned().unwrap_or_else(|| Text::from(name))
    }

    fn caller(&self, line: &Line<'_>) -> Caller {
        let name = line.who.first().copied().unwrap_or("-");
        if name == "-" {
            return Caller { generation: -1, ..Caller::default() };
        }
        let current = self.bench.group.members().generation();
        let generation = line.options.get("generation").map_or(current, |g| g.parse().unwrap());
        let id = line.options.get("as").map_or_else(|| self.id(name), |id| Text::from(*id));
        Caller { member: id, instance: self.instances.get(name).cloned(), generation }
    }

    fn join(&mut self, line: &Line<'_>) -> Command {
        let name = line.who[0];
        if let Some(instance) = line.options.get("instance") {
            self.instances.insert(name.to_owned(), Text::from(*instance));
        }
        self.made += 1;
        let fresh = Text::from(format!("{name}-{}", self.made));
        let known = if line.who.contains(&"anew") { None } else { self.ids.get(name).cloned() };
        let topics = line.list("topics");
        let described = |protocol: &str| match protocol.split_once(':') {
            Some((name, metadata)) => {
                Protocol { name: Text::from(name), metadata: Bytes::copy_from_slice(metadata.as_bytes()) }
            }
            None => Protocol { name: Text::from(protocol), metadata: subscription_to(&topics) },
        };
        let protocols = line.options.get("protocols").copied().unwrap_or("range");
        let session = line.time("session", Duration::from_secs(10));
        let version: i32 = line.options.get("v").map_or(9, |v| v.parse().unwrap());
        Command::Join(Join {
            member: known.unwrap_or_default(),
            instance: self.instances.get(name).cloned(),
            client_id: Text::from(name),
            client_host: Text::from("/127.0.0.1"),
            protocol_type: Text::from(line.options.get("type").copied().unwrap_or("consumer")),
            protocols: protocols.split(',').filter(|p| !p.is_empty()).map(described).collect(),
            session_timeout_ms: ms(session),
            rebalance_timeout_ms: ms(line.time("rebalance", Duration::from_secs(60))),
            require_known: version >= 4,
            can_skip_assignment: version >= 9,
            fresh,
        })
    }

    fn sync(&self, line: &Line<'_>) -> Command {
        let pairs = line.list("assign").into_iter().filter_map(|pair| pair.split_once(':'));
        Command::Sync(Sync {
            caller: self.caller(line),
            protocol_type: line.options.get("type").map(|t| Text::from(*t)),
            protocol: line.options.get("protocol").map(|p| Text::from(*p)),
            assignments: pairs
                .map(|(name, what)| (self.id(name), Bytes::copy_from_slice(what.as_bytes())))
                .collect(),
        })
    }

    fn commit(&self, line: &Line<'_>) -> Command {
        let notes = ["generation", "as", "metadata", "retention"];
        let metadata: usize = line.options.get("metadata").map_or(0, |n| n.parse().unwrap());
        let positions = line.options.iter().filter(|(key, _)| !notes.contains(key));
        let one = |(key, offset): (&&str, &&str)| {
            let (topic, partition) = partition(key);
            let metadata = Text::from("m".repeat(metadata));
            let offset = offset.parse().unwrap();
            CommitOne { topic, partition, offset, leader_epoch: -1, metadata }
        };
        Command::Commit(Commit {
            caller: self.caller(line),
            retention_ms: line.options.get("retention").map(|r| i64::from(ms(duration(r)))),
            offsets: positions.map(one).collect(),
        })
    }

    fn leave(&self, line: &Line<'_>) -> Command {
        let by_name = line
            .who
            .iter()
            .map(|name| Leaver { member: self.id(name), instance: self.instances.get(*name).cloned() });
        let by_instance = line
            .list("instance")
            .into_iter()
            .map(|instance| Leaver { member: Text::new(), instance: Some(Text::from(instance)) });
        Command::Leave(by_name.chain(by_instance).collect())
    }

    fn run(&mut self, text: &str) {
        let line = Line::parse(text);
        let partitions = || line.who.iter().map(|w| partition(w));
        let command = match line.verb {
            "config" => return self.configure(&line),
            "tick" => return self.tick(duration(line.who[0])),
            "restart" => return self.restart(),
            "join" => self.join(&line),
            "sync" => self.sync(&line),
            "heartbeat" => Command::Heartbeat(self.caller(&line)),
            "leave" => self.leave(&line),
            "commit" => self.commit(&line),
            "fetch" if line.who.is_empty() => Command::FetchOffsets(None),
            "fetch" => Command::FetchOffsets(Some(partitions().map(|(t, p)| (t, vec![p])).collect())),
            "describe" => Command::Describe,
            "delete" => Command::Delete,
            "delete-offsets" => Command::DeleteOffsets(partitions().collect()),
            "retire" => Command::Retire,
            "topic-gone" => Command::TopicGone(Text::from(line.who[0])),
            verb => panic!("no such verb: {verb}"),
        };
        let name = match line.verb {
            "join" | "sync" | "heartbeat" | "commit" | "leave" => line.who.first().copied(),
            _ => None,
        };
        self.give(&command, name.unwrap_or("answer"));
    }

    fn configure(&mut self, line: &Line<'_>) {
        let rules = &mut self.bench.rules;
        for (key, value) in &line.options {
            match *key {
                "delay" => rules.initial_rebalance_delay = duration(value),
                "size" => rules.size_max = value.parse().unwrap(),
                "retention" => {
                    rules.offsets_retention_ms = i64::try_from(duration(value).as_millis()).unwrap();
                }
                key => panic!("no such setting: {key}"),
            }
        }
    }

    fn tick(&mut self, step: Duration) {
        let until = self.bench.now + step;
        while let Some(timer) = self.bench.next_timer(until) {
            let at = self.bench.now.as_millis();
            let what = match &timer {
                Timer::Session(id) => format!("session of {id}"),
                Timer::Rebalance => "rebalance".to_owned(),
                Timer::Sync => "sync".to_owned(),
            };
            writeln!(self.out, "    at {}.{:03}s: {what} timed out", at / 1000, at % 1000).unwrap();
            self.give(&Command::Fire(timer), "");
        }
        self.bench.now = until;
    }

    fn restart(&mut self) {
        for token in self.bench.restart() {
            let name = self.asked.remove(&token).unwrap_or_default();
            writeln!(self.out, "    {name}: lost").unwrap();
        }
        self.phase(&Group::default());
    }

    fn give(&mut self, command: &Command, name: &str) {
        let before = self.bench.group.clone();
        let (token, records, answers) = self.bench.give(command);
        self.asked.insert(token, name.to_owned());
        for record in &records {
            writeln!(self.out, "    log: {}", told(record)).unwrap();
        }
        for answer in answers {
            self.answered(answer);
        }
        if self.bench.waiting.contains(&token) {
            writeln!(self.out, "    {name} waits").unwrap();
        }
        self.phase(&before);
    }

    fn phase(&mut self, before: &Group) {
        let (was, is) = (before.phase(), self.bench.group.phase());
        if was != is {
            writeln!(self.out, "    {} -> {}", was.name(), is.name()).unwrap();
        }
    }

    fn answered(&mut self, (token, reply): Answer) {
        let name = self.asked.remove(&token).unwrap_or_default();
        match &reply {
            Ok(Reply::MemberIdRequired(id)) => self.ids.insert(name.clone(), id.clone()),
            Ok(Reply::Joined(joined)) => self.ids.insert(name.clone(), joined.member.clone()),
            _ => None,
        };
        let text = match reply {
            Ok(reply) => said(&reply),
            Err(error) => error.name().to_owned(),
        };
        writeln!(self.out, "    {name}: {text}").unwrap();
    }
}

fn told(record: &Record) -> String {
    match record {
        Record::Group(group) => {
            let members = group.members.iter().map(|m| match &m.instance {
                Some(instance) => format!("{}[{instance}]={}", m.member, shown(&m.assignment)),
                None => format!("{}={}", m.member, shown(&m.assignment)),
            });
            let members = members.collect::<Vec<_>>().join(" ");
            let protocol = group.protocol.as_ref().map_or("-", |p| p.as_str());
            let leader = group.leader.as_ref().map_or("-", |l| l.as_str());
            format!("generation {} {protocol} leader {leader} {{{members}}}", group.generation)
        }
        Record::GroupGone => "group gone".to_owned(),
        Record::Offset(topic, partition, at) => format!("{topic}-{partition} at {}", at.offset),
        Record::OffsetGone(topic, partition) => format!("{topic}-{partition} gone"),
    }
}

fn said(reply: &Reply) -> String {
    let codes = |codes: &[ErrorCode]| codes.iter().map(|code| code.name()).collect::<Vec<_>>().join(" ");
    match reply {
        Reply::MemberIdRequired(id) => format!("MEMBER_ID_REQUIRED, come back as {id}"),
        Reply::Joined(joined) => {
            let protocol = joined.protocol.as_ref().map_or("-", |p| p.as_str());
            let mut text = format!(
                "generation {} as {}, {protocol}, leader {}",
                joined.generation, joined.member, joined.leader
            );
            if !joined.members.is_empty() {
                let members = joined.members.iter();
                let members = members.map(|m| format!("{}({})", m.member, shown(&m.metadata)));
                write!(text, " of {{{}}}", members.collect::<Vec<_>>().join(" ")).unwrap();
            }
            if joined.skip_assignment {
                text.push_str(", skip assignment");
            }
            text
        }
        Reply::Synced(synced) => format!("assigned {:?}", shown(&synced.assignment)),
        Reply::Alive => "alive".to_owned(),
        Reply::Left(left) => codes(left),
        Reply::Committed(committed) => codes(committed),
        Reply::OffsetsDeleted(deleted) => codes(deleted),
        Reply::Done => "done".to_owned(),
        Reply::Offsets(offsets) => {
            let one = |(topic, partition, at): &(Text, i32, Option<Committed>)| {
                let at = at.as_ref().map_or("none".to_owned(), |at| at.offset.to_string());
                format!("{topic}-{partition}={at}")
            };
            let all = offsets.iter().map(one).collect::<Vec<_>>().join(" ");
            if all.is_empty() { "no offsets".to_owned() } else { all }
        }
        Reply::Described(group) => {
            let members = group.members.iter();
            let members =
                members.map(|m| format!("{}({})={}", m.member, shown(&m.metadata), shown(&m.assignment)));
            let members = members.collect::<Vec<_>>().join(" ");
            format!(
                "{} type {:?} protocol {:?} {{{members}}}",
                group.phase.name(),
                group.protocol_type.as_str(),
                group.protocol.as_str()
            )
        }
    }
}

fn play(script: &str) -> String {
    let mut stage = Stage::default();
    for line in script.lines() {
        if line.starts_with("    ") {
            continue; // what followed last time
        }
        writeln!(stage.out, "{line}").unwrap();
        if !line.is_empty() && !line.starts_with('#') {
            stage.run(line);
        }
    }
    stage.out
}

#[test]
fn scripts_end_as_they_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/group");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 15, "scripts are found");
    let mut stale = Vec::new();
    for path in paths {
        let golden = std::fs::read_to_string(&path).unwrap();
        let played = play(&golden);
        if played == golden {
            continue;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else {
            stale.push(format!("{}:\n{played}", path.display()));
        }
    }
    assert!(stale.is_empty(), "not what followed last time:\n{}", stale.join("\n"));
}

#[test]
fn every_phase_has_kafkas_name() {
    let names = Phase::ALL.map(Phase::name).join(" ");
    assert_eq!(names, "Dead Empty PreparingRebalance CompletingRebalance Stable");
}
