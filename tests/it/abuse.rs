//! What clients and servers do that nobody should: the process stays up, serves the others, and
//! afterwards has no descriptor and no memory more than before.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{
    ACCEPT, Answer, Authority, Client, Config, Origin, Prusik, RawSession, certificates,
    client_frame, eventually, handshake, listen, status_of, within,
};
use futures_util::future::join_all;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What memory may differ by: buffers that each thread keeps, pages that the allocator does.
const SLACK_KIB: u64 = 6 * 1024;

/// The same in the middle of a flood: for buffers of 64 KiB the allocator has a page of 4 MiB for
/// each thread and goes through all of it, and there are two threads. What floods is 64 MiB.
const FLOODED_KIB: u64 = 16 * 1024;

/// And after the first of several rounds: what the allocator keeps of so many at once is more on a
/// busy machine, where more of them overlap: 12 MiB were seen after a first flood, 13 after a
/// dozen. What further rounds add is held to [`SLACK_KIB`].
const FIRST_ROUND_KIB: u64 = 16 * 1024;

/// Memory and descriptors at one moment.
struct Level {
    fds: usize,
    kib: u64,
}

impl Level {
    fn of(prusik: &Prusik) -> Self {
        Self {
            fds: prusik.fds(),
            kib: prusik.anonymous_kib(),
        }
    }

    /// The level for further rounds of the same.
    async fn after_a_round(&self, prusik: &Prusik) -> Self {
        self.is_within(FIRST_ROUND_KIB, prusik, async || look_in(prusik).await)
            .await;
        Self {
            fds: self.fds,
            ..Self::of(prusik)
        }
    }

    async fn is_back(&self, prusik: &Prusik) {
        self.is_within(SLACK_KIB, prusik, async || look_in(prusik).await)
            .await;
    }

    /// The allocator gives back what it has kept when it is next asked for something of the kind.
    async fn is_within(&self, slack_kib: u64, prusik: &Prusik, traffic: impl AsyncFn()) {
        eventually(format!("{} descriptors again", self.fds), async || {
            prusik.fds() <= self.fds
        })
        .await;
        let most = self.kib + slack_kib;
        eventually(format!("at most {most} KiB again"), async || {
            traffic().await;
            prusik.anonymous_kib() <= most
        })
        .await;
    }
}

async fn look_in(prusik: &Prusik) {
    drop(connect(prusik.public()).await);
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// Ends with a reset instead of an end.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("a socket can linger");
}

/// `count` tasks of one kind, 50 at a time.
async fn many<F: Future<Output = ()> + Send + 'static>(count: usize, task: impl Fn(usize) -> F) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if running.len() == 50 {
            running.join_next().await;
        }
        running.spawn(task(number));
    }
    while let Some(done) = running.join_next().await {
        done.expect("no task panics");
    }
}

