//! Many handshakes at once: servers get as many as they can work on, and the others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::http2::Http2Site;
use crate::support::{
    Answer, Client, Config, Origin, Outcome, Prusik, RawSession, Received, Response, eventually,
    handshake, listen, status_of, within,
};
use futures_util::future::{join_all, select_all};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// How many handshakes a server gets at once that nothing is known of.
const AT_ONCE: usize = 20;

/// A server that answers pages at once, and handshakes never.
async fn hanging() -> Origin {
    Origin::start(|request| match request.wants_upgrade() {
        true => Answer::silence(),
        false => Answer::text("a page"),
    })
    .await
}

/// Handshakes that are under way. Dropping one is the client's leaving.
async fn knock(prusik: &Prusik, path: &str, count: usize) -> Vec<Client> {
    let knocks = (0..count).map(|_| async {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake(path)).await;
        client
    });
    join_all(knocks).await
}

/// As many as the hanging server gets at once.
async fn fill(prusik: &Prusik, origin: &Origin) -> Vec<Client> {
    let clients = knock(prusik, "/full", AT_ONCE).await;
    eventually("the server has as many as it gets", async || {
        origin.received().len() == AT_ONCE
    })
    .await;
    clients
}

async fn waiting(prusik: &Prusik) -> u64 {
    let status = prusik.status().await;
    status["upstreams"][0]["waiting"]
        .as_u64()
        .expect("a number")
}

/// Waits until at least so many wait. A server that hangs gets one more every two seconds.
async fn until_waiting(prusik: &Prusik, count: u64) {
    let what = format!("{count} wait");
    eventually(what, async || waiting(prusik).await >= count).await;
}

/// The first answer that one of them gets.
async fn first_answer(clients: &mut [Client]) -> Response {
    let answers = clients.iter_mut().map(|client| Box::pin(client.response()));
    select_all(answers).await.0
}

/// Works on a few handshakes at once, and is down for good when it gets too many.
struct Fragile {
    listener: TcpListener,
    work: Semaphore,
    falls_at: usize,
    under_way: AtomicUsize,
    most: AtomicUsize,
    is_down: AtomicBool,
}

impl Fragile {
    fn start(at_once: usize, falls_at: usize) -> Arc<Self> {
        let fragile = Arc::new(Self {
            listener: listen(),
            work: Semaphore::new(at_once),
            falls_at,
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
        });
        tokio::spawn(fragile.clone().serve());
        fragile
    }

