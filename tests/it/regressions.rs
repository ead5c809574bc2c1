//! One test for each bug that a review of the first version found, named after it.

use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Ended, Frame, Origin, Outcome, Prusik, RawSession, Session, eventually,
    handshake, status_of, within,
};

const SHORT: &str = "timeouts: { response: 1s, idle: 1s }";

/// A body that takes longer than the timeouts, though it never stands still.
async fn upload_slowly(client: &mut Client, bytes: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..bytes {
        ticks.tick().await;
        client.send("x").await;
    }
}

#[tokio::test]
async fn a_long_upload_behind_a_100_continue_is_not_cut() {
    let origin = Origin::hasty(|_| {
        Answer::raw("HTTP/1.1 100 Continue\r\n\r\n")
            .wait(Duration::from_millis(2500))
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin]).route(SHORT)).await;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 100);
    upload_slowly(&mut client, 8).await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.text()), (200, "done".to_owned()));
}

#[tokio::test]
async fn a_handshake_that_is_declined_and_then_stalls_is_cut() {
    let origin = Origin::start(|_| {
        Answer::raw("HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nsome").hang()
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin]).route(SHORT)).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    assert_eq!(client.head().await.status(), 401);
    assert_eq!(client.wire.exactly(4).await.unwrap(), b"some");
    client.expect_end().await;
    eventually("the server is left alone", async || origin.open() == 0).await;
}

const FAILING: &str =
    "health_check: { type: http, path: /no, interval: 50ms, timeout: 1s, rise: 1, fall: 1 }";

/// Serves, but fails its checks.
async fn unwell() -> Origin {
    Origin::start(|request| match request.target() {
        "/no" => Answer::status(500, &[], ""),
        _ => Answer::text("fine"),
    })
    .await
}

#[tokio::test]
async fn a_reload_that_removes_the_check_of_a_server_that_is_down_brings_it_back() {
    let origin = unwell().await;
    let checked = || Config::to(&[&origin]).upstream(FAILING);
    let prusik = Prusik::start(checked()).await;
    for _ in 0..5 {
        let down = async || status_of(prusik.public(), "/").await == 503;
        eventually("it is down", down).await;
        assert_eq!(
            prusik.reload_with(Config::to(&[&origin])).await,
            Outcome::Done
        );
        for _ in 0..5 {
            assert_eq!(status_of(prusik.public(), "/").await, 200);
        }
        assert_eq!(prusik.reload_with(checked()).await, Outcome::Done);
    }
}

#[tokio::test]
async fn a_reload_that_is_refused_late_changes_no_health() {
    let origin = unwell().await;
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(FAILING)).await;
    let down = async || status_of(prusik.public(), "/").await == 503;
    eventually("it is down", down).await;
    let unopenable = Config::to(&[&origin]).top("access_log: { path: /no/such/folder/log }");
    let outcome = prusik.reload_with(unopenable).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    for _ in 0..5 {
        assert_eq!(status_of(prusik.public(), "/").await, 503);
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_ejected() {
    let hung = Origin::start(|_| Answer::silence()).await;
    let fine = Origin::start(|_| Answer::text("fine")).await;
    let config = Config::to(&[&hung, &fine])
        .upstream("eject: { failures: 2, within: 60s, for: 60s }")
        .route("timeouts: { response: 200ms }");
    let prusik = Prusik::start(config).await;
    let mut failures = 0;
    for _ in 0..12 {
        failures += usize::from(status_of(prusik.public(), "/").await == 504);
    }
    assert_eq!(failures, 2);
    prusik.wait_stderr("is ejected").await;
}

/// A text of this many bytes, the last half of it only after a pause.
fn slow_frame(pause: Duration) -> impl Fn(Answer) -> Answer {
    let frame = Frame::text(&"x".repeat(100)).unmasked();
    move |answer| {
        let (first, second) = frame.split_at(50);
        answer.send(first).wait(pause).send(second).hang()
    }
}

#[tokio::test]
async fn max_session_waits_for_the_end_of_a_frame() {
    let slowly = slow_frame(Duration::from_millis(1500));
    let origin = Origin::start(move |request| slowly(Answer::upgrade(request))).await;
    let limited = "websocket: { max_session: 700ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(limited)).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    assert_eq!(session.frame().await, Frame::text(&"x".repeat(100)));
    let goodbye = session.frame().await;
    assert_eq!(
        (goodbye.opcode, &goodbye.payload[..]),
        (8, &1001_u16.to_be_bytes()[..])
    );
    let entry = prusik.session_close().await;
    assert_eq!(entry["closed_by"], "max_session");
    assert_eq!(entry["close_code"], 1001);
}

#[tokio::test]
async fn a_frame_that_never_ends_is_cut_and_the_log_claims_no_close() {
    let slowly = slow_frame(Duration::from_secs(60));
    let origin = Origin::start(move |request| slowly(Answer::upgrade(request))).await;
    let limited = "websocket: { max_session: 300ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(limited)).await;
    let _session = RawSession::open(prusik.public(), handshake("/")).await;
    let entry = prusik.session_close().await;
    assert_eq!(entry["closed_by"], "max_session");
    assert!(entry["close_code"].is_null(), "{entry}");
}

#[tokio::test]
async fn max_session_ends_the_session_of_a_client_that_reads_nothing() {
    let mut frame = vec![0x82, 126];
    frame.extend(60_000_u16.to_be_bytes());
    frame.resize(frame.len() + 60_000, 7);
    let flood = frame.repeat(500);
    let origin = Origin::start(move |request| Answer::upgrade(request).send(&flood)).await;
    let limited = "websocket: { max_session: 500ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(limited)).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/")).await;
    assert_eq!(prusik.session_close().await["closed_by"], "max_session");
    drop(client);
}

