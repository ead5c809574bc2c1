//! The ends of a stream, with both sides in the test's hand and time that passes when nobody has
//! anything to do.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::http1::chunked::ChunkScanner;
use crate::net::Socket;
use crate::session::expiry::Expiry;
use crate::transport::Transport;

/// What the clock may be off by: timers count whole milliseconds.
const SLACK: Duration = Duration::from_millis(10);

const GO: Order = Order::End {
    by: ClosedBy::Drain,
    code: 1012,
};

/// A stream whose relay runs. On unix sockets nothing is under way between the two ends.
struct Running {
    client: UnixStream,
    server: UnixStream,
    traffic: Arc<Traffic>,
    relay: JoinHandle<(EventRelay, Outcome, Instant)>,
}

fn pair() -> (UnixStream, Transport) {
    let (test, relay) = UnixStream::pair().unwrap();
    (test, Socket::Unix(relay).into())
}

fn run(mut relay: EventRelay) -> JoinHandle<(EventRelay, Outcome, Instant)> {
    tokio::spawn(async move {
        let outcome = Pin::new(&mut relay).await;
        (relay, outcome, Instant::now())
    })
}

fn begin(limits: Limits, early: &[u8]) -> Running {
    let ((client, to_client), (server, to_server)) = (pair(), pair());
    let stream = ServerStream {
        body: Body::Chunked(ChunkScanner::default()),
        events: Some(EventScanner::default()),
    };
    let traffic = Arc::new(Traffic::default());
    let relay = EventRelay::new(
        Leg::with(to_client, ()),
        (Leg::with(to_server, stream), early.into()),
        ClientFraming::Chunked,
        traffic.clone(),
        limits,
    );
    Running {
        client,
        server,
        traffic,
        relay: run(relay),
    }
}

fn chunk(content: &str) -> String {
    format!("{:x}\r\n{content}\r\n", content.len())
}

