//! Any courses that two peers can take, with a carrier that obeys as the relay does.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What a peer does, or the time.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A frame with this much payload, of which so much comes at once.
    Frame(Direction, u8, u8),
    /// More of the frame that is passing, and perhaps of frames without payload behind it.
    More(Direction, u8),
    Close(Direction),
    Breaks(Direction),
    Ends(Direction),
    /// The direction's receiver takes nothing more.
    Gone(Direction),
    TimeIsUp,
}

/// What has gone into a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Byte,
    Close,
    OurClose,
}

/// One direction of a carrier, in bytes: a frame is its payload, its header comes whole.
#[derive(Debug, Clone, Default)]
struct Lane {
    left: u8,
    is_closed: bool,
    is_broken: bool,
    has_ended: bool,
    /// The receiver takes nothing more.
    is_gone: bool,
    passed: Vec<Word>,
}

#[derive(Debug)]
struct Carrier {
    goodbye: Goodbye,
    /// In the order of [`Direction::BOTH`].
    lanes: [Lane; 2],
    waited: Duration,
    wait: Duration,
    is_cut: bool,
}

impl Lane {
    fn position(&self) -> Position {
        match () {
            () if self.is_broken => Position::Broken,
            () if self.left == 0 => Position::Boundary,
            () => Position::InFrame,
        }
    }

    /// As the scanner of one that sends in this lane, and takes what is in the other.
    fn sender(&self, other: &Self) -> Side {
        Side {
            says: match () {
                () if self.is_closed => Says::Closed,
                () if self.is_broken => Says::Broken,
                () => Says::Frames,
            },
            has_ended: self.has_ended,
            takes: if other.is_gone {
                Takes::Nothing
            } else {
                Takes::More
            },
            has_got_all: true,
        }
    }

    fn is_silent(&self) -> bool {
        self.is_closed || self.is_broken || self.has_ended
    }
}

impl Carrier {
    fn begin(occasion: Occasion, mut lanes: [Lane; 2]) -> Self {
        match occasion {
            Occasion::FramingBroke(direction) => {
                let lane = &mut lanes[direction as usize];
                lane.left = 0;
                lane.is_broken = true;
            }
            Occasion::GivenUp(direction) => lanes[direction as usize].is_gone = true,
            Occasion::Asked | Occasion::Expired(_) => {}
        }
        let [to_server, to_client] = &lanes;
        let client = to_server.sender(to_client);
        let server = to_client.sender(to_server);
        let (goodbye, wait) = Goodbye::begin(CODE, occasion, client, server);
        Self {
            goodbye,
            lanes,
            waited: Duration::ZERO,
            wait,
            is_cut: false,
        }
    }

    fn is_over(&self) -> bool {
        let [to_server, to_client] = &self.lanes;
        let client = to_server.sender(to_client);
        self.is_cut || self.goodbye.is_over(client, to_client.sender(to_server))
    }

    /// As the relay asks: nothing can pass to one that has gone, nor behind a Close frame.
    fn next(&mut self, direction: Direction) -> Next {
        let lane = &mut self.lanes[direction as usize];
        if lane.is_gone || lane.is_closed {
            return Next::Discard;
        }
        let next = self.goodbye.next(direction, lane.position());
        if let Next::Say(code) = next {
            assert_eq!((code, lane.left), (CODE, 0), "only at a boundary");
            lane.passed.push(Word::OurClose);
        }
        next
    }

    /// The Close frames that are due are put in.
    fn pump(&mut self) {
        for direction in Direction::BOTH {
            while let Next::Say(_) = self.next(direction) {}
        }
    }

    /// Reads so many bytes of the frame that is passing.
    fn pass(&mut self, direction: Direction, count: u8) {
        let next = self.next(direction);
        let lane = &mut self.lanes[direction as usize];
        let count = count.min(lane.left);
        lane.left -= count;
        if let Next::Pass(_) = next {
            lane.passed.extend(vec![Word::Byte; usize::from(count)]);
        }
    }

