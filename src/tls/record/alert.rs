//! Alerts, and the errors that a record layer can meet.

use std::io;

use super::half::CryptoError;

/// The levels of alerts (RFC 5246 section 7.2).
pub const WARNING: u8 = 1;
pub const FATAL: u8 = 2;

/// The alerts that we send (RFC 8446 section 6), and those with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
    UserCanceled = 90,
    NoRenegotiation = 100,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The peer has broken the protocol, and must be told so.
    #[error("the peer has broken the TLS protocol ({0:?})")]
    Fatal(Alert),
    /// The peer has ended the connection with this alert.
    #[error("the peer has ended TLS with alert {0}")]
    Received(u8),
    /// TLS 1.2 has no way to change the keys, and these have sealed as much as they may.
    #[error("the keys of this TLS 1.2 connection are used up")]
    Exhausted,
}

impl From<Alert> for RecordError {
    fn from(alert: Alert) -> Self {
        Self::Fatal(alert)
    }
}

impl From<CryptoError> for RecordError {
    fn from(_: CryptoError) -> Self {
        Self::Fatal(Alert::InternalError)
    }
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}
