//! The process: memory, processor time, descriptors, and how idle its threads are.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Samples;

/// Share of time that the runtime's threads had nothing to do since it was last asked.
#[derive(Debug)]
pub struct Idle {
    before: Mutex<(Instant, Duration, f64)>,
}

/// Looks closer together than this give the same answer.
const WINDOW: Duration = Duration::from_secs(1);

impl Default for Idle {
    fn default() -> Idle {
        Idle { before: Mutex::new((Instant::now(), Duration::ZERO, 1.0)) }
    }
}

impl Idle {
    fn share(&self) -> f64 {
        let Ok(runtime) = Handle::try_current() else { return 1.0 };
        let workers = runtime.metrics().num_workers();
        let busy: Duration = (0..workers).map(|at| runtime.metrics().worker_total_busy_duration(at)).sum();
        let (now, mut before) = (Instant::now(), self.before.lock());
        let (since, then, share) = &mut *before;
        let passed = now.duration_since(*since).as_secs_f64() * workers as f64;
        if now.duration_since(*since) >= WINDOW && passed > 0.0 {
            *share = (1.0 - busy.saturating_sub(*then).as_secs_f64() / passed).clamp(0.0, 1.0);
            (*since, *then) = (now, busy);
        }
        *share
    }
}

/// What the system says of this process.
pub fn process(idle: &Idle, into: &mut Samples) {
    let share = idle.share();
    into.set("kafka_network_socketserver_networkprocessoravgidle_percent", share);
    into.set("kafka_server_kafkarequesthandlerpool_requesthandleravgidle_percent", share);
    into.set("process_cpu_seconds", processor_seconds());
    into.set("process_resident_memory_bytes", resident_bytes());
    into.set("process_open_fds", open_descriptors());
    into.set("process_max_fds", descriptors_max());
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn processor_seconds() -> f64 {
    // After the name in parentheses come the state and then numbers; user and system time are the 12th and 13th,
    // in hundredths of a second on every Linux.
    let stat = read("/proc/self/stat");
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks =
        |at: usize| rest.split_whitespace().nth(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn resident_bytes() -> f64 {
    let status = read("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

fn open_descriptors() -> f64 {
    std::fs::read_dir("/proc/self/fd").map_or(0.0, |found| found.count() as f64)
}

fn descriptors_max() -> f64 {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::INFINITY)
}
