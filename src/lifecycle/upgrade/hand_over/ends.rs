//! How the old process ends a new one that it cannot use.

use std::process::ExitStatus;

use super::HandOver;
use crate::lifecycle::upgrade::UpgradeError;

impl HandOver {
    /// It is asked to end: if it were killed, the files of the unix sockets that it has bound would
    /// stay.
    pub(super) fn dismiss(&mut self) {
        self.note_its_end();
        self.is_dismissed = true;
        // A new process that has refused ends by itself.
        if !matches!(self.why, Some(UpgradeError::Refused(_))) {
            self.successor.dismiss();
        }
    }

    pub(super) fn kill(&mut self) {
        self.note_its_end();
        self.severed.condemn();
        self.successor.kill();
    }

    /// It has only closed the link, so its end is about to come.
    fn note_its_end(&mut self) {
        if self.why.is_none() {
            let status = self.exit_status();
            self.why = Some(match self.machine.moved() {
                0 => UpgradeError::Ended(status),
                sessions => UpgradeError::Fell { sessions, status },
            });
        }
    }

    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.successor.exit_status()
    }
}
