//! The ends of a session, with both sides in the test's hand and time that passes when nobody has
//! anything to do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use super::*;
use crate::net::Socket;
use crate::session::expiry::Expiry;
use crate::session::goodbye::LAST_WAIT;
use crate::transport::Transport;
use crate::websocket::frames::Sender;

/// An unmasked text, as servers send it.
const TICK: &[u8] = b"\x81\x04tick";

/// The same from a client.
const TOCK: &[u8] = b"\x81\x84\0\0\0\0tock";

/// What the clock may be off by: timers count whole milliseconds.
const SLACK: Duration = Duration::from_millis(10);

/// A session whose relay runs. On unix sockets nothing is under way between the two ends.
struct Session<S> {
    client: S,
    server: S,
    traffic: Arc<Traffic>,
    relay: JoinHandle<(Outcome, Instant)>,
}

impl<S> Session<S> {
    fn begin(client: (S, Transport), server: (S, Transport), limits: Limits) -> Self {
        Self::begin_with(client, server, limits, None)
    }

    fn begin_with(
        client: (S, Transport),
        server: (S, Transport),
        limits: Limits,
        expiry: Option<Expiry>,
    ) -> Self {
        let traffic = Arc::new(Traffic::default());
        let mut relay = Relay::new(
            (Leg::new(client.1, Sender::Client, false), &[]),
            (Leg::new(server.1, Sender::Server, false), &[]),
            traffic.clone(),
            limits,
        );
        relay.alarm = expiry.map(Alarm::new).map(Box::new);
        let relay = async move { (relay.await, Instant::now()) };
        Self {
            client: client.0,
            server: server.0,
            traffic,
            relay: tokio::spawn(relay),
        }
    }
}

fn unix(limits: Limits) -> Session<UnixStream> {
    let side = || {
        let (test, relay) = UnixStream::pair().unwrap();
        (test, Socket::Unix(relay).into())
    };
    Session::begin(side(), side(), limits)
}

async fn tcp() -> Session<TcpStream> {
    let side = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let test = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (relay, _) = listener.accept().await.unwrap();
        (test.unwrap(), Socket::Tcp(relay).into())
    };
    Session::begin(side().await, side().await, Limits::default())
}

#[tokio::test(start_paused = true)]
async fn when_the_credential_has_ended_both_sides_hear_the_code_and_why() {
    let side = || {
        let (test, relay) = UnixStream::pair().unwrap();
        (test, Socket::Unix(relay).into())
    };
    let expiry = Some(Expiry::from_parts(1, 4401));
    let mut session = Session::begin_with(side(), side(), Limits::default(), expiry);
    let mut told = vec![0; 4 + "credential expired".len()];
    session.client.read_exact(&mut told).await.unwrap();
    assert_eq!(told, close_to_client(4401, "credential expired"));
    session.client.write_all(b"\x88\x80\0\0\0\0").await.unwrap();
    assert_eq!(session.relay.await.unwrap().0, Outcome::Ended);
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Expiry));
    assert_eq!(session.traffic.close_code(), Some(4401));
}

/// Ends with a reset.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Says it again and again, until nobody takes it.
fn keep_saying(
    mut stream: impl AsyncWrite + Unpin + Send + 'static,
    words: &'static [u8],
    period: Duration,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut due = interval(period);
        loop {
            due.tick().await;
            if stream.write_all(words).await.is_err() {
                return;
            }
        }
    })
}

/// How long after `since` the session was over.
async fn lasted(relay: JoinHandle<(Outcome, Instant)>, since: Instant) -> Duration {
    // In a moment: there is nothing to wait for.
    let ended = timeout(Duration::from_secs(3600), relay).await;
    let (outcome, at) = ended.expect("the session ends").unwrap();
    assert_eq!(outcome, Outcome::Ended);
    at.duration_since(since)
}

/// A whole frame of a server's that no buffer has much room for.
fn large_frame() -> Vec<u8> {
    [&b"\x82\x7e\x40\x00"[..], &[7; 16 * 1024]].concat()
}

/// Says it until nobody takes more of it for a second: how much that was.
async fn fill(stream: &mut UnixStream, words: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        let rest = &words[taken % words.len()..];
        match timeout(Duration::from_secs(1), stream.write(rest)).await {
            Ok(written) => taken += written.unwrap(),
            Err(_) => return taken,
        }
    }
}

const EVERY: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(4),
];

