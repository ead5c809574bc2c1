//! `refusal: close`: what prusik refuses of a handshake is a session that ends at once, with a code
//! and a reason that a browser's script can read.

use crate::support::http2::{Http2Site, ended, frame};
use crate::support::{
    ACCEPT, Answer, Authority, Client, Config, Frame, Head, Origin, Prusik, RawSession, Session,
    certificates, client_frame, eventually, free_address, get, handshake, handshake_with,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Reads the refusal of a session that has its 101, answers it, and waits for the end.
pub async fn refusal(mut session: RawSession) -> (Head, u16, String) {
    let frame = session.frame().await;
    let (code, reason) = parts(&frame);
    session.send(client_frame(8, &frame.payload)).await;
    session.client.expect_end().await;
    (session.head, code, reason)
}

fn parts(frame: &Frame) -> (u16, String) {
    assert_eq!(frame.opcode, 8, "{frame:?}");
    let (code, reason) = frame.payload.split_at(2);
    let code = u16::from_be_bytes([code[0], code[1]]);
    (code, String::from_utf8(reason.to_vec()).expect("UTF-8"))
}

async fn refused(prusik: &Prusik, handshake: impl AsRef<[u8]>) -> (u16, String) {
    let session = RawSession::open(prusik.public(), handshake).await;
    let (head, code, reason) = refusal(session).await;
    assert_eq!(head.field("sec-websocket-accept"), Some(ACCEPT), "{head}");
    assert_eq!(head.field("upgrade"), Some("websocket"), "{head}");
    assert!(head.field("x-request-id").is_some(), "{head}");
    (code, reason)
}

fn route(path: &str, upstream: &str, keys: &str, websocket: &str) -> String {
    format!(
        "{{ match: {{ path: {path} }}, upstream: {upstream}, {keys} websocket: {{ refusal: close, \
         {websocket} }} }}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_has_a_code_and_a_reason_and_its_status_in_the_log() {
    let origin = Origin::start(|request| match request.target() {
        "/silent" => Answer::silence(),
        "/broken" => Answer::raw("this is no HTTP\r\n\r\n"),
        _ => Answer::upgrade(request),
    })
    .await;
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .first(route(
            "/origin",
            "backend",
            "",
            "origins: [\"https://a.test\"]",
        ))
        .first(route("/denied", "backend", "deny: [127.0.0.0/8],", ""))
        .first(route("/full", "backend", "", "max_sessions: 1"))
        .first(route("/mine", "backend", "", "max_sessions_per_client: 1"))
        .first(route("/none", "dead", "", ""))
        .first(route(
            "/silent",
            "backend",
            "timeouts: { response: 100ms },",
            "",
        ))
        .first(route("/broken", "backend", "", ""))
        .to_string();
    let dead = format!("upstreams:\n  dead: {{ servers: [{}] }}", free_address());
    let prusik = Prusik::start(config.replace("upstreams:", &dead)).await;
    let _sessions = [
        Session::open(prusik.public(), "/full").await,
        Session::open(prusik.public(), "/mine").await,
    ];
    for (path, status, code) in [
        ("/origin", 403, 4403),
        ("/denied", 403, 4403),
        ("/full", 503, 1013),
        ("/mine", 429, 1013),
        ("/none", 502, 1013),
        ("/silent", 504, 1013),
        ("/broken", 502, 1013),
    ] {
        let handshake = handshake_with(path, &["Origin: https://b.test"]);
        let (told, reason) = refused(&prusik, handshake).await;
        assert_eq!(told, code, "{path}: {reason}");
        let is_it = |entry: &serde_json::Value| entry["path"] == path && entry["kind"] == "request";
        let line = prusik.wait_log(path, is_it).await;
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["close_code"], code, "{line}");
        match code {
            1013 => assert_eq!(reason, "retry in 2 s", "{path}"),
            _ => assert_eq!(line["error"], reason.as_str(), "{path}"),
        }
    }
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let metrics = Client::connect(prusik.admin())
        .await
        .ask(request)
        .await
        .text();
    let status = prusik.status().await;
    let name = status["routes"][1]["name"].as_str().expect("a name");
    for line in [
        format!("prusik_handshakes_refused_total{{route=\"{name}\",reason=\"auth\"}} 1"),
        format!("prusik_requests_total{{route=\"{name}\",status=\"403\"}} 1"),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn of_offered_subprotocols_the_first_is_answered() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .route("deny: [127.0.0.0/8]")
        .route("websocket: { refusal: close }")
        .route("headers: { response: { set: { X-Ours: here } } }");
    let prusik = Prusik::start(config).await;
    for (offered, answered) in [
        ("Sec-WebSocket-Protocol: chat, superchat", Some("chat")),
        ("Sec-WebSocket-Protocol: bearer, a.b.c", Some("bearer")),
        ("X-None: here", None),
    ] {
        let handshake = handshake_with("/", &[offered]);
        let session = RawSession::open(prusik.public(), handshake).await;
        let (head, code, _) = refusal(session).await;
        assert_eq!(head.field("sec-websocket-protocol"), answered, "{head}");
        assert_eq!(head.field("x-ours"), Some("here"), "the route's rules hold");
        assert_eq!(code, 4403);
    }
}

#[tokio::test]
async fn what_is_no_handshake_or_not_refused_by_prusik_has_its_status() {
    let origin = Origin::start(|_| Answer::status(401, &[], "who are you")).await;
    let config = Config::to(&[&origin])
        .first(route("/denied", "backend", "deny: [127.0.0.0/8],", ""))
        .first("{ match: { path: /off }, upstream: backend, websocket: off }")
        .first("{ match: { path: /told }, upstream: backend, deny: [127.0.0.0/8] }")
        .route("websocket: { refusal: close }");
    let prusik = Prusik::start(config).await;
    assert_eq!(get(prusik.public(), "/denied").await.status(), 403);
    for (handshake, status) in [
        (handshake("/denied").replace("13", "8"), 403),
        (
            handshake_with("/denied", &["Sec-WebSocket-Key: short"]),
            403,
        ),
        (handshake_with("/", &["Sec-WebSocket-Key: short"]), 400),
        // The server's own answer.
        (handshake("/"), 401),
        (handshake("/off"), 403),
        (handshake("/told"), 403),
    ] {
        let mut client = Client::connect(prusik.public()).await;
        let answer = client.ask(&handshake).await;
        assert_eq!(answer.status(), status, "{handshake}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_and_who_comes_too_late_is_told_so() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .top("server: { drain: { window: 0s, deadline: 20s } }")
        .upstream("pacing: { waiting: 1 }")
        .route("websocket: { refusal: close }");
    let mut prusik = Prusik::start(config).await;
    // The server gets 20, and now and then one more. One waits.
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake("/")).await;
        clients.push(client);
    }
    let says = |part: &'static str| {
        move |entry: &serde_json::Value| {
            let error = entry["error"].as_str().unwrap_or_default();
            entry["close_code"] == 1013 && entry["status"] == 503 && error.contains(part)
        }
    };
    prusik
        .wait_log("the queue is full", says("as many handshakes wait"))
        .await;
    prusik.signal("TERM");
    prusik
        .wait_log("the one that waited", says("stopping"))
        .await;
    drop(clients);
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_answer_counts_until_it_is_cut() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .listener("limits: { connections: 1 }")
        .route("deny: [127.0.0.0/8]")
        .route("websocket: { refusal: close }");
    let prusik = Prusik::start(config).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    assert_eq!(session.frame().await.opcode, 8);
    let mut other = Client::connect(prusik.public()).await;
    assert_eq!(
        other.response().await.status(),
        503,
        "one connection is there"
    );
    session.client.expect_end().await;
    drop(session);
    eventually("there is room again", async || {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake("/")).await;
        client.head().await.status() == 101
    })
    .await;
}

