use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::{fs, mem};

use clap::Args;
use clap::{FromArgMatches, Parser};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::admin::fake::{Fake, SESSION};
use crate::admin::{self, Access};
use crate::net::{Inherited, ListenAddress, ListeningSocket};

const SERVER: &str = "chat/[::1]:9080";

/// A process that is asked by unix socket, with a token.
struct Process {
    folder: TempDir,
    fake: Arc<Fake>,
    /// Its file goes with it.
    _socket: ListeningSocket,
    /// Dropping it stops the server.
    _serving: watch::Sender<admin::Serving>,
}

#[derive(Debug, Parser)]
struct Line<A: Args> {
    #[command(flatten)]
    args: A,
}

impl Process {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        fs::write(&token, "s3cret\n").unwrap();
        let address = ListenAddress::Unix(folder.path().join("admin.sock"));
        let socket = admin::bind(&address, &mut Inherited::default()).unwrap();
        let fake = Arc::new(Fake::default());
        let control = Arc::clone(&fake) as Arc<dyn admin::Control>;
        let (_serving, served) = watch::channel(admin::Serving::Serves);
        tokio::spawn(admin::serve(
            socket.acceptor().unwrap(),
            control,
            Access::new(Some(token)),
            served,
            admin::Milestones {
                accepts_no_more: oneshot::channel().0,
                hears_no_more: oneshot::channel().0,
            },
        ));
        Self {
            folder,
            fake,
            _socket: socket,
            _serving,
        }
    }

    /// What clap makes of these arguments, and of those that lead to the process.
    fn line<A: Args + FromArgMatches>(&self, words: &[&str]) -> A {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let admin = format!("unix:{}", path("admin.sock"));
        let token = path("token");
        let reach = ["prusik", "--admin", &admin, "--token-file", &token];
        Line::parse_from(reach.iter().chain(words)).args
    }

    fn asked(&self) -> Vec<String> {
        mem::take(&mut *self.fake.asked.lock())
    }
}

#[tokio::test]
async fn the_lifecycle_commands_tell_what_came_of_it() {
    let process = Process::start();
    process.fake.reload.may_end.notify_one();
    let said = reload(process.line(&[])).await.unwrap();
    assert_eq!(said, "route \"chat\" is new\n");
    let error = upgrade(process.line(&[])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the new binary does not start\n  hint: see its log"
    );
}

#[tokio::test]
async fn status_is_a_table_or_json() {
    let process = Process::start();
    let said = status(process.line(&[])).await.unwrap();
    assert!(
        said.contains("\nchat      round_robin  [::1]:9080"),
        "{said}"
    );
    let said = status(process.line(&["--json"])).await.unwrap();
    let value: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(value["upstreams"][0]["servers"][0]["address"], "[::1]:9080");
}

#[tokio::test]
async fn sessions_are_listed_to_the_last_page() {
    let process = Process::start();
    process.fake.has_two_pages.store(true, Ordering::Relaxed);
    let words = ["--json", "--upstream", "a b", "--server", "[::1]:9080"];
    let more = ["--client", "192.0.2.7", "--older-than", "1h 30m"];
    let rest = [
        "--route", "r", "--path", "userId=7", "--id", SESSION, "--kind", "stream", "--user",
        "alice b",
    ];
    let said = sessions(process.line(&[&words[..], &more, &rest].concat())).await;
    let value: Value = serde_json::from_str(&said.unwrap()).unwrap();
    assert_eq!(value["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(value["next"], Value::Null);
    let asked = process.asked();
    assert_eq!(asked.len(), 2);
    let filter = "upstream: Some(\"a b\"), server: Some([::1]:9080), \
                      client: Some(192.0.2.7), route: Some(\"r\"), path: Some(\"userId=7\"), id: \
                      Some(0190aaaa-0000-7000-8000-000000000001), kind: Some(Stream), user: Some(\"alice b\"), search: None, \
                      older_than: Some(5400s)";
    assert!(asked[0].contains(filter), "{asked:?}");
    assert!(
        asked[1].contains(filter) && asked[1].contains(SESSION),
        "{asked:?}"
    );
    let said = sessions(process.line(&[])).await.unwrap();
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[tokio::test]
async fn a_server_is_drained_and_enabled() {
    let process = Process::start();
    let words = [SERVER, "--window", "1m 30s", "--code", "1001"];
    let said = drain(process.line(&words), false).await.unwrap();
    assert_eq!(
        said,
        format!("draining {SERVER}: 1 session is told to go within 1m 30s, with code 1001\n")
    );
    drain(process.line(&[SERVER]), false).await.unwrap();
    let said = enable(process.line(&[SERVER])).await.unwrap();
    assert_eq!(said, format!("enabled {SERVER}\n"));
    let asked = [
        format!("drain {SERVER} DrainOrder {{ window: Some(90s), code: Some(1001) }}"),
        format!("drain {SERVER} DrainOrder {{ window: None, code: None }}"),
        format!("enable {SERVER}"),
    ];
    assert_eq!(process.asked(), asked);
}

#[tokio::test]
async fn all_sessions_of_a_user_are_closed_and_without_a_user_none() {
    let process = Process::start();
    let words = ["--user", "CN=a b&c", "--code", "4001"];
    let said = close(process.line(&words)).await.unwrap();
    assert_eq!(said, "closed 1 session of CN=a b&c\n");
    assert_eq!(process.asked(), ["close user CN=a b&c Some(4001)"]);
    let said = close(process.line(&["--user", "a", "--json"])).await;
    let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
    assert_eq!(said, json!({ "user": "a", "closed": 1 }));
    process.asked();
    for words in [
        &[][..],
        &["--code", "4001"],
        &["--user", ""],
        &["--user", "a", SESSION],
    ] {
        let line = ["prusik"].iter().chain(words);
        assert!(
            Line::<CloseArgs>::try_parse_from(line).is_err(),
            "{words:?}"
        );
    }
    assert!(process.asked().is_empty());
}

#[tokio::test]
async fn a_session_is_closed_and_an_unknown_one_is_an_error() {
    let process = Process::start();
    let said = close(process.line(&[SESSION, "--code", "4001"]))
        .await
        .unwrap();
    assert_eq!(said, format!("closed {SESSION}\n"));
    let gone = "0190aaaa-0000-7000-8000-000000000002";
    let error = close(process.line(&[gone])).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    let asked = [
        format!("close {SESSION} Some(4001)"),
        format!("close {gone} None"),
    ];
    assert_eq!(process.asked(), asked);
}