#[tokio::test(start_paused = true)]
async fn a_session_is_over_5_s_after_its_client_closed_whatever_its_server_says() {
    for period in EVERY {
        let session = unix(Limits::default());
        let server = keep_saying(session.server, TICK, period);
        sleep(Duration::from_secs(10)).await;
        let closed = Instant::now();
        drop(session.client);
        let lasted = lasted(session.relay, closed).await;
        assert!(lasted <= CLIENT_GONE + SLACK, "{period:?}: {lasted:?}");
        assert!(lasted >= CLIENT_GONE - LOOK, "{period:?}: {lasted:?}");
        assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Client));
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_over_5_s_after_its_client_reset_it_whatever_its_server_says() {
    for period in EVERY {
        let session = tcp().await;
        let server = keep_saying(session.server, TICK, period);
        sleep(Duration::from_secs(10)).await;
        let closed = Instant::now();
        reset(session.client);
        let lasted = lasted(session.relay, closed).await;
        assert!(lasted <= CLIENT_GONE + SLACK, "{period:?}: {lasted:?}");
        assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Client));
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_first_finishes_and_then_goes_is_missed_though_its_server_is_silent() {
    let mut session = unix(Limits::default());
    session.client.shutdown().await.unwrap();
    sleep(Duration::from_secs(20)).await;
    let closed = Instant::now();
    drop(session.client);
    let lasted = lasted(session.relay, closed).await;
    assert!(lasted <= CLIENT_GONE + SLACK, "{lasted:?}");
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Client));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_is_missed_though_its_server_takes_nothing_and_says_nothing() {
    let mut session = unix(Limits::default());
    let frame = [&b"\x82\xfe\x40\x00\0\0\0\0"[..], &[7; 16 * 1024]].concat();
    fill(&mut session.client, &frame).await;
    let closed = Instant::now();
    drop(session.client);
    let lasted = lasted(session.relay, closed).await;
    assert!(lasted <= CLIENT_GONE + SLACK, "{lasted:?}");
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Client));
    drop(session.server);
}

/// What it says to the very end does not put off the end.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_more_but_goes_on_talking_does_not_hold_its_session() {
    let session = unix(Limits::default());
    let (client, server) = (session.client, session.server);
    // The relay gets an error from now on when it writes.
    socket2::SockRef::from(&client)
        .shutdown(std::net::Shutdown::Read)
        .unwrap();
    let closed = Instant::now();
    let client = keep_saying(client, TOCK, Duration::from_millis(500));
    let (mut hearing, saying) = server.into_split();
    let server = keep_saying(saying, TICK, Duration::from_millis(500));
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        hearing.read_to_end(&mut heard).await.map(|_| heard)
    });
    let lasted = lasted(session.relay, closed).await;
    assert!(lasted <= CLIENT_GONE + SLACK, "{lasted:?}");
    client.await.unwrap();
    server.await.unwrap();
    assert!(heard.await.unwrap().unwrap().starts_with(TOCK));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_finished_and_reads_has_a_minute_from_each_byte_of_its_server() {
    let ping = Limits {
        ping: Some(Duration::from_secs(10)),
        ..Limits::default()
    };
    for limits in [Limits::default(), ping] {
        let mut session = unix(limits);
        session.client.shutdown().await.unwrap();
        for _ in 0..3 {
            sleep(HALF_CLOSED - Duration::from_secs(1)).await;
            session.server.write_all(TICK).await.unwrap();
            let mut heard = [0; TICK.len()];
            session.client.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, TICK, "no ping of ours: nobody could answer it");
        }
        let last = Instant::now();
        let lasted = lasted(session.relay, last).await;
        assert!((HALF_CLOSED..HALF_CLOSED + SLACK).contains(&lasted));
        assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Client));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_all_that_a_server_said_before_it_ended() {
    for finishes_first in [true, false] {
        let mut session = unix(Limits::default());
        if finishes_first {
            session.client.shutdown().await.unwrap();
        }
        let all = large_frame().repeat(40);
        let mut server = session.server;
        let saying = tokio::spawn({
            let all = all.clone();
            async move {
                server.write_all(&all).await.unwrap();
                server.shutdown().await.unwrap();
                server
            }
        });
        let mut heard = Vec::new();
        let mut chunk = vec![0; 48 * 1024];
        loop {
            sleep(SERVER_GONE * 2).await;
            match session.client.read(&mut chunk).await.unwrap() {
                0 => break,
                count => heard.extend_from_slice(&chunk[..count]),
            }
        }
        assert!(heard == all, "{} of {}", heard.len(), all.len());
        drop(saying.await.unwrap());
        drop(session.client);
        lasted(session.relay, Instant::now()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_server_closed_is_over_5_s_after_the_last_byte_that_reached_it() {
    for period in EVERY {
        let session = unix(Limits::default());
        let (mut hearing, saying) = session.client.into_split();
        let client = keep_saying(saying, TOCK, period);
        sleep(Duration::from_secs(10)).await;
        let closed = Instant::now();
        drop(session.server);
        assert_eq!(hearing.read(&mut [0]).await.unwrap(), 0);
        let lasted = lasted(session.relay, closed).await;
        assert!(lasted <= SERVER_GONE + SLACK, "{period:?}: {lasted:?}");
        assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Server));
        client.await.unwrap();
    }
}

/// Its last words wait for a client that is slow, and go to it.
#[tokio::test(start_paused = true)]
async fn what_a_server_said_before_it_was_gone_reaches_a_client_that_reads_late() {
    let mut session = unix(Limits::default());
    let said = fill(&mut session.server, &large_frame()).await;
    drop(session.server);
    sleep(HALF_CLOSED - Duration::from_secs(5)).await;
    let mut heard = Vec::new();
    session.client.read_to_end(&mut heard).await.unwrap();
    assert!(
        heard.len() == said && said > CHUNK,
        "{} of {said}",
        heard.len()
    );
    drop(session.client);
    lasted(session.relay, Instant::now()).await;
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Server));
}

