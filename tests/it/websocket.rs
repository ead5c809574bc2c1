//! Handshakes: which ones a server gets to see, what it is told, and what comes back.

use std::time::Duration;

use crate::support;
use crate::support::{
    ACCEPT, Answer, Client, Config, Ended, Frame, KEY, Origin, Prusik, RawSession, Session,
    client_frame, eventually, handshake, handshake_with,
};

/// One handshake on a connection of its own, and the answer to it.
async fn answer_to(prusik: &Prusik, request: &str) -> support::Response {
    Client::connect(prusik.public()).await.ask(request).await
}

#[tokio::test]
async fn a_handshake_passes_and_its_accept_comes_back() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/chat?room=1")).await;
    assert_eq!(session.head.field("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(session.head.field("upgrade"), Some("websocket"));
    assert!(
        session.head.has_line("Connection: Upgrade"),
        "{}",
        session.head
    );

    let request = origin.only_request();
    assert_eq!(request.first_line(), "GET /chat?room=1 HTTP/1.1");
    assert_eq!(request.field("upgrade"), Some("websocket"));
    let connection = request.field("connection").unwrap_or_default();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{connection}");
    assert_eq!(request.field("sec-websocket-key"), Some(KEY));
    assert_eq!(request.field("sec-websocket-version"), Some("13"));

    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
}

#[tokio::test]
async fn upgrade_and_connection_are_read_without_regard_to_case_and_among_others() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let fields = ["Upgrade: WebSocket", "Connection: keep-alive, UPGRADE"];
    let mut session = RawSession::open(prusik.public(), handshake_with("/", &fields)).await;
    session.send(client_frame(2, &[0, 255])).await;
    assert_eq!(session.frame().await.payload, [0, 255]);
    let request = origin.only_request();
    assert_eq!(request.field("upgrade"), Some("websocket"));
}

#[tokio::test]
async fn another_version_is_told_which_one_is_spoken() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for version in ["8", "7", "14", "13, 8", "x"] {
        let field = format!("Sec-WebSocket-Version: {version}");
        let answer = answer_to(&prusik, &handshake_with("/", &[&field])).await;
        assert_eq!(answer.status(), 426, "{version}");
        assert_eq!(answer.field("sec-websocket-version"), Some("13"));
        assert_eq!(answer.field("upgrade"), Some("websocket"));
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn what_is_no_whole_handshake_is_400_and_no_server_hears_of_it() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let good = handshake("/");
    let with_body = good.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    let chunked = good.replace(
        "\r\n\r\n",
        "\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    );
    let second_key = format!("\r\nSec-WebSocket-Key: {KEY}\r\n\r\n");
    for (what, request) in [
        ("no key", handshake_with("/", &["Sec-WebSocket-Key:"])),
        (
            "a short key",
            handshake_with("/", &["Sec-WebSocket-Key: c2hvcnQ="]),
        ),
        (
            "a key that is no base64",
            handshake_with("/", &["Sec-WebSocket-Key: ????????????????????????"]),
        ),
        ("two keys", good.replace("\r\n\r\n", &second_key)),
        (
            "no version",
            handshake_with("/", &["Sec-WebSocket-Version:"]),
        ),
        ("POST", good.replacen("GET", "POST", 1)),
        ("a body", with_body),
        ("a chunked body", chunked),
    ] {
        let answer = answer_to(&prusik, &request).await;
        assert_eq!(answer.status(), 400, "{what}: {}", answer.text());
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn an_allow_list_may_name_what_apps_send_and_who_sends_nothing() {
    let origin = Origin::chat().await;
    let list = "websocket: { origins: [\"null\", \"file://\", \"https://*.example.com\", none, \
                \"capacitor://localhost\"] }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(list)).await;
    for (field, status) in [
        ("Origin: null", 101),
        ("Origin: file://", 101),
        ("Origin: https://app.EXAMPLE.com", 101),
        ("Origin: https://a.b.example.com", 101),
        ("Origin: capacitor://localhost", 101),
        ("X-No-Origin: at all", 101),
        ("Origin: https://example.com", 403),
        ("Origin: https://evil.test/.example.com", 403),
        ("Origin: http://app.example.com", 403),
        ("Origin: none", 403),
        ("Origin: https://app.example.com\r\nOrigin: null", 403),
    ] {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake_with("/", &[field])).await;
        assert_eq!(client.head().await.status(), status, "{field}");
    }
}

#[tokio::test]
async fn an_allow_list_admits_its_origins_only() {
    let origin = Origin::chat().await;
    let list = "websocket: { origins: [\"https://app.example.com\", \"http://a.test:81\"] }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(list)).await;
    for (page, status) in [
        ("https://app.example.com", 101),
        ("http://a.test:81", 101),
        ("https://evil.example.com", 403),
        ("http://app.example.com", 403),
        ("https://app.example.com:444", 403),
        ("https://app.example.com.evil.test", 403),
        ("null", 403),
    ] {
        let request = handshake_with("/", &[&format!("Origin: {page}")]);
        let mut client = Client::connect(prusik.public()).await;
        client.send(request).await;
        assert_eq!(client.head().await.status(), status, "{page}");
    }
    assert_eq!(origin.received().len(), 2);
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    assert_eq!(client.head().await.status(), 403, "without an Origin");
    // The list is about sessions, not pages.
    let page = answer_to(
        &prusik,
        "GET / HTTP/1.1\r\nHost: test\r\nOrigin: https://evil.test\r\n\r\n",
    );
    assert_eq!(page.await.status(), 200);
}

#[tokio::test]
async fn a_route_without_websockets_refuses_them_and_serves_pages() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).route("websocket: off")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.ask(handshake("/")).await.status(), 403);
    // The connection is none the worse for it.
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(origin.received().len(), 1);
}

