//! A process that may open few files: who it serves, whom it turns away, and what it says.

use std::fs;
use std::time::Duration;

use crate::support::http2::{
    END_HEADERS, END_STREAM, HEADERS, Http2Site, PREFACE, SETTINGS, raw_frame, request_fields,
};
use crate::support::{
    Answer, Client, Config, Origin, Outcome, Prusik, Session, eventually, status_of,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let prusik = Prusik::start_limited(Config::to(&[&origin]), "-Sn 64").await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", prusik.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = files.unwrap_or_default().split_whitespace().collect();
    assert_eq!(numbers[3], numbers[4], "{limits}");
    assert_ne!(numbers[3], "64");
}

#[tokio::test]
async fn a_file_that_allows_more_than_the_process_can_serve_is_warned_of() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = Config::to(&[&origin]);
    let large = config.clone().listener("limits: { connections: 1000 }");
    let prusik = Prusik::start_limited(&large, "-n 256").await;
    prusik.wait_stderr("allow 1000 connections").await;
    assert!(
        prusik.stderr().contains("LimitNOFILE="),
        "{}",
        prusik.stderr()
    );
    let small = config.listener("limits: { connections: 20 }");
    let prusik = Prusik::start_limited(&small, "-n 256").await;
    assert!(!prusik.stderr().contains("LimitNOFILE="));
    assert_eq!(prusik.reload_with(large).await, Outcome::Done);
    prusik.wait_stderr("allow 1000 connections").await;
}

#[tokio::test]
async fn without_descriptors_for_more_those_who_are_there_are_served_and_it_recovers() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start_limited(Config::to(&[&origin]), "-n 96").await;
    let mut session = Session::open(prusik.public(), "/").await;
    let mut old = Client::connect(prusik.public()).await;
    assert_eq!(old.get("/").await.status(), 200);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(Client::connect(prusik.public()).await);
    }
    prusik
        .wait_log("refusals", |entry| {
            let said = entry["error"].as_str().unwrap_or_default();
            entry["status"] == 503 && said.contains("descriptors")
        })
        .await;
    // Also what needs a descriptor more, for a server.
    origin.kill().await;
    origin.restart().await;
    for _ in 0..3 {
        assert_eq!(old.get("/").await.status(), 200);
    }
    let mut another = Client::connect(prusik.public()).await;
    assert_eq!(another.response().await.status(), 503);
    drop(crowd);
    eventually("new clients are served again", async || {
        let mut client = Client::connect(prusik.public()).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        client.response().await.status() == 200
    })
    .await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    // Its server was killed with the others of its kind.
    session.ended().await;
}

/// Streams that are answered by prusik itself have no server: they take nobody's descriptor,
/// however long they stand.
#[tokio::test]
async fn streams_without_a_server_take_no_descriptors() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let config = |config: Config| {
        config.first("{ match: { path_prefix: /old }, respond: { status: 410, body: gone } }")
    };
    let site = Http2Site::start_limited(origin, config, "-n 192").await;
    let no_window = raw_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut opening = [PREFACE, &no_window].concat();
    for number in 0..40 {
        let fields = request_fields("GET", "/old");
        opening.extend(raw_frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1 + 2 * number,
            &fields,
        ));
    }
    let mut held = Vec::new();
    let mut other = site.client().await;
    for _ in 0..5 {
        let mut stream = site.tls().await;
        stream.write_all(&opening).await.unwrap();
        stream.flush().await.unwrap();
        // What was set apart for them while they began is free again.
        eventually("others are served", async || {
            other.get("/").await.0.status() == 200
        })
        .await;
        held.push(stream);
    }
    let (answer, _) = site.client().await.get("/").await;
    assert_eq!(answer.status(), 200);
}

/// It is not the clients who have used them up: accept(2) itself fails, as connections are counted
/// in vain.
#[tokio::test]
async fn when_accept_fails_new_clients_wait_and_the_old_are_served() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let mut old = Client::connect(prusik.public()).await;
    assert_eq!(old.get("/").await.status(), 200);
    let pid = Pid::from_raw(i32::try_from(prusik.pid()).unwrap());
    let allow = |most| prlimit(pid, Resource::Nofile, most).unwrap();
    let hard = getrlimit(Resource::Nofile).maximum;
    let none = Rlimit {
        current: Some(3),
        maximum: hard,
    };
    let before = allow(none);

    let mut waiting = Client::connect(prusik.public()).await;
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    prusik.wait_stderr("cannot accept").await;
    assert!(prusik.stderr().contains("raise LimitNOFILE"));
    let cpu = prusik.cpu();
    for _ in 0..10 {
        assert!(session.is_alive().await);
        assert_eq!(old.get("/").await.status(), 200);
    }
    // What is tested is the CPU time of a second in which nothing can be accepted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = prusik.cpu() - cpu;
    assert!(spent < Duration::from_millis(500), "it spins: {spent:?}");

    allow(before);
    assert_eq!(waiting.response().await.status(), 200);
    prusik.wait_stderr("accepting again").await;
    assert_eq!(prusik.stderr().matches("cannot accept").count(), 1);
    assert!(session.is_alive().await);
}
