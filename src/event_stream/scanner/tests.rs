use proptest::prelude::*;

use super::*;
use crate::event_stream::PING;

/// The data of each event that a client dispatches, read as the standard describes it.
fn dispatched(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream);
    let (mut events, mut data, mut line) = (Vec::new(), None::<Vec<u8>>, Vec::new());
    let mut bytes = stream.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
            }
            b'\n' => {}
            byte => {
                line.push(byte);
                continue;
            }
        }
        let line = std::mem::take(&mut line);
        if line.is_empty() {
            events.extend(data.take());
        } else if line == b"data" || line.starts_with(b"data:") {
            let value = line.get(5..).unwrap_or_default();
            let data = data.get_or_insert_default();
            data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            data.push(b'\n');
        }
    }
    events
}

/// Streams that have much of what matters.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"]),
        4 => prop::sample::select(vec![
            "data: x", "data", "data:", "dat", "datab: x", "id: 7", ": note", "d", "a", " ", "\u{feff}",
            "\u{f000}", "event: data", "retry: 5",
        ]),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat().into_bytes())
}

fn scanned(stream: &[u8]) -> EventScanner {
    let mut scanner = EventScanner::default();
    scanner.feed(stream);
    scanner
}

proptest! {
    #[test]
    fn events_are_counted_as_a_client_dispatches_them(stream in stream()) {
        prop_assert_eq!(scanned(&stream).events(), dispatched(&stream).len() as u64);
    }

    #[test]
    fn any_cut_of_the_bytes_leads_to_the_same_state(stream in stream(), cut in any::<prop::sample::Index>()) {
        let (first, second) = stream.split_at(cut.index(stream.len() + 1));
        let mut scanner = scanned(first);
        let moved = EventScanner::from_state(scanner.state());
        prop_assert_eq!(moved, Some(scanner));
        scanner.feed(second);
        prop_assert_eq!(scanner, scanned(&stream));
    }

    #[test]
    fn a_comment_between_events_changes_nothing(stream in stream()) {
        let before = dispatched(&stream);
        // A byte order mark counts only at the very beginning.
        let first = usize::from(stream.first() == Some(&BYTE_ORDER_MARK[0]));
        for cut in first..=stream.len() {
            let (first, second) = stream.split_at(cut);
            if scanned(first).is_between_events() {
                prop_assert_eq!(&dispatched(&[first, PING, second].concat()), &before);
            }
        }
    }

    #[test]
    fn what_ends_between_events_is_whole(stream in stream()) {
        for cut in 0..=stream.len() {
            let (first, second) = stream.split_at(cut);
            // A byte order mark counts only at the very beginning.
            let is_marked = second.starts_with(BYTE_ORDER_MARK);
            if scanned(first).is_between_events() && !is_marked {
                let parts = [dispatched(first), dispatched(second)].concat();
                prop_assert_eq!(parts.len(), dispatched(&stream).len());
            }
        }
    }

    #[test]
    fn reading_to_the_boundary_stops_at_the_first_one(stream in stream(), cut in any::<prop::sample::Index>()) {
        let (first, second) = stream.split_at(cut.index(stream.len() + 1));
        let before = scanned(first);
        let mut scanner = before;
        let read = scanner.feed_to_boundary(second);
        let mut walked = before;
        let mut steps = 0;
        while steps < second.len() && !walked.is_between_events() {
            walked.feed(&second[steps..=steps]);
            steps += 1;
        }
        prop_assert_eq!((read, scanner), (steps, walked));
    }

    #[test]
    fn a_state_that_does_not_exist_is_refused(position in 13_u8..) {
        let state = ScannerState { position, ..EventScanner::default().state() };
        prop_assert_eq!(EventScanner::from_state(state), None);
    }
}

#[test]
fn every_ordinary_event_ends_where_its_empty_line_ends() {
    for event in [
        "data: x\n\n",
        "data: x\r\n\r\n",
        "data: x\r\r",
        "id: 1\r\ndata: x\r\n\r\n",
        ": note\n\n",
    ] {
        for end in 1..=event.len() {
            let is_whole = end == event.len();
            assert_eq!(
                scanned(&event.as_bytes()[..end]).is_between_events(),
                is_whole,
                "{event:?} up to {end}"
            );
        }
    }
}
