//! What the process before says, as long as this one takes over from it.

use std::future;

use log::error;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::Shell;
use crate::lifecycle::supervisor::{Event, Signal};
use crate::lifecycle::upgrade::take_over::{Parting, PassedOn};

/// The commands that it passes on, and how the hand-over ends.
pub type Predecessor = (UnboundedReceiver<PassedOn>, oneshot::Receiver<Parting>);

/// The next command, or how the hand-over has ended.
pub async fn said_by(predecessor: &mut Option<Predecessor>) -> Result<PassedOn, Parting> {
    match predecessor {
        Some((commands, done)) => tokio::select! {
            Some(command) = commands.recv() => Ok(command),
            parting = done => Err(parting.unwrap_or(Parting::Alone)),
        },
        None => future::pending().await,
    }
}

impl Shell {
    pub(super) async fn parted(&mut self, parting: Parting) {
        let process = self.process.clone();
        process.app.expect_sessions(false);
        process.go_on_watching_drains();
        self.on(Event::PredecessorGone).await;
        if parting == Parting::OldServesAgain {
            error!(
                "the process before did not wait for this one and serves again: this one ends, and \
                 its {} sessions are told to go",
                process.app.sessions().len()
            );
            self.has_lost = true;
            if let Some(tasks) = &mut self.tasks {
                tasks.yield_to_another().await;
            }
            // Both have these sockets.
            process.leave_sockets(|_| false);
            process.app.leave_listeners();
            self.on(Event::Signal(Signal::Terminate)).await;
        }
    }
}
