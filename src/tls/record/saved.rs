//! The state of a connection as bytes, with which another process continues it.
//!
//! ```text
//!   1 format · 1 role · 1 version · 1 suite · 1 flags · 13 control
//!   twice, what we send first: 8 sequence number · 12 IV · key · secret (TLS 1.3)
//!   three times: 4 length · bytes       plain text, sealed records in, sealed records out
//! ```
//!
//! Integers are big-endian. The keys have the lengths that the suite has.

use zeroize::Zeroizing;

use super::control::Control;
use super::half::Half;
use super::layer::Record;
use super::suite::{READ_MAX, Role, Suite, Version};

/// More cannot wait in a connection of this version.
const WAITING_MAX: usize = 1 << 20;

/// The only format so far.
const FORMAT: u8 = 1;

/// What waits. All are empty nearly always.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub struct Buffers {
    /// Data that was opened and not read yet.
    pub plain: Vec<u8>,
    /// The part of a record that has come.
    pub sealed_in: Vec<u8>,
    /// Records that the socket has not taken.
    pub sealed_out: Vec<u8>,
}

/// Keys are in it, so it is overwritten when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Saved(Zeroizing<Vec<u8>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state of a TLS connection is not understood: {0}")]
pub struct SavedError(&'static str);

impl Saved {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn of(record: &Record, buffers: &Buffers) -> Self {
        let parts = [&buffers.plain, &buffers.sealed_in, &buffers.sealed_out];
        let waiting: usize = parts.iter().map(|part| part.len()).sum();
        // Reserved at once: a buffer that grows would leave copies of the keys behind.
        let mut out = Zeroizing::new(Vec::with_capacity(256 + waiting));
        let flags = [
            record.owes_update,
            record.owes_warning,
            record.sent_close,
            record.received_close,
        ];
        let flags = (0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit);
        out.extend_from_slice(&[
            FORMAT,
            position(&ROLES, record.role),
            position(&VERSIONS, record.version),
            position(&SUITES, record.suite),
            flags.sum(),
        ]);
        let control = &record.control;
        out.extend_from_slice(&control.header);
        out.extend_from_slice(&control.body_left.to_be_bytes());
        out.extend_from_slice(&[
            control.header_len,
            control.updates,
            control.warnings,
            control.renegotiations,
            control.empties,
        ]);
        for half in [&record.tx, &record.rx] {
            out.extend_from_slice(&half.seq().to_be_bytes());
            out.extend_from_slice(half.iv());
            out.extend_from_slice(half.key());
            out.extend_from_slice(half.secret());
        }
        for part in parts {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
        Self(out)
    }

    pub(super) fn open(&self) -> Result<(Box<Record>, Buffers), SavedError> {
        let mut from = Reader(&self.0);
        let [format, role, version, suite, flags] = *from.array()?;
        if format != FORMAT {
            return Err(SavedError("it has a later format"));
        }
        let role = *ROLES.get(usize::from(role)).ok_or(UNKNOWN)?;
        let version = *VERSIONS.get(usize::from(version)).ok_or(UNKNOWN)?;
        let suite = *SUITES.get(usize::from(suite)).ok_or(UNKNOWN)?;
        let mut record = Record::empty(role, version, suite);
        [
            record.owes_update,
            record.owes_warning,
            record.sent_close,
            record.received_close,
        ] = [0, 1, 2, 3].map(|bit| flags >> bit & 1 == 1);
        record.control = from.control()?;
        from.half(&mut record.tx)?;
        from.half(&mut record.rx)?;
        let mut part = |most: usize| match from.part()? {
            part if part.len() <= most => Ok(part.to_vec()),
            _ => Err(SavedError("more waits than can wait")),
        };
        let buffers = Buffers {
            plain: part(WAITING_MAX)?,
            sealed_in: part(READ_MAX)?,
            sealed_out: part(WAITING_MAX)?,
        };
        if !from.0.is_empty() {
            return Err(SavedError("something stands behind it"));
        }
        Ok((record, buffers))
    }
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Saved({} bytes)", self.0.len())
    }
}

const UNKNOWN: SavedError = SavedError("its role, version or suite is unknown");

const ROLES: [Role; 2] = [Role::Client, Role::Server];
const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];
const SUITES: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

fn position<T: PartialEq>(all: &[T], one: T) -> u8 {
    let found = all.iter().position(|other| *other == one);
    // Everything is in its list: the tests look.
    found.unwrap_or(usize::from(u8::MAX)) as u8
}

/// What is not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], SavedError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], SavedError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn control(&mut self) -> Result<Control, SavedError> {
        let header = *self.array()?;
        let body_left = u32::from_be_bytes(*self.array()?);
        let [header_len, updates, warnings, renegotiations, empties] = *self.array()?;
        // The length of a body is known with the whole header.
        if header_len > 4 || header_len < 4 && body_left > 0x00ff_ffff {
            return Err(SavedError("the header of a message cannot be so"));
        }
        Ok(Control {
            header,
            header_len,
            body_left,
            updates,
            warnings,
            renegotiations,
            empties,
        })
    }

    fn half(&mut self, half: &mut Half) -> Result<(), SavedError> {
        let seq = u64::from_be_bytes(*self.array()?);
        let iv = self.take(half.iv().len())?;
        let key = self.take(half.suite.key_len())?;
        let secret = self.take(half.secret().len())?;
        let is_filled = half.fill(key, iv, secret, seq);
        is_filled.then_some(()).ok_or(UNKNOWN)
    }

    fn part(&mut self) -> Result<&'a [u8], SavedError> {
        let length = u32::from_be_bytes(*self.array()?);
        self.take(length as usize)
    }
}

const SHORT: SavedError = SavedError("it is cut short");
