//! Stops, and listeners that go: nobody who has connected is left without an answer, and nobody is
//! kept waiting for an accept that never comes.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Prusik, Session, eventually, free_port_on, status_of,
};
use futures_util::future::join_all;
use tokio::net::TcpStream;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address)
        .await
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

async fn readiness(admin: SocketAddr) -> u16 {
    let call = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    Client::connect(admin).await.ask(call).await.status()
}

/// A balancer in front that looks whether the port is open sees the stop at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_listeners_at_once_while_sessions_are_told_to_go() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("web.sock");
    let server = "server: { drain: { window: 20s, deadline: 30s } }";
    let unix = format!("listeners: [{{ listen: \"unix:{}\" }}, ", file.display());
    let config = Config::to(&[&origin]).top(server).to_string();
    let mut prusik = Prusik::start(config.replace("listeners: [", &unix)).await;
    let mut sessions = join_all((0..5).map(|_| Session::open(prusik.public(), "/"))).await;
    prusik.signal("TERM");
    eventually("TCP refuses", async || is_refused(prusik.public()).await).await;
    eventually("the unix socket is gone", async || !file.exists()).await;
    let mut alive = 0;
    for session in &mut sessions {
        alive += usize::from(session.is_alive().await);
    }
    assert!(alive >= 3, "they have their time: {alive}");
    prusik.signal("INT");
    assert_eq!(prusik.exit_code().await, Some(0));
}

/// They wait in the kernel's queue when the word comes.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_connected_before_a_stop_is_answered() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let mut prusik = Prusik::start(Config::to(&[&origin])).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    prusik.signal("STOP");
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(prusik.public()).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        waiting.push(client);
    }
    prusik.signal("TERM");
    prusik.signal("CONT");
    for client in &mut waiting {
        let response = client.response().await;
        assert_eq!(response.status(), 200);
        // Some may have been answered before the word was heard.
        client.expect_end().await;
    }
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_delay_clients_are_taken_on_until_balancers_have_seen_the_stop() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { delay: 3s, window: 0s } }";
    let mut prusik = Prusik::start(Config::to(&[&origin]).top(server).top(ADMIN)).await;
    let admin = prusik.admin();
    let mut early = Session::open(prusik.public(), "/").await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(readiness(admin).await, 200);
    let told = Instant::now();
    prusik.signal("TERM");
    eventually("it is not ready", async || readiness(admin).await == 503).await;
    assert!(told.elapsed() < Duration::from_secs(2));
    let response = client.get("/").await;
    assert_eq!(response.status(), 200);
    assert_ne!(response.field("connection"), Some("close"));
    let mut late = Session::open(prusik.public(), "/").await;
    assert!(late.is_alive().await && early.is_alive().await);
    // A second word changes nothing.
    prusik.signal("TERM");
    for session in [&mut early, &mut late] {
        assert_eq!(session.ended().await, Ended::Close(1012));
    }
    assert!(
        told.elapsed() > Duration::from_millis(2900),
        "{:?}",
        told.elapsed()
    );
    assert!(is_refused(prusik.public()).await);
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn int_does_not_wait_for_the_delay() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { delay: 1h } }";
    let mut prusik = Prusik::start(Config::to(&[&origin]).top(server)).await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.signal("TERM");
    prusik.wait_stderr("new clients are still taken").await;
    assert!(session.is_alive().await);
    prusik.signal("INT");
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert_eq!(prusik.exit_code().await, Some(0));
}

/// While the old process still ends what could not move.
#[tokio::test(flavor = "multi_thread")]
async fn a_unix_listener_that_the_new_file_lacks_refuses_at_once() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("web.sock");
    let server = "server: { tunnel: pingora, drain: { window: 3650d } }";
    let config = Config::to(&[&origin]).top(server).top(ADMIN).to_string();
    let unix = format!("listeners: [{{ listen: \"unix:{}\" }}, ", file.display());
    let prusik = Prusik::start(config.replace("listeners: [", &unix)).await;
    let mut session = Session::open(prusik.public(), "/").await;
    assert_eq!(
        Client::connect_unix(&file).await.get("/").await.status(),
        200
    );
    prusik.write_config(&config);
    prusik.order(&["upgrade"]).await;
    assert!(UnixStream::connect(&file).is_err());
    assert!(!file.exists());
    assert!(session.is_alive().await);
    // The old process is back: so is its listener.
    let new = prusik.pids().into_iter().find(|pid| *pid != prusik.pid());
    support::signal(new.expect("both live"), "KILL");
    prusik.wait_stderr("this one serves again").await;
    assert_eq!(
        Client::connect_unix(&file).await.get("/").await.status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_that_another_process_has_put_in_its_place_stays() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("web.sock");
    let unix = format!("listeners: [{{ listen: \"unix:{}\" }}, ", file.display());
    let config = Config::to(&[&origin]).to_string();
    let mut prusik = Prusik::start(config.replace("listeners: [", &unix)).await;
    // Moved, not removed: a free inode could be taken for the next file.
    fs::rename(&file, file.with_extension("old")).expect("it is there");
    let another = UnixListener::bind(&file).expect("the path is free");
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(UnixStream::connect(&file).is_ok());
    drop(another);
}

/// From all addresses to one and back, on one port, under load.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_changes_between_all_addresses_and_one_of_them() {
    let origin = Origin::chat().await;
    let port = free_port_on([127, 0, 0, 6].into()).port();
    let file = |ip: &str| {
        let config = Config::to(&[&origin]).top(ADMIN).to_string();
        config.replace(
            "127.0.0.1:0\", name: public",
            &format!("{ip}:{port}\", name: public"),
        )
    };
    let mut prusik = Prusik::start(file("0.0.0.0")).await;
    let one: SocketAddr = ([127, 0, 0, 6], port).into();
    let other: SocketAddr = ([127, 0, 0, 7], port).into();
    let mut session = Session::open(one, "/").await;
    assert_eq!(status_of(other, "/").await, 200);
    let (is_over, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let calling = tokio::spawn({
        let (is_over, answered) = (is_over.clone(), answered.clone());
        async move {
            while !is_over.load(SeqCst) {
                assert_eq!(status_of(one, "/").await, 200);
                answered.fetch_add(1, SeqCst);
            }
        }
    });
    for ip in ["127.0.0.6", "0.0.0.0", "127.0.0.6"] {
        prusik.write_config(file(ip));
        prusik.upgrade().await;
        let before = answered.load(SeqCst);
        eventually("calls are answered", async || {
            answered.load(SeqCst) > before + 5
        })
        .await;
        assert_eq!(is_refused(other).await, ip != "0.0.0.0", "{ip}");
        assert!(session.is_alive().await);
    }
    is_over.store(true, SeqCst);
    calling.await.expect("no call has failed");
}
