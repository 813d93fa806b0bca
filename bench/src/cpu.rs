//! CPU time and memory of a process, from `/proc`.

use anyhow::{Context, Result};

/// Linux counts in hundredths of a second on every architecture we run on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
const GIB: f64 = (1u64 << 30) as f64;

/// A process under observation.
#[derive(Clone, Debug)]
pub struct Process {
    pid: u32,
    name: String,
    began: f64,
}

/// What a process has used since it came under observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Command name.
    pub name: String,
    /// User and system time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory now, in MiB.
    pub rss_mib: f64,
    /// The most it ever was, in MiB.
    pub peak_mib: f64,
}

impl Usage {
    /// CPU seconds for each GiB moved.
    pub fn cpu_per_gib(&self, bytes: u64) -> f64 {
        self.cpu_seconds / (bytes as f64 / GIB).max(f64::MIN_POSITIVE)
    }
}

impl Process {
    /// Observes `pid` from now on.
    pub fn observe(pid: u32) -> Result<Process> {
        let (name, began) = cpu_of(&read(pid, "stat")?)?;
        Ok(Process { pid, name, began })
    }

    /// This process.
    pub fn own() -> Result<Process> {
        Process::observe(std::process::id())
    }

    /// Used since the observation began.
    pub fn usage(&self) -> Result<Usage> {
        let (_, now) = cpu_of(&read(self.pid, "stat")?)?;
        let status = read(self.pid, "status")?;
        Ok(Usage {
            name: self.name.clone(),
            cpu_seconds: now - self.began,
            rss_mib: kib_of(&status, "VmRSS:") / 1024.0,
            peak_mib: kib_of(&status, "VmHWM:") / 1024.0,
        })
    }
}

fn read(pid: u32, file: &str) -> Result<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("no process {pid}"))
}

/// The command's name stands in parentheses and may hold anything, spaces and parentheses included.
fn cpu_of(stat: &str) -> Result<(String, f64)> {
    let (before, after) = stat.rsplit_once(") ").context("/proc/PID/stat has no command name")?;
    let name = before.split_once('(').map_or("", |(_, name)| name).to_owned();
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.get(at).context("/proc/PID/stat is short")?.parse()?) };
    Ok((name, (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND))
}

fn kib_of(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_may_hold_spaces_and_parentheses() {
        let stat = "42 (a b) (c) S 1 42 42 0 -1 4194560 9 0 0 0 250 150 7 8 20 0 3 0 99";
        assert_eq!(cpu_of(stat).unwrap(), ("a b) (c".to_owned(), 4.0));
        assert!(cpu_of("42 nothing").is_err());
    }

    #[test]
    fn this_process_has_memory() {
        let usage = Process::own().unwrap().usage().unwrap();
        assert!(usage.peak_mib >= usage.rss_mib && usage.rss_mib > 0.5, "{usage:?}");
        assert_eq!(Usage { cpu_seconds: 3.0, ..usage }.cpu_per_gib(1 << 31), 1.5);
    }
}