async fn drop_one(address: SocketAddr, number: usize) {
    let mut stream = connect(address).await;
    match number % 5 {
        0 => {}
        1 => reset(stream),
        2 => stream.write_all(b"GET / HT").await.expect("it is taken"),
        3 => {
            stream.write_all(b"GET / HT").await.expect("it is taken");
            reset(stream);
        }
        _ => {
            let request = handshake("/");
            stream
                .write_all(request.as_ref())
                .await
                .expect("it is taken");
            reset(stream);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_connects_and_drops_leave_nothing() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let public = prusik.public();
    // What a listener opens for its first accept is there then.
    assert_eq!(status_of(public, "/").await, 200);
    let idle = Level::of(&prusik);
    many(2500, |number| drop_one(public, number)).await;
    let level = idle.after_a_round(&prusik).await;
    many(5000, |number| drop_one(public, number)).await;
    level.is_back(&prusik).await;
    assert_eq!(status_of(public, "/").await, 200);
}

#[tokio::test]
async fn half_open_tls_handshakes_hold_nobody_up_and_leave_nothing() {
    let origin = Origin::chat().await;
    let authority = Authority::new();
    let pair = authority.issue("web", &["chat.test"]);
    let config = Config::to(&[&origin]).tls(certificates(&[&pair]));
    let prusik = Prusik::start(config).await;
    let public = prusik.public();
    // The connection to the server is kept.
    let served = async || {
        let mut client = authority.client().connect(public, "chat.test").await;
        assert_eq!(client.get("/").await.status(), 200);
    };
    served().await;
    let before = Level::of(&prusik);
    let round = async || {
        let mut open = Vec::new();
        for number in 0..300 {
            let mut stream = connect(public).await;
            // Of a ClientHello's record: nothing, its type, or its whole header.
            let start = &[0x16, 3, 1, 2, 0][..[0, 1, 5][number % 3]];
            stream.write_all(start).await.expect("it is taken");
            open.push(stream);
        }
        eventually("they are all accepted", async || prusik.fds() > 300).await;
        served().await;
    };
    round().await;
    let level = before.after_a_round(&prusik).await;
    for _ in 0..2 {
        round().await;
        level.is_back(&prusik).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_within_a_head_hold_nobody_up_and_leave_nothing() {
    let origin = Origin::chat().await;
    // Longer than the test takes: what ends them is that they go.
    let config = Config::to(&[&origin]).listener("limits: { header_timeout: 60s }");
    let prusik = Prusik::start(config).await;
    let public = prusik.public();
    assert_eq!(status_of(public, "/").await, 200);
    let before = Level::of(&prusik);
    let head = handshake("/");
    let round = async || {
        let mut open = Vec::new();
        for number in 0..300 {
            let mut stream = connect(public).await;
            let part = &head[..number * 7 % (head.len() - 1)];
            stream.write_all(part.as_ref()).await.expect("it is taken");
            open.push(stream);
        }
        eventually("they are all accepted", async || prusik.fds() > open.len()).await;
        assert_eq!(status_of(public, "/").await, 200);
        for (number, stream) in open.into_iter().enumerate() {
            match number % 2 {
                0 => drop(stream),
                _ => reset(stream),
            }
        }
    };
    round().await;
    let level = before.after_a_round(&prusik).await;
    for _ in 0..2 {
        round().await;
        level.is_back(&prusik).await;
    }
}

/// 300 clients that stop in the middle of their bodies: half of them go by themselves, and half are
/// too slow for the file. These have not closed their ends.
async fn stall(prusik: &Prusik, head: &str, whole: &str) -> Vec<TcpStream> {
    let public = prusik.public();
    let too_slow = || {
        let log = prusik.access_log();
        log.into_iter()
            .filter(|entry| entry["status"] == 408)
            .count()
    };
    let before = too_slow();
    let mut open = Vec::new();
    for number in 0..300 {
        let mut stream = connect(public).await;
        let part = &whole[..head.len() + number * 331];
        stream.write_all(part.as_ref()).await.expect("it is taken");
        open.push(stream);
    }
    eventually("they are all accepted", async || prusik.fds() > open.len()).await;
    assert_eq!(status_of(public, "/").await, 200);
    let stay = open.split_off(150);
    for (number, stream) in open.into_iter().enumerate() {
        match number % 2 {
            0 => drop(stream),
            _ => reset(stream),
        }
    }
    eventually("each that stays is told", async || {
        too_slow() >= before + stay.len()
    })
    .await;
    stay
}

/// Once to see what the allocator keeps of so many, then again: what stays behind each time would
/// add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_stall_hold_nobody_up_and_leave_nothing() {
    let origin = Origin::chat().await;
    // No connection to the server outlasts its request: what is left is the clients'.
    let config = Config::to(&[&origin])
        .listener("limits: { body_rate: 1MiB }")
        .upstream("keepalive: 0");
    let prusik = Prusik::start(config).await;
    let public = prusik.public();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n";
    let whole = format!("{head}{}", "x".repeat(100_000));
    assert_eq!(
        Client::connect(public).await.ask(&whole).await.status(),
        200
    );
    let before = Level::of(&prusik);
    let traffic = async || {
        let clients = (0..16).map(|_| async { Client::connect(public).await.ask(&whole).await });
        for answer in join_all(clients).await {
            assert_eq!(answer.status(), 200);
        }
    };
    let stay = stall(&prusik, head, &whole).await;
    before.is_within(FIRST_ROUND_KIB, &prusik, &traffic).await;
    let level = before.after_a_round(&prusik).await;
    drop(stay);
    for _ in 0..2 {
        let stay = stall(&prusik, head, &whole).await;
        level.is_within(SLACK_KIB, &prusik, &traffic).await;
        drop(stay);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_no_server_answers_end_with_their_clients() {
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        "/half" => Answer::raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs").hang(),
        _ => Answer::upgrade(&request.head),
    })
    .await;
    // Else they would wait for their turn.
    let config = Config::to(&[&origin]).upstream("pacing: off");
    let prusik = Prusik::start(config).await;
    let public = prusik.public();
    let wait_in_vain = async |count: usize| {
        let mut open = Vec::new();
        for number in 0..count {
            let mut stream = connect(public).await;
            let path = ["/silent", "/half"][number % 2];
            stream
                .write_all(handshake(path).as_ref())
                .await
                .expect("it is taken");
            open.push(stream);
        }
        eventually("the server has them all", async || origin.open() >= count).await;
        let mut other = RawSession::open(public, handshake("/")).await;
        other.send(client_frame(1, b"meanwhile")).await;
        assert_eq!(other.frame().await.payload, b"meanwhile");
        drop(other);
        for (number, stream) in open.into_iter().enumerate() {
            match number % 3 {
                0 => drop(stream),
                _ => reset(stream),
            }
        }
        eventually("the server has none", async || origin.open() == 0).await;
    };
    wait_in_vain(60).await;
    let level = Level::of(&prusik);
    wait_in_vain(200).await;
    level.is_back(&prusik).await;
}

#[tokio::test]
async fn servers_that_reset_within_messages_end_only_their_sessions() {
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    let prusik = Prusik::start(Config::to(&[]).server(address)).await;
    // Both ends: the client's has the 101 and whatever has come behind it.
    let session = async |behind: &[u8]| {
        let mut client = connect(prusik.public()).await;
        let request = handshake("/");
        client
            .write_all(request.as_ref())
            .await
            .expect("it is taken");
        let (mut server, _) = listener.accept().await.expect("a connection");
        take_head(&mut server).await;
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
        );
        let bytes = [switch.as_bytes(), behind].concat();
        server.write_all(&bytes).await.expect("it is taken");
        take_head(&mut client).await;
        (client, server)
    };
    let (mut stays, mut its_server) = within("a session", session(b"")).await;
    // A message of 60,000 bytes, cut anywhere from its first one on.
    let message = [&[0x82, 126, 0xea, 0x60][..], &[7; 60_000]].concat();
    let broken = async |number: usize| {
        let part = &message[..1 + number * 997 % 60_000];
        let (mut client, server) = session(part).await;
        reset(server);
        // To its end, whichever that is.
        let mut rest = Vec::new();
        match client.read_to_end(&mut rest).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    };
    for number in 0..60 {
        within("the end of a session", broken(number)).await;
    }
    let level = Level::of(&prusik);
    for number in 0..200 {
        within("the end of a session", broken(number)).await;
    }
    level.is_back(&prusik).await;
    let closed = |entry: &serde_json::Value| entry["kind"] == "session_close";
    eventually("each is in the log", async || {
        prusik.access_log().iter().filter(|e| closed(e)).count() == 260
    })
    .await;
    for entry in prusik.access_log().iter().filter(|e| closed(e)) {
        assert_eq!(entry["closed_by"], "server");
    }
    its_server
        .write_all(b"\x81\x05still")
        .await
        .expect("it is taken");
    let mut heard = [0; 7];
    let hearing = stays.read_exact(&mut heard);
    within("the other session", hearing).await.expect("a frame");
    assert_eq!(&heard, b"\x81\x05still");
}

async fn take_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_in_the_middle_of_messages_end_only_their_sessions() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let public = prusik.public();
    let mut stays = RawSession::open(public, handshake("/")).await;
    let broken = async |number: usize| {
        let mut stream = connect(public).await;
        stream
            .write_all(handshake("/").as_ref())
            .await
            .expect("it is taken");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("a 101");
        assert_eq!(&head, b"HTTP/1.1 101");
        let frame = client_frame(2, &vec![7; 20_000]);
        let part = 1 + number * 97 % (frame.len() - 1);
        stream.write_all(&frame[..part]).await.expect("it is taken");
        reset(stream);
    };
    for number in 0..100 {
        broken(number).await;
    }
    eventually("only one session is left", async || origin.sessions() == 1).await;
    let level = Level::of(&prusik);
    for number in 0..400 {
        broken(number).await;
    }
    eventually("only one session is left", async || origin.sessions() == 1).await;
    level.is_back(&prusik).await;
    let closed = |entry: &serde_json::Value| entry["kind"] == "session_close";
    eventually("each is in the log", async || {
        prusik.access_log().iter().filter(|e| closed(e)).count() == 500
    })
    .await;
    for entry in prusik.access_log().iter().filter(|e| closed(e)) {
        assert_eq!(entry["closed_by"], "client");
    }
    stays.send(client_frame(1, b"still here")).await;
    assert_eq!(stays.frame().await.payload, b"still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_pings_and_reads_nothing_costs_others_nothing() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut other = RawSession::open(prusik.public(), handshake("/")).await;
    let before = Level::of(&prusik);
    let pings = client_frame(9, &[b'x'; 125]).repeat(500);
    let mut flood = async || {
        let mut client = RawSession::open(prusik.public(), handshake("/"))
            .await
            .client;
        // 64 MiB of pings, or fewer when nothing more is taken because nobody reads the answers.
        for _ in 0..1000 {
            let sending = tokio::time::timeout(Duration::from_secs(2), client.wire.send(&pings));
            if !sending.await.is_ok_and(|sent| sent.is_ok()) {
                break;
            }
        }
        let kib = prusik.anonymous_kib();
        assert!(
            kib <= before.kib + FLOODED_KIB,
            "{} KiB, then {kib}",
            before.kib
        );
        other.send(client_frame(1, b"meanwhile")).await;
        assert_eq!(other.frame().await.payload, b"meanwhile");
        drop(client);
        eventually("it has gone", async || origin.sessions() == 1).await;
    };
    flood().await;
    let level = before.after_a_round(&prusik).await;
    for _ in 0..2 {
        flood().await;
        level.is_back(&prusik).await;
    }
}

#[tokio::test]
async fn servers_that_break_handshakes_leave_nothing() {
    let wrong = Origin::start(|_| Answer::upgrade_accepting("d3Jvbmc=", &[], b"\x81\x02hi")).await;
    let closing = Origin::start(|_| Answer::nothing().close()).await;
    let cut = Origin::start(|_| Answer::raw("HTTP/1.1 101 Switching Pro").close()).await;
    for origin in [&wrong, &closing, &cut] {
        let prusik = Prusik::start(Config::to(&[origin])).await;
        let refused = async || {
            let mut client = Client::connect(prusik.public()).await;
            assert_eq!(client.ask(handshake("/")).await.status(), 502);
        };
        // What a listener opens for its first accept is there then.
        refused().await;
        let idle = Level::of(&prusik);
        for _ in 0..20 {
            refused().await;
        }
        let level = idle.after_a_round(&prusik).await;
        for _ in 0..100 {
            refused().await;
        }
        level.is_back(&prusik).await;
        eventually("no connection to the server is left", async || {
            origin.open() == 0
        })
        .await;
    }
}
