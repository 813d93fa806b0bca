//! Connections as they come in: only so many at a time, and only those that soon begin to speak HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Connections at once; the next are accepted as others end.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes with which every HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;
/// How soon they must be here.
const PREFACE_MAX: Duration = Duration::from_secs(10);

/// A connection that counts for as long as it lives.
pub(crate) struct Counted<IO> {
    io: IO,
    /// What is left of the preface, and when it must have come; nothing once it has.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _permit: OwnedSemaphorePermit,
}

/// `incoming` within the limits.
pub(crate) fn bounded<IO: Send>(
    incoming: impl Stream<Item = io::Result<IO>> + Send,
) -> impl Stream<Item = io::Result<Counted<IO>>> + Send {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    incoming.then(move |accepted| {
        let permits = permits.clone();
        async move {
            let io = accepted?;
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let preface = Some((PREFACE_BYTES, Box::pin(tokio::time::sleep(PREFACE_MAX))));
            Ok(Counted { io, preface, _permit: permit })
        }
    })
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = into.filled().len();
        let Some((left, deadline)) = &mut me.preface else {
            return Pin::new(&mut me.io).poll_read(cx, into);
        };
        if Pin::new(&mut me.io).poll_read(cx, into)?.is_pending() {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        *left = left.saturating_sub(into.filled().len() - before);
        if *left == 0 {
            me.preface = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Connected> Connected for Counted<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_begin_to_speak_is_cut_and_who_has_begun_may_be_silent() {
        let ((mut mute, a), (mut slow, b)) = (duplex(64), duplex(64));
        let all = futures::stream::iter([Ok(a), Ok(b)]);
        let counted: Vec<_> = bounded(all).map(|one: io::Result<_>| one.unwrap()).collect().await;
        let [mut a, mut b] = <[_; 2]>::try_from(counted).ok().unwrap();
        mute.write_all(&[0; PREFACE_BYTES - 1]).await.unwrap();
        slow.write_all(&[0; PREFACE_BYTES]).await.unwrap();
        let mut into = [0; 64];
        assert_eq!(a.read(&mut into).await.unwrap(), PREFACE_BYTES - 1);
        assert_eq!(a.read(&mut into).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(b.read(&mut into).await.unwrap(), PREFACE_BYTES);
        assert!(tokio::time::timeout(PREFACE_MAX * 9, b.read(&mut into)).await.is_err(), "it may be silent");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_are_taken_at_a_time() {
        let ends: Vec<_> = (0..CONNECTIONS_MAX + 1).map(|_| duplex(1)).collect();
        let (_ours, theirs): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let mut incoming = Box::pin(bounded(futures::stream::iter(theirs.into_iter().map(Ok))));
        let mut taken = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            taken.push(incoming.next().await.unwrap().unwrap());
        }
        assert!(tokio::time::timeout(Duration::from_secs(1), incoming.next()).await.is_err());
        taken.pop();
        assert!(incoming.next().await.is_some());
    }
}
