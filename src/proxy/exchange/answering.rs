//! How far a server's answer has come.

use crate::http1::response::INTERIM_MAX;
use crate::proxy::retry::Stage;

#[derive(Default)]
pub struct Answering {
    stage: Stage,
    /// How many interim answers came, over all attempts.
    interim: u8,
    /// One of them must not reach the client.
    has_unwanted: bool,
}

impl Answering {
    /// Which part of the exchange is awaited now.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// A server is connected, and has got nothing yet.
    pub fn start(&mut self) {
        self.stage = Stage::default();
    }

    /// A part of the request is sent. After the last part the server's answer is awaited.
    pub fn send(&mut self, is_last: bool) {
        self.stage.request_sent = is_last;
    }

    /// The head of an answer goes to the client. After the final head its body is awaited.
    pub fn begin(&mut self, is_final: bool) {
        self.stage.answer_begun = is_final;
    }

    /// Counts an interim answer. Returns false if there are too many.
    pub fn count_interim(&mut self) -> bool {
        self.interim += 1;
        self.interim <= INTERIM_MAX
    }

    /// Whether interim answers are kept from the client from now on. After one that it must not get
    /// all are, because Pingora decides for several at once.
    pub fn hold_interim(&mut self, may_pass: bool) -> bool {
        self.has_unwanted |= !may_pass;
        self.has_unwanted
    }
}
