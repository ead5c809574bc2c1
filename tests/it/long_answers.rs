//! Answers that take long and are no event streams (downloads, long polls), at an upgrade and at a
//! stop: the process that has begun them serves them to their end. What takes longer than the
//! drain's deadline is in [`super::cut`].

use serde_json::Value;

use crate::support::events::{Asked, EventServer};
use crate::support::{Client, Config, Prusik, within};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// A download of which the first half has come, and a request that has no answer yet.
async fn begin(server: &mut EventServer, prusik: &Prusik) -> ([Asked; 2], [Client; 2]) {
    let mut download = Client::connect(prusik.public()).await;
    download
        .send("GET /download HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    let mut half = server.asked().await;
    half.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        .await;
    assert_eq!(download.head().await.status(), 200);
    let first = within("the first half", download.wire.exactly(5)).await;
    assert_eq!(first.expect("it goes on"), b"first");
    let mut poll = Client::connect(prusik.public()).await;
    poll.send("GET /poll HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let waiting = server.asked().await;
    ([half, waiting], [download, poll])
}

async fn end([mut half, mut waiting]: [Asked; 2], [mut download, mut poll]: [Client; 2]) {
    half.send("other").await;
    let rest = within("the other half", download.wire.exactly(5)).await;
    assert_eq!(rest.expect("it goes on"), b"other");
    waiting
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnews\r\n0\r\n\r\n")
        .await;
    assert_eq!(poll.response().await.text(), "news");
}

async fn are_logged(prusik: &Prusik) {
    for (path, bytes) in [("/download", 10), ("/poll", 4)] {
        let is_it = |line: &Value| line["kind"] == "request" && line["path"] == path;
        let line = prusik.wait_log(path, is_it).await;
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(line["bytes_out"], bytes, "{line}");
        assert_eq!(line["error"], Value::Null, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_lets_them_end() {
    let mut server = EventServer::start();
    let config = Config::to_addresses(&[server.address()]).top(ADMIN);
    let prusik = Prusik::start_own(config).await;
    let (asked, clients) = begin(&mut server, &prusik).await;
    let before = prusik.pid();
    prusik.order(&["upgrade"]).await;
    assert_eq!(prusik.pids().len(), 2, "{before} still serves them");
    end(asked, clients).await;
    are_logged(&prusik).await;
    crate::support::eventually("the old process has ended", async || {
        prusik.pids().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_them_end() {
    let mut server = EventServer::start();
    let config = Config::to_addresses(&[server.address()]).top(ADMIN);
    let mut prusik = Prusik::start(config).await;
    let (asked, clients) = begin(&mut server, &prusik).await;
    prusik.signal("TERM");
    end(asked, clients).await;
    assert_eq!(prusik.exit_code().await, Some(0));
    are_logged(&prusik).await;
}
