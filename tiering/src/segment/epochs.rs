//! The leader epoch checkpoint of a segment, in Kafka's form: a text of a version, a count and a line per epoch.

use std::fmt::Write;

use tidemark_proto::id::{LeaderEpoch, Offset};

use crate::format::Damage;

/// Leader epochs and the offset each began at, rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs(Vec<(LeaderEpoch, Offset)>);

impl Epochs {
    /// Of these, which rise.
    pub fn new(epochs: Vec<(LeaderEpoch, Offset)>) -> Epochs {
        Epochs(epochs)
    }

    /// All of them.
    pub fn all(&self) -> &[(LeaderEpoch, Offset)] {
        &self.0
    }

    /// A batch of `epoch` begins at `base`. `false` where that is no newer epoch than one that began later.
    pub fn enter(&mut self, epoch: LeaderEpoch, base: Offset) -> bool {
        match self.0.last() {
            Some((last, _)) if *last == epoch => true,
            Some((last, start)) if *last > epoch || *start > base => false,
            _ => {
                self.0.push((epoch, base));
                true
            }
        }
    }

    /// Those of offsets from `base` on, the first as of `base`.
    pub fn from(&self, base: Offset) -> Vec<(LeaderEpoch, Offset)> {
        let first = self.0.partition_point(|(_, start)| *start <= base).saturating_sub(1);
        self.0[first..].iter().map(|(epoch, start)| (*epoch, (*start).max(base))).collect()
    }

    /// Kafka's file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("0\n{}\n", self.0.len());
        for (epoch, start) in &self.0 {
            writeln!(out, "{epoch} {start}").expect("a string takes all");
        }
        out.into_bytes()
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// Where it is not such a file, or epochs do not rise.
    pub fn parse(bytes: &[u8]) -> Result<Epochs, Damage> {
        let bad = |why: &str| Damage::new(format!("leader epochs: {why}"));
        let text = std::str::from_utf8(bytes).map_err(|_| bad("no text"))?;
        let mut lines = text.strip_suffix('\n').ok_or_else(|| bad("ends within a line"))?.split('\n');
        if lines.next() != Some("0") {
            return Err(bad("not of version 0"));
        }
        let count =
            lines.next().and_then(|line| line.parse::<usize>().ok()).ok_or_else(|| bad("no count"))?;
        let mut epochs = Epochs::default();
        for line in lines {
            let (epoch, start) = line.split_once(' ').ok_or_else(|| bad("a line without a space"))?;
            let epoch = epoch.parse().map_err(|_| bad("an epoch is no number"))?;
            let start = start.parse().map_err(|_| bad("an offset is no number"))?;
            let (epoch, start) = (LeaderEpoch(epoch), Offset(start));
            if epoch.0 < 0
                || start.0 < 0
                || epochs.0.last().is_some_and(|last| last.0 >= epoch || last.1 > start)
            {
                return Err(bad("they do not rise"));
            }
            epochs.0.push((epoch, start));
        }
        match epochs.0.len() == count {
            true => Ok(epochs),
            false => Err(bad("not as many as it says")),
        }
    }
}
