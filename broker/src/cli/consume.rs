//! `tidemark consume`: records become lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::client::{self, Cluster, EARLIEST, Held, LATEST, Membership, Place, Reader, Taken, To};
use super::format;
use super::output::{self, note};
use super::position::{Position, known};
use super::printer::{Look, Printer};
use super::{Failure, offsets};

const WAIT: Duration = Duration::from_millis(250);
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Read records: from where you say, as far as there are, or on and on.
#[derive(Args, Debug)]
#[command(after_help = format!("\
The formats of --format:
{}

Examples:
  tidemark consume orders                                 everything there is
  tidemark consume orders --from 15m --follow             the last quarter of an hour, then what comes
  tidemark consume orders --from -10 -p 3                 the last ten records of partition 3
  tidemark consume orders --format '%p:%o %k=%v\\n' -n 5   five records, with keys
  tidemark consume orders --group billing --follow        as a member of a group, committing as it goes
  tidemark consume orders --json | jq .value", format::LETTERS))]
pub struct Consume {
    #[command(flatten)]
    to: To,
    /// The topic's name.
    topic: String,
    /// Where to begin: beginning, end, an offset, -N (so many before the end), or a time, as 2026-11-23T12:00:00Z or
    /// 15m (ago). A group's members begin where the group is, and here where it has not been.
    #[arg(long, default_value = "beginning", value_name = "PLACE", allow_hyphen_values = true)]
    from: String,
    /// Only these partitions; may be given more than once.
    #[arg(short, long = "partition", conflicts_with = "group")]
    partitions: Vec<i32>,
    /// End after so many records.
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Wait for more where it would end. `--from end` does so anyway.
    #[arg(short, long)]
    follow: bool,
    /// Read as a member of this group, and commit what was printed.
    #[arg(short, long)]
    group: Option<String>,
    #[command(flatten)]
    look: Look,
    /// Leave out what transactions have not committed.
    #[arg(long)]
    read_committed: bool,
}

impl Consume {
    /// Reads until the end, the count, or Ctrl-C.
    pub fn run(self) -> Result<(), Failure> {
        let printer = self.look.printer(&self.topic, self.to.json, self.count)?;
        client::stay(&self.to, async |cluster, stop| {
            let from = Position::parse(&self.from, cluster.seams.clock.wall())
                .map_err(|why| Failure::Wrong(format!("--from: {why}")))?;
            match &self.group {
                Some(group) => self.as_member(cluster, group, from, printer, stop).await,
                None => self.alone(cluster, from, printer, stop).await,
            }
        })
    }

