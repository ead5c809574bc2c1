//! When servers fail: what is tried again, and what the client is told.

use std::time::Duration;

use crate::support::{
    Answer, Client, Config, Origin, Prusik, Response, Session, eventually, free_address, get,
    within,
};

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

async fn post(prusik: &Prusik) -> Response {
    Client::connect(prusik.public()).await.ask(POST).await
}

/// Short and plain, and without anything of the inside.
fn assert_plain(answer: &Response, status: u16) {
    assert_eq!(answer.status(), status, "{}", answer.head);
    let text = answer.text();
    assert!(text.starts_with(&status.to_string()), "{text}");
    assert!(text.len() < 200 && text.ends_with('\n'), "{text}");
    assert!(!text.contains("127."), "{text}");
    let kind = answer.field("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{kind}");
}

#[tokio::test]
async fn when_every_server_refuses_the_client_gets_502_and_the_log_the_reason() {
    let config = Config::default()
        .server(free_address())
        .server(free_address());
    let prusik = Prusik::start(config).await;
    assert_plain(&get(prusik.public(), "/").await, 502);
    let entry = prusik.wait_log("the request", |_| true).await;
    assert_eq!(entry["status"], 502);
    assert_eq!(entry["attempts"], 2, "both, none twice");
    assert!(
        entry["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{entry}"
    );
}

#[tokio::test]
async fn no_more_servers_are_tried_than_attempts_says() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let dead = || free_address();
    let config = Config::default()
        .server(dead())
        .server(dead())
        .server(format!(
            "{{ address: \"{}\", backup: true }}",
            origin.address()
        ))
        .upstream("attempts: 2");
    let prusik = Prusik::start(config).await;
    assert_eq!(get(prusik.public(), "/").await.status(), 502);
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_refused_connection_moves_on_whatever_the_request() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).server(free_address())).await;
    for _ in 0..6 {
        assert_eq!(get(prusik.public(), "/").await.status(), 200);
        assert_eq!(post(&prusik).await.status(), 200);
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(session.server().await, origin.address());
    }
}

#[tokio::test]
async fn an_idempotent_request_moves_on_when_its_server_dies_after_the_accept() {
    let dying = Origin::start(|_| Answer::nothing()).await;
    let living = Origin::start(|_| Answer::text("alive")).await;
    let prusik = Prusik::start(Config::to(&[&dying, &living])).await;
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", put] {
        for _ in 0..4 {
            let mut client = Client::connect(prusik.public()).await;
            let answer = client.ask(request).await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "alive"));
        }
    }
    assert!(!dying.received().is_empty());
    for request in living.received().iter().filter(|r| r.method() == "PUT") {
        assert_eq!(request.body, b"body");
    }
}

#[tokio::test]
async fn a_post_is_sent_once_and_never_again() {
    let dying = Origin::start(|_| Answer::nothing()).await;
    let living = Origin::start(|_| Answer::text("alive")).await;
    let prusik = Prusik::start(Config::to(&[&dying, &living])).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post(&prusik).await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    assert_eq!((dying.received().len(), living.received().len()), (2, 2));
}