#[tokio::test]
async fn by_tls_and_in_pingoras_tunnel_it_is_the_same() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let origin = Origin::chat().await;
    for tunnel in ["relay", "pingora"] {
        let config = Config::to(&[&origin])
            .top(format!("server: {{ tunnel: {tunnel} }}"))
            .tls(certificates(&[&pair]))
            .route("deny: [127.0.0.0/8]")
            .route("websocket: { refusal: close }");
        let prusik = Prusik::start(config).await;
        let client = authority
            .client()
            .connect(prusik.public(), "chat.test")
            .await;
        let session = RawSession::over(client, handshake("/")).await;
        let (_, code, _) = refusal(session).await;
        assert_eq!(code, 4403, "{tunnel}");
    }
}

#[tokio::test]
async fn by_http_2_the_stream_is_opened_and_closed() {
    let origin = Origin::chat().await;
    let site = Http2Site::start(origin, |config| {
        config
            .route("deny: [127.0.0.0/8]")
            .route("websocket: { refusal: close }")
    })
    .await;
    let mut client = site.client().await;
    let (response, mut receive, mut send) = client.connect("/").await;
    assert_eq!(response.status(), 200);
    let close = frame(&mut receive, &mut Vec::new()).await;
    assert_eq!(parts(&close).0, 4403);
    let answer = client_frame(8, &close.payload);
    send.send_data(answer.into(), true)
        .expect("the stream is open");
    ended(&mut receive).await;
    // The connection serves on.
    let (response, _) = client.get("/").await;
    assert_eq!(response.status(), 403);
    let is_it = |entry: &serde_json::Value| entry["close_code"] == 4403;
    let line = site.prusik.wait_log("the refusal", is_it).await;
    assert_eq!(line["status"], 403);
}
