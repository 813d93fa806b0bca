//! A bandwidth cap shared by all connections: a token bucket that may go into debt, so that a piece of any
//! size passes and the next one waits. The burst is a twentieth of a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const BURST_PARTS_PER_SECOND: f64 = 20.0;

/// One direction's cap.
#[derive(Debug, Default)]
pub struct Shape(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
}

impl Shape {
    /// Waits until `bytes` may pass at `rate` bytes per second (0 = no cap).
    pub async fn pass(&self, bytes: usize, rate: u64) {
        let wait = self.take(bytes, rate, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn take(&self, bytes: usize, rate: u64, now: Instant) -> Duration {
        let mut slot = self.0.lock();
        if rate == 0 {
            *slot = None;
            return Duration::ZERO;
        }
        let rate = rate as f64;
        let burst = rate / BURST_PARTS_PER_SECOND;
        let state = slot.get_or_insert(State { tokens: burst, at: now });
        let gained = now.saturating_duration_since(state.at).as_secs_f64() * rate;
        state.tokens = (state.tokens + gained).min(burst) - bytes as f64;
        state.at = now;
        Duration::from_secs_f64((-state.tokens / rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_bytes_takes_a_second() {
        let (shape, start) = (Shape::default(), Instant::now());
        let mut now = start;
        for _ in 0..100 {
            now += shape.take(10_000, 1_000_000, now);
        }
        let took = (now - start).as_secs_f64();
        assert!((0.93..1.01).contains(&took), "{took}");
    }

    #[test]
    fn idle_time_is_not_saved_up_and_no_cap_never_waits() {
        let (shape, start) = (Shape::default(), Instant::now());
        assert_eq!(shape.take(1, 1000, start), Duration::ZERO);
        let later = start + Duration::from_secs(60);
        assert_eq!(shape.take(1050, 1000, later), Duration::from_secs(1));
        assert_eq!(shape.take(usize::MAX, 0, later), Duration::ZERO);
    }
}
