//! What a session has carried, and who ended it.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

use futures_util::task::AtomicWaker;

use super::frames::CloseCode;

/// Why a session ended: `closed_by` in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClosedBy {
    Client = 1,
    Server = 2,
    /// Quiet for longer than the route's `idle`.
    Idle = 3,
    MaxSession = 4,
    /// The process stops.
    Drain = 5,
    Error = 6,
}

impl ClosedBy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Idle => "idle",
            Self::MaxSession => "max_session",
            Self::Drain => "drain",
            Self::Error => "error",
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Client,
            Self::Server,
            Self::Idle,
            Self::MaxSession,
            Self::Drain,
            Self::Error,
        ]
        .into_iter()
        .find(|cause| *cause as u8 == code)
    }
}

/// Shared between the tap, which writes, and the log. In is from the client, out is to it.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    /// 0: still open.
    closed_by: AtomicU8,
    /// 0: no Close frame; 1005: one without a code.
    close_code: AtomicU32,
    established: Mutex<Option<Instant>>,
    handshake_timed_out: AtomicBool,
    /// The close code that the session is to end with; 0: it may go on.
    end_with: AtomicU16,
    session: AtomicWaker,
}

impl Traffic {
    /// The server's 101 has been read.
    pub fn establish(&self) {
        *self
            .established
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub fn established(&self) -> Option<Instant> {
        *self
            .established
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn time_out_handshake(&self) {
        self.handshake_timed_out.store(true, Relaxed);
    }

    pub fn handshake_timed_out(&self) -> bool {
        self.handshake_timed_out.load(Relaxed)
    }

    /// From another task: the session's own says goodbye.
    pub fn ask_to_end(&self, code: u16) {
        self.end_with.store(code, Release);
        self.session.wake();
    }

    pub fn asked_to_end(&self) -> Option<u16> {
        Some(self.end_with.load(Acquire)).filter(|&code| code != 0)
    }

    /// Who is to be woken by [`Traffic::ask_to_end`]. Look at [`Traffic::asked_to_end`] after this.
    pub fn wake_on_end(&self, waker: &Waker) {
        self.session.register(waker);
    }

    /// The first cause is the cause: what follows are its consequences.
    pub fn close(&self, by: ClosedBy, code: Option<CloseCode>) {
        if self
            .closed_by
            .compare_exchange(0, by as u8, Relaxed, Relaxed)
            .is_ok()
            && let Some(code) = code
        {
            let code = match code {
                CloseCode::Code(code) => code,
                CloseCode::Absent => 1005,
            };
            self.close_code.store(code.into(), Relaxed);
        }
    }

    pub fn closed_by(&self) -> Option<ClosedBy> {
        ClosedBy::from_code(self.closed_by.load(Relaxed))
    }

    pub fn close_code(&self) -> Option<u32> {
        Some(self.close_code.load(Relaxed)).filter(|&code| code != 0)
    }
}
