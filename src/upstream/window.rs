//! How far one side of an exchange is read ahead of what the other side has taken.
//!
//! A read costs two system calls and a turn through Pingora, so large bodies need large reads. But
//! bytes that were read and not taken cost memory as long as the taker takes nothing. So a window
//! begins small, and grows each time that a read has filled it and all of it was taken. It stays
//! larger than at first only while its taker is known to have room: this *credit* is what the
//! kernel reports for the taker's socket. A taker that stalls has no credit.
//!
//! Nothing more is read before everything is taken: Pingora would write the bytes of two reads
//! together, from one more buffer.

/// So many bytes may seem not to be taken without being counted. What one side sends and what the
/// other side gets differ in length, because heads and chunks are written anew.
pub(super) const DRIFT: usize = 512;

/// Few steps, because each one is a read: a window reaches its full size before Pingora's copy of a
/// request, which it keeps for a retry, becomes so large that Pingora drops it.
const GROWTH: usize = 4;

/// A value without sockets. The streams tell it what they did.
#[derive(Debug)]
pub(super) struct Window {
    /// The size without credit.
    base: usize,
    most: usize,
    /// How many bytes may be ahead uncounted. It is larger once the window was narrowed.
    drift: usize,
    /// The size with credit, from `base` to `most`.
    size: usize,
    /// Bytes that were read and not taken yet.
    ahead: usize,
    /// How many bytes the taker takes without waiting, at least.
    credit: usize,
    /// How much room there was at the last look.
    offered: usize,
    /// The last read was as large as it could be, so there is more to read.
    is_filled: bool,
    /// The reader was told to wait.
    is_held: bool,
    /// The taker had nothing to take when it last looked.
    seems_idle: bool,
    is_stalled: bool,
    has_given_back: bool,
}

/// Whether the reader has waited and must be polled, because it may go on.
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

    /// Called when another exchange begins, or the taker is gone.
    pub fn reset(&mut self) {
        *self = Self::new(self.base, self.most, self.drift);
    }

    /// From now on the window grows no further than `most`, and [`DRIFT`] bytes do not count.
    pub fn narrow(&mut self, most: usize) {
        self.most = most.max(self.base);
        self.size = self.size.min(self.most);
        self.drift = DRIFT;
    }

    /// How many bytes may be read now. 0: the reader waits, and is polled when there is room.
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

    /// The same, and whether the reader waits only since now: then the taker must look once more,
    /// because it may never be woken again.
    pub fn ask_room(&mut self) -> (usize, bool) {
        let was_held = self.is_held;
        let room = self.room();
        (room, self.is_held && !was_held)
    }

    pub fn read(&mut self, bytes: usize) {
        self.ahead += bytes;
        self.credit = self.credit.saturating_sub(bytes);
        self.is_filled = bytes >= self.offered;
        self.seems_idle = false;
    }

    /// The taker has taken this many bytes.
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

    /// Whether the window would be larger if the taker had room.
    pub fn wants_credit(&self) -> bool {
        self.size > self.base && self.credit < self.size && self.ahead <= DRIFT
    }

    /// The taker takes this many bytes without waiting.
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
                // The reader has a buffer to give back.
                Reader::GoesOn
            }
        }
    }

    /// Whether the reader must give back the memory of its buffer: once in each stall.
    pub fn takes_back(&mut self) -> bool {
        self.is_stalled && !std::mem::replace(&mut self.has_given_back, true)
    }

    /// Whether the taker had stalled. It takes something again now.
    pub fn take_stalled(&mut self) -> bool {
        std::mem::take(&mut self.is_stalled)
    }

    /// The taker looks for something to take. If it finds nothing at two looks in a row while the
    /// reader is held, then only the drift holds the reader. After one look only, the queue between
    /// them may not have been read yet.
    pub fn look(&mut self) -> Reader {
        if !self.is_held {
            return Reader::AsBefore;
        }
        if self.seems_idle {
            return self.took_all();
        }
        self.seems_idle = true;
        // The reader is polled for the second look.
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
