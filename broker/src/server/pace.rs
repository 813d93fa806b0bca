//! How fast connections may come: so many a second, a second's worth of them at once.

use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the next one would come, did they come evenly.
    next: Option<Instant>,
}

impl Pace {
    /// One more came: how long it waits.
    pub(super) fn take(&mut self, now: Instant, per_second: usize) -> Duration {
        let step = SECOND / u32::try_from(per_second).unwrap_or(u32::MAX).max(1);
        let next = self.next.map_or(now, |next| next.max(now)) + step;
        self.next = Some(next);
        next.duration_since(now).saturating_sub(SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use tidemark_tiering::seam::Seams;
    use tokio::net::TcpStream;

    use super::*;
    use crate::server::{Answer, Bound, ConnectionLimits, Finish, Frame, Limits, Peer, Server, Service};

    #[test]
    fn a_seconds_worth_comes_at_once_and_the_others_evenly() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let mut waits = |at, n: usize| -> Vec<u128> {
            (0..n).map(|_| pace.take(now + Duration::from_secs(at), 4).as_millis()).collect()
        };
        assert_eq!(waits(0, 6), [0, 0, 0, 0, 250, 500]);
        assert_eq!(waits(1, 1), [0], "who waited has come by then, bar one");
        assert_eq!(waits(60, 5), [0, 0, 0, 0, 250], "quiet times are not saved up");
        assert!((0..100_000).all(|_| Pace::default().take(now, usize::MAX).is_zero()));
    }

    struct Silent;

    #[async_trait::async_trait]
    impl Service for Silent {
        async fn start(&self, _peer: &Arc<Peer>, _frame: Frame) -> Finish {
            Box::pin(async { Answer::Close("nothing is served".into()) })
        }

        fn is_heavy(&self, _frame: &[u8]) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_rate_wait_and_are_served_then() {
        let connections = ConnectionLimits { per_second: 2, ..ConnectionLimits::default() };
        let limits = Limits { connections, ..Limits::default() };
        let server = Server::new(Arc::new(Silent), limits, &Seams::seeded(1));
        let bound = Bound::bind("PLAINTEXT", "127.0.0.1", 0, 50).unwrap();
        let addr = bound.addr();
        server.listen(bound);
        let begun = Instant::now();
        let mut kept = Vec::new();
        for _ in 0..4 {
            kept.push(TcpStream::connect(addr).await.unwrap());
        }
        while server.counts().accepted.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        assert_eq!(server.connections(), 4, "nobody is turned away");
    }
}