    async fn serve(self: Arc<Self>) {
        let mut connections = JoinSet::new();
        while !self.is_down.load(SeqCst) {
            let (mut stream, _) = self.listener.accept().await.expect("a connection");
            let server = self.clone();
            connections.spawn(async move {
                let now = server.under_way.fetch_add(1, SeqCst) + 1;
                server.most.fetch_max(now, SeqCst);
                if now >= server.falls_at {
                    server.is_down.store(true, SeqCst);
                }
                let permit = server.work.acquire().await.expect("it is never closed");
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(permit);
                // Whoever looks at the key is not in this test.
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
                     Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                    crate::support::ACCEPT
                );
                let sent = stream.write_all(answer.as_bytes()).await;
                server.under_way.fetch_sub(1, SeqCst);
                sent.expect("the session goes on");
                let mut end = Vec::new();
                let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut end).await;
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_waits_and_gets_in_without_pushing_the_servers_over() {
    const CROWD: usize = 600;
    let servers = [Fragile::start(10, 60), Fragile::start(10, 60)];
    let addresses = servers.each_ref().map(|server| {
        let address = server.listener.local_addr();
        address.expect("it is bound")
    });
    let prusik = Prusik::start(Config::to_addresses(&addresses).top(ADMIN)).await;
    let clients = (0..CROWD).map(|_| async {
        let client = Client::connect(prusik.public()).await;
        within("a session", RawSession::over(client, handshake("/"))).await
    });
    let sessions = join_all(clients).await;
    assert_eq!(sessions.len(), CROWD);
    for server in &servers {
        let most = server.most.load(SeqCst);
        assert!(!server.is_down.load(SeqCst), "it had {most} at once");
        assert!(most > 10, "its time was not used: {most}");
    }
    assert_eq!(waiting(&prusik).await, 0);
    let opened = prusik.access_log();
    let waited = opened.iter().filter(|entry| {
        entry["kind"] == "session_open" && entry["handshake_ms"].as_f64() > Some(100.0)
    });
    assert!(
        waited.count() > CROWD / 4,
        "the wait is part of a handshake"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_of_in_the_status_and_goes_on_when_others_have_left() {
    const LATE: usize = 15;
    let origin = hanging().await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let first = fill(&prusik, &origin).await;
    let _late = knock(&prusik, "/late", LATE).await;
    until_waiting(&prusik, LATE as u64 - 2).await;
    let status = prusik.status().await;
    let upstream = &status["upstreams"][0];
    assert!(upstream["waiting_ms"].is_u64(), "{upstream}");
    let server = &upstream["servers"][0];
    assert!(server["handshakes_under_way"].as_u64() >= Some(AT_ONCE as u64));
    assert_eq!(server["handshakes_at_once"], AT_ONCE);
    let table = prusik.order(&["status"]).await;
    assert!(table.contains("HANDSHAKES OF  WAITING  LONGEST"), "{table}");
    let metrics = scrape(&prusik).await;
    assert!(
        value(&metrics, "prusik_handshakes_waiting") > 0.0,
        "{metrics}"
    );

    // Plain requests are not held up.
    assert_eq!(status_of(prusik.public(), "/page").await, 200);
    assert!(waiting(&prusik).await > 0);
    let before = Instant::now();
    drop(first);
    let late = |request: &&Received| request.target() == "/late";
    eventually("all have gone on", async || {
        origin.received().iter().filter(late).count() == LATE
    })
    .await;
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "each was called"
    );
    assert_eq!(waiting(&prusik).await, 0);
    let metrics = scrape(&prusik).await;
    let waited = value(&metrics, "prusik_handshake_wait_seconds_count");
    assert_eq!(waited, LATE as f64, "{metrics}");
}

async fn scrape(prusik: &Prusik) -> String {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    Client::connect(prusik.admin())
        .await
        .ask(request)
        .await
        .text()
}

/// Of this series of the only upstream.
fn value(metrics: &str, series: &str) -> f64 {
    let name = format!("{series}{{upstream=\"backend\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value
        .expect("the series is there")
        .parse()
        .expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_bound_a_handshake_is_refused_and_who_leaves_makes_room_in_the_queue() {
    let origin = hanging().await;
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .upstream("pacing: { waiting: 2 }");
    let prusik = Prusik::start(config).await;
    let _first = fill(&prusik, &origin).await;
    let mut crowd = knock(&prusik, "/crowd", 12).await;
    let answer = first_answer(&mut crowd).await;
    assert_eq!(answer.status(), 503);
    let seconds = answer.field("retry-after").expect("when to come again");
    assert!(seconds.parse::<u64>().expect("a number") >= 2, "{seconds}");
    let is_refused = |entry: &Value| entry["status"] == 503;
    let line = prusik.wait_log("a refusal", is_refused).await;
    assert_eq!(line["error"], "as many handshakes wait for a server as may");
    let metrics = scrape(&prusik).await;
    assert!(metrics.contains("reason=\"queue\""), "{metrics}");

    until_waiting(&prusik, 1).await;
    drop(crowd);
    let is_gone = |entry: &Value| entry["status"] == 499 && entry["attempts"] == 0;
    prusik
        .wait_log("one that left while it waited", is_gone)
        .await;
    eventually("nobody waits", async || waiting(&prusik).await == 0).await;
    let _next = knock(&prusik, "/next", 2).await;
    until_waiting(&prusik, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_is_bounded_by_the_route_and_ends_with_a_stop() {
    let origin = hanging().await;
    let config = Config::to(&[&origin])
        .top(ADMIN)
        .top("server: { drain: { window: 0s, deadline: 20s } }")
        .first("{ match: { path: /hasty }, upstream: backend, timeouts: { response: 200ms } }");
    let mut prusik = Prusik::start(config).await;
    let first = fill(&prusik, &origin).await;
    let mut hasty = knock(&prusik, "/hasty", 3).await;
    let answers = join_all(hasty.iter_mut().map(Client::response)).await;
    let is_refused =
        |answer: &&Response| answer.status() == 503 && answer.text().contains("no server had room");
    assert!(
        answers.iter().filter(is_refused).count() >= 2,
        "{answers:?}"
    );

    let mut late = knock(&prusik, "/late", 4).await;
    until_waiting(&prusik, 2).await;
    prusik.signal("TERM");
    let answer = first_answer(&mut late).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().contains("is stopping"), "{}", answer.text());
    let log = prusik.access_log();
    assert!(
        log.iter().all(|entry| entry["path"] != "/full"),
        "they go on"
    );
    drop((first, late));
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_up_neither_the_others_nor_other_upstreams() {
    let (hangs, chats) = (hanging().await, Origin::chat().await);
    let alone = format!("upstreams:\n  alone: {{ servers: [{}] }}", hangs.address());
    let config = Config::to(&[&hangs, &chats]).top(ADMIN).to_string();
    let config = config.replace("upstreams:", &alone).replace(
        "routes:",
        "routes:\n  - { match: { path_prefix: /alone }, upstream: alone }",
    );
    let prusik = Prusik::start(config).await;
    // The other upstream's only server hangs, and its queue grows.
    let _alone = knock(&prusik, "/alone", 3 * AT_ONCE).await;
    let _crowd = knock(&prusik, "/", 5 * AT_ONCE).await;
    eventually("all but those that hang are in", async || {
        chats.sessions() >= 4 * AT_ONCE - 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hashed_handshake_waits_for_its_own_server() {
    let (hangs, chats) = (hanging().await, Origin::chat().await);
    let config = Config::to(&[&hangs, &chats])
        .top(ADMIN)
        .upstream("balance: consistent_hash")
        .upstream("hash_key: $arg_user");
    let prusik = Prusik::start(config).await;
    let mut clients = Vec::new();
    for user in 0..150 {
        clients.extend(knock(&prusik, &format!("/?user={user}"), 1).await);
    }
    eventually("each is somewhere", async || {
        let there = chats.sessions() + hangs.received().len();
        there as u64 + waiting(&prusik).await == 150
    })
    .await;
    assert!(hangs.received().len() < AT_ONCE + 15, "others wait");
    assert!(
        waiting(&prusik).await > 20,
        "the ring gives each about half"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_goes_to_the_servers_of_the_file_that_holds_now() {
    let (stuck, healthy) = (hanging().await, Origin::chat().await);
    let config = |origin: &Origin| Config::to(&[origin]).top(ADMIN);
    let prusik = Prusik::start(config(&stuck)).await;
    let _full = fill(&prusik, &stuck).await;
    let mut clients = knock(&prusik, "/", 30).await;
    until_waiting(&prusik, 25).await;
    assert_eq!(prusik.reload_with(config(&healthy)).await, Outcome::Done);
    clients.extend(knock(&prusik, "/", 1).await);
    let answers = clients.iter_mut().map(|client| client.response());
    let answers = within("all have gone on", join_all(answers)).await;
    let in_now = answers.iter().filter(|answer| answer.status() == 101);
    // A server that hangs gets one more every two seconds.
    assert!(in_now.count() >= 25, "{answers:?}");
    assert_eq!(waiting(&prusik).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pacing_survives_a_reload_and_can_be_off() {
    let origin = hanging().await;
    let config = Config::to(&[&origin]).top(ADMIN);
    let prusik = Prusik::start(&config).await;
    let _first = fill(&prusik, &origin).await;
    let changed = config.clone().upstream("attempts: 2");
    assert_eq!(prusik.reload_with(changed).await, Outcome::Done);
    let _late = knock(&prusik, "/late", 10).await;
    until_waiting(&prusik, 7).await;
    let off = config.upstream("pacing: off");
    assert_eq!(prusik.reload_with(off).await, Outcome::Done);
    let _more = knock(&prusik, "/more", 2 * AT_ONCE).await;
    let more = |request: &&Received| request.target() == "/more";
    eventually("the server gets all of them", async || {
        origin.received().iter().filter(more).count() == 2 * AT_ONCE
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_an_upgrade_ends_as_a_handshake_that_is_under_way() {
    let origin = hanging().await;
    let mut prusik = Prusik::start_own(Config::to(&[&origin]).top(ADMIN)).await;
    let first = fill(&prusik, &origin).await;
    let late = knock(&prusik, "/late", 10).await;
    until_waiting(&prusik, 7).await;
    let said = prusik.order(&["upgrade"]).await;
    assert!(said.contains("upgraded"), "{said}");
    assert_eq!(
        waiting(&prusik).await,
        0,
        "the new process has its own queue"
    );
    drop(first);
    let is_late = |request: &&Received| request.target() == "/late";
    eventually("the old process lets them go on", async || {
        origin.received().iter().filter(is_late).count() == 10
    })
    .await;
    drop(late);
    prusik.signal_all("INT");
    prusik.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_up_is_found_by_those_that_wait() {
    let (hangs, chats) = (hanging().await, Origin::chat().await);
    chats.kill().await;
    let check = "health_check: { interval: 50ms, rise: 1, fall: 1, start: down }";
    let config = Config::to(&[&hangs, &chats]).top(ADMIN).upstream(check);
    let prusik = Prusik::start(config).await;
    let _first = fill(&prusik, &hangs).await;
    let _late = knock(&prusik, "/late", 10).await;
    until_waiting(&prusik, 7).await;
    chats.restart().await;
    eventually("they are in", async || chats.sessions() >= 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_http_2_handshakes_wait_as_well() {
    let site = Http2Site::start(hanging().await, |config| config).await;
    let mut client = site.client().await;
    let mut first = Vec::new();
    for _ in 0..AT_ONCE {
        first.push(client.begin_session("/full").await);
    }
    let has_all = async || site.origin.received().len() >= AT_ONCE;
    eventually("the server has as many as it gets", has_all).await;
    let mut reset = Vec::new();
    for _ in 0..10 {
        reset.push(client.begin_session("/reset").await);
    }
    until_waiting(&site.prusik, 7).await;
    drop(reset);
    let is_empty = async || waiting(&site.prusik).await == 0;
    eventually("those that were reset wait no more", is_empty).await;
    let _late = client.begin_session("/late").await;
    drop(first);
    site.origin.has_got("/late").await;
}