#[tokio::test]
async fn a_wrong_accept_of_the_server_is_502() {
    for accept in ["", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=", "nonsense"] {
        let origin = Origin::start(|_| Answer::upgrade_accepting(accept, &[], b"")).await;
        let prusik = Prusik::start(Config::to(&[&origin])).await;
        let answer = answer_to(&prusik, &handshake("/")).await;
        assert_eq!(answer.status(), 502, "{accept:?}");
        let entry = prusik.wait_log("the refusal", |_| true).await;
        assert_eq!(entry["kind"], "request");
        assert_eq!(entry["status"], 502);
        eventually("the server's connection is closed", async || {
            origin.open() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_502() {
    let origin = Origin::start(|_| Answer::upgrade_accepting(ACCEPT, &[], b"")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let answer = answer_to(&prusik, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn a_servers_refusal_reaches_the_client_as_it_is() {
    for (status, field) in [
        (403, "X-Why: banned"),
        (200, "X-Why: a page"),
        (401, "WWW-Authenticate: Basic realm=\"chat\""),
        (503, "Retry-After: 7"),
        (302, "Location: /elsewhere"),
    ] {
        let origin = Origin::start(move |_| Answer::status(status, &[field], "no, thanks")).await;
        let prusik = Prusik::start(Config::to(&[&origin])).await;
        let mut client = Client::connect(prusik.public()).await;
        let answer = client.ask(handshake("/")).await;
        assert_eq!(answer.status(), status);
        assert!(answer.has_line(field), "{}", answer.head);
        assert_eq!(answer.text(), "no, thanks");
        let again = client.get("/").await;
        assert_eq!(again.status(), status, "the connection serves on");
    }
}

#[tokio::test]
async fn other_upgrades_are_dropped_and_the_request_is_served() {
    let origin = Origin::start(|_| Answer::text("plain")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for fields in [
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c\r\nConnection: Upgrade",
        "Upgrade: TLS/1.3\r\nConnection: upgrade",
        "Upgrade: websocket2\r\nConnection: upgrade",
        "Upgrade: h2c",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n");
        let answer = answer_to(&prusik, &request).await;
        assert_eq!(answer.text(), "plain", "{fields}");
    }
    assert_eq!(origin.received().len(), 5);
    for request in origin.received() {
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(request.field(name), None, "{}", request.head);
        }
    }
}

#[tokio::test]
async fn subprotocols_and_extensions_are_between_client_and_server() {
    const CHOSEN: [&str; 2] = [
        "Sec-WebSocket-Protocol: chat.v2",
        "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover",
    ];
    let origin = Origin::start(|request| Answer::upgrade_with(request, &CHOSEN, b"")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let offered = [
        "Sec-WebSocket-Protocol: chat.v1, chat.v2",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ];
    let session = RawSession::open(prusik.public(), handshake_with("/", &offered)).await;
    for line in CHOSEN {
        assert!(session.head.has_line(line), "{}", session.head);
    }
    for line in offered {
        let request = origin.only_request();
        assert!(request.has_line(line), "{}", request.head);
    }
}

#[tokio::test]
async fn frames_in_the_packet_of_the_handshake_arrive() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for size in [5, 3_000, 30_000] {
        let text = "m".repeat(size);
        let mut bytes = handshake("/").into_bytes();
        bytes.extend(client_frame(1, text.as_bytes()));
        bytes.extend(client_frame(1, b"and one more"));
        let mut session = RawSession::open(prusik.public(), bytes).await;
        assert_eq!(session.frame().await, Frame::text(&text));
        assert_eq!(session.frame().await, Frame::text("and one more"));
    }
}

#[tokio::test]
async fn frames_sent_before_the_101_arrive() {
    let origin =
        Origin::start(|request| Answer::upgrade(request).after(Duration::from_millis(300))).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    eventually("the server considers the handshake", async || {
        !origin.received().is_empty()
    })
    .await;
    client.send(client_frame(1, b"impatient")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101, "{head}");
    let mut session = RawSession { head, client };
    assert_eq!(session.frame().await, Frame::text("impatient"));
}

#[tokio::test]
async fn a_frame_in_the_packet_of_the_101_arrives() {
    let origin = Origin::start(|request| {
        Answer::upgrade_with(request, &[], &Frame::text("welcome").unmasked())
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for _ in 0..20 {
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        assert_eq!(session.frame().await, Frame::text("welcome"));
        session.send(client_frame(1, b"thanks")).await;
        assert_eq!(session.frame().await, Frame::text("thanks"));
    }
}

/// cloudflare/pingora#946: a fast server's session died right after its 101.
#[tokio::test]
async fn of_300_sessions_with_a_fast_server_none_is_lost() {
    let origin = Origin::start(|request| {
        Answer::upgrade_with(request, &[], &Frame::text("welcome").unmasked())
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for number in 0..300 {
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(session.hear().await, "welcome", "session {number}");
        assert_eq!(session.ask("hello").await, "hello", "session {number}");
    }
}

#[tokio::test]
async fn a_handshake_without_an_answer_is_504() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let short = "timeouts: { response: 500ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(short)).await;
    let answer = answer_to(&prusik, &handshake("/")).await;
    assert_eq!(answer.status(), 504);
    eventually("the server is left alone", async || origin.open() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_leaves_nothing_behind() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    eventually("the server has it", async || origin.open() == 1).await;
    drop(client);
    eventually("the server is left alone", async || origin.open() == 0).await;
}

#[tokio::test]
async fn sessions_run_over_a_unix_listener() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("web.sock");
    let yaml = Config::to(&[&origin]).to_string();
    let listen = format!("unix:{}", socket.display());
    let prusik = Prusik::start(yaml.replace("127.0.0.1:0", &listen)).await;
    assert!(prusik.stderr().contains(&format!("listening on {listen}")));
    let mut client = Client::connect_unix(&socket).await;
    assert_eq!(client.get("/").await.status(), 200);
    client.send(handshake("/")).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101, "{head}");
    let mut session = RawSession { head, client };
    session.send(client_frame(1, b"over unix")).await;
    assert_eq!(session.frame().await, Frame::text("over unix"));
}

#[tokio::test]
async fn a_server_that_closes_right_behind_its_101_ends_the_session_in_order() {
    let origin = Origin::start(|request| {
        let mut behind = Frame::text("bye").unmasked();
        behind.extend([0x88, 2, 0x03, 0xe8]);
        Answer::upgrade_with(request, &[], &behind).close()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for number in 0..50 {
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(session.hear().await, "bye", "session {number}");
        assert_eq!(
            session.ended().await,
            Ended::Close(1000),
            "session {number}"
        );
    }
}
