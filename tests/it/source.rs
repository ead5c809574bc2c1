//! The addresses that connections to servers are made from.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::support;
use crate::support::{Config, Outcome, Prusik, eventually, handshake, listen, status_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Peers = Arc<Mutex<Vec<IpAddr>>>;

/// A server that closes after each answer, and who has connected to it.
fn server() -> (std::net::SocketAddr, Peers) {
    let listener = listen();
    let address = listener.local_addr().expect("it is bound");
    let peers = Peers::default();
    let seen = peers.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, peer)) = listener.accept().await {
            seen.lock().expect("nobody panics here").push(peer.ip());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer =
                        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    // Whoever is gone by now needs none.
                    let _ = socket.write_all(answer).await;
                }
            });
        }
    });
    (address, peers)
}

fn from(server: std::net::SocketAddr, source: &str) -> Config {
    Config::to(&[])
        .server(server)
        .upstream(format!("source: [{source}]"))
        .upstream("eject: { failures: 1, within: 1h, for: 1h }")
}

#[tokio::test]
async fn addresses_are_used_in_turn_for_requests_and_handshakes() {
    let (server, peers) = server();
    let prusik = Prusik::start(from(server, "127.0.0.2, 127.0.0.3")).await;
    for _ in 0..2 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
        let mut client = support::Client::connect(prusik.public()).await;
        assert_eq!(client.ask(handshake("/")).await.status(), 200);
    }
    let mut peers = peers.lock().unwrap().clone();
    peers.sort();
    let expected = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"];
    assert_eq!(
        peers,
        expected.map(|address| address.parse::<IpAddr>().unwrap())
    );
}

#[tokio::test]
async fn a_source_that_cannot_be_used_is_passed_over() {
    let (server, peers) = server();
    // 203.0.113.0/24 is for documentation: no machine has an address of it.
    let prusik = Prusik::start(from(server, "203.0.113.1, 127.0.0.3")).await;
    for _ in 0..4 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
    let peers = peers.lock().unwrap().clone();
    assert_eq!(peers, ["127.0.0.3".parse::<IpAddr>().unwrap(); 4]);
}

#[tokio::test]
async fn without_a_source_the_client_gets_502_the_operator_a_remedy_and_the_server_no_blame() {
    let (server, _) = server();
    let check = "health_check: { type: tcp, interval: 100ms, rise: 1, fall: 1 }";
    let none = from(server, "203.0.113.1").upstream(check);
    let prusik = Prusik::start(none).await;
    assert_eq!(status_of(prusik.public(), "/").await, 502);
    prusik
        .wait_log("the remedy", |entry| {
            let said = entry["error"].as_str().unwrap_or_default();
            entry["status"] == 502 && said.contains("ip_local_port_range")
        })
        .await;
    eventually("a check was tried", async || {
        prusik.stderr().contains("was not checked")
    })
    .await;
    assert!(!prusik.stderr().contains(" is down"), "{}", prusik.stderr());
    assert!(!prusik.stderr().contains("ejected"), "{}", prusik.stderr());
    let some = from(server, "127.0.0.2").upstream(check);
    assert_eq!(prusik.reload_with(some).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

#[tokio::test]
async fn health_checks_come_from_there_too() {
    let (server, peers) = server();
    let config = from(server, "127.0.0.4").upstream("health_check: { type: http, path: / }");
    let _prusik = Prusik::start(config).await;
    eventually("a check", async || !peers.lock().unwrap().is_empty()).await;
    assert_eq!(
        peers.lock().unwrap()[0],
        "127.0.0.4".parse::<IpAddr>().unwrap()
    );
}
