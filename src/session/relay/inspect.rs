//! What a relay does with bytes that have come: it reads the frames, counts the bytes that may
//! pass, and ends the session if the framing is broken.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::BytesMut;
use tokio::time::Instant;

use super::{POLICY, PROTOCOL_ERROR, Relay, TOO_BIG};
use crate::session::direction::Direction;
use crate::session::goodbye::Occasion;
use crate::session::traffic::ClosedBy;
use crate::websocket::frames::CloseCode;

impl Relay {
    /// Returns how much of what has come may pass, and counts it. A held-back part of a header that
    /// is now whole is put in front. `None`: nothing may pass.
    pub(super) fn inspect(
        &mut self,
        direction: Direction,
        bytes: &[u8],
    ) -> Option<(BytesMut, usize)> {
        let now = Instant::now();
        let rate = match direction {
            Direction::ToServer => self.message_rate.as_deref().copied(),
            Direction::ToClient => None,
        };
        let awaits_pong = self.pinged.is_some();
        let from = self.sender(direction);
        let was_closed = from.scanner.close_code().is_some();
        let held = match from.scanner.held() {
            [] => BytesMut::new(),
            held => BytesMut::from(held),
        };
        let (others, in_frame) = (from.scanner.others(), !from.scanner.between_frames());
        let messages_before = from.scanner.messages();
        let sound = match rate {
            None => from.scanner.feed(bytes).sound,
            Some(rate) => from.scanner.feed_at_most(bytes, rate.available(now)).sound,
        };
        let messages = from.scanner.messages();
        let only_pongs = !in_frame && from.scanner.others() == others;
        let close = from.scanner.close_code().filter(|_| !was_closed);
        let broken_by = from.scanner.is_broken().then(|| {
            if from.scanner.is_over() {
                (ClosedBy::Limit, TOO_BIG)
            } else if from.scanner.is_one_too_many() {
                (ClosedBy::Limit, POLICY)
            } else {
                (ClosedBy::Error, PROTOCOL_ERROR)
            }
        });
        if let (Some(_), Some(rate)) = (rate, &mut self.message_rate) {
            rate.spend(messages - messages_before, now);
        }
        if sound > 0 {
            add(self.byte_count(direction), (held.len() + sound) as u64);
        }
        let traffic = &self.traffic;
        let message_count = match direction {
            Direction::ToServer => &traffic.messages_in,
            Direction::ToClient => &traffic.messages_out,
        };
        message_count.store(messages, Relaxed);
        if let Some(code) = close {
            traffic.close(direction.sender(), Some(code));
        }
        if direction == Direction::ToServer {
            self.last_heard = now;
            self.pinged = None;
        }
        // The answer to our own ping does not count as activity.
        if !(awaits_pong && only_pongs && direction == Direction::ToServer) {
            self.last_activity = now;
        }
        if let Some((by, code)) = broken_by {
            self.cut_off(direction, by, code);
        }
        (sound > 0).then_some((held, sound))
    }

    /// From now on nothing passes in this direction.
    fn cut_off(&mut self, direction: Direction, by: ClosedBy, code: u16) {
        if let Some(ending) = &mut self.ending {
            ending.goodbye.framing_broke(direction);
            return;
        }
        self.begin_ending(by, code, Occasion::FramingBroke(direction));
        if self.ending.as_ref().is_some_and(|ending| ending.is_cause) {
            self.traffic.set_close_code(CloseCode::Code(code));
        }
    }

    pub(super) fn byte_count(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToServer => &self.traffic.bytes_in,
            Direction::ToClient => &self.traffic.bytes_out,
        }
    }
}

/// Only one task writes the counter, so no atomic addition is needed.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed) + more, Relaxed);
}
