//! Answers callers, and records what they have asked for.

use super::Shell;

use log::{error, info, warn};

use crate::admin::view::ReloadReport;
use crate::admin::{CommandOutcome, ControlError};
use crate::lifecycle::control::as_json;
use crate::lifecycle::supervisor::{Asker, Change, Reason};
use crate::lifecycle::systemd;
use crate::observe::entry::Operation;

impl Shell {
    /// Who has asked for a change, as text.
    pub(super) fn by(&self, change: Change, asker: Asker) -> String {
        let signal = match change {
            Change::Reload => "signal HUP",
            Change::Upgrade => "signal USR2",
        };
        match asker {
            Asker::Signal => signal.to_owned(),
            Asker::Caller(caller) => match self.waiting.get(&caller) {
                Some(waiting) => waiting.request.by.clone(),
                None => "a caller that has hung up".to_owned(),
            },
        }
    }

    pub(super) fn record(&self, operation: Operation, by: &str, outcome: Result<String, String>) {
        let of = self
            .process
            .file
            .as_ref()
            .map(|file| file.display().to_string());
        let of = of.filter(|_| operation == Operation::Reload);
        self.process
            .app
            .record(operation, by, of.as_deref(), outcome);
    }

    pub(super) fn answer(&mut self, asker: Asker, outcome: CommandOutcome) {
        let Asker::Caller(caller) = asker else {
            return;
        };
        if let Some(waiting) = self.waiting.remove(&caller) {
            // A caller that has hung up gets no answer.
            let _ = waiting.tell.send(outcome);
        }
    }

    pub(super) fn reloaded(&mut self, asker: Asker, outcome: Result<Vec<String>, ControlError>) {
        let in_words = match &outcome {
            Ok(lines) if lines.is_empty() => Ok("nothing changed".to_owned()),
            Ok(lines) => Ok(lines.join("\n")),
            Err(why) => Err(why.error.clone()),
        };
        let by = self.by(Change::Reload, asker);
        self.record(Operation::Reload, &by, in_words);
        let outcome = outcome.map(|changes| as_json(ReloadReport { changes }));
        self.answer(asker, outcome);
    }

    pub(super) fn refuse(&mut self, change: Change, asker: Asker, reason: Reason) {
        let known = match reason {
            Reason::Failed => self.why.take(),
            _ => None,
        };
        let why = known.unwrap_or_else(|| self.why_not(reason));
        let operation = match change {
            Change::Reload => Operation::Reload,
            Change::Upgrade => Operation::Upgrade,
        };
        let by = self.by(change, asker);
        self.record(operation, &by, Err(why.error.clone()));
        match (change, reason) {
            (Change::Upgrade, Reason::Failed) => {
                error!("upgrade failed, this process goes on: {}", why.error);
                // The new process may already have written its own id.
                self.pid_file.claim();
                systemd::ready();
            }
            (Change::Upgrade, _) => warn!("upgrade declined: {}", why.error),
            (Change::Reload, _) => warn!("reload declined: {}", why.error),
        }
        self.send_away(asker, &why, reason == Reason::Stopping);
        self.answer(asker, Err(why));
    }

    /// Tells a process that has asked to take over why it may not. `stops`: as this one ends soon.
    fn send_away(&mut self, asker: Asker, why: &ControlError, stops: bool) {
        let Asker::Caller(caller) = asker else {
            return;
        };
        if let Some(visit) = self.visits.remove(&caller) {
            let refused = visit.refuse(format!("{} ({})", why.error, why.hint), stops);
            tokio::spawn(async move {
                if let Err(error) = refused.await {
                    warn!("take-over: the new process did not hear why not: {error}");
                }
            });
        }
    }

    pub(super) fn why_not(&self, reason: Reason) -> ControlError {
        match reason {
            Reason::Stopping => {
                ControlError::refused("this process is stopping", "start it again instead")
            }
            Reason::UpgradeUnderWay => ControlError::refused(
                format!(
                    "an upgrade is under way: {} is to take over",
                    self.successor
                ),
                "ask again when it is done",
            ),
            Reason::Replaced => ControlError::refused(
                format!("{} has taken over already", self.successor),
                "it answers from now on; this process only ends what could not move",
            ),
            Reason::PredecessorStays => ControlError::refused(
                "the process before this one still ends what could not move",
                "it is gone after server.drain.deadline at the latest; ask again then",
            ),
            Reason::Failed => {
                ControlError::refused("the upgrade failed", "this process goes on as before")
            }
            Reason::SuccessorStops => ControlError::refused(
                "the new process was told to stop before it had everything",
                "both processes end; start it again instead",
            ),
        }
    }
}

pub(super) fn log_reload(outcome: &Result<Vec<String>, ControlError>) {
    match outcome {
        Ok(lines) if lines.is_empty() => info!("reload done: nothing changed"),
        Ok(lines) => {
            info!("reload done: {} lines", lines.len());
            lines.iter().for_each(|line| info!("  {line}"));
        }
        Err(error) => error!("reload refused: the configuration stays as it was\n{error}"),
    }
}
