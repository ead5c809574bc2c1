//! What the process is about, as everybody in it reads it.
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
//! One place alone moves it: `lifecycle`'s supervisor, or whoever runs an [`App`](crate::app::App)
//! without one.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing is accepted yet.
    Starting,
    Serving,
    /// A new process serves, or is about to, and sessions go to it.
    HandingOver,
    /// A new process serves, and what could not move ends here.
    WindingDown,
    Stopping(Stopping),
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stopping {
    /// Balancers in front are told; who comes all the same is served as ever
    /// (`server.drain.delay`).
    Announced,
    /// Nothing is accepted, and sessions are told to go.
    Draining,
}

impl Phase {
    pub fn accepts(self) -> bool {
        matches!(self, Self::Serving | Self::Stopping(Stopping::Announced))
    }

    /// Whether what has a place in another process goes there.
    pub fn moves(self) -> bool {
        matches!(self, Self::HandingOver | Self::WindingDown)
    }

    /// Whether each answer is the last on its connection, and no session begins.
    pub fn is_draining(self) -> bool {
        self == Self::Stopping(Stopping::Draining)
    }

    /// Whether balancers should send nobody here.
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::Stopping(_))
    }
}

/// The process's phase, for the one who moves it.
#[derive(Debug)]
pub struct Phases {
    phase: watch::Sender<Phase>,
    /// What Pingora wants to know of it.
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

/// The process's phase, for all others.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

impl PhaseWatch {
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// The next one; never, once nobody can move it any more.
    pub async fn changed(&mut self) -> Phase {
        match self.0.changed().await {
            Ok(()) => *self.0.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns at once if it is so already; never, if it can no longer become so.
    pub async fn until(&mut self, is_it: impl Fn(Phase) -> bool) {
        if self.0.wait_for(|phase| is_it(*phase)).await.is_err() {
            std::future::pending().await
        }
    }
}
