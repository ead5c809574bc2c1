//! When the time of an exchange is up, and what checks this.
//!
//! Pingora polls sometimes one stream, sometimes the other, and sometimes none. A deadline that a
//! stream checks holds only while that stream is polled. So the [`Watch`] around all of Pingora's
//! work holds one timer, which is moved lazily. When the timer fires, the watch polls Pingora once
//! more with the deadline [struck](Flow::strike), and whatever Pingora awaits then fails: the
//! client's stream or the server's. (Pingora keeps its own timers until they would fire, used or
//! not: with timeouts of 3000 s these took 4 KiB of memory more each second, for 50 minutes.)

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::upstream::Flow;

/// The deadlines of one connection, in milliseconds since it was made. 0: not set.
#[derive(Debug)]
pub(super) struct Deadlines {
    pub born: Instant,
    /// Moved later by each byte that moves.
    progress: AtomicU64,
    /// How far each byte moves it.
    within: AtomicU64,
    /// Never moved later.
    end: AtomicU64,
    /// Set while the client takes nothing of the bytes that wait for it.
    client: AtomicU64,
    /// Set while the server takes nothing of the bytes that wait for it.
    server: AtomicU64,
    /// Whether the client, or the server, had stalled at the last strike.
    client_stalled: AtomicBool,
    server_stalled: AtomicBool,
    pub flow: Arc<Flow>,
}

impl Deadlines {
    pub fn new() -> Self {
        Self {
            born: Instant::now(),
            progress: AtomicU64::new(0),
            within: AtomicU64::new(0),
            end: AtomicU64::new(0),
            client: AtomicU64::new(0),
            server: AtomicU64::new(0),
            client_stalled: AtomicBool::new(false),
            server_stalled: AtomicBool::new(false),
            flow: Arc::default(),
        }
    }

    /// A byte must move within this time, again and again.
    pub fn set_progress(&self, within: Duration) {
        self.within.store(millis(within), Relaxed);
        self.put_off();
    }

    /// Called when a byte has moved.
    pub fn put_off(&self) {
        let within = self.within.load(Relaxed);
        if within > 0 {
            self.progress.store(self.now() + within, Relaxed);
            self.renew();
        }
    }

    pub fn set_end(&self, after: Duration) {
        self.end.store(self.now() + millis(after), Relaxed);
        self.renew();
    }

    pub fn has_end(&self) -> bool {
        self.end.load(Relaxed) > 0
    }

    pub fn clear_end(&self) {
        self.end.store(0, Relaxed);
        self.renew();
    }

    /// Removes all deadlines.
    pub fn clear(&self) {
        for deadline in [&self.within, &self.progress, &self.end, &self.client] {
            deadline.store(0, Relaxed);
        }
        self.renew();
    }

    /// The client takes nothing now. If that goes on for this long, the exchange ends.
    pub fn client_waits(&self, stall: impl FnOnce() -> Duration) {
        if self.client.load(Relaxed) == 0 {
            self.client.store(self.now() + millis(stall()), Relaxed);
        }
    }

    /// The client takes something again.
    pub fn client_took(&self) {
        if self.client.load(Relaxed) > 0 {
            self.client.store(0, Relaxed);
            self.renew();
        }
    }

    /// Whether an exchange ended because the client took nothing of the bytes that waited for it.
    pub fn client_has_stalled(&self) -> bool {
        self.client_stalled.load(Relaxed)
    }

    pub fn server_has_stalled(&self) -> bool {
        self.server_stalled.load(Relaxed)
    }

    /// The same for the server. It is polled here.
    fn look_at_server(&self) {
        let has_moved = self.flow.take_moved();
        if !self.flow.waits_for_server() {
            if self.server.load(Relaxed) > 0 {
                self.server.store(0, Relaxed);
            }
            return;
        }
        if has_moved {
            self.put_off();
        }
        if (has_moved || self.server.load(Relaxed) == 0)
            && let Some(stall) = self.flow.server_stall()
        {
            self.server.store(self.now() + millis(stall), Relaxed);
        }
    }

    /// The moment of the earliest deadline.
    fn next(&self) -> Option<Instant> {
        let server = if self.flow.waits_for_server() {
            self.server.load(Relaxed)
        } else {
            0
        };
        let due = Due {
            progress: self.progress.load(Relaxed),
            end: self.end.load(Relaxed),
            client: self.client.load(Relaxed),
            server,
        };
        Some(self.born + Duration::from_millis(due.next()?))
    }

