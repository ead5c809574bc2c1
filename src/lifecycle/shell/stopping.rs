//! How the process stops: sessions are told to go, or are given to systemd for the next process.

use std::time::Duration;

use log::{info, warn};
use tokio::sync::oneshot;

use super::Shell;
use crate::app::Stop;
use crate::lifecycle::process::Message;
use crate::lifecycle::supervisor::{Event, Signal};
use crate::lifecycle::systemd;
use crate::lifecycle::upgrade::store::keep::keep;
use crate::lifecycle::upgrade::store::mark;
use crate::observe::entry::Operation;
use crate::phase::Phase;

/// Who has asked for a change that systemd makes.
const RESTART: &str = "systemctl restart";

/// How long the end of a process takes beyond its deadline, at most.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// What a signal asks for.
fn meant_by(signal: Signal) -> Event {
    match signal {
        Signal::Terminate if mark::take() => Event::Restart(signal),
        signal => Event::Signal(signal),
    }
}

impl Shell {
    /// A stop while a process that something else has started gets ready is for this process alone.
    /// It ends by handing over; only if that fails it stops, or nobody would serve.
    pub(super) async fn signalled(&mut self, signal: Signal) {
        let is_getting_ready = self.is_for_guest
            && self.orders.is_some()
            && self.process.app.phases().now() == Phase::Serving;
        if !is_getting_ready || !matches!(signal, Signal::Terminate | Signal::Quit) {
            return self.on(meant_by(signal)).await;
        }
        let (name, guest) = (signal.name(), self.successor);
        if self.stops_after.replace(signal).is_none() {
            info!("{name}: this process ends as soon as {guest} has taken over");
        }
    }

    pub(super) fn announce(&mut self, signal: Signal) -> Option<Event> {
        let mut drain = self.process.app.generation().config.server.drain;
        if self.has_lost {
            // Balancers in front have no reason to send their clients elsewhere.
            drain.delay = Duration::ZERO;
        }
        let name = signal.name();
        self.record(
            Operation::Stop,
            &format!("signal {name}"),
            Ok("begun".to_owned()),
        );
        self.stopped_by = Some(name);
        systemd::stopping();
        systemd::stops_within(drain.delay + drain.deadline + ENDS_WITHIN);
        match drain.delay {
            Duration::ZERO => Some(Event::Announced),
            delay => {
                info!("{name}: not ready any more; new clients are still taken for {delay:?}");
                self.later(delay, Event::Announced);
                None
            }
        }
    }

    /// Gives everything to systemd.
    pub(super) fn keep(&mut self) -> Option<Event> {
        info!("restart: what can be kept waits in systemd for the next process");
        systemd::stopping();
        self.process.app.operations().set_upgrade_by(RESTART);
        let own = match self.process.own_descriptors() {
            Ok(own) => own,
            Err(error) => {
                warn!("restart: sessions are not kept: {error}");
                return Some(Event::Kept(false));
            }
        };
        let (keeping, call_off) = oneshot::channel();
        self.keeping = Some(keeping);
        let process = self.process.clone();
        tokio::spawn(async move {
            let is_kept = keep(process.app.clone(), own, call_off).await;
            if is_kept {
                // The next process has the same sockets.
                process.app.leave_files();
                process.leave_sockets(|_| false);
            }
            process.send(Message::Event(Event::Kept(is_kept)));
        });
        None
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        let drain = self.process.app.generation().config.server.drain;
        match stop {
            Stop::Gracefully => info!(
                "accepting no more; sessions are told to go within {:?}, and cut after {:?}",
                drain.window, drain.deadline
            ),
            Stop::Now => {
                info!("INT: stopping now");
                let begun = "begun, at once".to_owned();
                self.record(Operation::Stop, "signal INT", Ok(begun));
                self.stopped_by = Some("INT");
                systemd::stopping();
            }
        }
        if let Some(tasks) = &mut self.tasks {
            tasks.feed_watchdog();
        }
        if let Some(before) = self.stop.take() {
            before.abort();
        }
        let process = self.process.clone();
        let task = tokio::spawn(async move {
            process.app.stop(stop).await;
            process.send(Message::Event(Event::Drained));
        });
        self.stop = Some(task.abort_handle());
    }
}