    /// Of a frame that begins: not a byte of it passes where only the one before it may.
    fn may_begin(&mut self, direction: Direction) -> bool {
        let lane = &self.lanes[direction as usize];
        if lane.is_silent() || lane.left > 0 {
            return false;
        }
        self.pump();
        let next = self.next(direction);
        assert_ne!(next, Next::Pass(Limit::Frame), "at a boundary");
        true
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Frame(direction, length, count) => {
                if self.may_begin(direction) {
                    self.lanes[direction as usize].left = length;
                    self.pass(direction, count);
                }
            }
            Event::More(direction, count) => self.pass(direction, count),
            Event::Close(direction) => {
                if self.may_begin(direction) {
                    let passes = matches!(self.next(direction), Next::Pass(_));
                    let lane = &mut self.lanes[direction as usize];
                    lane.is_closed = true;
                    lane.passed.extend(passes.then_some(Word::Close));
                }
            }
            Event::Breaks(direction) => {
                if self.may_begin(direction) {
                    self.lanes[direction as usize].is_broken = true;
                    self.goodbye.framing_broke(direction);
                }
            }
            Event::Ends(direction) => {
                self.lanes[direction as usize].has_ended = true;
                self.goodbye.ended(direction);
            }
            Event::Gone(direction) => self.lanes[direction as usize].is_gone = true,
            Event::TimeIsUp => {
                self.waited += self.wait;
                match self.goodbye.time_is_up() {
                    TimeUp::Again(wait) => self.wait = wait,
                    TimeUp::Cut => self.is_cut = true,
                }
            }
        }
        self.pump();
    }
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::ToServer), Just(Direction::ToClient)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (direction(), 0..5_u8, 0..5_u8).prop_map(|(to, length, count)| {
            Event::Frame(to, length, count)
        }),
        4 => (direction(), 1..5_u8).prop_map(|(to, count)| Event::More(to, count)),
        2 => direction().prop_map(Event::Close),
        1 => direction().prop_map(Event::Breaks),
        1 => direction().prop_map(Event::Ends),
        1 => direction().prop_map(Event::Gone),
        1 => Just(Event::TimeIsUp),
    ]
}

/// A lane as a goodbye may find it.
fn lane() -> impl Strategy<Value = Lane> {
    let states = (0..4_u8, any::<bool>(), any::<bool>(), any::<bool>());
    states.prop_map(|(left, is_closed, has_ended, is_gone)| Lane {
        left: if is_closed { 0 } else { left },
        is_closed,
        has_ended,
        is_gone,
        ..Lane::default()
    })
}

fn occasion() -> impl Strategy<Value = Occasion> {
    proptest::sample::select(&OCCASIONS[..])
}

fn carrier() -> impl Strategy<Value = Carrier> {
    let lanes = [lane(), lane()];
    (occasion(), lanes).prop_map(|(occasion, lanes)| Carrier::begin(occasion, lanes))
}

proptest! {
    #[test]
    fn our_close_is_the_last_word_of_a_direction(
        mut carrier in carrier(),
        events in vec(event(), 0..40),
    ) {
        carrier.pump();
        for event in events {
            carrier.on(event);
            for lane in &carrier.lanes {
                let closes = |word: &Word| matches!(word, Word::Close | Word::OurClose);
                if let Some(at) = lane.passed.iter().position(closes) {
                    // So it is also the only one.
                    prop_assert_eq!(at + 1, lane.passed.len(), "{:?}", lane.passed);
                }
            }
        }
    }

    #[test]
    fn a_goodbye_ends_in_time_whatever_the_peers_do(
        mut carrier in carrier(),
        events in vec(event(), 0..40),
    ) {
        carrier.pump();
        for event in events {
            if carrier.is_over() {
                break;
            }
            carrier.on(event);
        }
        while !carrier.is_over() {
            carrier.on(Event::TimeIsUp);
        }
        prop_assert!(carrier.waited <= CLOSE_WAIT + LAST_WAIT, "{:?}", carrier.waited);
    }

    /// Both finish their frames and answer: then nobody has to wait for a timer.
    #[test]
    fn peers_that_answer_end_a_goodbye_of_ours_without_the_clock(
        lefts in [0..4_u8, 0..4_u8],
        occasion in occasion(),
    ) {
        let lanes = lefts.map(|left| Lane { left, ..Lane::default() });
        let mut carrier = Carrier::begin(occasion, lanes);
        carrier.pump();
        for direction in Direction::BOTH {
            carrier.on(Event::More(direction, u8::MAX));
            carrier.on(Event::Close(direction));
        }
        prop_assert!(carrier.is_over(), "{carrier:?}");
        prop_assert_eq!(carrier.waited, Duration::ZERO);
    }
}
