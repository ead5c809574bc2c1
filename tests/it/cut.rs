//! What is still under way when a drain's time is up: it is cut, so that nobody takes it for whole,
//! and has its line in the log.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::http2::{Http2Site, NAME, PREFACE};
use crate::support::{
    Answer, Authority, Client, Config, Origin, Prusik, RawSession, certificates, client_frame,
    eventually, handshake, listen, within,
};
use http::Request;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";
const DRAIN: &str = "server: { drain: { window: 0s, deadline: 1s } }";
const CUT: &str = "cut at the drain's deadline";

/// The deadline, and what a busy machine may add. A process that waited in vain for the last lines
/// would take longer.
const BOUND: Duration = Duration::from_millis(1000 + 2500);

/// A server that is never done with what it has begun.
async fn endless() -> Origin {
    Origin::start(|request| match request.target().split('?').next() {
        Some("/chunks") => {
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n")
                .hang()
        }
        Some("/length") => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nstart").hang(),
        _ => Answer::silence(),
    })
    .await
}

async fn asking(prusik: &Prusik, request: &str) -> Client {
    let mut client = Client::connect(prusik.public()).await;
    client.send(request).await;
    client
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// What comes to the end of the connection, and whether that was a reset.
async fn rest(client: &mut Client) -> (Vec<u8>, bool) {
    let mut rest = Vec::new();
    loop {
        match within("the end", client.wire.some()).await {
            Ok(bytes) if bytes.is_empty() => return (rest, false),
            Ok(bytes) => rest.extend(bytes),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return (rest, true);
            }
        }
    }
}

/// The one line of what asked for this.
fn line_of(prusik: &Prusik, target: &str) -> Value {
    let log = prusik.access_log();
    let lines: Vec<_> = log.iter().filter(|entry| entry["path"] == target).collect();
    assert_eq!(lines.len(), 1, "{target} in {log:?}");
    lines[0].clone()
}

fn expect_cut(prusik: &Prusik, target: &str, status: u16) -> Value {
    let line = line_of(prusik, target);
    assert_eq!(line["kind"], "request", "{line}");
    assert_eq!(
        (&line["status"], &line["error"]),
        (&status.into(), &CUT.into()),
        "{line}"
    );
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_the_deadline_are_cut_and_logged() {
    for signal in ["TERM", "INT"] {
        let origin = endless().await;
        let mut prusik = Prusik::start(Config::to(&[&origin]).top(DRAIN)).await;
        let mut waits = asking(&prusik, &get("/waits")).await;
        let mut chunks = asking(&prusik, &get("/chunks")).await;
        let mut length = asking(&prusik, &get("/length")).await;
        let mut old = asking(&prusik, "GET /chunks?old HTTP/1.0\r\n\r\n").await;
        let mut opens = asking(&prusik, &handshake("/opens")).await;
        let head = "POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n";
        let mut upload = asking(&prusik, &format!("{head}a part")).await;
        for answered in [&mut chunks, &mut length] {
            assert_eq!(answered.head().await.status(), 200);
        }
        eventually("the server has them all", async || origin.open() == 6).await;

        let started = Instant::now();
        prusik.signal(signal);
        for unanswered in [&mut waits, &mut opens] {
            let response = unanswered.response().await;
            assert_eq!(response.status(), 504, "{signal}");
            assert!(response.text().contains("stop"), "{}", response.text());
        }
        assert_eq!(upload.head().await.status(), 503, "{signal}");
        assert_eq!(rest(&mut chunks).await.0, b"5\r\nstart\r\n", "{signal}");
        assert_eq!(rest(&mut length).await.0, b"start", "{signal}");
        let (_, is_reset) = rest(&mut old).await;
        assert!(is_reset, "{signal}: an end would make it whole");
        assert_eq!(prusik.exit_code().await, Some(0), "{signal}");
        assert!(
            started.elapsed() < BOUND,
            "{signal}: {:?}",
            started.elapsed()
        );

        for (target, status) in [("/waits", 504), ("/opens", 504), ("/upload", 503)] {
            expect_cut(&prusik, target, status);
        }
        for target in ["/chunks", "/length", "/chunks?old"] {
            let line = expect_cut(&prusik, target, 200);
            assert!(line["bytes_out"].as_u64() >= Some(5), "{line}");
        }
    }
}

/// Where Pingora waits for something else than its client and its server's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_that_are_stuck_at_the_deadline_are_cut_and_logged() {
    let floods = Origin::hasty(|request| match request.target() {
        "/flood" => {
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").pattern(1 << 30)
        }
        _ => Answer::silence(),
    })
    .await;
    let deaf = listen();
    let (full, _backlog) = full_backlog().await;
    let one = |name: &str, address: SocketAddr| format!("{name}: {{ servers: [\"{address}\"] }}");
    let deaf_address = deaf.local_addr().expect("it is bound");
    let others = [one("deaf", deaf_address), one("full", full)].join(", ");
    let config = Config::to(&[&floods])
        .top(DRAIN)
        .top(ADMIN)
        .first("{ match: { path_prefix: /deaf }, upstream: deaf }")
        .first("{ match: { path_prefix: /full }, upstream: full, timeouts: { connect: 60s } }")
        .to_string()
        .replace(
            "upstreams:\n",
            &format!("upstreams:\n  {}\n", others.replace(", full", "\n  full")),
        );
    let mut prusik = Prusik::start(config).await;

    let mut connects = asking(&prusik, &get("/full")).await;
    let mut opens = asking(&prusik, &handshake("/full/session")).await;
    let mut reads_nothing = asking(&prusik, &get("/flood")).await;
    assert_eq!(reads_nothing.head().await.status(), 200);
    let head = "POST /deaf HTTP/1.1\r\nHost: test\r\nContent-Length: 1073741824\r\n\r\n";
    let mut uploads = asking(&prusik, head).await;
    let (_server, _) = within("a server", deaf.accept())
        .await
        .expect("a connection");
    say_until_stuck(&mut uploads, &[7; 64 * 1024]).await;

    let started = Instant::now();
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    expect_cut(&prusik, "/full", 503);
    expect_cut(&prusik, "/full/session", 503);
    expect_cut(&prusik, "/deaf", 503);
    expect_cut(&prusik, "/flood", 200);
    assert_eq!(connects.head().await.status(), 503);
    assert_eq!(opens.head().await.status(), 503);
}

