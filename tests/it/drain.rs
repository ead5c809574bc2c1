//! Sessions that must go: told so, spread over a window, and nobody else is disturbed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::{
    Answer, Client, Config, Ended, Origin, Outcome, Prusik, RawSession, Session, eventually,
    handshake,
};
use futures_util::future::join_all;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// When each session ended, in order, and that it was told so.
async fn endings(sessions: Vec<Session>, since: Instant, code: u16) -> Vec<Duration> {
    let ending = async |mut session: Session| {
        assert_eq!(session.ended().await, Ended::Close(code));
        since.elapsed()
    };
    let mut endings = join_all(sessions.into_iter().map(ending)).await;
    endings.sort();
    endings
}

/// Each tenth of the window holds its share of the endings, within half of it.
fn assert_spread(endings: &[Duration], window: Duration) {
    let share = endings.len() / 10;
    for tenth in 0..10 {
        let (from, to) = (window * tenth / 10, window * (tenth + 1) / 10);
        let within = endings.iter().filter(|at| (from..to).contains(*at)).count();
        assert!(
            (share / 2..=share * 3 / 2).contains(&within),
            "{within} of {} between {from:?} and {to:?}: {endings:?}",
            endings.len()
        );
    }
}

/// The status that the admin API answers with.
async fn asked(admin: SocketAddr, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    Client::connect(admin).await.ask(request).await.status()
}

