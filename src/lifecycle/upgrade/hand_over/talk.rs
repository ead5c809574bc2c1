//! The messages between the two processes.

use std::io;
use std::time::Duration;

use log::{info, warn};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{CENSUS_EVERY, HandOver, LATE_CENSUS_EVERY, LOOKS_EVERY, News};
use crate::config::TlsSessions;
use crate::lifecycle::upgrade::UpgradeError;
use crate::lifecycle::upgrade::census;
use crate::lifecycle::upgrade::link::Heard;
use crate::lifecycle::upgrade::old::Event;
use crate::lifecycle::upgrade::protocol::frame::{Beside, Decoded, Framing};
use crate::lifecycle::upgrade::protocol::{Message, wire};
use crate::lifecycle::upgrade::warm_state;
use crate::tls::tickets;
use crate::upstream::export_key;

/// What is told twice does no harm. The clock of the tables counts milliseconds.
const OVERLAP: Duration = Duration::from_millis(10);

impl HandOver {
    pub(super) fn heard(&mut self, heard: io::Result<Heard>) {
        let (decoded, descriptors) = match heard {
            Ok(Heard::Message(decoded, descriptors)) => (decoded, descriptors),
            Ok(Heard::Closed) => return self.closed(),
            Err(cause) => {
                warn!("upgrade: the link to the new process is broken: {cause}");
                self.is_closed = true;
                return self.on(Event::Unreadable);
            }
        };
        // The new process never sends descriptors.
        drop(descriptors);
        match decoded {
            Decoded::Frame(frame) => self.said(frame.message),
            Decoded::Unknown { why, .. } => {
                warn!("upgrade: the new process says what this one does not know: {why}");
            }
        }
    }

    fn closed(&mut self) {
        self.is_closed = true;
        // The first protocol has no message for this.
        let is_mute = self.protocol == wire::FIRST && self.machine.has_handed_over();
        if is_mute && self.exit_status().is_some_and(|status| status.success()) {
            self.on(Event::Stopping);
        }
        self.on(Event::Closed);
    }

    fn said(&mut self, message: Message) {
        match message {
            Message::Ready(ready) => self.is_ready(ready),
            Message::Failed { reason, .. } => {
                self.why = Some(UpgradeError::Refused(reason));
                self.on(Event::GaveUp);
            }
            Message::Serving => {
                let pid = self.successor.pid();
                let version = &self.version;
                info!("upgrade: {pid} serves (version {version}), sessions move");
                self.tell(News::Serves { pid });
                self.on(Event::Serving);
            }
            Message::Adopted { number } => {
                self.answered();
                self.on(Event::Adopted(number));
            }
            Message::Refused { number, reason } => {
                warn!("upgrade: the new process refused a connection: {reason}");
                self.answered();
                self.on(Event::Refused(number));
            }
            Message::Stopping => {
                self.tell(News::Stops);
                self.on(Event::Stopping);
            }
            Message::End => self.has_all = true,
            Message::Outcome { number, outcome } => {
                self.commands.retain(|(other, _)| *other != number);
                self.tell(News::Outcome(number, outcome.into()));
                self.end_if_nobody_waits();
            }
            other => warn!("upgrade: the new process said {other:?} out of turn"),
        }
    }

    fn is_ready(&mut self, ready: wire::Ready) {
        self.protocol = ready.protocol.min(wire::LATEST);
        self.version = ready.version;
        let policy = self.app.generation().config.server.tls_sessions;
        let holds_back = !wire::takes_keys(self.protocol) || policy == TlsSessions::Tell;
        self.app.runner().hold_keys_back(holds_back);
        self.app.set_unwanted(ready.unused);
        if self.protocol > wire::FIRST {
            // Before systemd is told. The first protocol has no message for a stop: there the exit
            // status tells it, which the holder has.
            self.successor.let_go();
        }
        self.on(Event::Ready);
    }

    /// Sends the state with which the new process continues, and what counts here.
    pub(super) fn say_go(&mut self) {
        self.say(&Message::Go(warm_state::go(&self.app, self.protocol)));
        if self.protocol == wire::FIRST {
            return;
        }
        self.link.set_framing(Framing::Second);
        for keys in warm_state::keys(&self.app) {
            self.say(&Message::Keys(keys));
        }
        self.say_census();
        self.say_accept();
    }

    /// The keys of tickets go along with it, if keys may leave the process: so clients resume their
    /// sessions in the new process from the first one on. The key of cookies opens nothing, and
    /// always goes along.
    fn say_accept(&mut self) {
        let keys = match self.app.generation().config.server.tls_sessions {
            TlsSessions::Move if wire::takes_keys(self.protocol) => tickets::export(),
            TlsSessions::Move | TlsSessions::Tell => Zeroizing::default(),
        };
        let affinity = export_key();
        let beside = Beside {
            tickets: &keys,
            affinity: &affinity,
            ..Beside::default()
        };
        // Others would take the descriptor for one of a listener.
        let flag = wire::takes_keys(self.protocol).then(|| self.severed.clone());
        let count = flag.iter().len();
        let flag = flag.map(|flag| flag as _);
        if let Err(cause) = self.link.say_with(&Message::Accept, beside, flag, count) {
            warn!("upgrade: the new process cannot be told to accept: {cause}");
        }
    }

    /// Tells what was learned since this was last told. Requests that have begun here may end with
    /// the begin of a session.
    pub(super) fn say_learned(&mut self) {
        if self.protocol == wire::FIRST {
            return;
        }
        let now = Instant::now();
        let since = self.learned_told.replace(now);
        let within = since.map_or(Duration::MAX, |since| now - since + OVERLAP);
        for part in warm_state::learned(&self.app, within) {
            self.say(&Message::Learned(part));
        }
    }

    pub(super) fn census_is_due(&mut self) {
        let now = Instant::now();
        let sum = census::sum(&self.app);
        let counted = self.counted.as_ref();
        let is_said =
            counted.is_some_and(|(said, at)| *said == sum && now < *at + LATE_CENSUS_EVERY);
        match is_said && self.machine.has_settled() {
            true => self.census_due = Some(Instant::now() + rest(now)),
            false => self.say_census(),
        }
    }

    pub(super) fn say_census(&mut self) {
        let began = Instant::now();
        self.counted = Some((census::sum(&self.app), began));
        self.say_learned();
        let underway = self.parcels.values();
        let underway = underway.flat_map(|(parcel, _)| parcel.census_keys(&self.app));
        for census in self.census.take(
            &self.app,
            self.protocol,
            underway.collect::<Vec<_>>().into_iter(),
        ) {
            self.say(&Message::Census(census));
        }
        let every = match self.machine.has_settled() {
            true => rest(began),
            false => CENSUS_EVERY,
        };
        self.census_due = Some(Instant::now() + every);
    }

    pub(super) fn say(&mut self, message: &Message) {
        if let Err(cause) = self.link.say(message) {
            warn!("upgrade: {message:?} cannot be said: {cause}");
        }
    }
}

/// However many sessions and servers there are, a tenth of a core is enough for counting them.
/// `began`: this time.
fn rest(began: Instant) -> Duration {
    (began.elapsed() * 10).clamp(LOOKS_EVERY, 4 * CENSUS_EVERY)
}
