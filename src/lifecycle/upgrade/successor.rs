//! The process that takes over, as the old one sees it: its own child, or a guest, which something
//! else has started, for example in another container.

use std::os::fd::OwnedFd;
use std::process::ExitStatus;

use log::{info, warn};
use rustix::process::Signal;

use super::exec::{Pidfd, Started};

pub enum Successor {
    Child(Started),
    Guest(Guest),
}

/// A process that has asked to take over.
#[derive(Debug)]
pub struct Guest {
    /// Its own process id. In our container this number may mean another process, or none.
    pid: u32,
    /// `None`: the process cannot be watched. Its end shows only by the link.
    pidfd: Option<Pidfd>,
}

impl Guest {
    /// `pidfd`: the descriptor that it has sent for this. Must be called inside the runtime.
    pub fn new(pid: u32, pidfd: Option<OwnedFd>) -> Self {
        let pidfd = pidfd.and_then(|pidfd| {
            Pidfd::watch(pidfd)
                .inspect_err(|error| warn!("take-over: cannot watch the new process: {error}"))
                .ok()
        });
        Self { pid, pidfd }
    }

    fn kill(&self) {
        let has_ended = self.pidfd.as_ref().is_some_and(|pidfd| !pidfd.is_alive());
        let kill = |pidfd: &Pidfd| pidfd.signal(Signal::KILL).is_ok();
        if !has_ended && !self.pidfd.as_ref().is_some_and(kill) {
            warn!("take-over: the new process hangs, and cannot be killed from here");
        }
    }
}

impl Successor {
    pub fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.pid(),
            Self::Guest(guest) => guest.pid,
        }
    }

    /// Lets the new process live without this one.
    pub fn let_go(&mut self) {
        if let Self::Child(child) = self {
            tokio::task::block_in_place(|| child.let_go());
        }
    }

    /// Returns when the new process has ended, as far as that can be seen.
    pub async fn ended(&self) {
        match self {
            Self::Child(child) => child.ended().await,
            Self::Guest(Guest {
                pidfd: Some(pidfd), ..
            }) => pidfd.ended().await,
            Self::Guest(_) => std::future::pending().await,
        }
    }

    /// How the new process ended, if this process can know.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Child(child) => tokio::task::block_in_place(|| child.exit_status()),
            Self::Guest(_) => None,
        }
    }

    /// The new process does not serve, and must not serve any more. A guest sees that by the link,
    /// and whoever has started it decides what happens to it.
    pub fn dismiss(&self) {
        if let Self::Child(child) = self {
            child.signal(Signal::TERM);
        }
    }

    /// Kills a process that hangs, because it could later serve at the same time as this one.
    pub fn kill(&self) {
        match self {
            Self::Child(child) => child.signal(Signal::KILL),
            Self::Guest(guest) => guest.kill(),
        }
    }

    /// Passes a signal on to the process that serves. A guest gets signals from its own service
    /// manager.
    pub fn pass_on(&self, signal: Signal) {
        match self {
            Self::Child(child) => child.signal(signal),
            Self::Guest(_) => {
                info!("this process ends as soon as nothing is left that cannot move")
            }
        }
    }
}
