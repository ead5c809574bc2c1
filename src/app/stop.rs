//! How it ends: what is there is told to go, and what is left at the deadline is cut.

use std::time::{Duration, Instant};

use super::*;
use crate::session::live::LiveSession;
use crate::session::traffic::{ClosedBy, Order};

/// How a process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stop {
    /// Sessions are told to go as `server.drain` has it, requests have as long.
    Gracefully,
    /// What can be said at once is said.
    Now,
}

/// Who has just connected has so long until its request is here.
const FIRST_REQUESTS: Duration = Duration::from_millis(100);

impl App {
    /// Tells every session to go; returns when the last connection has ended, at the latest after
    /// the drain's deadline. The phase is one that drains. The log is open still: close it behind
    /// this.
    pub async fn stop(&self, stop: Stop) {
        // Whoever has connected before is one of those who are waited for.
        let accepted = tokio::time::timeout(AT_ONCE, self.accepting.wait()).await;
        if accepted.is_err() {
            info!("not every listener is closed yet");
        }
        let mut plan = self.current.load().drain_plan();
        if stop == Stop::Now {
            plan.window = Duration::ZERO;
            plan.deadline = AT_ONCE;
        } else if let Some(began) = *self.winding_down_since.lock() {
            // Those who wait for this process have waited so long already.
            plan.deadline = plan.deadline.saturating_sub(began.elapsed());
            plan.window = plan.window.min(plan.deadline);
        }
        self.drains
            .start(DrainReason::Stop, &self.sessions.select(|_| true), plan);
        if stop == Stop::Gracefully {
            self.wait_for_connections(FIRST_REQUESTS).await;
        }
        // From here on a connection ends at once on which no request is there to be read.
        self.edge.cleanup().await;
        self.close_idle();
        self.wait_for_connections(plan.deadline).await;
        self.cut(|_| true).await;
    }

    /// What is left when a new process serves ends here, or when its time is up. Goes on where it
    /// was when it is called again.
    pub async fn wind_down(&self) {
        let plan = self.current.load().drain_plan();
        let before = *self.winding_down_since.lock();
        let began = before.unwrap_or_else(|| {
            let stay = self.sessions.select(|live| !live.traffic.moves());
            self.drains.start(DrainReason::Upgrade, &stay, plan);
            self.close_idle();
            Instant::now()
        });
        *self.winding_down_since.lock() = Some(began);
        let remaining = plan.deadline.saturating_sub(began.elapsed());
        self.wait_for_connections(remaining).await;
        // Who could move waits for a new process that is slow, and is not cut for it.
        while !self.connections.is_empty() {
            self.cut(|live| !live.traffic.moves()).await;
        }
    }

    /// Writes what is left of the log. Nothing is logged after this.
    pub async fn close_log(&self) {
        repeated::tell_all();
        let log = self.log.clone();
        // It goes on writing should nobody wait any more.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }

    /// What is left to be done takes no connections to servers that wait for more requests.
    fn close_idle(&self) {
        let generation = self.current.load();
        generation
            .groups()
            .iter()
            .for_each(|group| group.close_idle());
    }

    /// Ends these sessions and every exchange; returns when no connection is left, or in a moment.
    async fn cut(&self, must_go: impl Fn(&LiveSession) -> bool) {
        let must_go = self.sessions.select(|live| must_go(live));
        let stay = self.sessions.len().saturating_sub(must_go.len());
        let remaining = self.connections.len().saturating_sub(stay);
        if remaining == 0 {
            return self.wait_for_connections(LAST_LINES).await;
        }
        info!("{remaining} connections are cut");
        let cut = Order::Cut {
            by: ClosedBy::Drain,
        };
        must_go.iter().for_each(|live| live.traffic.ask(cut));
        let _cutting = self.edge.cut();
        self.wait_for_connections(LAST_LINES).await;
    }

    /// Until no more are left, or the time is up.
    async fn wait_for_connections(&self, limit: Duration) {
        let done = async {
            while !self.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Who is left after the limit is cut by the caller.
        let _ = tokio::time::timeout(limit, done).await;
    }
}
