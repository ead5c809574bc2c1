//! A caller's connection, which fails when the caller takes nothing of what waits for it: hyper has
//! no deadline for writing, and callers have few places.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

#[derive(Debug)]
pub(super) struct StallBound<S> {
    io: S,
    most: Duration,
    /// There while the caller takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> StallBound<S> {
    pub fn new(io: S, most: Duration) -> Self {
        Self {
            io,
            most,
            timer: None,
        }
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.timer = None;
            return polled;
        }
        let most = self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(most)));
        ready!(timer.as_mut().poll(cx));
        let message = "the caller takes nothing of its answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallBound<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallBound<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let polled = Pin::new(&mut stream.io).poll_write(cx, buf);
        stream.bounded(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let polled = Pin::new(&mut stream.io).poll_write_vectored(cx, bufs);
        stream.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let polled = Pin::new(&mut stream.io).poll_flush(cx);
        stream.bounded(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let polled = Pin::new(&mut stream.io).poll_shutdown(cx);
        stream.bounded(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn only_a_caller_that_takes_nothing_is_given_up() {
        let (mut caller, ours) = duplex(10);
        let mut ours = StallBound::new(ours, MOST);
        let writing = tokio::spawn(async move { ours.write_all(&[0; 100]).await });
        for _ in 0..5 {
            sleep(MOST - Duration::from_secs(1)).await;
            caller.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert!(!writing.is_finished());
        let given_up = writing.await.unwrap().unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    }
}
