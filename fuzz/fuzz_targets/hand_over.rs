//! The hand-over's messages: whatever the bytes, an error or a message that can be written again
//! and acted on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prusik::lifecycle::wire::{Message, decode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = decode(bytes) else { return };
    if let Message::Session { session, .. } = &message {
        for leg in [&session.client, &session.server] {
            let mut scanner = leg.scanner.clone();
            scanner.feed(bytes);
            assert!(scanner.is_consistent());
        }
    }
    let _ = format!("{message:?}");
});
