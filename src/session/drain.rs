//! Sessions that must go: told so at moments spread over a window, cut at a deadline.
//!
//! One engine for all occasions: a stop, what an upgrade leaves behind, a server that is drained,
//! that fails its checks or leaves the file, a route that is gone. [`Schedule`] knows who is to be
//! told when, and has neither clock nor task; [`Drains`] is the task around it.
//!
//! ```text
//!            start, admit                 its moment, and it must go
//!   (none) ───────────────► scheduled ───────────────────────────────► told
//!                               │                                       │ the deadline, and it
//!                               │ its moment, and it may stay           ▼ must still go
//!                               └──────────────► (none)                cut
//! ```
//!
//! Whether a session must go is asked at its moment and before the cut, not when the drain begins:
//! a server that has come back, or an order that was taken back, needs no code of its own.

mod schedule;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::info;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::live::LiveSession;
use super::traffic::{ClosedBy, Order};
use crate::upstream::Gone;
pub use schedule::Progress;
use schedule::{Schedule, Step};

/// Who must go, and why. A second drain for the same reason takes the place of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainReason {
    Stop,
    /// Another process serves, and these sessions could not move to it.
    Upgrade,
    /// The operator has taken the server out.
    ServerDrained(Arc<str>, SocketAddr),
    /// The server fails its health checks.
    ServerDown(Arc<str>, SocketAddr),
    /// The server is gone from the file or from DNS.
    ServerRemoved(Arc<str>, SocketAddr),
    RouteRemoved(Arc<str>),
    /// A reason in the words of a process of another version.
    Other(String),
}

impl DrainReason {
    pub fn of_server(gone: Gone, upstream: Arc<str>, server: SocketAddr) -> Self {
        match gone {
            Gone::Drained => Self::ServerDrained(upstream, server),
            Gone::Down => Self::ServerDown(upstream, server),
            Gone::Removed => Self::ServerRemoved(upstream, server),
        }
    }
}

impl fmt::Display for DrainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop => write!(f, "stop"),
            Self::Upgrade => write!(f, "upgrade"),
            Self::ServerDrained(upstream, server) => write!(f, "drain of {upstream}/{server}"),
            Self::ServerDown(upstream, server) => write!(f, "server {upstream}/{server} is down"),
            Self::ServerRemoved(upstream, server) => {
                write!(f, "server {upstream}/{server} was removed")
            }
            Self::RouteRemoved(route) => write!(f, "route {route:?} was removed"),
            Self::Other(what) => write!(f, "{what}"),
        }
    }
}

/// How sessions are told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    pub code: u16,
    /// Zero: all sessions are told at once.
    pub window: Duration,
    /// Sessions that are left after this time are cut.
    pub deadline: Duration,
}

/// Whether a session must go, asked at its moment.
pub type MustGo = Arc<dyn Fn(&LiveSession) -> bool + Send + Sync>;

/// The drains that are running.
pub struct Drains {
    schedule: Arc<Mutex<Schedule>>,
    /// Wakes the task when something is due sooner than the task knows.
    changed: Arc<Notify>,
    must_go: MustGo,
    task: AbortHandle,
}

impl Drains {
    /// Must be called inside the runtime.
    pub fn new(must_go: MustGo) -> Self {
        let schedule = Arc::new(Mutex::new(Schedule::default()));
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(run(schedule.clone(), changed.clone(), must_go.clone()));
        Self {
            schedule,
            changed,
            must_go,
            task: task.abort_handle(),
        }
    }

    /// Returns how many sessions will be told.
    pub fn start(
        &self,
        reason: DrainReason,
        sessions: &[Arc<LiveSession>],
        plan: DrainPlan,
    ) -> usize {
        let total = sessions.len();
        if total > 0 {
            info!(
                "{reason}: {total} sessions are told to go ({}) within {:?}",
                plan.code, plan.window
            );
        }
        self.change(|schedule, now| schedule.start(now, reason, sessions, plan));
        total
    }

    /// For a session that comes too late for [`Drains::start`]: its handshake was under way, or it
    /// was in another process. It is told at a random moment of the rest of the window. If no such
    /// drain is running, the session gets a drain of its own.
    pub fn admit(&self, reason: DrainReason, session: &Arc<LiveSession>, plan: DrainPlan) {
        self.change(|schedule, now| schedule.admit(now, reason, session, plan));
    }

    /// The sessions of a drain that were not told yet.
    pub fn members(&self, reason: &DrainReason) -> Vec<Arc<LiveSession>> {
        self.schedule.lock().members(reason)
    }

    /// The progress of all drains that are not finished.
    pub fn progress(&self) -> Vec<Progress> {
        let must_go = &self.must_go;
        self.schedule
            .lock()
            .progress(Instant::now(), |live| must_go(live))
    }

    fn change(&self, change: impl FnOnce(&mut Schedule, Instant)) {
        change(&mut self.schedule.lock(), Instant::now());
        self.changed.notify_one();
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Drains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drains")
            .field("schedule", &self.schedule.lock())
            .finish_non_exhaustive()
    }
}

/// Gives each session its order at the moment when the order is due.
async fn run(schedule: Arc<Mutex<Schedule>>, changed: Arc<Notify>, must_go: MustGo) {
    loop {
        let due = schedule.lock().next_due();
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(due) => {}
        }
        // The schedule is not locked here: `must_go` may take long.
        let steps = schedule.lock().take_due(Instant::now());
        for (session, step) in steps {
            if let Some(session) = session.upgrade()
                && must_go(&session)
            {
                session.traffic.ask(order(step));
                if let Step::Tell { drain, index, .. } = step {
                    schedule.lock().note_told(drain, index);
                }
            }
        }
    }
}

fn order(step: Step) -> Order {
    let by = ClosedBy::Drain;
    match step {
        Step::Tell { code, .. } => Order::End { by, code },
        Step::Cut => Order::Cut { by },
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

type Member = Weak<LiveSession>;

#[cfg(test)]
mod tests;
