//! Answers of prusik's own: the route's rules hold for them, and clients understand them.

use std::process::Command;
use std::time::Duration;

use crate::support::http2::{Http2Site as Site, NAME, whole};
use crate::support::{
    Answer, Client, Config, Origin, Prusik, Response, get, handshake, handshake_with, within,
};
use bytes::Bytes;
use http::Request;

const RULES: &str = "headers: { response: { set: { Strict-Transport-Security: max-age=1, \
                     X-Path: $uri }, add: { Vary: Origin }, remove: [Cache-Control] } }";

fn assert_ruled(answer: &Response, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.head);
    for line in ["Strict-Transport-Security: max-age=1", "Vary: Origin"] {
        assert!(answer.has_line(line), "no {line} in {}", answer.head);
    }
    assert_eq!(answer.field("cache-control"), None, "{}", answer.head);
    assert!(answer.field("x-path").is_some(), "{}", answer.head);
}

fn with_routes(origin: &Origin) -> Config {
    let to =
        |path: &str, rest: &str| format!("{{ match: {{ path_prefix: {path} }}, {rest}, {RULES} }}");
    Config::to(&[origin])
        .first(to("/redirect", "redirect: { to: /new }"))
        .first(to("/respond", "respond: { status: 200, body: here }"))
        .first(to("/closed", "upstream: backend, websocket: off"))
        .first(to(
            "/full",
            "upstream: backend, websocket: { origins: [\"https://a.test\"] }",
        ))
        .first(to(
            "/slow",
            "upstream: backend, timeouts: { response: 100ms }",
        ))
        .first(to("/page", "upstream: backend"))
        .first(to("/broken", "upstream: backend"))
        .first(to("/ws", "upstream: backend"))
}

#[tokio::test]
async fn the_rules_for_responses_hold_for_every_answer_of_the_route() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::silence(),
        "/broken" => Answer::raw("no HTTP\r\n\r\n"),
        _ => Answer::text("hello"),
    })
    .await;
    let prusik = Prusik::start(with_routes(&origin)).await;
    for (target, status) in [
        ("/redirect", 308),
        ("/respond", 200),
        ("/slow", 504),
        ("/broken", 502),
        ("/page", 200),
    ] {
        assert_ruled(&get(prusik.public(), target).await, status);
    }
    let bad = handshake_with("/ws", &["Sec-WebSocket-Key: short"]);
    let old = handshake_with("/ws", &["Sec-WebSocket-Version: 8"]);
    for (request, status) in [
        (handshake("/closed"), 403),
        (handshake("/full"), 403),
        (bad, 400),
        (old, 426),
    ] {
        let answer = Client::connect(prusik.public()).await.ask(request).await;
        assert_ruled(&answer, status);
    }
    origin.kill().await;
    assert_ruled(&get(prusik.public(), "/page").await, 502);
}

/// Its head says so, or its chunks do; the log has what it was, as of any other.
#[tokio::test]
async fn the_rules_hold_for_a_body_that_is_too_large() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = with_routes(&origin).listener("limits: { body_size: 10B }");
    let prusik = Prusik::start(config).await;
    let long = "Content-Length: 11\r\nExpect: 100-continue\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n";
    for (path, body) in [
        ("/page", long),
        ("/redirect", long),
        ("/respond", long),
        ("/page", chunked),
        // Spelt anew on its way on, and not alone in its packet.
        ("http://test:80/page?\"", long),
    ] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: test\r\n{body}");
        let mut client = Client::connect(prusik.public()).await;
        let answer = client.ask(request).await;
        assert_ruled(&answer, 413);
        client.expect_end().await;
    }
    let entry = prusik
        .wait_log("the refusal", |entry| entry["status"] == 413)
        .await;
    assert_eq!(entry["method"], "POST");
    assert_eq!(entry["path"], "/page");
    assert_eq!(entry["host"], "test");
    assert_eq!(entry["route"], "/page");
    // No route, no rules: but the refusal is the same.
    let nowhere = format!("POST /nowhere HTTP/1.1\r\nHost: test\r\n{long}");
    let answer = Client::connect(prusik.public()).await.ask(nowhere).await;
    assert_eq!(answer.status(), 413);
    // The answer to a HEAD has no body, this one neither.
    let head = format!("HEAD /page HTTP/1.1\r\nHost: test\r\n{long}");
    let mut client = Client::connect(prusik.public()).await;
    client.send(head).await;
    assert_eq!(client.head().await.status(), 413);
    client.expect_end().await;
    assert!(origin.received().is_empty(), "{:?}", origin.received());
}

