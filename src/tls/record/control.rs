//! What comes in records besides data, once the handshake is over: alerts (RFC 8446 section 6) and
//! the few messages that are allowed then (section 4.6, RFC 5246 section 7.4.1.1).

use super::alert::{Alert, RecordError, WARNING};
use super::suite::{Role, Version};

/// What the record layer must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    Nothing,
    /// The peer seals with its next key from now on. `answer`: it wants us to do the same.
    UpdateKey {
        answer: bool,
    },
    /// The peer wants another handshake, which it does not get.
    RefuseRenegotiation,
    /// The peer ends its direction.
    Closed,
}

/// The state between two records.
///
/// ```text
///              header incomplete            its body incomplete
///   Between ◄────────────────────► Header ────────────────────► Body ──► Between
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control {
    /// The type and length of a message that has begun.
    pub header: [u8; 4],
    pub header_len: u8,
    /// How much of the message's body is still to come, once the header is whole.
    pub body_left: u32,
    /// Counts of what a peer may do a few times only, because it costs us and brings nothing.
    pub updates: u8,
    pub warnings: u8,
    pub renegotiations: u8,
    pub empties: u8,
}

/// As in BoringSSL and rustls.
const UPDATES_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;
const RENEGOTIATIONS_MAX: u8 = 1;
const EMPTIES_MAX: u8 = 32;

const HEADER: usize = 4;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The longest message that is skipped: a ticket may be as long as this, with its extensions.
const MESSAGE_MAX: u32 = 0x2_0000;

impl Control {
    /// Whether a message has begun and is not complete: then no other kind of record may come (RFC
    /// 8446 section 5.1).
    pub fn is_inside_message(&self) -> bool {
        self.header_len > 0
    }

    /// Data has come, or an empty record.
    pub fn data(&mut self, length: usize) -> Result<(), RecordError> {
        if self.is_inside_message() {
            return Err(Alert::UnexpectedMessage.into());
        }
        if length > 0 {
            self.empties = 0;
            self.updates = 0;
            return Ok(());
        }
        count(&mut self.empties, EMPTIES_MAX)
    }

    pub fn alert(&mut self, version: Version, content: &[u8]) -> Result<Demand, RecordError> {
        if self.is_inside_message() {
            return Err(Alert::UnexpectedMessage.into());
        }
        let &[level, code] = content else {
            return Err(Alert::DecodeError.into());
        };
        if code == Alert::CloseNotify as u8 {
            return Ok(Demand::Closed);
        }
        let is_allowed = version == Version::Tls12 || code == Alert::UserCanceled as u8;
        if level != WARNING {
            return Err(RecordError::Received(code));
        }
        if !is_allowed {
            return Err(Alert::DecodeError.into());
        }
        count(&mut self.warnings, WARNINGS_MAX)?;
        Ok(Demand::Nothing)
    }

    /// Reads a record of handshake messages.
    pub fn messages(
        &mut self,
        version: Version,
        role: Role,
        mut content: &[u8],
    ) -> Result<Demand, RecordError> {
        if content.is_empty() {
            return Err(Alert::UnexpectedMessage.into());
        }
        let mut demand = Demand::Nothing;
        while !content.is_empty() {
            if usize::from(self.header_len) < HEADER {
                content = self.take_header(content);
                if usize::from(self.header_len) < HEADER {
                    break;
                }
                self.judge_header(version, role)?;
            }
            let taken = content.len().min(self.body_left as usize);
            let (body, behind) = content.split_at(taken);
            self.body_left -= taken as u32;
            content = behind;
            if self.body_left > 0 {
                break;
            }
            self.header_len = 0;
            match self.header[0] {
                KEY_UPDATE => {
                    // Behind it everything is sealed with another key.
                    if !content.is_empty() {
                        return Err(Alert::UnexpectedMessage.into());
                    }
                    demand = self.key_update(body)?;
                }
                NEW_SESSION_TICKET => {}
                _ => {
                    count(&mut self.renegotiations, RENEGOTIATIONS_MAX)?;
                    demand = Demand::RefuseRenegotiation;
                }
            }
        }
        Ok(demand)
    }

    /// Takes as much of the header as there is. Returns what stands behind.
    fn take_header<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        let had = usize::from(self.header_len);
        let taken = content.len().min(HEADER - had);
        self.header[had..had + taken].copy_from_slice(&content[..taken]);
        self.header_len += taken as u8;
        let [_, high, middle, low] = self.header;
        self.body_left = u32::from_be_bytes([0, high, middle, low]);
        &content[taken..]
    }

    fn judge_header(&self, version: Version, role: Role) -> Result<(), RecordError> {
        match (version, role, self.header[0], self.body_left) {
            (Version::Tls13, _, KEY_UPDATE, 1) => Ok(()),
            (Version::Tls13, _, KEY_UPDATE, _) => Err(Alert::DecodeError.into()),
            (Version::Tls13, Role::Client, NEW_SESSION_TICKET, ..MESSAGE_MAX) => Ok(()),
            (Version::Tls12, Role::Client, HELLO_REQUEST, 0) => Ok(()),
            (Version::Tls12, Role::Server, CLIENT_HELLO, ..MESSAGE_MAX) => Ok(()),
            _ => Err(Alert::UnexpectedMessage.into()),
        }
    }

    fn key_update(&mut self, body: &[u8]) -> Result<Demand, RecordError> {
        count(&mut self.updates, UPDATES_MAX)?;
        match body {
            [0] => Ok(Demand::UpdateKey { answer: false }),
            [1] => Ok(Demand::UpdateKey { answer: true }),
            _ => Err(Alert::IllegalParameter.into()),
        }
    }
}

fn count(seen: &mut u8, most: u8) -> Result<(), RecordError> {
    if *seen == most {
        return Err(Alert::UnexpectedMessage.into());
    }
    *seen += 1;
    Ok(())
}
