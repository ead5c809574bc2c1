//! Whether a client has taken in our settings.
//!
//! Until it has, it may send as much on a stream as RFC 9113 section 6.9.2 lets it by default
//! (65,535 bytes). Then its window shrinks to ours, and may be negative. h2 looks whether the
//! client needs a WINDOW_UPDATE when bytes are released, but not when the window shrinks: a client
//! would never hear of what was released before that, and would wait forever. So streams release
//! nothing before.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

#[derive(Debug, Default)]
pub struct Settled {
    is_settled: AtomicBool,
    /// The streams that have something to release.
    waiting: Mutex<Vec<Waker>>,
}

impl Settled {
    /// If not, the task is woken when it is.
    pub fn look(&self, cx: &Context<'_>) -> bool {
        if self.is_settled() {
            return true;
        }
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        drop(waiting);
        // It may have come in between.
        self.is_settled()
    }

    /// Returns when it is.
    pub async fn wait(&self) {
        let look = |cx: &mut Context<'_>| match self.look(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        };
        poll_fn(look).await;
    }

    fn is_settled(&self) -> bool {
        self.is_settled.load(SeqCst)
    }

    /// The windows are as our settings have them.
    pub fn settle(&self) {
        // Asked before each read of the connection.
        if !self.is_settled() {
            self.is_settled.store(true, SeqCst);
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}