/// An address at which connecting takes for ever.
async fn full_backlog() -> (SocketAddr, (Socket, Vec<TcpStream>)) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a free port");
    socket.listen(0).expect("it can listen");
    let address = socket.local_addr().expect("it is bound");
    let address = address.as_socket().expect("an IP address");
    let mut waiting = Vec::new();
    loop {
        let connecting = TcpStream::connect(address);
        match tokio::time::timeout(Duration::from_millis(500), connecting).await {
            Ok(connected) => waiting.push(connected.expect("it listens")),
            Err(_) => return (address, (socket, waiting)),
        }
    }
}

async fn say_until_stuck(client: &mut Client, part: &[u8]) {
    let saying = async {
        loop {
            // For as long as somebody takes it.
            let said = client.wire.send(part);
            if tokio::time::timeout(Duration::from_secs(1), said)
                .await
                .is_err()
            {
                return;
            }
        }
    };
    within("nobody takes more", saying).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_the_deadline_are_reset_and_logged() {
    let mut site = Http2Site::start(endless().await, |config| config.top(DRAIN)).await;
    let mut client = site.client().await;
    let request = |target: &str| {
        let request = Request::get(format!("https://{NAME}{target}"));
        request.body(()).expect("a sound request")
    };
    let (chunks, _) = client.begin(request("/chunks"), true).await;
    let mut chunks = within("a response", chunks)
        .await
        .expect("a response")
        .into_body();
    let start = within("a part", chunks.data()).await.expect("a part");
    assert_eq!(&start.expect("no reset")[..], b"start");
    let (waits, _) = client.begin(request("/waits"), true).await;
    let (opens, _send) = client.begin_session("/opens").await;
    // It reads no goodbye.
    let mut deaf = site.tls().await;
    deaf.write_all(PREFACE).await.expect("it takes it");
    eventually("the server has them all", async || site.origin.open() == 3).await;
    let started = Instant::now();
    site.prusik.signal("TERM");
    for unanswered in [waits, opens] {
        let response = within("a response", unanswered).await.expect("a response");
        assert_eq!(response.status(), 504);
    }
    let end = within("the end", chunks.data())
        .await
        .expect("no clean end");
    assert!(end.expect_err("a reset").is_reset());
    site.prusik.ended().await;
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    expect_cut(&site.prusik, "/chunks", 200);
    expect_cut(&site.prusik, "/waits", 504);
    expect_cut(&site.prusik, "/opens", 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_by_tls_that_is_cut_has_no_clean_end() {
    let origin = endless().await;
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let config = Config::to(&[&origin])
        .top(DRAIN)
        .tls(certificates(&[&pair]));
    let mut prusik = Prusik::start(config).await;
    let tls = authority.client();
    let mut ends = Vec::new();
    for version in ["1.1", "1.0"] {
        let mut stream = tls
            .try_connect(prusik.public(), "chat.test")
            .await
            .expect("a handshake");
        let target = format!("/chunks?{version}");
        let request = format!("GET {target} HTTP/{version}\r\nHost: test\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it takes it");
        let mut said = Vec::new();
        let reading = async {
            while !said.ends_with(b"start\r\n") && !said.ends_with(b"start") {
                said.push(stream.read_u8().await.expect("an answer"));
            }
        };
        within("a part of the answer", reading).await;
        ends.push(tokio::spawn(async move {
            stream.read_to_end(&mut Vec::new()).await
        }));
    }
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    for end in ends {
        let end = within("the end", end).await.expect("no panic");
        // No close_notify came before it.
        assert_eq!(end.expect_err("an error").kind(), ErrorKind::UnexpectedEof);
    }
    expect_cut(&prusik, "/chunks?1.1", 200);
    expect_cut(&prusik, "/chunks?1.0", 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_outlasts_the_deadline_after_an_upgrade_is_logged() {
    let origin = endless().await;
    let config = Config::to(&[&origin]).top(DRAIN).top(ADMIN);
    let mut prusik = Prusik::start(config).await;
    let mut chunks = asking(&prusik, &get("/chunks")).await;
    assert_eq!(chunks.head().await.status(), 200);
    let mut waits = asking(&prusik, &get("/waits")).await;
    eventually("the server has both", async || origin.open() == 2).await;
    prusik.upgrade().await;
    assert_eq!(rest(&mut chunks).await.0, b"5\r\nstart\r\n");
    assert_eq!(waits.head().await.status(), 504);
    expect_cut(&prusik, "/chunks", 200);
    expect_cut(&prusik, "/waits", 504);
}

/// It cannot move to the new process, because its keys must not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_not_whole_at_the_deadline_is_refused_and_logged() {
    let origin = endless().await;
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let server = DRAIN.replace("drain:", "tls_sessions: tell, drain:");
    let config = Config::to(&[&origin]).top(server).top(ADMIN);
    let mut prusik = Prusik::start(config.tls(certificates(&[&pair]))).await;
    let mut client = authority
        .client()
        .connect(prusik.public(), "chat.test")
        .await;
    client.send("GET /half HTTP/1.1\r\nHo").await;
    prusik.upgrade().await;
    assert_eq!(client.head().await.status(), 503);
    expect_cut(&prusik, "/half", 503);
}

/// A session that nobody can be told of: one of its sides takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_stuck_at_the_deadline_are_cut_and_logged() {
    for tunnel in ["relay", "pingora"] {
        let origin = Origin::start(|request| {
            let flood = [&[0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0][..]].concat();
            match request.target() {
                "/flood" => Answer::upgrade(request).send(flood).pattern(1 << 30),
                _ => Answer::upgrade(request).wait(Duration::from_secs(3600)),
            }
        })
        .await;
        let drain =
            format!("server: {{ tunnel: {tunnel}, drain: {{ window: 0s, deadline: 1s }} }}");
        let mut prusik = Prusik::start(Config::to(&[&origin]).top(drain)).await;
        let _reads_nothing = RawSession::open(prusik.public(), handshake("/flood")).await;
        let mut deaf = RawSession::open(prusik.public(), handshake("/deaf")).await;
        say_until_stuck(&mut deaf.client, &client_frame(2, &[7; 32 * 1024])).await;
        let started = Instant::now();
        prusik.signal("TERM");
        assert_eq!(prusik.exit_code().await, Some(0), "{tunnel}");
        assert!(
            started.elapsed() < BOUND,
            "{tunnel}: {:?}",
            started.elapsed()
        );
        let log = prusik.access_log();
        for path in ["/flood", "/deaf"] {
            let is_it = |entry: &&Value| entry["kind"] == "session_close" && entry["path"] == path;
            let lines: Vec<_> = log.iter().filter(is_it).collect();
            assert_eq!(lines.len(), 1, "{tunnel} {path}: {log:?}");
            assert_eq!(lines[0]["closed_by"], "drain", "{tunnel} {path}");
        }
    }
}

/// The new process of an upgrade dies in that moment, which is short: where it was over before,
/// there was nothing to come back to, and it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_serves_again_after_it_has_cut_serves_as_before() {
    let origin = Origin::start(|request| match request.target() {
        target if target.starts_with("/silent") => Answer::silence(),
        _ => Answer::text("here"),
    })
    .await;
    for number in 0..10 {
        let target = format!("/silent{number}");
        let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN).top(DRAIN)).await;
        let _asking = asking(&prusik, &get(&target)).await;
        origin.has_got(&target).await;
        prusik.order(&["upgrade"]).await;
        let new = prusik.pids().into_iter().find(|pid| *pid != prusik.pid());
        prusik.wait_stderr("connections are cut").await;
        support::signal(new.expect("both live"), "KILL");
        let serves_again = || prusik.stderr().contains("this one serves again");
        eventually("it serves again, or had ended", async || {
            serves_again() || prusik.pids().is_empty()
        })
        .await;
        if serves_again() {
            for _ in 0..3 {
                assert_eq!(support::status_of(prusik.public(), "/").await, 200);
            }
            return;
        }
    }
    panic!("the moment was missed ten times");
}