#[tokio::test]
async fn a_pipelined_request_does_not_delay_the_answer_before_it() {
    let origin = Origin::start(|request| match request.method() {
        "POST" => Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            .wait(Duration::from_secs(3))
            .send("half"),
        _ => Answer::text("next"),
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut client = Client::connect(prusik.public()).await;
    let sent = Instant::now();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.wire.exactly(4).await.unwrap(), b"half");
    assert!(
        sent.elapsed() < Duration::from_secs(2),
        "{:?}",
        sent.elapsed()
    );
    assert_eq!(client.wire.exactly(4).await.unwrap(), b"half");
    assert_eq!(client.response().await.text(), "next");
}

#[tokio::test]
async fn sessions_are_told_to_go_when_the_process_stops() {
    let origin = Origin::chat().await;
    for signal in ["TERM", "QUIT"] {
        let config = Config::to(&[&origin])
            .top("access_log: { path: access.log }")
            .top("server: { drain: { window: 2s } }");
        let mut prusik = Prusik::start(config).await;
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sessions.push(Session::open(prusik.public(), "/").await);
        }
        prusik.signal(signal);
        for session in &mut sessions {
            assert_eq!(session.ended().await, Ended::Close(1012), "{signal}");
        }
        assert_eq!(prusik.exit_code().await, Some(0));
        let log = std::fs::read_to_string(prusik.folder().join("access.log")).unwrap();
        let closed = log
            .lines()
            .filter(|line| line.contains("\"closed_by\":\"drain\""))
            .count();
        assert_eq!(closed, 5, "{log}");
    }
}

#[tokio::test]
async fn a_second_start_leaves_the_pid_file_of_the_first_alone() {
    let origin = Origin::chat().await;
    let first = Prusik::start(Config::to(&[&origin]).top("server: { pid_file: pid }")).await;
    let pid_file = first.folder().join("pid");
    let config = format!(
        "server: {{ pid_file: {} }}\nlisteners: [{{ listen: \"{}\" }}]\n",
        pid_file.display(),
        first.public()
    );
    let file = first.folder().join("second.yaml");
    std::fs::write(&file, config).unwrap();
    let second = tokio::task::spawn_blocking(move || {
        support::prusik(&["run", "--config", file.to_str().expect("a plain name")])
    });
    let output = within("the second process ends", second).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let pid = std::fs::read_to_string(pid_file).expect("the file is still there");
    assert_eq!(pid.trim(), first.pid().to_string());
}

#[tokio::test]
async fn a_redirect_encodes_bytes_beyond_ascii() {
    let config = "listeners: [{ listen: 127.0.0.1:0, name: public }]\n\
                  routes: [{ match: {}, redirect: { to: /x$http_tail } }]\n";
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send(b"GET / HTTP/1.1\r\nHost: a\r\nTail: a\xe9b\r\n\r\n")
        .await;
    let mut raw = Vec::new();
    while !raw.ends_with(b"\r\n\r\n") {
        raw.extend(client.wire.some().await.unwrap());
    }
    assert!(
        raw.windows(9).any(|part| part == b"/xa%E9b\r\n"),
        "{}",
        String::from_utf8_lossy(&raw)
    );
}

#[tokio::test]
async fn an_upload_that_stalls_is_told_408_and_the_server_is_not_blamed() {
    let origin = Origin::start(|_| Answer::text("fine")).await;
    let config = Config::to(&[&origin])
        .upstream("eject: { failures: 1, within: 60s, for: 60s }")
        .route(SHORT);
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf")
        .await;
    assert_eq!(client.response().await.status(), 408);
    assert!(!prusik.stderr().contains("ejected"), "{}", prusik.stderr());
}
