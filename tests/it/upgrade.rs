//! Upgrades: the binary on disk takes over, and nobody outside notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{
    Answer, Client, Config, Ended, Frame, Origin, Outcome, Prusik, RawSession, Session,
    client_frame, eventually, handshake, status_of,
};
use futures_util::future::join_all;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

fn config(origins: &[&Origin]) -> Config {
    Config::to(origins).top(ADMIN)
}

/// What goes on during a test, and how much of it there was.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    messages: AtomicUsize,
    requests: AtomicUsize,
    connects: AtomicUsize,
}

/// Messages by their number, each answered before the next.
async fn talk(mut session: Session, load: Arc<Load>) -> Session {
    let mut number = 0;
    while !load.is_over.load(SeqCst) {
        let text = format!("{number} {}", "x".repeat(number * 37 % 3000));
        assert_eq!(session.ask(&text).await, text);
        load.messages.fetch_add(1, SeqCst);
        number += 1;
        // The pace of a session: without it a hundred of them would take the whole machine.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    session
}

/// Requests on one connection, which must never be told to close.
async fn keep_asking(mut client: Client, load: Arc<Load>) {
    while !load.is_over.load(SeqCst) {
        let response = client.get("/").await;
        assert_eq!(response.status(), 200);
        assert_ne!(
            response.field("connection"),
            Some("close"),
            "{}",
            response.head
        );
        load.requests.fetch_add(1, SeqCst);
    }
}

async fn keep_connecting(address: std::net::SocketAddr, load: Arc<Load>) {
    while !load.is_over.load(SeqCst) {
        assert_eq!(status_of(address, "/").await, 200);
        load.connects.fetch_add(1, SeqCst);
    }
}

/// Whoever is asked has accepted at once, and may be replaced before the call arrives.
async fn keep_operating(admin: std::net::SocketAddr, load: Arc<Load>) {
    while !load.is_over.load(SeqCst) {
        let mut operator = Client::connect(admin).await;
        // Time in which the process that has accepted may be replaced: that is what is tested.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let call = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(operator.ask(call).await.status(), 200);
        load.connects.fetch_add(1, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_requests_and_connects_survive_upgrades_and_reloads() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let address = prusik.public();
    let load = Arc::new(Load::default());
    let sessions = join_all((0..200).map(|_| Session::open(address, "/"))).await;
    let talking: Vec<_> = sessions
        .into_iter()
        .map(|session| tokio::spawn(talk(session, load.clone())))
        .collect();
    let mut others = vec![tokio::spawn(keep_connecting(address, load.clone()))];
    for _ in 0..4 {
        let client = Client::connect(address).await;
        others.push(tokio::spawn(keep_asking(client, load.clone())));
    }
    for _ in 0..3 {
        let counts =
            || [&load.messages, &load.requests, &load.connects].map(|count| count.load(SeqCst));
        let before = counts();
        let said = prusik.upgrade().await;
        assert!(said.contains("200 sessions moved"), "{said}");
        assert_eq!(prusik.reload().await, Outcome::Done);
        eventually("everybody has talked on", async || {
            let [messages, requests, connects] = counts();
            messages > before[0] + 400 && requests > before[1] + 10 && connects > before[2] + 1
        })
        .await;
    }
    assert_eq!(prusik.status().await["sessions"], 200);
    load.is_over.store(true, SeqCst);
    for talk in talking {
        let session = talk.await.expect("no session was lost");
        assert_eq!(session.close(1000).await, Ended::Close(1000));
    }
    for other in others {
        other.await.expect("no request failed");
    }
    // Nobody was connected anew: each server connection of a session is the one it began with.
    eventually("all sessions are over", async || origin.sessions() == 0).await;
    eventually("each is in the log, as closed by its client", async || {
        let log = prusik.access_log();
        let closed = log.iter().filter(|entry| entry["kind"] == "session_close");
        let by_client = closed.filter(|entry| entry["closed_by"] == "client");
        by_client.count() == 200
    })
    .await;
    assert_eq!(
        prusik.status().await["upstreams"][0]["servers"][0]["sessions"],
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_answered_through_upgrades() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let load = Arc::new(Load::default());
    let asking = [(); 4].map(|()| tokio::spawn(keep_operating(prusik.admin(), load.clone())));
    for _ in 0..5 {
        let before = load.connects.load(SeqCst);
        prusik.upgrade().await;
        eventually("calls are answered", async || {
            load.connects.load(SeqCst) > before + 8
        })
        .await;
    }
    load.is_over.store(true, SeqCst);
    for asking in asking {
        asking.await.expect("every call is answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_half_way_arrives_whole() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let text = "m".repeat(1000);
    let bytes = client_frame(1, text.as_bytes());
    // In the payload, in the middle of a header, and behind a whole header.
    let mut sessions = Vec::new();
    for cut in [500, 3, 8, 1] {
        let mut session = RawSession::open(prusik.public(), handshake("/")).await;
        session.send(&bytes[..cut]).await;
        sessions.push((session, cut));
    }
    let id_of = |entry: &serde_json::Value| entry["id"].as_str().map(str::to_owned);
    prusik.upgrade().await;
    prusik.upgrade().await;
    for (session, cut) in &mut sessions {
        session.send(&bytes[*cut..]).await;
        assert_eq!(session.frame().await, Frame::text(&text), "cut at {cut}");
    }
    // Its counts and its name have come along.
    let (mut session, _) = sessions.remove(0);
    session.send(client_frame(8, &4000_u16.to_be_bytes())).await;
    let close = prusik.session_close().await;
    assert_eq!(close["messages_in"], 1);
    assert_eq!(close["messages_out"], 1);
    assert_eq!(close["close_code"], 4000);
    let open = prusik
        .wait_log("its beginning", |entry| {
            entry["kind"] == "session_open" && id_of(entry) == id_of(&close)
        })
        .await;
    assert_eq!(open["path"], "/");
}

/// A server that talks all the time, to a client that takes nothing for a while.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_slow_client_moves_with_the_session() {
    const FRAMES: u32 = 400;
    let origin = Origin::start(|request| {
        (0..FRAMES).fold(Answer::upgrade(request), |answer, number| {
            let mut frame = vec![0x82, 126];
            frame.extend(60_000_u16.to_be_bytes());
            frame.extend(number.to_be_bytes());
            frame.resize(4 + 60_000, number as u8);
            answer.send(&frame)
        })
    })
    .await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let mut session = RawSession::open(prusik.public(), handshake("/")).await;
    prusik.upgrade().await;
    prusik.upgrade().await;
    for number in 0..FRAMES {
        let frame = session.frame().await;
        assert_eq!(frame.payload.len(), 60_000);
        assert_eq!(frame.payload[..4], number.to_be_bytes());
        assert!(frame.payload[4..].iter().all(|byte| *byte == number as u8));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_moves_and_a_request_in_flight_is_answered() {
    let slow = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_millis(1500)),
        _ => Answer::text("quick"),
    })
    .await;
    let mut prusik = Prusik::start(config(&[&slow])).await;
    let mut idle = Client::connect(prusik.public()).await;
    assert_eq!(idle.get("/").await.text(), "quick");
    let mut fresh = Client::connect(prusik.public()).await;
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    slow.has_got("/slow").await;
    prusik.upgrade().await;
    assert_eq!(busy.response().await.text(), "slow");
    for client in [&mut idle, &mut fresh, &mut busy] {
        let response = client.get("/").await;
        assert_eq!(response.text(), "quick");
        assert_ne!(response.field("connection"), Some("close"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_file_counts_and_who_has_no_place_in_it_is_told_to_go() {
    let (stays, goes) = (Origin::chat().await, Origin::chat().await);
    let drain = "server: { drain: { window: 0s } }";
    let before = config(&[&stays])
        .server(goes.address())
        .top(drain)
        .first("{ name: old, match: { path: /old }, upstream: backend }");
    let mut prusik = Prusik::start(before).await;
    let mut on_old_route = Session::open(prusik.public(), "/old").await;
    let (mut kept, mut moved) = (None, None);
    while kept.is_none() || moved.is_none() {
        let mut session = Session::open(prusik.public(), "/").await;
        match session.server().await == stays.address() {
            true => kept = Some(session),
            false => moved = Some(session),
        }
    }
    // A listener more, a server and a route less: a reload could not do the first.
    let after = config(&[&stays]).top(drain).to_string();
    let after = after.replace(
        "listeners: [",
        "listeners: [{ listen: \"127.0.0.2:0\", name: second }, ",
    );
    assert!(
        matches!(prusik.reload_with(&after).await, Outcome::Refused(said)
        if said.contains("listen addresses changed") && said.contains("prusik upgrade"))
    );
    prusik.upgrade().await;
    assert_eq!(status_of(prusik.address("second"), "/").await, 200);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    assert_eq!(on_old_route.ended().await, Ended::Close(1012));
    assert_eq!(
        moved.expect("a session on it").ended().await,
        Ended::Close(1012)
    );
    assert!(kept.expect("a session on it").is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_have_drained_stays_drained() {
    let (a, b) = (Origin::chat().await, Origin::chat().await);
    let mut prusik = Prusik::start(config(&[&a, &b])).await;
    let name = format!("backend/{}", a.address());
    prusik.order(&["drain", &name]).await;
    prusik.upgrade().await;
    for _ in 0..6 {
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(session.server().await, b.address());
    }
    assert_eq!(
        prusik.status().await["upstreams"][0]["servers"][0]["state"],
        "drained"
    );
}

/// To the new process its first check is all that it knows; the old one knows better.
#[tokio::test(flavor = "multi_thread")]
async fn one_check_that_fails_at_an_upgrade_takes_no_server_out() {
    static FAILS: AtomicBool = AtomicBool::new(false);
    let origin = Origin::start(|request| match request.target() {
        "/healthz" if FAILS.load(SeqCst) => Answer::status(500, &[], ""),
        "/healthz" => Answer::text("well"),
        _ => Answer::upgrade(request),
    })
    .await;
    let check = "health_check: { type: http, path: /healthz, interval: 60s, fall: 3 }";
    let upstream = config(&[&origin])
        .upstream(check)
        .upstream("on_down: close");
    let mut prusik = Prusik::start(upstream.top("server: { drain: { window: 0s } }")).await;
    let state = async |prusik: &Prusik| {
        let server = &prusik.status().await["upstreams"][0]["servers"][0];
        server["state"].as_str().map(str::to_owned)
    };
    eventually("it is checked", async || {
        state(&prusik).await.as_deref() == Some("up")
    })
    .await;
    let mut session = Session::open(prusik.public(), "/").await;
    FAILS.store(true, SeqCst);
    prusik.upgrade().await;
    prusik.wait_stderr("is down: ").await;
    assert_eq!(state(&prusik).await.as_deref(), Some("up"));
    assert!(session.is_alive().await);
    let mut next = Session::open(prusik.public(), "/").await;
    assert!(next.is_alive().await);
}

/// Needs the right to make a mount namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_resolved_just_then_keeps_its_addresses() {
    let origin = Origin::chat().await;
    let config = Config::default()
        .server(format!("chat.test:{}", origin.address().port()))
        .top(ADMIN)
        .to_string();
    let hosts = format!("{} chat.test\n", origin.address().ip());
    let Some(mut prusik) = Prusik::start_with_hosts(&config, &hosts).await else {
        return eprintln!("skipped: no right to make a mount namespace");
    };
    prusik
        .wait_stderr(&format!(" is {}", origin.address()))
        .await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.write_hosts("# nobody\n");
    prusik.upgrade().await;
    prusik.wait_stderr("could not be resolved yet").await;
    assert!(session.is_alive().await);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

/// Half of the window is left for those who move, and nobody is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_in_the_new_process() {
    let (a, b) = (Origin::chat().await, Origin::chat().await);
    let server = "server: { drain: { window: 3s } }";
    let mut prusik = Prusik::start(config(&[&a, &b]).top(server)).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let mut session = Session::open(prusik.public(), "/").await;
        if session.server().await == a.address() {
            sessions.push(session);
        }
    }
    assert_eq!(sessions.len(), 10);
    let name = format!("backend/{}", a.address());
    prusik.order(&["drain", &name]).await;
    prusik.upgrade().await;
    let drains = prusik.status().await["drains"].clone();
    assert_eq!(drains[0]["what"], format!("drain of {name}"), "{drains}");
    assert!(
        drains[0]["window_ms"]
            .as_u64()
            .is_some_and(|left| left < 3000)
    );
    for mut session in sessions {
        assert_eq!(session.ended().await, Ended::Close(1012));
    }
}

/// It has no other place to be told in: the old process still answers somebody.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_place_is_told_while_the_old_process_still_ends() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(6)),
        _ => Answer::upgrade(request),
    })
    .await;
    let server = "server: { drain: { window: 0s } }";
    let old_route = "{ name: old, match: { path: /old }, upstream: backend }";
    let config = config(&[&origin]).top(server);
    let prusik = Prusik::start(config.clone().first(old_route)).await;
    let mut on_old_route = Session::open(prusik.public(), "/old").await;
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/slow").await;
    prusik.write_config(config);
    prusik.order(&["upgrade"]).await;
    assert_eq!(on_old_route.ended().await, Ended::Close(1012));
    assert_eq!(prusik.pids().len(), 2, "the old process still answers");
    assert_eq!(busy.response().await.text(), "slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_in_one_breath_end_with_one_process_and_every_session() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let first = prusik.pid();
    let mut sessions = join_all((0..100).map(|_| Session::open(prusik.public(), "/"))).await;
    for _ in 0..6 {
        // To the old and to the new one: neither may start a third beside the second.
        prusik.signal_all("USR2");
        // Spread over an upgrade: one that meets a process without handlers yet ends that.
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    eventually("one process is left, and no upgrade goes on", async || {
        prusik.reap();
        let is_one = prusik.pids().len() == 1;
        let said = prusik.stderr();
        let over = ["upgrade failed", "upgrade: done"].map(|end| said.matches(end).count());
        is_one && said.matches("starts as").count() == over.iter().sum::<usize>()
    })
    .await;
    if prusik.pids() == [first] {
        prusik.signal_all("USR2");
        eventually("another process serves", async || {
            prusik.reap();
            prusik.pids().len() == 1 && prusik.pids() != [first]
        })
        .await;
    }
    assert_eq!(prusik.status().await["sessions"], 100);
    for session in &mut sessions {
        assert!(session.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_the_new_file_lacks_is_closed() {
    let origin = Origin::chat().await;
    let config = config(&[&origin]).to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("web.sock");
    let two = format!(
        "listeners: [{{ listen: \"127.0.0.2:0\", name: second }}, {{ listen: \"unix:{}\" }}, ",
        file.display()
    );
    let more = config.replace("listeners: [", &two);
    let mut prusik = Prusik::start(more).await;
    let second = prusik.address("second");
    assert_eq!(status_of(second, "/").await, 200);
    assert!(file.exists());
    prusik.write_config(&config);
    prusik.upgrade().await;
    let refused = tokio::net::TcpStream::connect(second).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!file.exists());
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

/// They cannot move: they are told to go, and the new process serves them anew.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_in_pingoras_tunnel_are_told_to_go() {
    let origin = Origin::chat().await;
    let server = "server: { tunnel: pingora, drain: { window: 500ms, code: 1001 } }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let said = prusik.order(&["upgrade"]).await;
    assert!(said.contains("0 sessions moved"), "{said}");
    assert_eq!(session.ended().await, Ended::Close(1001));
    let mut session = Session::open(prusik.public(), "/").await;
    assert!(session.is_alive().await);
    eventually("one process is left", async || {
        prusik.reap();
        prusik.pids().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usr2_upgrades_and_the_pid_file_follows() {
    let origin = Origin::chat().await;
    let server = "server: { pid_file: prusik.pid, drain: { window: 0s } }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let pid_file = prusik.folder().join("prusik.pid");
    let written = || std::fs::read_to_string(&pid_file).map(|pid| pid.trim().to_owned());
    assert_eq!(written().ok(), Some(prusik.pid().to_string()));
    let mut session = Session::open(prusik.public(), "/").await;
    let before = prusik.pid();
    prusik.signal("USR2");
    eventually("another process serves", async || {
        prusik.try_status().is_some_and(|now| now["pid"] != before)
    })
    .await;
    let now = prusik.status().await["pid"].to_string();
    eventually("the old one has ended", async || {
        prusik.reap();
        prusik.pids().len() == 1
    })
    .await;
    assert!(session.is_alive().await);
    assert_eq!(written().ok(), Some(now));
    prusik.signal_all("TERM");
    assert_eq!(session.ended().await, Ended::Close(1012));
    prusik.ended().await;
    assert!(!pid_file.exists());
}
