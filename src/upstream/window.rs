//! How far one side of an exchange is read ahead of what the other side has taken.
//!
//! A read costs two system calls and a turn through Pingora, so large bodies want large reads. What
//! is read and not taken costs memory, though, for as long as the taker stands still. So a window
//! begins small, grows each time that a read has filled it and all of that was taken, and is larger
//! than at first only while its taker is known to have the room: this *credit* is what the kernel
//! says of the taker's socket. A taker that stalls has none.
//!
//! Nothing more is read before all is taken: what was read twice Pingora would write together, from
//! one more buffer.

/// So much of what was read may seem not to be taken, and still does not count: what one side
/// sends is not to the byte what the other gets, as heads and chunks are written anew.
pub(super) const DRIFT: usize = 512;

/// Steps are few, as each is a read: a window is at its largest before Pingora's copy of a request,
/// which it keeps to repeat it, is so large that it is given up.
const GROWTH: usize = 4;

/// A value without sockets: its streams tell it what they did.
#[derive(Debug)]
pub(super) struct Window {
    /// Without credit.
    base: usize,
    most: usize,
    /// So much may be ahead, and more is read by a large window.
    drift: usize,
    /// With credit: from `base` to `most`.
    size: usize,
    /// Read and not yet taken.
    ahead: usize,
    /// What the taker takes without waiting, at the least.
    credit: usize,
    /// There was so much room at the last look.
    offered: usize,
    /// The last read was as large as it could be: there is more where that came from.
    is_filled: bool,
    /// The reader was told to wait.
    is_held: bool,
    /// The taker has had nothing to take, at one look.
    seems_idle: bool,
    is_stalled: bool,
    has_given_back: bool,
}

/// Whether the reader has waited, and may go on: it is to be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    GoesOn,
    AsBefore,
}

impl Window {
    pub fn new(base: usize, most: usize, drift: usize) -> Self {
        Self {
            base,
            most,
            drift,
            size: base,
            ahead: 0,
            credit: 0,
            offered: 0,
            is_filled: false,
            is_held: false,
            seems_idle: false,
            is_stalled: false,
            has_given_back: false,
        }
    }

    /// Another exchange begins, or the taker is gone.
    pub fn reset(&mut self) {
        *self = Self::new(self.base, self.most, self.drift);
    }

    /// From now on it grows no further than this, and each read drifts.
    pub fn narrow(&mut self, most: usize) {
        self.most = most.max(self.base);
        self.size = self.size.min(self.most);
        self.drift = DRIFT;
    }

    /// How much may be read now. 0: the reader waits, and is polled again when there is room.
    pub fn room(&mut self) -> usize {
        let is_large = self.size > self.base && self.credit >= self.size;
        let (size, most_ahead) = match is_large {
            true => (self.size, self.drift),
            false => (self.base, DRIFT),
        };
        self.is_held = self.ahead > most_ahead;
        self.offered = match self.is_held {
            true => 0,
            false => size.saturating_sub(self.ahead),
        };
        self.offered
    }

    pub fn read(&mut self, bytes: usize) {
        self.ahead += bytes;
        self.credit = self.credit.saturating_sub(bytes);
        self.is_filled = bytes >= self.offered;
        self.seems_idle = false;
    }

    /// The taker has taken so much.
    pub fn took(&mut self, bytes: usize) -> Reader {
        self.ahead = self.ahead.saturating_sub(bytes);
        self.seems_idle = false;
        if self.is_filled && self.ahead <= DRIFT {
            self.is_filled = false;
            self.size = self.most.min(GROWTH * self.size);
        }
        self.go_on()
    }

    pub fn took_all(&mut self) -> Reader {
        self.took(usize::MAX)
    }

    /// Whether it would be larger if the taker had the room.
    pub fn wants_credit(&self) -> bool {
        self.size > self.base && self.credit < self.size && self.ahead <= DRIFT
    }

    /// The taker takes so much without waiting.
    pub fn grant(&mut self, credit: usize) {
        self.credit = credit;
    }

    /// The taker takes nothing now.
    pub fn stall(&mut self) -> Reader {
        self.size = self.base;
        self.credit = 0;
        match std::mem::replace(&mut self.is_stalled, true) {
            true => Reader::AsBefore,
            false => {
                self.has_given_back = false;
                // It has a buffer to give back.
                Reader::GoesOn
            }
        }
    }

    /// Whether the reader has to give back the memory that it reads to: once in each stall.
    pub fn takes_back(&mut self) -> bool {
        self.is_stalled && !std::mem::replace(&mut self.has_given_back, true)
    }

    /// It takes something again, if it did not.
    pub fn take_stalled(&mut self) -> bool {
        std::mem::take(&mut self.is_stalled)
    }

    /// The taker looks for something to take. A reader that is held while the taker finds nothing
    /// at two looks, one after the other, is held by the drift alone. At one look the queue between
    /// them might not have been looked at yet.
    pub fn look(&mut self) -> Reader {
        if !self.is_held {
            return Reader::AsBefore;
        }
        if self.seems_idle {
            return self.took_all();
        }
        self.seems_idle = true;
        // It is polled for the second look.
        Reader::GoesOn
    }

    fn go_on(&mut self) -> Reader {
        match std::mem::take(&mut self.is_held) {
            true => Reader::GoesOn,
            false => Reader::AsBefore,
        }
    }
}

#[cfg(test)]
mod tests;