    fn strike(&self) {
        let client_waits = self.client.load(Relaxed) > 0;
        self.client_stalled.store(client_waits, Relaxed);
        let server_waits = self.flow.waits_for_server();
        self.server_stalled.store(server_waits, Relaxed);
        self.flow.strike();
    }

    /// Called after a change: a deadline that has struck may no longer be set.
    fn renew(&self) {
        if self.flow.has_struck() && self.next().is_none_or(|next| next > Instant::now()) {
            self.flow.forgive();
        }
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(u64::MAX / 4, |millis| millis.clamp(1, u64::MAX / 4))
}

/// When each deadline of a connection is due, in milliseconds since it was made; 0: it is not set.
#[derive(Debug, Clone, Copy)]
struct Due {
    progress: u64,
    end: u64,
    client: u64,
    server: u64,
}

impl Due {
    /// The earliest of those that are set.
    fn next(self) -> Option<u64> {
        let due = [self.progress, self.end, self.client, self.server];
        due.into_iter().filter(|&millis| millis > 0).min()
    }
}

/// Pingora's work on a connection, together with what must go on whatever Pingora awaits: the
/// deadlines, and sending what waits for the server.
pub(super) struct Watch<F> {
    work: F,
    deadlines: Arc<Deadlines>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline that struck last. It strikes only once.
    struck: Option<Instant>,
}

impl<F: Future + Unpin> Watch<F> {
    pub fn new(work: F, deadlines: Arc<Deadlines>) -> Self {
        Self {
            work,
            deadlines,
            timer: None,
            struck: None,
        }
    }

    /// Ready when a deadline strikes for the first time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.deadlines.next() else {
                return Poll::Pending;
            };
            if self.struck == Some(deadline) {
                return Poll::Pending;
            }
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            // The timer is moved only if it fires or must fire earlier: most exchanges end long
            // before.
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                self.struck = Some(deadline);
                return Poll::Ready(());
            }
        }
    }
}

impl<F: Future + Unpin> Future for Watch<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let watch = self.get_mut();
        watch.deadlines.flow.begin_turn();
        loop {
            if let Poll::Ready(output) = Pin::new(&mut watch.work).poll(cx) {
                return Poll::Ready(output);
            }
            watch.deadlines.flow.drive(cx);
            watch.deadlines.look_at_server();
            if watch.deadlines.flow.take_goes_on() {
                continue;
            }
            if watch.deadlines.flow.has_to_yield() {
                cx.waker().wake_by_ref();
            }
            ready!(watch.poll_deadline(cx));
            watch.deadlines.strike();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn due() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..100_u64, Just(u64::MAX / 4)]
    }

    proptest! {
        #[test]
        fn the_next_wake_up_is_the_earliest_deadline_that_is_set(
            progress in due(), end in due(), client in due(), server in due(),
        ) {
            let next = Due { progress, end, client, server }.next();
            let set = [progress, end, client, server];
            prop_assert_eq!(next.is_none(), set == [0; 4]);
            if let Some(next) = next {
                prop_assert!(next > 0 && set.contains(&next));
                prop_assert!(set.iter().all(|&due| due == 0 || next <= due));
            }
        }
    }

    fn in_millis(deadlines: &Deadlines) -> Option<u128> {
        let next = deadlines.next()?;
        Some((next - Instant::now()).as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_puts_off_progress_and_nothing_puts_off_the_end() {
        let deadlines = Deadlines::new();
        assert_eq!(in_millis(&deadlines), None);
        deadlines.set_progress(Duration::from_millis(100));
        deadlines.set_end(Duration::from_millis(150));
        tokio::time::advance(Duration::from_millis(80)).await;
        assert_eq!(in_millis(&deadlines), Some(20));
        deadlines.put_off();
        assert_eq!(in_millis(&deadlines), Some(70));
        deadlines.clear_end();
        assert_eq!(in_millis(&deadlines), Some(100));
        deadlines.clear();
        assert_eq!(in_millis(&deadlines), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_has_its_time_from_the_first_look_on() {
        let deadlines = Deadlines::new();
        let stall = || Duration::from_millis(100);
        deadlines.client_waits(stall);
        tokio::time::advance(Duration::from_millis(60)).await;
        deadlines.client_waits(stall);
        assert_eq!(in_millis(&deadlines), Some(40));
        deadlines.strike();
        assert!(deadlines.client_has_stalled() && !deadlines.server_has_stalled());
        deadlines.client_took();
        assert!(!deadlines.flow.has_struck());
        assert_eq!(in_millis(&deadlines), None);
    }
}
