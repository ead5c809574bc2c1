//! Event streams at an upgrade: they move, and lose nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::join_all;

use crate::support::events::{Asked, EventClient, EventServer, STREAM, StreamEnd, event};
use crate::support::fake_new::{self, Link};
use crate::support::{Client, Config, Prusik};
use prusik::lifecycle::upgrade::protocol::Message;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// The protocol of the last version that does not know streams.
const WITHOUT_STREAMS: u32 = 2;

async fn start() -> (EventServer, Prusik) {
    let server = EventServer::start();
    let drain = "server: { drain: { window: 0s, deadline: 20s } }";
    let config = Config::to_addresses(&[server.address()]);
    let prusik = Prusik::start_own(config.top(ADMIN).top(drain)).await;
    (server, prusik)
}

async fn open(server: &mut EventServer, prusik: &Prusik) -> (Asked, EventClient) {
    let opening = EventClient::open(prusik.public(), "/events");
    tokio::join!(server.stream(), opening)
}

/// Events by their number until it is over, and then the end. Returns how many there were. They are
/// cut in two at places that wander through them.
async fn number(mut asked: Asked, is_over: Arc<AtomicBool>) -> usize {
    let mut number = 0;
    while !is_over.load(SeqCst) {
        let event = event(number);
        let cut = number % event.len();
        if cut > 0 {
            asked.chunk(&event[..cut]).await;
        }
        // The pace of a stream: without it fifty of them would take the whole machine.
        tokio::time::sleep(Duration::from_millis(10)).await;
        asked.chunk(&event[cut..]).await;
        number += 1;
    }
    asked.end().await;
    number
}

async fn count(mut client: EventClient) -> usize {
    let mut number = 0;
    while let Some(read) = client.next().await {
        assert_eq!(read, event(number));
        number += 1;
    }
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_live_streams_lose_nothing_through_three_upgrades() {
    let (mut server, mut prusik) = start().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut sent, mut read) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let (asked, client) = open(&mut server, &prusik).await;
        sent.push(tokio::spawn(number(asked, is_over.clone())));
        read.push(tokio::spawn(count(client)));
    }
    for _ in 0..3 {
        let said = prusik.upgrade().await;
        assert!(said.contains("50 sessions moved, 0 told to go"), "{said}");
    }
    is_over.store(true, SeqCst);
    for (sent, read) in join_all(sent).await.into_iter().zip(join_all(read).await) {
        let sent = sent.unwrap();
        assert_eq!(sent, read.unwrap());
        assert!(sent > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slow_client_moves_with_its_stream() {
    let (mut server, mut prusik) = start().await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    let text = |number: usize| format!("data: {number} {}\n\n", "x".repeat(30_000));
    const COUNT: usize = 300;
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            asked.chunk(text(number)).await;
        }
        asked
    });
    assert_eq!(client.next().await, Some(text(0)));
    prusik.upgrade().await;
    for number in 1..COUNT {
        assert_eq!(client.next().await, Some(text(number)));
        if number == COUNT / 2 {
            prusik.upgrade().await;
        }
    }
    // One that its server has ended goes on where it is.
    sending.await.unwrap().end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_stream_has_its_counts_its_limits_and_its_framing() {
    let server = EventServer::start();
    let route = "stream: { max_sessions: 2, idle: 2s }";
    let config = Config::to_addresses(&[server.address()]).top(ADMIN);
    let mut prusik = Prusik::start_own(config.route(route)).await;
    let mut server = server;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    // One without chunks, on both sides.
    let mut old = Client::connect(prusik.public()).await;
    old.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n").await;
    let answering = async {
        let mut asked = server.asked().await;
        let head = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        asked.send(head).await;
        asked
    };
    let (mut plain, mut old) = tokio::join!(answering, EventClient::of(old));
    plain.send(event(1)).await;
    old.expect(1).await;
    prusik.upgrade().await;
    let refused = crate::support::get(prusik.public(), "/");
    let (refused, _) = tokio::join!(refused, server.stream());
    assert_eq!(refused.status(), 503);
    plain.send(event(2)).await;
    old.expect(2).await;
    drop(plain);
    assert_eq!(old.ended().await, StreamEnd::InOrder);
    asked.event(2).await;
    client.expect(2).await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    let close = prusik
        .wait_log("the idle one's end", |line| {
            line["kind"] == "session_close" && line["closed_by"] == "idle"
        })
        .await;
    assert_eq!(close["events_out"], 2);
    assert_eq!(close["bytes_out"], event(1).len() + event(2).len());
}

/// Plays a new process that does not know streams.
#[test]
fn new_process() {
    if fake_new::role().is_none() {
        return;
    }
    let mut link = Link::take();
    link.get_ready(WITHOUT_STREAMS);
    link.serve();
    while let Some(heard) = link.hear() {
        match heard.message {
            Message::Census(census) => {
                let text = format!("{census:?}");
                assert!(!text.contains("Stream"), "it does not know {text}");
            }
            Message::Idle { number, .. } => {
                let reason = "no room".to_owned();
                link.say(&Message::Refused { number, reason });
            }
            Message::Moved { .. } => {}
            Message::End => break,
            other => panic!("it does not know {other:?}"),
        }
    }
    link.say(&Message::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_does_not_know_streams_gets_none_and_they_are_told() {
    let (mut server, prusik) = start().await;
    let (mut asked, mut client) = open(&mut server, &prusik).await;
    asked.event(1).await;
    client.expect(1).await;
    // Its answer comes while the others move.
    let late = EventClient::open(prusik.public(), "/late");
    let mut late = tokio::spawn(late);
    let mut waiting = server.asked().await;
    let script = fake_new::script("streams_move::new_process", "knows_no_streams");
    prusik.replace_program(Some(&script));
    let said = tokio::task::block_in_place(|| prusik.operate(&["upgrade"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(client.ended().await, StreamEnd::InOrder, "{said}");
    waiting.send(STREAM).await;
    let mut late = (&mut late).await.unwrap();
    assert_eq!(late.ended().await, StreamEnd::InOrder);
}

/// Each process is PID 1 of its own; they share the network and a folder.
#[tokio::test(flavor = "multi_thread")]
async fn streams_go_along_with_a_process_of_another_container() {
    let mut server = EventServer::start();
    let shared = tempfile::tempdir().expect("a temporary folder");
    let config = Config::to_addresses(&[server.address()]).top(ADMIN).top(format!(
        "server: {{ hand_over: \"unix:{}/hand-over.sock\", drain: {{ window: 0s, deadline: 20s }} }}",
        shared.path().display()
    ));
    let Some(mut before) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut sent, mut read) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (asked, client) = open(&mut server, &before).await;
        sent.push(tokio::spawn(number(asked, is_over.clone())));
        read.push(tokio::spawn(count(client)));
    }
    for _ in 0..2 {
        let next = Prusik::start_taking_over(config.clone()).await;
        let next = next.expect("there was the right to make namespaces before");
        next.wait_stderr("20 sessions moved, 0 told to go").await;
        before.ended().await;
        before = next;
    }
    is_over.store(true, SeqCst);
    for (sent, read) in join_all(sent).await.into_iter().zip(join_all(read).await) {
        assert_eq!(sent.unwrap(), read.unwrap());
    }
}
