//! The frame parser: any bytes, cut anywhere. What it passes is what came, in order, and cutting
//! changes nothing of what it finds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prusik::websocket::frames::{FrameScanner, Sender};

fuzz_target!(|input: (bool, bool, Vec<u8>, Vec<u8>)| {
    let (from_client, extended, bytes, cuts) = input;
    let sender = match from_client {
        true => Sender::Client,
        false => Sender::Server,
    };
    let mut whole = FrameScanner::new(sender, extended);
    let sound = whole.feed(&bytes).sound;

    let mut scanner = FrameScanner::new(sender, extended);
    let mut passed = Vec::new();
    let mut rest = &bytes[..];
    for size in cuts.iter().map(|cut| usize::from(*cut) + 1).chain([bytes.len()]) {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        let held = scanner.held().to_vec();
        let sound = scanner.feed(piece).sound;
        assert!(scanner.is_consistent());
        if sound > 0 {
            passed.extend(held);
            passed.extend(&piece[..sound]);
        }
        rest = behind;
    }
    assert_eq!(passed, bytes[..sound]);
    assert_eq!(scanner, whole);
    // Its Close frame is the end of a stream.
    if whole.is_closed() {
        assert_eq!(whole.feed(&bytes).sound, 0);
        assert_eq!(scanner, whole);
    }
});
