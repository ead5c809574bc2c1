use proptest::prelude::*;

use super::*;

const BASE: usize = 4096;
const MOST: usize = 64 * 1024;

fn window() -> Window {
    Window::new(BASE, MOST, 0)
}

/// Reads all that there is room for.
fn fill(window: &mut Window) -> usize {
    let room = window.room();
    window.read(room);
    room
}

/// A body that comes and goes as fast as it can, of a taker with much room.
fn grown() -> Window {
    let mut window = window();
    window.grant(usize::MAX / 2);
    while fill(&mut window) < MOST {
        window.took_all();
    }
    window.took_all();
    window
}

#[test]
fn a_side_is_read_a_window_ahead_of_what_the_other_has_taken() {
    let mut window = window();
    assert_eq!(window.room(), BASE);
    window.read(BASE);
    assert_eq!(window.room(), 0);
    assert_eq!(window.took(BASE - DRIFT - 1), Reader::GoesOn);
    assert_eq!(window.room(), 0);
    assert_eq!(window.took(1), Reader::GoesOn);
    assert_eq!(window.room(), BASE - DRIFT);
}

#[test]
fn a_window_grows_while_all_of_it_is_taken_and_the_taker_has_room() {
    let mut window = window();
    window.grant(1 << 20);
    let mut rooms = Vec::new();
    for _ in 0..4 {
        rooms.push(fill(&mut window));
        window.took_all();
    }
    assert_eq!(rooms, [BASE, 4 * BASE, MOST, MOST]);
}

#[test]
fn a_window_that_is_not_filled_does_not_grow() {
    let mut window = window();
    window.grant(1 << 20);
    for _ in 0..5 {
        window.room();
        window.read(BASE - 1);
        window.took_all();
        assert_eq!(window.room(), BASE);
    }
}

#[test]
fn a_window_is_as_at_first_without_credit_and_asks_for_some() {
    let mut window = window();
    assert!(!window.wants_credit());
    assert_eq!(fill(&mut window), BASE);
    window.took_all();
    assert!(window.wants_credit());
    assert_eq!(window.room(), BASE);
    window.grant(4 * BASE);
    assert!(!window.wants_credit());
    assert_eq!(fill(&mut window), 4 * BASE);
    // It is used up now.
    window.took_all();
    assert!(window.wants_credit());
    assert_eq!(window.room(), BASE);
}

#[test]
fn a_large_window_is_read_again_only_when_it_was_taken() {
    let mut window = grown();
    window.room();
    window.read(2);
    assert_eq!(window.room(), 0);
    window.took(1);
    assert_eq!(window.room(), 0);
    window.took(1);
    assert_eq!(window.room(), MOST);
}

#[test]
fn a_taker_that_stalls_makes_the_window_what_it_was_at_first() {
    let mut window = grown();
    assert_eq!(fill(&mut window), MOST);
    window.took(10);
    assert_eq!(window.stall(), Reader::GoesOn);
    assert_eq!(window.room(), 0);
    assert_eq!(window.stall(), Reader::AsBefore);
    window.took(MOST - 10 - DRIFT);
    assert_eq!(window.room(), BASE - DRIFT);
    window.took_all();
    assert!(window.take_stalled());
    assert!(!window.take_stalled());
    // What had filled it was taken at last.
    window.grant(1 << 20);
    assert_eq!(window.room(), 4 * BASE);
}

#[test]
fn a_reader_gives_its_memory_back_once_in_each_stall() {
    let mut window = grown();
    assert!(!window.takes_back());
    for _ in 0..2 {
        window.stall();
        assert!(window.takes_back());
        window.stall();
        assert!(!window.takes_back());
        assert!(window.take_stalled());
        assert!(!window.takes_back());
    }
}

#[test]
fn a_reader_that_is_held_by_a_drift_alone_goes_on_after_two_looks() {
    let mut window = window();
    fill(&mut window);
    // It is not held yet.
    assert_eq!(window.look(), Reader::AsBefore);
    assert_eq!(window.look(), Reader::AsBefore);
    assert_eq!(window.room(), 0);
    assert_eq!(window.look(), Reader::GoesOn);
    assert_eq!(window.room(), 0);
    // Something was in the queue.
    window.took(1);
    assert_eq!(window.room(), 0);
    window.look();
    assert_eq!(window.look(), Reader::GoesOn);
    assert_eq!(window.room(), BASE);
}

#[test]
fn what_the_taker_gets_beside_what_was_read_makes_no_more_room() {
    let mut window = window();
    window.took(3 * BASE);
    assert_eq!(window.room(), BASE);
}

#[test]
fn a_narrowed_window_grows_no_further() {
    let mut window = grown();
    window.narrow(2 * BASE);
    assert_eq!(window.room(), 2 * BASE);
    fill(&mut window);
    // Each read drifts by some bytes, which do not count.
    window.took(2 * BASE - 10);
    assert_eq!(window.room(), 2 * BASE - 10);
}

#[derive(Debug, Clone)]
enum Event {
    Read(usize),
    Took(usize),
    Grant(usize),
    Stall,
    Look,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => prop_oneof![Just(usize::MAX), 1..MOST].prop_map(Event::Read),
        4 => prop_oneof![Just(usize::MAX), 1..MOST].prop_map(Event::Took),
        2 => (0..4 * MOST).prop_map(Event::Grant),
        1 => Just(Event::Stall),
        1 => Just(Event::Look),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn whatever_happens_what_is_ahead_is_bounded_and_no_reader_is_forgotten(events in events()) {
        let mut window = window();
        // As the streams see it: what is not taken, and how much of it was read without credit.
        let mut ahead: usize = 0;
        let mut credit: usize = 0;
        for event in events {
            match event {
                Event::Read(bytes) => {
                    let room = window.room();
                    prop_assert!(room <= MOST);
                    // More than the base is read only by credit, and of nothing that still waits.
                    if room > BASE {
                        prop_assert!(credit >= room);
                        prop_assert_eq!(ahead, 0);
                    } else if room > 0 {
                        prop_assert!(ahead <= DRIFT && ahead + room <= BASE);
                    }
                    let bytes = bytes.min(room);
                    if bytes > 0 {
                        window.read(bytes);
                        ahead += bytes;
                        credit = credit.saturating_sub(bytes);
                    }
                }
                Event::Took(bytes) => {
                    let bytes = bytes.min(ahead);
                    if bytes > 0 {
                        ahead -= bytes;
                        window.took(bytes);
                    }
                }
                Event::Grant(bytes) => {
                    window.grant(bytes);
                    credit = bytes;
                }
                Event::Stall => {
                    window.stall();
                    credit = 0;
                }
                Event::Look => {
                    let is_idle = ahead == 0;
                    let first = window.look();
                    // Only who finds nothing at two looks in a row frees a reader that way.
                    if is_idle {
                        window.look();
                        prop_assert!(window.room() > 0);
                    } else if first == Reader::GoesOn {
                        ahead -= 1;
                        window.took(1);
                    }
                }
            }
            prop_assert!(ahead <= MOST);
        }
        // Once all is taken, the reader that waits is polled and has room.
        let is_held = window.room() == 0;
        let reader = window.took(ahead);
        prop_assert!(!is_held || reader == Reader::GoesOn);
        prop_assert!(window.room() >= BASE - DRIFT);
    }
}
