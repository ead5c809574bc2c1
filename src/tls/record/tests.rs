//! The record layer against rustls, in memory: every version, suite and role, cut and moved at
//! every place. Every nonce is [noted](super::audit), so a test fails that uses one twice.

mod misuse;
mod peer;

use std::io::Write;

use proptest::prelude::*;

use super::layer::Record;
use super::suite::Role;
use super::*;
use peer::{Memory, Peer, VARIANTS};

const WORDS: &[u8] = b"how are you? ";

#[test]
fn both_sides_understand_each_other_before_and_after_moves_and_key_updates() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        for round in 0..6 {
            peer.says(&mut ours, WORDS);
            assert_eq!(ours.hears(), WORDS, "{variant:?}");
            ours.says(WORDS);
            assert_eq!(peer.hears(&mut ours), WORDS, "{variant:?}");
            match round {
                1 | 3 => ours = ours.moved(),
                2 | 4 if variant.is_1_3() => peer.updates_key(&mut ours),
                _ => {}
            }
        }
    }
}

#[test]
fn key_updates_before_the_conversion_are_followed() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        for answers in [false, true] {
            let (mut peer, mut ours) = Peer::pair_after(variant, |peer, rustls| {
                for _ in 0..3 {
                    peer.updates_key_of(rustls);
                }
                if answers {
                    rustls.writer().write_all(b"x").unwrap();
                    peer.takes_from(rustls);
                }
            });
            let expected: &[u8] = if answers { b"xhello" } else { b"hello" };
            ours.says(b"hello");
            assert_eq!(peer.hears(&mut ours), expected, "{variant:?}");
            peer.says(&mut ours, b"good bye");
            assert_eq!(ours.hears(), b"good bye");
        }
    }
}

#[test]
fn what_rustls_has_and_has_not_read_at_the_conversion_comes_first() {
    for variant in VARIANTS {
        let (_, mut ours) = Peer::pair_after(variant, |peer, rustls| {
            peer.write(b"before ");
            peer.gives_to(rustls);
            rustls.process_new_packets().unwrap();
        });
        assert_eq!(ours.hears(), b"before ");
    }
}

/// Each byte by itself, and a move behind each.
#[test]
fn a_record_may_be_cut_anywhere_and_the_session_may_move_there() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        let mut heard = Vec::new();
        peer.write(WORDS);
        peer.write(b"fine");
        for byte in peer.sealed() {
            ours.socket_mut().inbound.push(byte);
            heard.extend(ours.hears());
            ours = ours.moved();
        }
        assert_eq!(heard, [WORDS, b"fine"].concat(), "{variant:?}");
        ours.says(b"me too");
        assert_eq!(peer.hears(&mut ours), b"me too");
    }
}

#[test]
fn a_socket_may_take_any_part_of_what_is_sealed() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        for takes in (0..320).step_by(7) {
            ours.socket_mut().takes = takes;
            ours.says(&[7; 300]);
            assert!(!ours.is_flushed(), "{takes} of 300 and more");
            ours = ours.moved();
            assert!(
                ours.refuses_more(),
                "nothing is sealed while something waits"
            );
            ours.socket_mut().takes = usize::MAX;
            ours.flushes();
            assert_eq!(peer.hears(&mut ours), [7; 300], "{variant:?} {takes}");
        }
    }
}

#[test]
fn much_at_once_comes_whole_to_small_readers_and_large_ones() {
    let much: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    for variant in VARIANTS {
        for room in [1_000, 16_384, 65_536] {
            let (mut peer, mut ours) = Peer::pair(variant);
            for part in much.chunks(50_000) {
                peer.write(part);
                let sealed = peer.sealed();
                ours.socket_mut().inbound.extend(sealed);
            }
            let mut heard = Vec::new();
            while heard.len() < much.len() {
                let part = ours.hears_at_most(room);
                assert!(!part.is_empty() && part.len() <= room);
                heard.extend(part);
                ours = ours.moved();
            }
            assert!(heard == much, "{variant:?} {room}");
            for part in much.chunks(70_000) {
                ours.says(part);
                assert_eq!(peer.hears(&mut ours), part);
            }
        }
    }
}

#[test]
fn each_side_can_end_and_the_other_still_be_heard() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        peer.write(b"bye");
        peer.closes(&mut ours);
        assert_eq!(ours.hears(), b"bye");
        assert!(ours.is_at_end(), "a clean end");
        ours = ours.moved();
        assert!(ours.is_at_end());
        ours.says(b"bye bye");
        assert_eq!(peer.hears(&mut ours), b"bye bye", "{variant:?}");
        ours.closes();
        assert!(peer.has_heard_close(&mut ours));

        let (mut peer, mut ours) = Peer::pair(variant);
        ours.closes();
        assert!(peer.has_heard_close(&mut ours));
        ours = ours.moved();
        assert!(ours.refuses_more(), "it stays closed");
        peer.says(&mut ours, b"and one more thing");
        assert_eq!(ours.hears(), b"and one more thing");
    }
}