#[tokio::test]
async fn the_rules_hold_by_http_2_too() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let site = Site::start(origin, |config| {
        let closed = format!(
            "{{ match: {{ path_prefix: /closed }}, upstream: backend, websocket: off, {RULES} }}"
        );
        config
            .listener("limits: { body_size: 10B }")
            .first(closed)
            .first(format!(
                "{{ match: {{ path: /new }}, redirect: {{ to: /n }}, {RULES} }}"
            ))
    })
    .await;
    let mut client = site.client().await;
    let (response, _) = client.get("/new").await;
    assert_eq!(response.status(), 308);
    assert_eq!(response.headers()["strict-transport-security"], "max-age=1");
    let (response, ..) = client.connect("/closed").await;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["vary"], "Origin");
    let too_long = Request::post(format!("https://{NAME}/new")).header("content-length", "11");
    let too_long = too_long.body(()).expect("sound");
    let (response, _) = client.begin(too_long, false).await;
    let (response, _) = whole(response).await;
    assert_eq!(response.status(), 413);
    assert_eq!(response.headers()["vary"], "Origin");
    assert!(!response.headers().contains_key("cache-control"));
}

#[tokio::test]
async fn who_speaks_another_version_is_told_what_to_upgrade_to() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let request = handshake_with("/", &["Sec-WebSocket-Version: 8"]);
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.ask(&request).await;
    assert_eq!(answer.status(), 426);
    assert_eq!(answer.field("connection"), Some("Upgrade, keep-alive"));
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert_eq!(answer.field("sec-websocket-version"), Some("13"));
    // The connection serves on, and says no more of upgrades.
    let answer = client.get("/").await;
    assert_eq!(
        answer.field("connection"),
        Some("keep-alive"),
        "{}",
        answer.head
    );
}

/// Sends a body that is far larger than its window, while the answer is long there.
#[tokio::test]
async fn a_body_that_nobody_wants_does_not_cost_an_http_2_client_its_answer() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let site = Site::start(origin, |config| {
        config.first("{ match: { path: /moved }, redirect: { to: /new, status: 301 } }")
    })
    .await;
    let mut client = site.client().await;
    let request = Request::post(format!("https://{NAME}/moved"));
    let (response, mut send) = client.begin(request.body(()).expect("sound"), false).await;
    let (response, _) = whole(response).await;
    assert_eq!(response.status(), 301);
    let mut left = 1024 * 1024;
    while left > 0 {
        send.reserve_capacity(left);
        let room = within("room", std::future::poll_fn(|cx| send.poll_capacity(cx))).await;
        let room = room.expect("a stream").expect("no reset").min(left);
        left -= room;
        send.send_data(Bytes::from(vec![0; room]), left == 0)
            .expect("there is room");
    }
}

/// Debian 12 has curl 7.88, which takes a stream that is reset for a failure.
#[tokio::test]
async fn curl_by_http_2_with_a_large_body_gets_answers_of_our_own() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no curl");
    }
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let site = Site::start(origin, |config| {
        config
            .listener("limits: { body_size: 1MiB }")
            .first("{ match: { path: /moved }, redirect: { to: /new, status: 301 } }")
            .first("{ match: { path: /denied }, respond: { status: 403, body: no } }")
            .first("{ match: { path: /none }, respond: { status: 404, body: no } }")
    })
    .await;
    let file = site.prusik.folder().join("body");
    std::fs::write(&file, vec![b'x'; 900 * 1024]).expect("a body");
    let large = site.prusik.folder().join("large");
    std::fs::write(&large, vec![b'x'; 3 * 1024 * 1024]).expect("a body");
    let address = site.prusik.public();
    let resolve = format!("{NAME}:{}:{}", address.port(), address.ip());
    for (target, body, status) in [
        ("/moved", &file, "301"),
        ("/denied", &file, "403"),
        ("/none", &file, "404"),
        ("/large", &large, "413"),
    ] {
        let url = format!("https://{NAME}:{}{target}", address.port());
        let mut curl = Command::new("curl");
        curl.args([
            "-sSk",
            "--http2",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
        ])
        .args(["-H", "Expect:", "--resolve", &resolve, "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(url);
        let output = within("curl", tokio::task::spawn_blocking(move || curl.output())).await;
        let output = output.expect("no panic").expect("curl runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let wrote = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            (wrote, said),
            (format!("{status} 2"), String::new()),
            "{target}"
        );
    }
    // Nothing of it holds the process up.
    let mut site = site;
    site.prusik.signal("TERM");
    let ended = tokio::time::timeout(Duration::from_secs(30), site.prusik.exit_code()).await;
    assert_eq!(ended.expect("it ends"), Some(0));
}
