//! Paces handshakes: a server gets as many at once as it can work on, and the others wait.
//!
//! ```text
//!  arrives ──► is there a server that has room? ──yes──► goes to it ──► answered: the server's
//!                   ▲            │ no                                   room is free again
//!                   │            ▼                                               │
//!                   └── called ── waits in the queue ◄── calls the first ────────┘
//! ```
//!
//! [`concurrency`] decides how many are enough for a server, [`queue`] who is next. Both are values
//! without sockets and tasks; this file puts locks around them, and [`super::turn`] the waiting.
//!
//! No call is lost: who waits has entered the queue before it looks for room, and whoever frees
//! room does so before it looks into the queue.

mod concurrency;
mod queue;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::Histogram;
use tokio::sync::Notify;

pub use concurrency::Ended;
pub use queue::{Line, Waiter};

use crate::observe::metrics::histogram;
use concurrency::Concurrency;
use queue::Queue;

pub const WAIT_SECONDS: &str = "prusik_handshake_wait_seconds";

/// The handshakes of one server.
#[derive(Debug, Default)]
pub struct Pace {
    concurrency: Mutex<Concurrency>,
    /// Until when the server is full, so that picks need no lock. In milliseconds of this process;
    /// 0: it has room.
    full_until: AtomicU64,
}

impl Pace {
    /// Whether the server has as many handshakes as it gets at once.
    pub fn is_full(&self) -> bool {
        let until = self.full_until.load(Relaxed);
        until > 0 && millis(Instant::now()) < until
    }

    /// How many handshakes are under way, and how many the server gets at once.
    pub fn now(&self) -> (usize, usize) {
        let concurrency = self.concurrency.lock();
        (concurrency.under_way(), concurrency.most())
    }

    /// Counts one more, and returns when it began. `None`: the server is full.
    pub fn admit(&self, now: Instant) -> Option<Instant> {
        self.change(|concurrency| concurrency.admit(now))
    }

    /// One that was admitted at `began` has ended.
    pub fn end(&self, ended: Ended, began: Instant, now: Instant) {
        self.change(|concurrency| concurrency.end(ended, began, now));
    }

    /// The server is new, or back.
    pub fn begin_anew(&self) {
        self.change(|concurrency| concurrency.begin_anew(Instant::now()));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Concurrency) -> T) -> T {
        let mut concurrency = self.concurrency.lock();
        let result = change(&mut concurrency);
        // Rounded up: a server that seems to have room before it has any would be tried in circles.
        let until = concurrency.full_until();
        let until = until.map_or(0, |until| millis(until) + 1);
        self.full_until.store(until, Relaxed);
        result
    }
}

fn millis(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    moment.saturating_duration_since(*START).as_millis() as u64
}

/// The handshakes that wait for the servers of an upstream.
#[derive(Debug, Default)]
pub struct Pacing {
    queue: Mutex<Queue<Arc<Notify>>>,
    /// How long those have waited that were admitted. Made when the first one was.
    waits: OnceLock<Box<Histogram>>,
}

impl Pacing {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.lock().waiting()
    }

    /// How long the one waits that has waited longest.
    pub fn longest(&self) -> Option<Duration> {
        let longest = self.queue.lock().longest();
        longest.map(|since| since.elapsed())
    }

    /// `None`: nobody has ever waited and was admitted.
    pub fn waits(&self) -> Option<&Histogram> {
        self.waits.get().map(Box::as_ref)
    }

    /// Whether somebody waits in this line.
    pub fn has(&self, line: Line) -> bool {
        self.queue.lock().has(line)
    }

    /// `None`: `most` wait already.
    pub fn enter(
        &self,
        line: Line,
        comes_again: bool,
        (most, now): (usize, Instant),
        call: Arc<Notify>,
    ) -> Option<Waiter> {
        let mut queue = self.queue.lock();
        queue.enter(line, comes_again, (most, now), call)
    }

    pub fn is_first(&self, waiter: Waiter) -> bool {
        self.queue.lock().is_first(waiter)
    }

    /// It waits no more: the next one in its line is called.
    pub fn leave(&self, waiter: Waiter) {
        if let Some(next) = self.queue.lock().leave(waiter) {
            next.notify_one();
        }
    }

    /// This server may have room: the first ones that wait for it are called.
    pub fn freed(&self, server: SocketAddr) {
        self.queue
            .lock()
            .freed(server)
            .for_each(|call| call.notify_one());
    }

    /// One was admitted after it has waited so long.
    pub fn note_wait(&self, wait: Duration) {
        let waits = self.waits.get_or_init(|| Box::new(histogram(WAIT_SECONDS)));
        waits.observe(wait.as_secs_f64());
    }
}