#[test]
fn an_end_without_close_notify_is_a_cut() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        peer.says(&mut ours, WORDS);
        let sealed = &mut ours.socket_mut().inbound;
        sealed.pop();
        ours.socket_mut().has_ended = true;
        let error = ours.read_error();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

/// RFC 8446 section 5.5; TLS 1.2 has no way to go on.
#[test]
fn a_key_that_has_sealed_enough_is_replaced_or_the_connection_ends() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        ours.record_mut().limit = 9;
        let mut said = 0;
        for _ in 0..40 {
            if !ours.try_says(WORDS) {
                break;
            }
            said += 1;
            assert_eq!(peer.hears(&mut ours), WORDS, "{variant:?}");
            // It answers our request for its next key.
            peer.says(&mut ours, b"yes");
            assert_eq!(ours.hears(), b"yes");
        }
        if variant.is_1_3() {
            assert_eq!(said, 40);
        } else {
            assert!(said < 9, "{said}");
            assert!(peer.has_heard_close(&mut ours));
        }
    }
}

/// What happens in a session of [`sessions_of_any_kind_lose_nothing`].
#[derive(Debug, Clone)]
enum Step {
    PeerSays(usize),
    WeSay(usize),
    /// So many of the bytes that are on their way arrive.
    Arrive(usize),
    SocketTakes(usize),
    Move,
    PeerUpdatesKey,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_usize..40_000).prop_map(Step::PeerSays),
        4 => (1_usize..40_000).prop_map(Step::WeSay),
        6 => (1_usize..20_000).prop_map(Step::Arrive),
        2 => (0_usize..9_000).prop_map(Step::SocketTakes),
        6 => Just(Step::Move),
        2 => Just(Step::PeerUpdatesKey),
    ]
}

proptest! {
    /// The number of cases is `PROPTEST_CASES`: `make test-long` takes 4,000.
    #[test]
    fn sessions_of_any_kind_lose_nothing(
        variant in 0..VARIANTS.len(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let variant = VARIANTS[variant];
        let (mut peer, mut ours) = Peer::pair(variant);
        let (mut to_us, mut to_peer) = (Count::default(), Count::default());
        let mut underway: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::PeerSays(length) => {
                    peer.write(&to_us.says(length));
                    underway.extend(peer.sealed());
                }
                Step::WeSay(length) => {
                    let taken = ours.offers(&to_peer.next(length));
                    to_peer.said += taken;
                }
                Step::Arrive(length) => {
                    let length = length.min(underway.len());
                    ours.socket_mut().inbound.extend(underway.drain(..length));
                }
                Step::SocketTakes(length) => ours.socket_mut().takes = length,
                Step::Move => ours = ours.moved(),
                Step::PeerUpdatesKey if variant.is_1_3() => {
                    peer.refresh();
                    underway.extend(peer.sealed());
                }
                Step::PeerUpdatesKey => {}
            }
            to_us.hears(&ours.hears());
            to_peer.hears(&peer.hears(&mut ours));
        }
        ours.socket_mut().takes = usize::MAX;
        ours.socket_mut().inbound.extend(underway);
        ours.flushes();
        to_us.hears(&ours.hears());
        to_peer.hears(&peer.hears(&mut ours));
        prop_assert_eq!(to_us.said, to_us.heard);
        prop_assert_eq!(to_peer.said, to_peer.heard);
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Saved::from_bytes(&bytes).open();
    }
}

/// Numbered bytes in one direction.
#[derive(Default)]
struct Count {
    said: usize,
    heard: usize,
}

impl Count {
    fn next(&self, length: usize) -> Vec<u8> {
        (self.said..self.said + length).map(pattern).collect()
    }

    fn says(&mut self, length: usize) -> Vec<u8> {
        let next = self.next(length);
        self.said += length;
        next
    }

    fn hears(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, pattern(self.heard), "at {}", self.heard);
            self.heard += 1;
        }
    }
}

fn pattern(number: usize) -> u8 {
    (number % 251) as u8
}

#[test]
fn a_state_that_is_not_whole_or_of_another_format_is_refused() {
    for variant in VARIANTS {
        let (_, ours) = Peer::pair(variant);
        let saved = ours.save();
        let bytes = saved.as_bytes();
        assert!(bytes.len() <= 240, "{} bytes", bytes.len());
        for end in 0..bytes.len() {
            assert!(Saved::from_bytes(&bytes[..end]).open().is_err());
        }
        let longer = [bytes, &[0]].concat();
        assert!(Saved::from_bytes(&longer).open().is_err());
        assert_eq!(
            format!("{saved:?}"),
            format!("Saved({} bytes)", bytes.len())
        );
    }
}

/// An idle TLS end costs a socket, its keys and three empty buffers.
#[test]
fn a_connection_is_small() {
    let heap = size_of::<Record>();
    let (stream, socket) = (size_of::<RecordStream<Memory>>(), size_of::<Memory>());
    assert!(heap <= 320, "{heap} bytes");
    assert!(stream - socket <= 112, "{} bytes", stream - socket);
}
