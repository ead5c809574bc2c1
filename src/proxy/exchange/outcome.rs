//! How an exchange ended, if not with a server's answer.

use std::borrow::Cow;

use http::StatusCode;

#[derive(Default)]
pub struct Outcome {
    /// Why it failed, or why prusik answered by itself.
    reason: Option<Cow<'static, str>>,
    is_too_late: bool,
    is_denied: bool,
    is_cut: bool,
    is_broken: bool,
    /// The status that a Close frame has told instead, and its code.
    closed: Option<(u16, u16)>,
}

impl Outcome {
    /// The request goes to no server.
    pub fn refuse(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.reason = Some(reason.into());
    }

    /// The request may not come in.
    pub fn deny(&mut self) {
        self.is_denied = true;
    }

    pub fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// For a handshake that came when the process was already stopping.
    pub fn refuse_as_too_late(&mut self, reason: &'static str) {
        self.is_too_late = true;
        self.refuse(reason);
    }

    /// Pingora has ended the exchange. `is_cut`: it took longer than a stopping process waits.
    /// `is_broken`: it ended by a fault, not because one of its sides wanted that.
    pub fn fail(&mut self, reason: String, is_cut: bool, is_broken: bool) {
        self.reason = Some(reason.into());
        self.is_cut = is_cut;
        self.is_broken = is_broken;
    }

    /// The client is told by a Close frame.
    pub fn close(&mut self, status: StatusCode, code: u16) {
        self.closed = Some((status.as_u16(), code));
    }

    /// The status that a Close frame has told instead, and its code.
    pub fn closed(&self) -> Option<(u16, u16)> {
        self.closed
    }

    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub fn is_too_late(&self) -> bool {
        self.is_too_late
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub fn is_broken(&self) -> bool {
        self.is_broken
    }
}