#[tokio::test]
async fn a_retry_never_goes_to_the_server_that_failed() {
    let dying = Origin::start(|_| Answer::nothing()).await;
    let prusik = Prusik::start(Config::to(&[&dying]).upstream("attempts: 5")).await;
    assert_plain(&get(prusik.public(), "/").await, 502);
    assert_eq!(dying.received().len(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_its_server_gave_up_costs_nothing() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for _ in 0..5 {
        let mut client = Client::connect(prusik.public()).await;
        assert_eq!(client.get("/").await.text(), "hello");
        origin.kill().await;
        origin.restart().await;
        assert_eq!(client.get("/").await.text(), "hello");
    }
}

#[tokio::test]
async fn a_server_without_an_answer_is_504() {
    let silent = Origin::start(|_| Answer::silence()).await;
    let other = Origin::start(|_| Answer::silence()).await;
    let short = "timeouts: { response: 500ms }";
    let prusik = Prusik::start(Config::to(&[&silent, &other]).route(short)).await;
    assert_plain(&get(prusik.public(), "/").await, 504);
    // It may have done its work: nobody else is asked to do it again.
    assert_eq!(silent.received().len() + other.received().len(), 1);
    eventually("the servers are left alone", async || {
        silent.open() + other.open() == 0
    })
    .await;
    let entry = prusik.wait_log("the request", |_| true).await;
    assert_eq!(entry["status"], 504);
}

#[tokio::test]
async fn a_late_answer_is_504_for_a_post_too() {
    let origin = Origin::start(|_| Answer::text("late").after(Duration::from_secs(20))).await;
    let short = "timeouts: { response: 500ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(short)).await;
    assert_plain(&post(&prusik).await, 504);
}

/// Half of a body that says it is 100,000 bytes long, then nothing more.
fn half_an_answer(target: &str) -> Answer {
    let (framing, piece) = match target {
        "/chunked" => ("Transfer-Encoding: chunked", "c350\r\n"),
        _ => ("Content-Length: 100000", ""),
    };
    let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{piece}");
    Answer::raw(head).pattern(50_000)
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_as_whole() {
    let origin = Origin::start(|request| half_an_answer(request.target()).close()).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for target in ["/length", "/chunked"] {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert_eq!(client.head().await.status(), 200);
        let mut rest = Vec::new();
        while let Ok(part) = within("more, or the end", client.wire.some()).await
            && !part.is_empty()
        {
            rest.extend(part);
        }
        assert!(rest.len() < 51_000, "{target}: {}", rest.len());
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{target}: ends as if whole");
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_after_idle() {
    let origin = Origin::start(|request| half_an_answer(request.target()).hang()).await;
    let short = "timeouts: { idle: 500ms }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(short)).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await;
    within("half of the body", client.wire.exactly(50_000))
        .await
        .unwrap();
    client.expect_end().await;
    eventually("the server is left alone", async || origin.open() == 0).await;
}

#[tokio::test]
async fn nonsense_from_a_server_is_502() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 banana\r\n\r\n",
        "\r\n\r\n\r\n",
    ] {
        let origin = Origin::start(move |_| Answer::raw(nonsense).close()).await;
        let prusik = Prusik::start(Config::to(&[&origin])).await;
        assert_plain(&get(prusik.public(), "/").await, 502);
    }
}

#[tokio::test]
async fn an_error_of_the_server_is_the_servers_to_tell() {
    for status in [500, 502, 503, 504] {
        let origin = Origin::start(move |_| Answer::status(status, &["X-Mine: 1"], "mine")).await;
        let other = Origin::start(|_| Answer::text("never asked")).await;
        let prusik = Prusik::start(Config::to(&[&origin, &other])).await;
        let answer = get(prusik.public(), "/").await;
        assert_eq!((answer.status(), answer.text().as_str()), (status, "mine"));
        assert_eq!(answer.field("x-mine"), Some("1"));
        assert_eq!(other.connections(), 0);
    }
}

#[tokio::test]
async fn with_every_server_down_clients_get_503_and_when_to_come_back() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let check = "health_check: { interval: 200ms, rise: 1, fall: 1 }";
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(check)).await;
    origin.kill().await;
    prusik.wait_stderr("is down").await;
    let answer = get(prusik.public(), "/").await;
    assert_plain(&answer, 503);
    let seconds: Option<u32> = answer.field("retry-after").and_then(|s| s.parse().ok());
    assert!(
        seconds.is_some_and(|seconds| seconds > 0),
        "{}",
        answer.head
    );
    let entry = prusik
        .wait_log("the refusal", |entry| entry["status"] == 503)
        .await;
    assert_eq!(entry["attempts"], 0);
}
