//! A caller's connection that fails if the caller takes nothing of what waits for it, or takes it
//! too slowly: hyper has no deadline for writing, and there are few connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug)]
pub(super) struct StallBound<S> {
    io: S,
    bounds: Bounds,
    /// `Some` while a part of an answer waits for the caller.
    waiting: Option<Waiting>,
}

/// The time limits of a caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// For taking any part of the answer.
    pub stall: Duration,
    /// For taking the whole answer. Progress does not extend this time.
    pub answer: Duration,
}

#[derive(Debug)]
struct Waiting {
    /// When the whole answer must be taken.
    end: Instant,
    /// Set to `end` or to the end of the stall, whichever is earlier.
    timer: Pin<Box<Sleep>>,
    /// Whether the caller has taken something since the timer was set.
    has_taken: bool,
}

impl<S> StallBound<S> {
    pub fn new(io: S, bounds: Bounds) -> Self {
        Self {
            io,
            bounds,
            waiting: None,
        }
    }

    /// Returns the result of a write or flush, unless it waits for a caller whose time is up.
    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Bounds { stall, answer } = self.bounds;
        let now = Instant::now();
        if polled.is_ready() {
            if let Some(waiting) = &mut self.waiting {
                waiting.has_taken = true;
            }
            // An answer that is taken in small pieces may never have to wait long, so the end is
            // checked here.
            let is_over = self.waiting.as_ref().is_some_and(|it| it.end <= now);
            return if is_over { late() } else { polled };
        }
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            end: now + answer,
            timer: Box::pin(sleep_until(now + stall.min(answer))),
            has_taken: false,
        });
        if std::mem::take(&mut waiting.has_taken) {
            let due = waiting.end.min(now + stall);
            waiting.timer.as_mut().reset(due);
        }
        ready!(waiting.timer.as_mut().poll(cx));
        late()
    }
}

fn late<T>() -> Poll<io::Result<T>> {
    let message = "the caller does not take its answer in time";
    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
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
        let polled = stream.bounded(cx, polled);
        // hyper flushes when the whole answer is written.
        if matches!(polled, Poll::Ready(Ok(()))) {
            stream.waiting = None;
        }
        polled
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
    use tokio::time::sleep;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        stall: Duration::from_secs(10),
        answer: Duration::from_secs(60),
    };

    const NEARLY: Duration = Duration::from_secs(9);

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_given_up() {
        let (mut caller, ours) = duplex(10);
        let mut ours = StallBound::new(ours, BOUNDS);
        let writing = tokio::spawn(async move { ours.write_all(&[0; 100]).await });
        for _ in 0..5 {
            sleep(NEARLY).await;
            caller.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert!(!writing.is_finished());
        let given_up = writing.await.unwrap().unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_its_answer_bit_by_bit_is_given_up() {
        let (mut caller, ours) = duplex(10);
        let begun = Instant::now();
        let mut ours = StallBound::new(ours, BOUNDS);
        let writing = tokio::spawn(async move { ours.write_all(&[0; 1000]).await });
        while !writing.is_finished() {
            sleep(Duration::from_secs(1)).await;
            caller.read_exact(&mut [0; 1]).await.unwrap();
        }
        let given_up = writing.await.unwrap().unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() <= BOUNDS.answer + Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_own_time() {
        let (mut caller, ours) = duplex(10);
        let mut ours = StallBound::new(ours, BOUNDS);
        let writing = tokio::spawn(async move {
            for _ in 0..20 {
                ours.write_all(&[0; 20]).await.unwrap();
                ours.flush().await.unwrap();
            }
        });
        for _ in 0..20 {
            sleep(NEARLY).await;
            caller.read_exact(&mut [0; 20]).await.unwrap();
        }
        writing.await.unwrap();
    }
}