/// Its end is passed on, and what its client then says to nobody is no life of the session.
#[tokio::test(start_paused = true)]
async fn a_session_is_over_5_s_after_its_server_reset_it_whatever_its_client_says() {
    for period in EVERY {
        let mut session = tcp().await;
        let (mut hearing, saying) = session.client.into_split();
        let client = keep_saying(saying, TOCK, period);
        session.server.shutdown().await.unwrap();
        assert_eq!(hearing.read(&mut [0]).await.unwrap(), 0);
        // Each byte that still reaches it puts the end off.
        sleep(Duration::from_secs(30)).await;
        let closed = Instant::now();
        reset(session.server);
        let lasted = lasted(session.relay, closed).await;
        assert!(lasted <= SERVER_GONE + SLACK, "{period:?}: {lasted:?}");
        assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Server));
        client.await.unwrap();
    }
}

const STALL: Duration = Duration::from_secs(20);

fn stalls() -> Limits {
    Limits {
        client_stall: Some(STALL),
        server_stall: Some(STALL),
        ..Limits::default()
    }
}

/// A whole frame of a client's that no buffer has much room for.
fn large_masked_frame() -> Vec<u8> {
    [&b"\x82\xfe\x40\x00\0\0\0\0"[..], &[7; 16 * 1024]].concat()
}

/// What is said to it, to the end.
async fn all_heard(mut stream: UnixStream) -> Vec<u8> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    heard
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up_after_its_stall_and_its_server_is_told() {
    let mut session = unix(stalls());
    let begun = Instant::now();
    let frame = large_frame();
    let said = fill(&mut session.server, &frame).await;
    assert!(said > CHUNK, "{said}");
    let told = tokio::spawn(all_heard(session.server));
    let lasted = lasted(session.relay, begun).await;
    let most = STALL + LAST_WAIT + SLACK;
    assert!((STALL..=most).contains(&lasted), "{lasted:?}");
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Error));
    // It has got no word of ours.
    assert_eq!(session.traffic.close_code(), None);
    let told = told.await.unwrap();
    assert_eq!((told[0], told[1]), (0x88, 0x82), "a masked Close frame");
    let code = [told[6] ^ told[2], told[7] ^ told[3]];
    assert_eq!(u16::from_be_bytes(code), GOING_AWAY);
    drop(session.client);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_is_given_up_after_its_stall_and_its_client_is_told() {
    let mut session = unix(stalls());
    let begun = Instant::now();
    fill(&mut session.client, &large_masked_frame()).await;
    let mut told = [0; 4];
    session.client.read_exact(&mut told).await.unwrap();
    assert_eq!(told[..2], [0x88, 2]);
    assert_eq!(u16::from_be_bytes([told[2], told[3]]), GOING_AWAY);
    assert!(begun.elapsed() <= STALL + SLACK, "{:?}", begun.elapsed());
    // It answers, and nobody else is waited for.
    let frame = large_masked_frame();
    session.client.write_all(&frame[..0]).await.unwrap();
    session.client.shutdown().await.unwrap();
    let lasted = lasted(session.relay, begun).await;
    assert!((STALL..=STALL + SLACK).contains(&lasted), "{lasted:?}");
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Error));
    assert_eq!(session.traffic.close_code(), Some(GOING_AWAY.into()));
    drop(session.server);
}