async fn read(client: &mut UnixStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

async fn ended(running: JoinHandle<(EventRelay, Outcome, Instant)>) -> (EventRelay, Instant) {
    // In a moment: there is nothing to wait for.
    let ended = timeout(Duration::from_secs(7200), running).await;
    let (relay, outcome, at) = ended.expect("the stream ends").unwrap();
    assert_eq!(outcome, Outcome::Ended);
    (relay, at)
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_credential_has_ended_ends_between_two_events() {
    let ((mut client, to_client), (mut server, to_server)) = (pair(), pair());
    let stream = ServerStream {
        body: Body::Chunked(ChunkScanner::default()),
        events: Some(EventScanner::default()),
    };
    let traffic = Arc::new(Traffic::default());
    let mut relay = EventRelay::new(
        Leg::with(to_client, ()),
        (
            Leg::with(to_server, stream),
            BytesMut::from("8\r\ndata: a\n\r\n"),
        ),
        ClientFraming::Chunked,
        traffic.clone(),
        Limits::default(),
    );
    relay.alarm = Some(Box::new(Alarm::new(Expiry::from_parts(1, 4401))));
    let relay = run(relay);
    read(&mut client, &chunk("data: a\n")).await;
    server.write_all(b"9\r\n\ndata: b\n\r\n").await.unwrap();
    read(&mut client, &format!("{}0\r\n\r\n", chunk("\n"))).await;
    ended(relay).await;
    assert_eq!(traffic.closed_by(), Some(ClosedBy::Expiry));
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_the_events_end_and_not_for_ever() {
    let mut stream = begin(Limits::default(), b"");
    let began = Instant::now();
    stream.server.write_all(b"6\r\ndata: \r\n").await.unwrap();
    read(&mut stream.client, &chunk("data: ")).await;
    stream.traffic.ask(GO);
    let (mut relay, at) = ended(stream.relay).await;
    let lasted = at - began;
    assert!(
        (CLOSE_WAIT..CLOSE_WAIT + SLACK).contains(&lasted),
        "{lasted:?}"
    );
    assert_eq!(
        relay.failure,
        Some("the server did not end its event in time")
    );
    relay.part();
    drop(relay);
    let mut rest = String::new();
    stream.client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "", "no last chunk");
}

#[tokio::test(start_paused = true)]
async fn an_order_between_events_is_obeyed_at_once() {
    let mut stream = begin(Limits::default(), chunk("data: x\n\n").as_bytes());
    read(&mut stream.client, &chunk("data: x\n\n")).await;
    let began = Instant::now();
    stream.traffic.ask(GO);
    read(&mut stream.client, "0\r\n\r\n").await;
    let (_, at) = ended(stream.relay).await;
    assert!(at - began < SLACK);
    assert_eq!(stream.traffic.closed_by(), Some(ClosedBy::Drain));
}

#[tokio::test(start_paused = true)]
async fn a_cut_says_no_end() {
    let mut stream = begin(Limits::default(), b"");
    let by = ClosedBy::Drain;
    stream.traffic.ask(Order::Cut { by });
    let (relay, _) = ended(stream.relay).await;
    drop(relay);
    let mut rest = Vec::new();
    stream.client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test(start_paused = true)]
async fn quiet_and_age_are_limited() {
    let hour = Duration::from_secs(3600);
    for by in [ClosedBy::Idle, ClosedBy::MaxSession] {
        let is_idle = by == ClosedBy::Idle;
        let limits = Limits {
            idle: is_idle.then_some(hour),
            end: (!is_idle).then(|| Instant::now() + hour),
            ..Limits::default()
        };
        let mut stream = begin(limits, b"");
        let began = Instant::now();
        read(&mut stream.client, "0\r\n\r\n").await;
        let (_, at) = ended(stream.relay).await;
        let lasted = at - began;
        assert!((hour..hour + SLACK).contains(&lasted), "{lasted:?}");
        assert_eq!(stream.traffic.closed_by(), Some(by));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up() {
    let stall = Duration::from_secs(60);
    let limits = Limits {
        client_stall: Some(stall),
        ..Limits::default()
    };
    let mut stream = begin(limits, b"");
    let flood = chunk(&"x".repeat(60_000));
    let flooding =
        tokio::spawn(
            async move { while stream.server.write_all(flood.as_bytes()).await.is_ok() {} },
        );
    let (relay, _) = ended(stream.relay).await;
    assert_eq!(stream.traffic.closed_by(), Some(ClosedBy::Error));
    assert!(relay.client.waiting.len() <= super::super::relay::CHUNK);
    drop(relay);
    flooding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_asking_is_cut() {
    let mut stream = begin(Limits::default(), b"");
    let asking = vec![b'x'; UNASKED_MAX + 1];
    // The rest finds nobody.
    let _ = stream.client.write_all(&asking).await;
    ended(stream.relay).await;
    assert_eq!(stream.traffic.closed_by(), Some(ClosedBy::Error));
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_broken_from_the_start_end_the_stream() {
    let stream = begin(Limits::default(), b"nonsense");
    ended(stream.relay).await;
    assert_eq!(stream.traffic.closed_by(), Some(ClosedBy::Error));
}

/// What a client has got, out of its chunks. The second value: whether the last chunk was there.
fn decoded(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Body::Chunked(ChunkScanner::default());
    let mut bytes = bytes.to_vec();
    let length = body.unframe(&mut bytes).unwrap();
    bytes.truncate(length);
    (bytes, body.is_done())
}

fn content() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "data: x\n",
        "\n",
        "\r\n",
        "id: 1\r\n",
        ": c\n",
        "\n\n",
        "d",
    ]);
    prop::collection::vec(part, 1..20).prop_map(|parts| parts.concat())
}

/// What happens to the relay after a part of the server's bytes.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    Move,
    Go,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Whatever the pieces, and however often it moves: the content is the server's, and a stream
    /// that was told to go ends between two events.
    #[test]
    fn content_is_neither_lost_nor_changed_and_the_end_is_between_events(
        contents in prop::collection::vec(content(), 1..5),
        size in 1_usize..12,
        then in prop::collection::vec(
            prop::sample::select(vec![Then::Nothing, Then::Nothing, Then::Move, Then::Go]), 1..40),
    ) {
        let whole = contents.concat();
        let chunks: String = contents.iter().map(|content| chunk(content)).collect();
        let bytes = [chunks.as_bytes(), LAST_CHUNK].concat();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let (got, is_whole, told) = runtime.block_on(async {
            let mut stream = begin(Limits::default(), b"");
            let mut told = false;
            for (piece, then) in bytes.chunks(size).zip(then.iter().cycle()) {
                // A stream that has ended takes nothing.
                let _ = stream.server.write_all(piece).await;
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
                match then {
                    Then::Nothing => {}
                    Then::Go => {
                        told = true;
                        stream.traffic.ask(GO);
                    }
                    Then::Move if stream.relay.is_finished() => {}
                    Then::Move => {
                        stream.traffic.ask_to_move();
                        let (mut relay, outcome, _) = stream.relay.await.unwrap();
                        relay.suspend();
                        stream.traffic.end_question();
                        stream.relay = match outcome {
                            Outcome::Ended => {
                                tokio::spawn(async move { (relay, outcome, Instant::now()) })
                            }
                            Outcome::Stays => run(relay),
                            Outcome::Move => run(moved(relay)),
                        };
                    }
                }
            }
            drop(stream.server);
            drop(timeout(Duration::from_secs(60), stream.relay).await);
            let mut got = Vec::new();
            stream.client.read_to_end(&mut got).await.unwrap();
            let (got, is_whole) = decoded(&got);
            (got, is_whole, told)
        });
        prop_assert!(whole.as_bytes().starts_with(&got));
        if is_whole && got.len() < whole.len() {
            prop_assert!(told);
            let mut scanner = EventScanner::default();
            scanner.feed(&got);
            prop_assert!(scanner.is_between_events(), "{:?}", String::from_utf8_lossy(&got));
        }
        if !told {
            prop_assert!(is_whole && got.len() == whole.len());
        }
    }
}

/// As another process continues it.
fn moved(relay: EventRelay) -> EventRelay {
    let clocks = relay.clocks();
    let EventRelay {
        client,
        server,
        framing,
        traffic,
        limits,
        ..
    } = relay;
    EventRelay::continued(client, server, framing, traffic, limits, clocks)
}
