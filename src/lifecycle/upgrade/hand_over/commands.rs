//! The supervisor's orders to a hand-over, and commands for the new process.

use tokio::time::Instant;

use super::{COMMANDS_WITHIN, HandOver, News, Order};
use crate::admin::{ControlError, Request};
use crate::lifecycle::upgrade::old::Event;
use crate::lifecycle::upgrade::protocol::{Message, wire};
use crate::lifecycle::upgrade::{UpgradeError, convert};

impl HandOver {
    pub(super) fn commands_due(&self) -> Option<Instant> {
        let last = self.commands.last().filter(|_| self.is_empty);
        last.map(|(_, since)| *since + COMMANDS_WITHIN)
    }

    pub(super) fn give_commands_up(&mut self) {
        let pid = self.successor.pid();
        for (number, _) in std::mem::take(&mut self.commands) {
            let unanswered = ControlError::refused(
                format!("{pid} has taken over, and has not answered within {COMMANDS_WITHIN:?}"),
                "it may still do it; ask it for its status",
            );
            self.tell(News::Outcome(number, Err(unanswered)));
        }
        self.end_if_nobody_waits();
    }

    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::MayGo => self.on(Event::MayGo),
            Order::Stop => self.on(Event::Stopping),
            Order::CallOff(why) => {
                self.why = Some(UpgradeError::NotNow(why));
                self.on(Event::CalledOff);
            }
            Order::Signal(signal) => self.successor.pass_on(signal),
            Order::Noted => {
                self.is_noted = true;
                self.end_if_nobody_waits();
            }
            Order::Command(number, request) => self.pass_on(number, request),
        }
    }

    pub(super) fn pass_on(&mut self, number: u64, Request { command, by }: Request) {
        let command = convert::command(command);
        let command = command.filter(|command| wire::takes_command(self.protocol, command));
        match command {
            Some(command) => {
                self.commands.push((number, Instant::now()));
                self.say(&Message::Command {
                    number,
                    command,
                    by,
                });
            }
            None => {
                let pid = self.successor.pid();
                let refused = ControlError::refused(
                    format!("{pid} has taken over, and does not take this from here"),
                    "ask again: it answers from now on",
                );
                self.tell(News::Outcome(number, Err(refused)));
            }
        }
    }
}
