//! Event streams (`text/event-stream`, WHATWG HTML section 9.2), without sockets: where an event
//! ends, and what may be put between two events.

mod scanner;

pub use scanner::{EventScanner, ScannerState};

/// A comment, which clients ignore. It may stand between any two events.
pub const PING: &[u8] = b": ping\n\n";

/// Whether the value of a `Content-Type` names an event stream.
pub fn is_event_stream(content_type: &[u8]) -> bool {
    let end = memchr::memchr(b';', content_type).unwrap_or(content_type.len());
    content_type[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_recognised_with_and_without_parameters() {
        for (value, is_one) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            (" text/event-stream ;x", true),
            ("text/event-streams", false),
            ("application/json; x=text/event-stream", false),
            ("", false),
        ] {
            assert_eq!(is_event_stream(value.as_bytes()), is_one, "{value:?}");
        }
    }
}
