//! What clients may take: connections, heads, bodies, sessions, messages.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::http2::{Http2Client, Http2Site, NAME};
use crate::support::{
    Answer, Authority, Client, Config, Frame, Origin, Outcome, Prusik, RawSession, Response,
    Session, certificates, client_frame, eventually, handshake, status_of, within,
};
use futures_util::future::join_all;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn limited(origin: &Origin, limits: &str) -> Config {
    Config::to(&[origin]).listener(format!("limits: {{ {limits} }}"))
}

async fn hello() -> Origin {
    Origin::start(|_| Answer::text("hello")).await
}

/// What a connection that is turned away is told, unasked.
async fn turned_away(address: SocketAddr) -> Response {
    let mut client = Client::connect(address).await;
    let response = client.response().await;
    assert_eq!(response.field("retry-after"), Some("2"));
    client.expect_end().await;
    response
}

async fn refused(prusik: &Prusik, status: u16, reason: &str) {
    prusik
        .wait_log(reason, |entry| {
            let said = entry["error"].as_str().unwrap_or_default();
            entry["status"] == status && said.contains(reason)
        })
        .await;
}

#[tokio::test]
async fn connections_over_the_limit_get_503_and_room_is_made_by_those_that_end() {
    let origin = hello().await;
    let prusik = Prusik::start(limited(&origin, "connections: 2")).await;
    let mut first = Client::connect(prusik.public()).await;
    let second = Client::connect(prusik.public()).await;
    assert_eq!(first.get("/").await.status(), 200);
    assert_eq!(turned_away(prusik.public()).await.status(), 503);
    refused(&prusik, 503, "as many connections").await;
    // Those that are there are served.
    assert_eq!(first.get("/").await.status(), 200);
    drop(second);
    eventually("a new one is served", async || {
        let mut client = Client::connect(prusik.public()).await;
        client.send(GET).await;
        client.response().await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_client_over_its_own_limit_gets_429_and_a_trusted_proxy_is_exempt() {
    let origin = hello().await;
    let config = limited(&origin, "connections_per_client: 1");
    let prusik = Prusik::start(&config).await;
    let mut first = Client::connect(prusik.public()).await;
    assert_eq!(first.get("/").await.status(), 200);
    assert_eq!(turned_away(prusik.public()).await.status(), 429);
    refused(&prusik, 429, "this client").await;
    let trusting = config.top("trusted_proxies: [127.0.0.0/8]");
    assert_eq!(prusik.reload_with(trusting).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

#[tokio::test]
async fn by_the_proxy_protocol_the_named_client_is_held_to_its_limit() {
    let origin = hello().await;
    let config = limited(&origin, "connections_per_client: 1")
        .top("trusted_proxies: [127.0.0.0/8]")
        .listener("proxy_protocol: required");
    let prusik = Prusik::start(config).await;
    let from = async |address: &str| {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!("PROXY TCP6 {address} 2001:db8::9 1 2\r\n{GET}"))
            .await;
        let status = client.response().await.status();
        (client, status)
    };
    let (_first, status) = from("2001:db8::1").await;
    assert_eq!(status, 200);
    // The same /64, then another.
    assert_eq!(from("2001:db8::2").await.1, 429);
    assert_eq!(from("2001:db8:0:1::1").await.1, 200);
}

#[tokio::test]
async fn by_tls_a_connection_over_the_limit_is_closed_before_it_costs_a_handshake() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = hello().await;
    let secure = |limits| limited(&origin, limits).tls(certificates(&[&pair]));
    let prusik = Prusik::start(secure("connections: 1")).await;
    let mut first = authority
        .client()
        .connect(prusik.public(), "chat.test")
        .await;
    assert_eq!(first.get("/").await.status(), 200);
    Client::connect(prusik.public()).await.expect_end().await;
    refused(&prusik, 503, "as many connections").await;
    let own = secure("connections_per_client: 1");
    assert_eq!(prusik.reload_with(own).await, Outcome::Done);
    Client::connect(prusik.public()).await.expect_end().await;
    refused(&prusik, 429, "this client").await;
    assert_eq!(first.get("/").await.status(), 200);
}

/// A site whose server answers only to `/`.
async fn by_http_2(limits: &str) -> Http2Site {
    let origin = Origin::start(|request| match request.target() {
        "/" => Answer::text("hello"),
        "/chat" => Answer::upgrade(request),
        _ => Answer::silence(),
    })
    .await;
    let limits = format!("limits: {{ {limits} }}");
    Http2Site::start(origin, |config| config.listener(limits)).await
}

/// What a request over the limit is told by HTTP/2: the same as by HTTP/1.1.
async fn turned_away_stream(client: &mut Http2Client, status: u16, reason: &str) {
    let (response, body) = client.get("/").await;
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    let body = String::from_utf8(body).expect("text");
    assert!(body.contains(reason), "{body}");
}

fn silent() -> Request<()> {
    let request = Request::get(format!("https://{NAME}/silent"));
    request.body(()).expect("a sound request")
}

#[tokio::test]
async fn requests_by_http_2_count_as_connections_and_the_first_of_each_connection_does_not() {
    let site = by_http_2("connections: 3").await;
    let mut client = site.client().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(client.begin(silent(), true).await);
    }
    eventually("all have asked", async || site.origin.open() == 3).await;
    let full = "this listener has as many connections as it may";
    turned_away_stream(&mut client, 503, full).await;
    site.refused(503, full).await;
    turned_away_by_tls(&site).await;
    // A reset makes room.
    let (response, mut send) = held.pop().expect("three");
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    eventually("room for one", async || {
        client.get("/").await.0.status() == 200
    })
    .await;
    // So does the end of the connection, with all that it carries.
    client.connection.abort();
    drop((held, client));
    let mut connections = Vec::new();
    for _ in 0..3 {
        eventually("room for a connection", async || {
            let tls = site.authority.client();
            let connected = tls.try_connect(site.prusik.public(), NAME).await;
            connected.is_ok_and(|connection| {
                connections.push(connection);
                true
            })
        })
        .await;
    }
    turned_away_by_tls(&site).await;
}

/// Before it costs a handshake.
async fn turned_away_by_tls(site: &Http2Site) {
    let refused = site
        .authority
        .client()
        .try_connect(site.prusik.public(), NAME)
        .await;
    assert!(refused.is_err(), "no room");
}

#[tokio::test]
async fn requests_by_http_2_count_for_their_client_whether_they_are_exchanges_or_sessions() {
    let site = by_http_2("connections_per_client: 2").await;
    let mut client = site.client().await;
    let (response, _receive, mut send) = client.connect("/chat").await;
    assert_eq!(response.status(), 200);
    let held = client.begin(silent(), true).await;
    let full = "this client has as many connections as it may";
    turned_away_stream(&mut client, 429, full).await;
    site.refused(429, full).await;
    let (response, ..) = client.begin_session("/chat").await;
    let response = within("a response", response).await.expect("a response");
    assert_eq!(response.status(), 429);
    // RFC 9110 section 9.3.2.
    let head = Request::head(format!("https://{NAME}/"));
    let (response, body) = client.ask(head.body(()).expect("a sound request")).await;
    assert_eq!((response.status().as_u16(), body.len()), (429, 0));
    send.send_reset(h2::Reason::CANCEL);
    site.prusik.session_close().await;
    eventually("room for one", async || {
        client.get("/").await.0.status() == 200
    })
    .await;
    drop(held);
}

#[tokio::test]
async fn limits_are_for_connections_that_are_there_when_a_reload_brings_them() {
    let origin = hello().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut old = Client::connect(prusik.public()).await;
    assert_eq!(old.get("/").await.status(), 200);
    let limits = "connections: 1, header_size: 1KiB, body_size: 10B, header_count: 3";
    assert_eq!(
        prusik.reload_with(limited(&origin, limits)).await,
        Outcome::Done
    );
    assert_eq!(turned_away(prusik.public()).await.status(), 503);
    assert_eq!(old.get("/").await.status(), 200);
    let long = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(1024));
    assert_eq!(old.ask(long).await.status(), 431);
}

#[tokio::test]
async fn the_size_and_the_fields_of_a_head_are_bounded_as_the_file_has_it() {
    let origin = hello().await;
    let with_cookie = |size: usize| {
        let cookie = "x".repeat(size);
        format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\n\r\n")
    };
    let with_fields = |count: usize| {
        let fields = "a: b\r\n".repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
    };
    for (limits, request, status) in [
        ("header_size: 2KiB", with_cookie(1500), 200),
        ("header_size: 2KiB", with_cookie(2100), 431),
        ("header_size: 512KiB", with_cookie(200_000), 200),
        ("idle: 5s", with_cookie(70_000), 431),
        ("header_count: 5", with_fields(5), 200),
        ("header_count: 5", with_fields(6), 431),
    ] {
        let prusik = Prusik::start(limited(&origin, limits)).await;
        let mut client = Client::connect(prusik.public()).await;
        let response = client.ask(&request).await;
        assert_eq!(
            response.status(),
            status,
            "{limits}, {} bytes",
            request.len()
        );
    }
}

/// One that came together with the request before it is no exception.
#[tokio::test]
async fn the_size_of_a_pipelined_head_is_bounded_too() {
    let origin = hello().await;
    let prusik = Prusik::start(limited(&origin, "header_size: 1KiB")).await;
    let mut client = Client::connect(prusik.public()).await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n",
        "x".repeat(1100)
    );
    client.send(format!("{GET}{GET}{large}")).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(client.response().await.status());
    }
    assert_eq!(statuses, [200, 200, 431]);
    assert_eq!(origin.received().len(), 2);
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_gets_408_and_silence_just_ends() {
    let origin = hello().await;
    let prusik = Prusik::start(limited(&origin, "header_timeout: 400ms")).await;
    let started = Instant::now();
    let mut silent = Client::connect(prusik.public()).await;
    let slow = TcpStream::connect(prusik.public()).await;
    let (mut from_prusik, mut to_prusik) = slow.expect("it listens").into_split();
    // A byte now and then puts nothing off: the pauses are how slow this client is.
    let drips = tokio::spawn(async move {
        let head = to_prusik.write_all(b"GET / HTTP/1.1\r\nHost: t").await;
        head.expect("it is taken");
        while to_prusik.write_all(b"t").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = [0; 12];
    let answered = within("an answer", from_prusik.read_exact(&mut answer)).await;
    answered.expect("it is whole");
    assert_eq!(&answer, b"HTTP/1.1 408");
    drips.abort();
    silent.expect_end().await;
    assert!(started.elapsed() >= Duration::from_millis(400));
    refused(&prusik, 408, "the head did not arrive").await;
}

#[tokio::test]
async fn trickled_bytes_of_a_later_head_do_not_put_its_end_off() {
    let origin = hello().await;
    let prusik = Prusik::start(limited(&origin, "header_timeout: 500ms")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/").await.status(), 200);
    let mut trickle = "GET / HTTP/1.1\r\nX: "
        .bytes()
        .chain(std::iter::repeat(b'x'));
    let ended = within("an answer to a head without an end", async {
        loop {
            let byte = trickle.next().unwrap_or_default();
            // Nobody is there any more once it was answered and closed.
            if client.wire.send([byte]).await.is_err() {
                return;
            }
            let some = tokio::time::timeout(Duration::from_millis(60), client.wire.some());
            match some.await {
                Err(_) => {}
                Ok(Ok(bytes)) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
                    return;
                }
                Ok(Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    return;
                }
            }
        }
    });
    ended.await;
    refused(&prusik, 408, "the head did not arrive").await;
}

#[tokio::test]
async fn a_tls_handshake_has_to_be_done_in_the_time_for_a_head() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = hello().await;
    let config = limited(&origin, "header_timeout: 300ms").tls(certificates(&[&pair]));
    let prusik = Prusik::start(config).await;
    let mut half_open = Client::connect(prusik.public()).await;
    half_open.send(b"\x16\x03\x01").await;
    half_open.expect_end().await;
    refused(&prusik, 408, "the TLS handshake was not done in time").await;
}

#[tokio::test]
async fn an_idle_connection_ends_after_the_listeners_time() {
    let origin = hello().await;
    let prusik = Prusik::start(limited(&origin, "idle: 300ms")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/").await.status(), 200);
    let started = Instant::now();
    client.expect_end().await;
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_its_length_is_said_or_not() {
    let origin = Origin::start(|received| Answer::text(&received.body.len().to_string())).await;
    let prusik = Prusik::start(limited(&origin, "body_size: 1000B")).await;
    let post = |framing: &str| format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n");
    let ask = async |request: String| {
        let mut client = Client::connect(prusik.public()).await;
        client.send(request).await;
        client.response().await.status()
    };
    let body = "x".repeat(1000);
    assert_eq!(ask(post("Content-Length: 1000") + &body).await, 200);
    assert_eq!(ask(post("Content-Length: 1001")).await, 413);
    let chunks = |size: usize| format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
    assert_eq!(
        ask(post("Transfer-Encoding: chunked") + &chunks(1000)).await,
        200
    );
    assert_eq!(
        ask(post("Transfer-Encoding: chunked") + &chunks(1001)).await,
        413
    );
    refused(&prusik, 413, "larger than is taken here").await;
}

#[tokio::test]
async fn a_body_that_trickles_in_gets_408_and_one_that_comes_does_not() {
    let origin = Origin::start(|received| Answer::text(&received.body.len().to_string())).await;
    let prusik = Prusik::start(limited(&origin, "body_rate: 1MiB")).await;
    let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n";
    let mut good = Client::connect(prusik.public()).await;
    let response = good.ask(format!("{head}{}", "x".repeat(100_000))).await;
    assert_eq!(response.status(), 200);
    let mut slow = Client::connect(prusik.public()).await;
    slow.send(head).await;
    let response = within("an answer", async {
        loop {
            // Nobody is there any more once it was answered and closed.
            let _ = slow.wire.send("x").await;
            let head = tokio::time::timeout(Duration::from_millis(100), slow.wire.some());
            if let Ok(answer) = head.await {
                return answer.unwrap_or_default();
            }
        }
    });
    let answer = String::from_utf8_lossy(&response.await).into_owned();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    refused(&prusik, 408, "the body comes more slowly").await;
}

fn sessions(origin: &Origin, limits: &str) -> Config {
    Config::to(&[origin])
        .top("admin: { listen: \"127.0.0.1:0\" }")
        .route(format!("websocket: {{ {limits} }}"))
}

async fn handshake_status(address: SocketAddr) -> u16 {
    let mut client = Client::connect(address).await;
    client.send(handshake("/")).await;
    let head = client.head().await;
    if head.status() != 101 {
        assert_eq!(head.field("retry-after"), Some("2"), "{head}");
    }
    head.status()
}

#[tokio::test]
async fn sessions_over_the_limit_of_a_route_or_a_client_are_refused_until_one_ends() {
    let origin = Origin::chat().await;
    for (limits, status, tunnel) in [
        ("max_sessions: 2", 503, "relay"),
        ("max_sessions_per_client: 2", 429, "relay"),
        ("max_sessions: 2", 503, "pingora"),
    ] {
        let config = sessions(&origin, limits).top(format!("server: {{ tunnel: {tunnel} }}"));
        let prusik = Prusik::start(config).await;
        let mut first = Session::open(prusik.public(), "/").await;
        let second = Session::open(prusik.public(), "/").await;
        assert_eq!(handshake_status(prusik.public()).await, status);
        refused(&prusik, status, "as many sessions").await;
        // Requests are none of its business.
        assert_eq!(status_of(prusik.public(), "/").await, 200);
        second.close(1000).await;
        eventually("there is room again", async || {
            Session::try_open(prusik.public(), "/").await.is_ok()
        })
        .await;
        assert_eq!(first.ask("still there").await, "still there");
    }
}

#[tokio::test]
async fn handshakes_that_fail_give_their_place_back() {
    let origin = Origin::start(|_| Answer::text("no")).await;
    let prusik = Prusik::start(sessions(&origin, "max_sessions: 1")).await;
    for _ in 0..5 {
        let mut client = Client::connect(prusik.public()).await;
        let response = client.ask(handshake("/")).await;
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_count_on_when_they_have_moved_to_a_new_process() {
    let origin = Origin::chat().await;
    let config = sessions(&origin, "max_sessions: 2, max_sessions_per_client: 2")
        .listener("limits: { connections: 3 }");
    let mut prusik = Prusik::start(config).await;
    let mut first = Session::open(prusik.public(), "/").await;
    let second = Session::open(prusik.public(), "/").await;
    prusik.upgrade().await;
    assert_eq!(handshake_status(prusik.public()).await, 503);
    // The one that was refused may take its leave a moment later.
    let mut third = None;
    eventually("there is room for one more connection", async || {
        let mut client = Client::connect(prusik.public()).await;
        client.send(GET).await;
        let is_served = client.response().await.status() == 200;
        third = is_served.then_some(client);
        is_served
    })
    .await;
    assert_eq!(turned_away(prusik.public()).await.status(), 503);
    drop(third);
    second.close(1000).await;
    eventually("there is room again", async || {
        Session::try_open(prusik.public(), "/").await.is_ok()
    })
    .await;
    assert_eq!(first.ask("still there").await, "still there");
}

#[tokio::test]
async fn sessions_that_were_there_count_when_a_reload_brings_the_limit() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(sessions(&origin, "idle: 1h")).await;
    let _first = Session::open(prusik.public(), "/").await;
    let limited = sessions(&origin, "max_sessions: 1");
    assert_eq!(prusik.reload_with(limited).await, Outcome::Done);
    assert_eq!(handshake_status(prusik.public()).await, 503);
}

#[tokio::test]
async fn a_route_takes_no_more_handshakes_than_its_rate() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(sessions(&origin, "handshakes_per_second: 5")).await;
    let started = Instant::now();
    let statuses = join_all((0..40).map(|_| handshake_status(prusik.public()))).await;
    let taken = statuses.iter().filter(|status| **status == 101).count();
    let most = 5 + 5 * (started.elapsed().as_secs() as usize + 1);
    assert!(
        (5..=most).contains(&taken),
        "{taken} in {:?}",
        started.elapsed()
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 429).count(),
        40 - taken
    );
    eventually("tokens come back", async || {
        handshake_status(prusik.public()).await == 101
    })
    .await;
}

/// What both sides see of a message that is too big; `before`: of how many of its messages the
/// server has seen a part.
async fn too_big(frames: &[u8], before: u64) {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(sessions(&origin, "max_message: 100B")).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    let just = "y".repeat(100);
    session.send(client_frame(1, just.as_bytes())).await;
    assert_eq!(session.frame().await, Frame::text(&just));
    session.send(frames).await;
    let close = session.frame().await;
    assert_eq!(close.opcode, 8, "{close:?}");
    assert_eq!(close.payload[..2], 1009u16.to_be_bytes());
    drop(session);
    let line = prusik.session_close().await;
    assert_eq!(line["closed_by"], "limit");
    assert_eq!(line["close_code"], 1009);
    assert_eq!(line["messages_in"], before);
    eventually("the server is told", async || {
        origin.closes().contains(&1009)
    })
    .await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_its_session_with_1009_both_ways() {
    too_big(&client_frame(1, &[b'x'; 101]), 1).await;
}

#[tokio::test]
async fn the_fragments_of_a_message_count_together_and_a_ping_among_them_does_not() {
    let mut begin = client_frame(1, &[b'x'; 60]);
    begin[0] = 0x01;
    let ping = client_frame(9, &[b'p'; 60]);
    let rest = client_frame(0, &[b'x'; 40]);
    let over = client_frame(0, &[b'x'; 1]);
    let whole = [&begin[..], &ping, &rest].concat();
    let origin = Origin::chat().await;
    let prusik = Prusik::start(sessions(&origin, "max_message: 100B")).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    session.send(&whole).await;
    let mut frames = [session.frame().await, session.frame().await];
    frames.sort_by_key(|frame| frame.opcode);
    assert_eq!((frames[0].payload.len(), frames[1].opcode), (100, 10));
    let mut not_final = rest;
    not_final[0] = 0x00;
    too_big(&[&begin[..], &not_final, &over].concat(), 2).await;
}

#[tokio::test]
async fn a_servers_message_over_the_limit_ends_its_session_too() {
    let origin = Origin::start(|request| {
        let frame = [&[0x81, 101][..], &[b'x'; 101]].concat();
        Answer::upgrade_with(&request.head, &[], &frame)
    })
    .await;
    let prusik = Prusik::start(sessions(&origin, "max_message: 100B")).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    let close = session.frame().await;
    assert_eq!(close.opcode, 8, "{close:?}");
    assert_eq!(close.payload[..2], 1009u16.to_be_bytes());
    drop(session);
    let line = prusik.session_close().await;
    assert_eq!(
        (&line["closed_by"], &line["messages_out"]),
        (&"limit".into(), &0.into())
    );
}
