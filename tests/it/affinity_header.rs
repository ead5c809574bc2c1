//! Affinity by a header: the value that a server's answer has brings its session back to it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{
    Answer, Client, Config, Origin, Outcome, Prusik, Received, ServiceManager, eventually, listen,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Begins a session at `/begin`, and knows no others.
struct Sessions {
    number: AtomicUsize,
    begun: Mutex<HashSet<String>>,
}

impl Sessions {
    fn answer(&self, request: &Received, address: SocketAddr) -> Answer {
        let said = request.field("mcp-session-id").unwrap_or_default();
        let mut begun = self.begun.lock().expect("nobody panics with it");
        match request.target() {
            "/begin" => {
                let number = self.number.fetch_add(1, SeqCst);
                let id = format!("session-{number}-of-{address}");
                begun.insert(id.clone());
                let field = format!("Mcp-Session-Id: {id}");
                Answer::status(200, &[&field], &address.to_string())
            }
            "/slow" => {
                let id = format!("slow-{address}");
                begun.insert(id.clone());
                let field = format!("Mcp-Session-Id: {id}");
                Answer::status(200, &[&field], &address.to_string())
                    .after(Duration::from_millis(1500))
            }
            _ if begun.contains(said) => Answer::text(&address.to_string()),
            // Some servers name a session that they do not know.
            _ => {
                let field = format!("Mcp-Session-Id: {said}");
                Answer::status(404, &[&field], &address.to_string())
            }
        }
    }
}

async fn server() -> Origin {
    let address = listen().local_addr().expect("it is bound");
    let sessions = Sessions {
        number: AtomicUsize::new(0),
        begun: Mutex::default(),
    };
    Origin::start_on(address, move |request| sessions.answer(request, address)).await
}

async fn servers() -> [Origin; 3] {
    [server().await, server().await, server().await]
}

fn config(origins: &[Origin], more: &str) -> Config {
    let origins: Vec<&Origin> = origins.iter().collect();
    Config::to(&origins)
        .upstream(format!(
            "affinity: {{ header: {{ response: Mcp-Session-Id{more} }} }}"
        ))
        .top(ADMIN)
}

async fn ask(node: SocketAddr, target: &str, id: &str) -> (u16, String, String) {
    let field = match id {
        "" => String::new(),
        id => format!("MCP-Session-ID: {id}\r\n"),
    };
    let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n");
    let answer = Client::connect(node).await.ask(request).await;
    let id = answer.field("mcp-session-id").unwrap_or_default();
    (answer.status(), answer.text(), id.to_owned())
}

/// The id of a new session, and its server.
async fn begin(node: SocketAddr) -> (String, String) {
    let (status, server, id) = ask(node, "/begin", "").await;
    assert_eq!(status, 200);
    (id, server)
}

async fn assert_knows(node: SocketAddr, (id, server): &(String, String)) {
    for _ in 0..3 {
        let (status, answered, _) = ask(node, "/", id).await;
        assert_eq!((status, &answered), (200, server), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_comes_back_to_its_server() {
    let origins = servers().await;
    let prusik = Prusik::start(config(&origins, "")).await;
    let node = prusik.public();
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(begin(node).await);
    }
    for session in &sessions {
        assert_knows(node, session).await;
    }
    // Nobody knows this one, and it is balanced.
    let mut asked = Vec::new();
    for _ in 0..3 {
        let (status, server, _) = ask(node, "/", "unknown").await;
        assert_eq!(status, 404);
        asked.push(server);
    }
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 3, "a 404 is nothing to learn from");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_may_name_it_in_another_header() {
    let origins = servers().await;
    let prusik = Prusik::start(config(&origins, ", request: X-Session")).await;
    let (id, server) = begin(prusik.public()).await;
    for _ in 0..4 {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Session: {id}\r\n\r\n");
        let mut client = Client::connect(prusik.public()).await;
        assert_eq!(client.ask(request).await.text(), server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_bounded_and_forgets_what_nobody_uses() {
    let origins = servers().await;
    let config = |more| config(&origins, more);
    let prusik = Prusik::start(config(", max: 2")).await;
    let node = prusik.public();
    let first = begin(node).await;
    let second = begin(node).await;
    assert_knows(node, &first).await;
    let third = begin(node).await;
    assert_knows(node, &first).await;
    assert_knows(node, &third).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(ask(node, "/", &second.0).await.0);
    }
    assert!(answers.contains(&404), "the second was used least recently");
    // A reload gives the table another bound.
    let shorter = config(", max: 2, idle: 300ms");
    assert_eq!(prusik.reload_with(shorter).await, Outcome::Done);
    // Each request would be a use of it: nothing but time can be waited for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(ask(node, "/", &third.0).await.0);
    }
    assert!(answers.contains(&404), "nobody has used it for the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlast_reloads_and_upgrades() {
    let origins = servers().await;
    let mut prusik = Prusik::start_own(config(&origins, "")).await;
    let node = prusik.public();
    let mut sessions = Vec::new();
    for _ in 0..9 {
        sessions.push(begin(node).await);
    }
    let reloaded = config(&origins, ", max: 5000").upstream("attempts: 2");
    assert_eq!(prusik.reload_with(reloaded).await, Outcome::Done);
    sessions.push(begin(node).await);
    // A session that begins while the old process hands over.
    let slow = tokio::spawn(async move { ask(node, "/slow", "").await });
    let is_asked = |origin: &Origin| {
        let received = origin.received();
        received.iter().any(|request| request.target() == "/slow")
    };
    eventually("the slow one is asked", async || {
        origins.iter().any(is_asked)
    })
    .await;
    prusik.upgrade().await;
    let (status, server, id) = slow.await.expect("it is answered");
    assert_eq!(status, 200);
    sessions.push((id, server));
    for session in &sessions {
        assert_knows(node, session).await;
    }
    prusik.upgrade().await;
    for session in &sessions {
        assert_knows(node, session).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlast_a_restart_that_keeps_what_can_be_kept() {
    let origins = servers().await;
    let manager = ServiceManager::new();
    let origins: Vec<&Origin> = origins.iter().collect();
    let config = Config::to(&origins)
        .upstream("affinity: { header: { response: Mcp-Session-Id } }")
        .top(format!(
            "admin: {{ listen: \"unix:{}/admin.sock\" }}",
            manager.folder().display()
        ));
    let mut prusik = manager.start(&config).await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(begin(prusik.public()).await);
    }
    assert_eq!(manager.begin_restart(&prusik), "");
    assert_eq!(prusik.exit_code().await, Some(0), "{}", prusik.stderr());
    let prusik = manager.start(&config).await;
    for session in &sessions {
        assert_knows(prusik.public(), session).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moved_is_known_at_its_new_server() {
    let origins = servers().await;
    let prusik = Prusik::start(config(&origins, "")).await;
    let node = prusik.public();
    let (id, server) = begin(node).await;
    let name = format!("backend/{server}");
    prusik.order(&["drain", &name, "--window", "0s"]).await;
    let (status, other, _) = ask(node, "/", &id).await;
    assert!(status == 404 && other != server);
    // What the other one does not know is not learned: the server may come back.
    prusik.order(&["enable", &name]).await;
    assert_knows(node, &(id, server)).await;
}
