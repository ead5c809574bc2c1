//! What clients, servers and proxies really send, where the RFCs leave room: it is served.

use std::time::Duration;

use crate::support::{
    ACCEPT, Answer, Client, Config, Origin, Prusik, RawSession, eventually, get, handshake,
    handshake_with,
};

async fn plain() -> (Origin, Prusik) {
    let origin = Origin::start(|request| match request.field("upgrade") {
        None => Answer::text(request.target()),
        Some(_) => Answer::upgrade(request),
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    (origin, prusik)
}

#[tokio::test]
async fn a_key_of_sixteen_bytes_opens_whatever_its_last_bits_are() {
    let (_origin, prusik) = plain().await;
    for key in [
        "dGhlIHNhbXBsZSBub25jZR==",
        "AAAAAAAAAAAAAAAAAAAAAB==",
        "zzzzzzzzzzzzzzzzzzzzzz==",
    ] {
        let request = handshake_with("/ws", &[&format!("Sec-WebSocket-Key: {key}")]);
        let mut client = Client::connect(prusik.public()).await;
        client.send(request).await;
        assert_eq!(client.head().await.status(), 101, "{key}");
    }
}

#[tokio::test]
async fn a_stray_upgrade_is_dropped_from_a_plain_request() {
    let (origin, prusik) = plain().await;
    let good = handshake("/page");
    let requests = [
        good.replacen("HTTP/1.1", "HTTP/1.0", 1),
        good.replacen("Connection: Upgrade", "Connection: keep-alive", 1),
        good.replacen("Connection: Upgrade", "Connection: close", 1),
        good.replacen("Connection: Upgrade\r\n", "", 1),
    ];
    for request in &requests {
        assert_ne!(*request, good);
        let answer = Client::connect(prusik.public()).await.ask(request).await;
        assert_eq!(
            (answer.status(), answer.text()),
            (200, "/page".to_owned()),
            "{request}"
        );
    }
    let received = origin.received();
    assert_eq!(received.len(), requests.len());
    for request in received {
        assert_eq!(request.field("upgrade"), None, "{}", request.head);
    }
}

#[tokio::test]
async fn a_server_may_switch_in_http_1_0_however_its_head_is_cut() {
    for tunnel in ["relay", "pingora"] {
        for cut in [0, 3, 8, 11, 20] {
            let origin = Origin::start(move |_| {
                let switch = format!(
                    "HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n\
                     \x01\x02hi"
                );
                let (first, rest) = switch.split_at(cut);
                Answer::raw(first)
                    .wait(Duration::from_millis(20))
                    .send(rest)
                    .hang()
            })
            .await;
            let config = Config::to(&[&origin]).top(format!("server: {{ tunnel: {tunnel} }}"));
            let prusik = Prusik::start(config).await;
            let mut session = RawSession::open(prusik.public(), handshake("/ws")).await;
            assert_eq!(
                session.head.first_line(),
                "HTTP/1.1 101 Switching Protocols"
            );
            assert_eq!(session.frame().await.payload, b"hi", "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_in_http_1_0_goes_on_in_http_1_1() {
    let origin =
        Origin::start(|_| Answer::raw("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").close())
            .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert_eq!(answer.first_line(), "HTTP/1.1 200 OK");
        assert_eq!(answer.text(), "ok");
    }
}

#[tokio::test]
async fn bytes_that_a_browser_would_escape_pass_in_a_query() {
    let (_origin, prusik) = plain().await;
    for (asked, received) in [
        ("/ws?price>100&q=<b>", "/ws?price%3E100&q=%3Cb%3E"),
        ("/ws?q={\"a\":1}", "/ws?q={%22a%22:1}"),
        ("/ws?100%&x=|`\\", "/ws?100%&x=|`\\"),
    ] {
        assert_eq!(get(prusik.public(), asked).await.text(), received);
    }
    let answer = get(prusik.public(), "/a<b").await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn an_absolute_target_and_its_host_may_be_spelt_differently() {
    let (_origin, prusik) = plain().await;
    for (target, host, status) in [
        ("http://a:80/x", "a", 200),
        ("http://A/x", "a", 200),
        ("http://a/x", "a:", 200),
        ("ws://a/x", "a:80", 200),
        ("wss://a:443/x", "a", 200),
        ("/x", "a:", 200),
        ("http://a/x", "b", 400),
        ("http://a:81/x", "a", 400),
        ("wsx://a/x", "a", 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = Client::connect(prusik.public()).await.ask(&request).await;
        assert_eq!(answer.status(), status, "{request}");
        if status == 200 {
            assert_eq!(answer.text(), "/x");
        }
    }
}

#[tokio::test]
async fn close_is_seen_in_every_field_of_its_name() {
    let (_origin, prusik) = plain().await;
    for fields in [
        "Connection: keep-alive, close",
        "Connection: close\r\nConnection: keep-alive",
        "Connection: keep-alive\r\nConnection: close",
        "Connection: x-a\r\nConnection: CLOSE",
        "Connection: caf\u{e9}, close",
    ] {
        let request = format!("GET /1 HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut client = Client::connect(prusik.public()).await;
        let behind = "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = client.ask(format!("{request}{behind}")).await;
        assert_eq!(answer.field("connection"), Some("close"), "{fields}");
        assert_eq!(answer.text(), "/1");
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_server_that_closes_by_a_second_field_is_not_asked_again_on_that_connection() {
    let origin = Origin::start(|_| {
        Answer::status(200, &["Connection: keep-alive", "Connection: close"], "ok")
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_client_that_has_ended_its_own_direction_gets_its_answer() {
    let origin = Origin::start(|request| {
        Answer::text(&format!("{}", request.body_length)).after(Duration::from_millis(300))
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for (request, said) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "0"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "2",
        ),
    ] {
        let mut client = Client::connect(prusik.public()).await;
        client.send(request).await;
        client.wire.finish().await.unwrap();
        assert_eq!(client.response().await.text(), said);
        client.expect_end().await;
    }
    // A handshake that nobody waits for becomes no session.
    let silent = Origin::start(|_| Answer::silence()).await;
    let prusik = Prusik::start(Config::to(&[&silent])).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/ws")).await;
    silent.has_got("/ws").await;
    client.wire.finish().await.unwrap();
    eventually("the server is let go", async || silent.open() == 0).await;
}
