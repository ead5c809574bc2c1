//! The record layer as a value: sealed records in, plain text out, and the other way round.

use std::ops::Range;

use super::alert::{Alert, FATAL, RecordError, WARNING};
use super::control::{Control, Demand};
use super::half::{CryptoError, Half};
use super::suite::{ContentType, HEADER, PLAIN_MAX, Role, Suite, TAG, Version};

/// What a record has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// This part of the record is data.
    Data(Range<usize>),
    /// Nothing for whom reads.
    Nothing,
}

/// Lives in a box, because its halves must not be moved.
#[derive(Debug)]
pub struct Record {
    pub(super) role: Role,
    pub(super) version: Version,
    pub(super) suite: Suite,
    pub(super) tx: Half,
    pub(super) rx: Half,
    pub(super) control: Control,
    /// The peer has asked for our next key, and has no answer yet.
    pub(super) owes_update: bool,
    /// The peer has asked for another handshake, and has no answer yet.
    pub(super) owes_warning: bool,
    pub(super) sent_close: bool,
    pub(super) received_close: bool,
    /// How many records one key may seal.
    pub(super) limit: u64,
}

impl Record {
    /// Without keys yet: both halves must be [filled](Half::fill).
    pub(super) fn empty(role: Role, version: Version, suite: Suite) -> Box<Self> {
        Box::new(Self {
            role,
            version,
            suite,
            tx: Half::empty(version, suite),
            rx: Half::empty(version, suite),
            control: Control::default(),
            owes_update: false,
            owes_warning: false,
            sent_close: false,
            received_close: false,
            limit: suite.record_limit(),
        })
    }

    /// Whether the peer has ended its direction.
    pub fn has_received_close(&self) -> bool {
        self.received_close
    }

    /// Whether nothing can be sealed any more.
    pub fn has_sent_close(&self) -> bool {
        self.sent_close
    }

    /// How long the record is that begins here. `None`: not enough of it is there. A record that
    /// cannot be right is judged by its header, before its content has come.
    pub fn length_of(&self, bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        if [major, minor] != [3, 3] {
            return Err(Alert::DecodeError.into());
        }
        let is_allowed = match self.version {
            // Everything is sealed, and looks like data.
            Version::Tls13 => kind == ContentType::ApplicationData as u8,
            Version::Tls12 => ContentType::of(kind).is_some(),
        };
        if !is_allowed {
            return Err(Alert::UnexpectedMessage.into());
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let extra = match self.version {
            Version::Tls12 => 2048,
            Version::Tls13 => 256,
        };
        if length > PLAIN_MAX + extra {
            return Err(Alert::RecordOverflow.into());
        }
        if length < self.suite.explicit_len(self.version) + TAG {
            return Err(Alert::BadRecordMac.into());
        }
        Ok(Some(HEADER + length))
    }

    /// Opens one whole record in place.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let outer = record[0];
        let opened = self.rx.open(record);
        let mut content = opened.map_err(|CryptoError| Alert::BadRecordMac)?;
        let kind = match self.version {
            Version::Tls12 => outer,
            Version::Tls13 => {
                // Behind the content stand its type and zeros (RFC 8446 section 5.4).
                let sealed = &record[content.clone()];
                let last = sealed.iter().rposition(|byte| *byte != 0);
                let last = last.ok_or(Alert::UnexpectedMessage)?;
                content.end = content.start + last;
                record[content.end]
            }
        };
        if content.len() > PLAIN_MAX {
            return Err(Alert::RecordOverflow.into());
        }
        let plain = &record[content.clone()];
        let demand = match ContentType::of(kind) {
            Some(ContentType::ApplicationData) => {
                self.control.data(plain.len())?;
                let is_empty = plain.is_empty();
                return Ok(if is_empty {
                    Opened::Nothing
                } else {
                    Opened::Data(content)
                });
            }
            Some(ContentType::Alert) => self.control.alert(self.version, plain)?,
            Some(ContentType::Handshake) => {
                self.control.messages(self.version, self.role, plain)?
            }
            None => return Err(Alert::UnexpectedMessage.into()),
        };
        self.obey(demand)
    }

    fn obey(&mut self, demand: Demand) -> Result<Opened, RecordError> {
        match demand {
            Demand::Nothing => {}
            Demand::UpdateKey { answer } => {
                self.rx.step()?;
                // One answer is enough for several that come before it.
                self.owes_update |= answer;
            }
            Demand::RefuseRenegotiation => self.owes_warning = true,
            Demand::Closed => self.received_close = true,
        }
        Ok(Opened::Nothing)
    }

    /// Seals data into as many records as it needs, behind what the peer still has to be told.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), RecordError> {
        self.seal_owed(out)?;
        for part in plain.chunks(PLAIN_MAX) {
            self.make_room(out)?;
            self.tx.seal(ContentType::ApplicationData, part, out)?;
            // A peer that only listens may change its key for what it hears.
            self.control.updates = 0;
        }
        Ok(())
    }

    /// Whether the peer waits for an answer that data of ours need not come for.
    pub fn owes_refusal(&self) -> bool {
        self.owes_warning && !self.sent_close
    }

    /// Seals the answers that the peer waits for.
    pub fn seal_owed(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if std::mem::take(&mut self.owes_warning) {
            let refusal = [WARNING, Alert::NoRenegotiation as u8];
            self.tx.seal(ContentType::Alert, &refusal, out)?;
        }
        if std::mem::take(&mut self.owes_update) {
            self.update_key(out)?;
        }
        Ok(())
    }

    /// Leaves one number of the key for its end: the next key, or the end of the connection.
    fn make_room(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if self.tx.seq() + 1 < self.limit {
            return Ok(());
        }
        match self.version {
            Version::Tls13 => self.update_key(out),
            Version::Tls12 => {
                self.close(out);
                Err(RecordError::Exhausted)
            }
        }
    }

    /// Tells the peer that our next key follows, and takes it. The peer is not asked for its own:
    /// how long that lasts is for the peer to know, and one that only listens would have to answer.
    fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        const NOT_REQUESTED: u8 = 0;
        let message = [24, 0, 0, 1, NOT_REQUESTED];
        self.tx.seal(ContentType::Handshake, &message, out)?;
        self.tx.step()?;
        Ok(())
    }

    /// Says that nothing more comes from us. Only the first call does something.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.say_last([WARNING, Alert::CloseNotify as u8], out);
    }

    /// Ends the connection with a fatal alert, unless it has ended already.
    pub fn fail(&mut self, alert: Alert, out: &mut Vec<u8>) {
        self.say_last([FATAL, alert as u8], out);
    }

    fn say_last(&mut self, alert: [u8; 2], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.sent_close, true) {
            // Without this the peer sees a cut, which is no worse than what has happened here.
            let _ = self.tx.seal(ContentType::Alert, &alert, out);
        }
    }
}