    async fn alone(
        &self,
        cluster: Arc<Cluster>,
        from: Position,
        mut printer: Printer,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let places = offsets::places(&cluster, &self.topic, &self.partitions).await?;
        let mut starts = from.resolve(&cluster, &places, self.read_committed).await?;
        let follow = self.follow || from == Position::End;
        let ends = self.ends(&cluster, &places).await?;
        if let Position::Offset(_) = from {
            within(&mut starts, &cluster, &ends).await?;
        }
        let mut reader = Reader::new(cluster, &self.topic, self.read_committed);
        let mut total = 0;
        for (place, start) in &starts {
            let end = ends.get(place).copied();
            reader.add(place.1, *start, if follow { None } else { end });
            total += end.map_or(0, |end| u64::try_from(end - start).unwrap_or(0));
        }
        let progress = progress(if follow { None } else { Some(self.count.map_or(total, |n| n.min(total))) });
        while !reader.is_done() {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                taken = reader.poll(WAIT) => taken?,
            };
            reader.notes.drain(..).for_each(|text| note(&text));
            progress.inc(taken.len() as u64);
            if !taken.is_empty() && !printer.print(&taken)?.1 {
                break;
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    async fn ends(&self, cluster: &Cluster, places: &[Place]) -> Result<BTreeMap<Place, i64>, Failure> {
        let found = cluster.offsets(places, LATEST, self.read_committed).await?;
        found.into_iter().map(|(place, spot)| Ok((place.clone(), known(&place, spot)?))).collect()
    }

    async fn as_member(
        &self,
        cluster: Arc<Cluster>,
        group: &str,
        from: Position,
        mut printer: Printer,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        cluster.topic(&self.topic).await?;
        let mut member = Membership::new(cluster.clone(), group, &self.topic);
        let mut reader = Reader::new(cluster.clone(), &self.topic, self.read_committed);
        let mut printed: BTreeMap<Place, i64> = BTreeMap::new();
        let done = loop {
            let partitions = tokio::select! {
                biased;
                () = stop.cancelled() => break Ok(()),
                partitions = member.join() => partitions?,
            };
            self.begin(&cluster, group, from, &partitions, &mut reader).await?;
            match self.hold(&mut member, &mut reader, &mut printer, &mut printed, &stop).await {
                Ok(Held::Lost) => {
                    reader.clear();
                    printed.clear();
                }
                Ok(Held::Still) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        // Printed is read: it is committed even where the reading failed.
        let committed = member.commit(&printed).await;
        let _ = member.leave().await;
        done.and(committed.map_err(Failure::from))
    }

    /// Sets the reader to where the group is.
    async fn begin(
        &self,
        cluster: &Cluster,
        group: &str,
        from: Position,
        partitions: &[i32],
        reader: &mut Reader,
    ) -> Result<(), Failure> {
        let places: Vec<Place> = partitions.iter().map(|p| (self.topic.clone(), *p)).collect();
        let committed = cluster.committed(group).await?;
        let new: Vec<Place> = places.iter().filter(|p| !committed.contains_key(*p)).cloned().collect();
        let ends = self.ends(cluster, &places).await?;
        let mut starts = from.resolve(cluster, &new, self.read_committed).await?;
        if let Position::Offset(_) = from {
            within(&mut starts, cluster, &ends).await?;
        }
        reader.clear();
        let follow = self.follow || from == Position::End;
        for place in &places {
            let start = committed.get(place).or(starts.get(place)).copied().unwrap_or(0);
            reader.add(place.1, start, if follow { None } else { ends.get(place).copied() });
        }
        Ok(())
    }

    /// Reads while the assignment holds; `Still` means that the command is done.
    async fn hold(
        &self,
        member: &mut Membership,
        reader: &mut Reader,
        printer: &mut Printer,
        printed: &mut BTreeMap<Place, i64>,
        stop: &CancellationToken,
    ) -> Result<Held, Failure> {
        let mut commit_at = tokio::time::Instant::now() + COMMIT_EVERY;
        loop {
            if member.beat().await? == Held::Lost {
                // What was printed is the next owner's start, where the group still takes it.
                let _ = member.commit(printed).await;
                return Ok(Held::Lost);
            }
            if reader.is_done() {
                return Ok(Held::Still);
            }
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Held::Still),
                taken = reader.poll(WAIT) => taken?,
            };
            reader.notes.drain(..).for_each(|text| note(&text));
            if !taken.is_empty() {
                let (count, more) = printer.print(&taken)?;
                for Taken { partition, record } in &taken[..count] {
                    printed.insert((self.topic.clone(), *partition), record.offset.0 + 1);
                }
                if !more {
                    return Ok(Held::Still);
                }
            }
            if tokio::time::Instant::now() >= commit_at {
                commit_at = tokio::time::Instant::now() + COMMIT_EVERY;
                if member.commit(printed).await.is_err() {
                    // The next beat says why.
                    continue;
                }
            }
        }
    }
}

/// Shown on stderr while stdout goes elsewhere and a person watches.
fn progress(total: Option<u64>) -> ProgressBar {
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return ProgressBar::hidden();
    }
    let (bar, look) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:30} {human_pos}/{human_len} records {per_sec} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {human_pos} records {per_sec}"),
    };
    output::progress(bar, look)
}

/// A named offset may be outside what a partition holds: it is moved to the nearest that is there.
async fn within(
    starts: &mut BTreeMap<Place, i64>,
    cluster: &Cluster,
    ends: &BTreeMap<Place, i64>,
) -> Result<(), Failure> {
    let places: Vec<Place> = starts.keys().cloned().collect();
    let firsts = cluster.offsets(&places, EARLIEST, false).await?;
    for (place, start) in starts {
        let first = firsts.get(place).and_then(|spot| spot.ok()).map_or(0, |spot| spot.offset);
        let end = ends.get(place).copied().unwrap_or(i64::MAX);
        *start = (*start).clamp(first.min(end), end);
    }
    Ok(())
}
