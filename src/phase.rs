//! The phase of the process, which all parts can read.
//!
//! ```text
//!            ready             the new process serves
//!  Starting ───────► Serving ───────────────────────► HandingOver ───► WindingDown ──► (end)
//!                     │  ▲   ▲                            │  settled       │
//!                     │  │   └────────────────────────────┴────────────────┘
//!                     │  │              the new process has died
//!                TERM ▼
//!                   Stopping: announced ──► Stopping: draining ──► (end)
//! ```
//!
//! Only `lifecycle`'s supervisor changes it, or whoever runs an [`App`](crate::app::App) without
//! one.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing is accepted yet.
    Starting,
    Serving,
    /// A new process serves or is about to, and sessions move to it.
    HandingOver,
    /// A new process serves, and what could not move ends here.
    WindingDown,
    Stopping(Stopping),
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stopping {
    /// Balancers in front are told. Clients that still come are served as before
    /// (`server.drain.delay`).
    Announced,
    /// Nothing is accepted, and sessions are told to go.
    Draining,
}

impl Phase {
    pub fn accepts(self) -> bool {
        matches!(self, Self::Serving | Self::Stopping(Stopping::Announced))
    }

    /// Whether sessions that can move to another process move.
    pub fn moves(self) -> bool {
        matches!(self, Self::HandingOver | Self::WindingDown)
    }

    /// Whether each answer is the last on its connection, and no session begins.
    pub fn is_draining(self) -> bool {
        self == Self::Stopping(Stopping::Draining)
    }

    /// Whether balancers should send no clients here.
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::Stopping(_))
    }
}

/// The process's phase, for the one that changes it.
#[derive(Debug)]
pub struct Phases {
    phase: watch::Sender<Phase>,
    /// Pingora's view of it.
    draining: watch::Sender<bool>,
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            draining: watch::Sender::new(false),
        }
    }
}

impl Phases {
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        self.draining.send_replace(phase.is_draining());
    }

    pub fn now(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn watch(&self) -> PhaseWatch {
        PhaseWatch(self.phase.subscribe())
    }

    /// True while the process drains.
    pub fn watch_draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}

/// The process's phase, for all readers.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits for the next phase. Waits for ever if nothing can change the phase any more.
    pub async fn changed(&mut self) -> Phase {
        match self.0.changed().await {
            Ok(()) => *self.0.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until `is_it` holds. Waits for ever if it can no longer hold.
    pub async fn until(&mut self, is_it: impl Fn(Phase) -> bool) {
        if self.0.wait_for(|phase| is_it(*phase)).await.is_err() {
            std::future::pending().await
        }
    }
}