async fn open(prusik: &Prusik, count: usize) -> Vec<Session> {
    join_all((0..count).map(|_| Session::open(prusik.public(), "/"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_sessions_to_go_spread_over_the_window() {
    let origin = Origin::chat().await;
    let drain = "server: { drain: { window: 3s, code: 4321 } }";
    let mut prusik = Prusik::start(Config::to(&[&origin]).top(drain)).await;
    let sessions = open(&prusik, 100).await;
    let started = Instant::now();
    prusik.signal("TERM");
    let endings = endings(sessions, started, 4321).await;
    assert_spread(&endings, Duration::from_secs(3));
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "it ends with the last"
    );
    // The servers saw a closing handshake too, with the same code.
    eventually("the servers know", async || origin.closes().len() == 100).await;
    assert!(origin.closes().iter().all(|code| *code == 4321));
    let log = prusik.access_log();
    let closed: Vec<_> = log
        .iter()
        .filter(|entry| entry["kind"] == "session_close")
        .collect();
    assert_eq!(closed.len(), 100);
    assert!(
        closed
            .iter()
            .all(|entry| entry["closed_by"] == "drain" && entry["close_code"] == 4321)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_nobody_there_is_at_once() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut idle = Client::connect(prusik.public()).await;
    assert_eq!(idle.get("/").await.status(), 200);
    let started = Instant::now();
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_is_cut_and_its_server_is_told() {
    let origin = Origin::chat().await;
    let drain = "server: { drain: { window: 0s, deadline: 6s } }";
    let mut prusik = Prusik::start(Config::to(&[&origin]).top(drain)).await;
    // Says nothing, and leaves its connection open.
    let mut silent = RawSession::open(prusik.public(), handshake("/")).await;
    let started = Instant::now();
    prusik.signal("TERM");
    let goodbye = silent.frame().await;
    assert_eq!(
        (goodbye.opcode, goodbye.payload),
        (8, 1012_u16.to_be_bytes().to_vec())
    );
    silent.client.expect_end().await;
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(started.elapsed() < Duration::from_secs(5));
    // The server was told by prusik itself.
    eventually("the server knows", async || origin.closes() == [1012]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_process_answers_what_it_has_begun_and_is_not_ready() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(1)),
        _ => Answer::upgrade(request),
    })
    .await;
    let drain = "server: { drain: { window: 2s } }";
    let config = Config::to(&[&origin]).top(drain).top(ADMIN);
    let mut prusik = Prusik::start(config).await;
    let admin = prusik.admin();
    assert_eq!(asked(admin, "/readyz").await, 200);
    let mut session = Session::open(prusik.public(), "/").await;
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/slow").await;
    prusik.signal("TERM");
    eventually("it is not ready", async || {
        asked(admin, "/readyz").await == 503
    })
    .await;
    assert_eq!(asked(admin, "/healthz").await, 200);
    assert_eq!(prusik.status().await["state"], "draining");
    // Whoever waits in a listener's queue is taken first.
    eventually("the session is to go", async || {
        prusik.status().await["drains"][0]["total"] == 1
    })
    .await;
    let response = busy.response().await;
    assert_eq!(response.text(), "slow");
    assert_eq!(response.field("connection"), Some("close"));
    busy.expect_end().await;
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_loses_its_sessions_to_the_others_until_it_is_enabled() {
    let (a, b) = (Origin::chat().await, Origin::chat().await);
    let prusik = Prusik::start(Config::to(&[&a, &b]).top(ADMIN)).await;
    let mut sessions = open(&prusik, 40).await;
    let (mut on_a, mut on_b) = (Vec::new(), Vec::new());
    for mut session in sessions.drain(..) {
        match session.server().await == a.address() {
            true => on_a.push(session),
            false => on_b.push(session),
        }
    }
    assert_eq!(on_a.len(), 20);
    let name = format!("backend/{}", a.address());
    let started = Instant::now();
    let said = prusik
        .order(&["drain", &name, "--window", "2s", "--code", "1001"])
        .await;
    assert!(said.contains("20 sessions"), "{said}");
    for _ in 0..4 {
        assert_eq!(
            Session::open(prusik.public(), "/").await.server().await,
            b.address()
        );
    }
    let endings = endings(on_a, started, 1001).await;
    assert!(endings[0] < Duration::from_secs(1) && endings[19] > Duration::from_secs(1));
    for session in &mut on_b {
        assert!(session.is_alive().await);
    }
    let server = &prusik.status().await["upstreams"][0]["servers"][0];
    assert_eq!(
        (&server["state"], &server["sessions"]),
        (&"drained".into(), &0.into())
    );

    prusik.order(&["enable", &name]).await;
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(Session::open(prusik.public(), "/").await.server().await);
    }
    assert!(servers.contains(&a.address()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enabled_server_keeps_the_sessions_that_were_not_told_yet() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let mut sessions = open(&prusik, 10).await;
    let name = format!("backend/{}", origin.address());
    prusik.order(&["drain", &name, "--window", "3650d"]).await;
    assert_eq!(prusik.status().await["drains"][0]["left"], 10);
    prusik.order(&["enable", &name]).await;
    assert_eq!(
        prusik.status().await["drains"].as_array().map(Vec::len),
        Some(0)
    );
    for session in &mut sessions {
        assert!(session.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_is_closed_by_its_id() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let mut stays = Session::open(prusik.public(), "/stays").await;
    let mut goes = Session::open(prusik.public(), "/goes").await;
    let listed = prusik.order(&["sessions", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let sessions = listed["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 2);
    let id = sessions[1]["id"].as_str().expect("an id");
    assert_eq!(sessions[1]["path"], "/goes");
    prusik.order(&["close", id, "--code", "4009"]).await;
    assert_eq!(goes.ended().await, Ended::Close(4009));
    assert!(stays.is_alive().await);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "operator");
    assert_eq!(close["close_code"], 4009);
    assert_eq!(close["id"], id);
    let again = tokio::task::block_in_place(|| prusik.operate(&["close", id]));
    assert_eq!(again.status.code(), Some(1));
}

const AT_ONCE: &str = "server: { drain: { window: 0s } }";

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_server_that_leaves_the_file_go_unless_they_are_kept() {
    let (a, b) = (Origin::chat().await, Origin::chat().await);
    for (fate, stays) in [("close", false), ("keep", true)] {
        let config = |origins: &[&Origin]| {
            Config::to(origins)
                .top(AT_ONCE)
                .upstream(format!("on_removed: {fate}"))
        };
        let prusik = Prusik::start(config(&[&a, &b])).await;
        let mut sessions = open(&prusik, 2).await;
        let number = usize::from(sessions[0].server().await != a.address());
        let mut on_a = sessions.remove(number);
        assert_eq!(prusik.reload_with(config(&[&b])).await, Outcome::Done);
        let said = format!("server {} removed", a.address());
        prusik.wait_stderr(&said).await;
        match stays {
            true => assert!(on_a.is_alive().await),
            false => assert_eq!(on_a.ended().await, Ended::Close(1012)),
        }
        assert!(sessions[0].is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_server_that_is_down_stay_unless_they_are_to_go() {
    for (fate, stays) in [("keep", true), ("close", false)] {
        // It accepts sessions, and fails its checks from some time on.
        let is_well = Arc::new(AtomicBool::new(true));
        let health = is_well.clone();
        let origin = Origin::start(move |request| match request.target() {
            "/healthz" if health.load(SeqCst) => Answer::text("well"),
            "/healthz" => Answer::status(500, &[], ""),
            _ => Answer::upgrade(request),
        })
        .await;
        let config = Config::to(&[&origin])
            .top(AT_ONCE)
            .upstream(format!("on_down: {fate}"))
            .upstream("health_check: { type: http, path: /healthz, interval: 100ms, fall: 2 }");
        let prusik = Prusik::start(config).await;
        let mut session = Session::open(prusik.public(), "/").await;
        is_well.store(false, SeqCst);
        prusik.wait_stderr("is down").await;
        match stays {
            true => assert!(session.is_alive().await),
            false => assert_eq!(session.ended().await, Ended::Close(1012)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_route_or_an_upstream_that_is_gone_go() {
    let origin = Origin::chat().await;
    let extra =
        |name: &str| format!("{{ name: {name}, match: {{ path: /{name} }}, upstream: backend }}");
    let base = || Config::to(&[&origin]).top(AT_ONCE);
    let prusik = Prusik::start(base().first(extra("old")).first(extra("kept"))).await;
    let mut old = Session::open(prusik.public(), "/old").await;
    let mut kept = Session::open(prusik.public(), "/kept").await;
    let reloaded = prusik.reload_with(base().first(extra("kept"))).await;
    assert_eq!(reloaded, Outcome::Done);
    assert_eq!(old.ended().await, Ended::Close(1012));
    assert!(kept.is_alive().await);
    let renamed = base()
        .first(extra("kept"))
        .to_string()
        .replace("backend", "other");
    assert_eq!(prusik.reload_with(renamed).await, Outcome::Done);
    assert_eq!(kept.ended().await, Ended::Close(1012));
}

/// A handshake is under way while something happens to its route or its server: what becomes of
/// the session.
async fn meanwhile(
    config: Config,
    happens: impl AsyncFnOnce(&Prusik, &Origin),
) -> (Prusik, Origin, Session) {
    let is_well = Arc::new(AtomicBool::new(true));
    let health = is_well.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/healthz" if health.load(SeqCst) => Answer::text("well"),
        "/healthz" => Answer::status(500, &[], ""),
        _ => {
            health.store(false, SeqCst);
            Answer::upgrade(request).after(Duration::from_secs(2))
        }
    })
    .await;
    let config = config.server(origin.address());
    let prusik = Prusik::start(config).await;
    let opening = Session::open(prusik.public(), "/slow");
    let meanwhile = async {
        origin.has_got("/slow").await;
        happens(&prusik, &origin).await;
    };
    let (session, ()) = tokio::join!(opening, meanwhile);
    (prusik, origin, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_under_way_when_its_server_is_drained_goes_too() {
    let config = || Config::to(&[]).top(AT_ONCE).top(ADMIN);
    let drain = async |prusik: &Prusik, origin: &Origin| {
        let name = format!("backend/{}", origin.address());
        prusik.order(&["drain", &name]).await;
    };
    let (prusik, _origin, mut session) = meanwhile(config(), drain).await;
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert_eq!(prusik.session_close().await["closed_by"], "drain");
    let (_prusik, _origin, mut session) = meanwhile(config(), async |prusik, origin| {
        drain(prusik, origin).await;
        let name = format!("backend/{}", origin.address());
        prusik.order(&["enable", &name]).await;
    })
    .await;
    assert!(session.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_under_way_when_its_server_is_removed_goes_too() {
    for (fate, stays) in [("close", false), ("keep", true)] {
        let config = || {
            let rule = format!("on_removed: {fate}");
            Config::to(&[]).top(AT_ONCE).upstream(rule)
        };
        let other = Origin::chat().await;
        let (_prusik, _origin, mut session) = meanwhile(config(), async |prusik, _| {
            let next = config().server(other.address());
            assert_eq!(prusik.reload_with(next).await, Outcome::Done);
        })
        .await;
        match stays {
            true => assert!(session.is_alive().await),
            false => assert_eq!(session.ended().await, Ended::Close(1012)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_under_way_when_its_route_or_upstream_is_removed_goes_too() {
    for gone in ["route", "upstream"] {
        let route = |name: &str| {
            let route = format!("{{ name: {name}, match: {{ path: /slow }}, upstream: backend }}");
            Config::to(&[]).top(AT_ONCE).first(route)
        };
        let (_prusik, _origin, mut session) = meanwhile(route("old"), async |prusik, origin| {
            let next = match gone {
                "route" => route("new").server(origin.address()).to_string(),
                _ => {
                    let same = route("old").server(origin.address()).to_string();
                    same.replace("backend", "other")
                }
            };
            assert_eq!(prusik.reload_with(next).await, Outcome::Done);
        })
        .await;
        assert_eq!(session.ended().await, Ended::Close(1012), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_under_way_when_its_server_goes_down_goes_too() {
    for (fate, stays) in [("close", false), ("keep", true)] {
        let config = Config::to(&[])
            .top(AT_ONCE)
            .upstream(format!("on_down: {fate}"))
            .upstream("health_check: { type: http, path: /healthz, interval: 100ms, fall: 2 }");
        let (_prusik, _origin, mut session) = meanwhile(config, async |prusik, _| {
            prusik.wait_stderr("is down").await;
        })
        .await;
        match stays {
            true => assert!(session.is_alive().await),
            false => assert_eq!(session.ended().await, Ended::Close(1012)),
        }
    }
}