/// An end, too, waits no longer than that behind bytes which nobody takes.
#[tokio::test(start_paused = true)]
async fn a_side_that_takes_nothing_is_given_up_though_the_other_has_ended() {
    let mut session = unix(stalls());
    let begun = Instant::now();
    fill(&mut session.client, &large_masked_frame()).await;
    session.client.shutdown().await.unwrap();
    let server = keep_saying(session.server, TICK, Duration::from_secs(1));
    let heard = tokio::spawn(all_heard(session.client));
    let lasted = lasted(session.relay, begun).await;
    assert!((STALL..=STALL + SLACK).contains(&lasted), "{lasted:?}");
    assert!(heard.await.unwrap().starts_with(TICK));
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_side_that_takes_a_little_at_a_time_is_not_given_up() {
    let mut session = unix(stalls());
    let frames = large_frame().repeat(40);
    let mut server = session.server;
    let saying = tokio::spawn(async move {
        server.write_all(&frames).await.unwrap();
        server
    });
    // So little that the kernel would not tell for minutes that there is room.
    let mut chunk = vec![0; 10 * 1024];
    let mut heard = 0;
    while heard < large_frame().len() * 40 {
        sleep(STALL / 5).await;
        let read = session.client.read(&mut chunk).await.unwrap();
        assert!(read > 0, "given up after {heard} bytes");
        heard += read;
    }
    assert_eq!(session.traffic.closed_by(), None);
    drop((session.client, saying.await.unwrap()));
    lasted(session.relay, Instant::now()).await;
}

/// It was heard, and the side that it is for never takes what stands before it.
#[tokio::test(start_paused = true)]
async fn a_goodbye_behind_bytes_that_nobody_takes_ends_the_session_after_the_stall() {
    let side = || {
        let (test, relay) = UnixStream::pair().unwrap();
        let socket = socket2::SockRef::from(&relay);
        socket.set_send_buffer_size(4096).unwrap();
        (test, Socket::Unix(relay).into())
    };
    let client_says = [&large_masked_frame()[..], b"\x88\x82\0\0\0\0\x0f\xa1"].concat();
    let server_says = [&large_frame()[..], b"\x88\x02\x0f\xa1"].concat();
    for (by, says) in [
        (ClosedBy::Client, client_says),
        (ClosedBy::Server, server_says),
    ] {
        let mut session = Session::begin(side(), side(), stalls());
        let begun = Instant::now();
        let from = match by {
            ClosedBy::Client => &mut session.client,
            _ => &mut session.server,
        };
        from.write_all(&says).await.unwrap();
        from.shutdown().await.unwrap();
        let lasted = lasted(session.relay, begun).await;
        assert!((STALL..=STALL + SLACK).contains(&lasted), "{lasted:?}");
        assert_eq!(session.traffic.closed_by(), Some(by));
        assert_eq!(session.traffic.close_code(), Some(4001));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_too_much_is_told_1008_and_what_fits_reaches_its_server() {
    let limits = Limits {
        messages_per_second: NonZeroU32::new(2),
        ..Limits::default()
    };
    let mut session = unix(limits);
    for _ in 0..3 {
        session.client.write_all(&TOCK.repeat(2)).await.unwrap();
        let mut heard = vec![0; 2 * TOCK.len()];
        session.server.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, TOCK.repeat(2));
        sleep(Duration::from_secs(1)).await;
    }
    session.client.write_all(&TOCK.repeat(3)).await.unwrap();
    let mut told = [0; 4];
    session.client.read_exact(&mut told).await.unwrap();
    assert_eq!(told[..], close_to_client(POLICY, "")[..]);
    let mut heard = vec![0; 2 * TOCK.len() + 8];
    session.server.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard[..2 * TOCK.len()], TOCK.repeat(2));
    assert_eq!(heard[2 * TOCK.len()..][..2], [0x88, 0x82]);
    assert_eq!(session.traffic.closed_by(), Some(ClosedBy::Limit));
    assert_eq!(session.traffic.close_code(), Some(POLICY.into()));
}
