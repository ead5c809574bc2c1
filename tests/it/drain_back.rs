//! Drains that are overtaken by events: whoever may stay by its moment stays, and whoever comes
//! late is told like the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{
    Answer, Authority, Config, Ended, Origin, Outcome, Prusik, Session, certificates, eventually,
};
use futures_util::future::join_all;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// So long that none of them is told in the time of a test: the first is told at a random moment
/// of its part of the window.
const LONG: &str = "server: { drain: { window: 3650d } }";

async fn open(prusik: &Prusik, count: usize) -> Vec<Session> {
    join_all((0..count).map(|_| Session::open(prusik.public(), "/"))).await
}

async fn all_live(sessions: &mut [Session]) -> bool {
    let alive = join_all(sessions.iter_mut().map(Session::is_alive)).await;
    alive.iter().all(|alive| *alive)
}

/// How many drains are not done.
async fn drains(prusik: &Prusik) -> usize {
    let drains = prusik.status().await["drains"].clone();
    drains.as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_server_that_is_up_again_stay() {
    let is_well = Arc::new(AtomicBool::new(true));
    let health = is_well.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/healthz" if health.load(SeqCst) => Answer::text("well"),
        "/healthz" => Answer::status(500, &[], ""),
        _ => Answer::upgrade(request),
    })
    .await;
    let check = "health_check: { type: http, path: /healthz, interval: 100ms, rise: 1, fall: 1 }";
    let config = Config::to(&[&origin]).top(LONG).top(ADMIN);
    let config = config.upstream("on_down: close").upstream(check);
    let prusik = Prusik::start(config).await;
    let mut sessions = open(&prusik, 50).await;
    is_well.store(false, SeqCst);
    eventually("they are to be told", async || drains(&prusik).await == 1).await;
    is_well.store(true, SeqCst);
    prusik.wait_stderr("is up again").await;
    eventually("nobody is any more", async || drains(&prusik).await == 0).await;
    assert!(all_live(&mut sessions).await);
    // A second outage is a drain of its own.
    is_well.store(false, SeqCst);
    eventually("they are to be told again", async || {
        drains(&prusik).await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_server_a_route_and_an_upstream_that_a_reload_brings_back_stay() {
    let (origin, other) = (Origin::chat().await, Origin::chat().await);
    let whole = || Config::to(&[&origin]).top(LONG).top(ADMIN);
    let without = |text: &str, other: &str| whole().to_string().replace(text, other);
    let gone = [
        Config::to(&[&other]).top(LONG).top(ADMIN).to_string(),
        without(
            "  - upstream: backend",
            "  - name: other\n    upstream: backend",
        ),
        without("backend", "elsewhere"),
    ];
    let all = gone.map(async |gone| {
        let prusik = Prusik::start(whole()).await;
        let mut sessions = open(&prusik, 20).await;
        assert_eq!(prusik.reload_with(&gone).await, Outcome::Done);
        eventually("who has no place is to be told", async || {
            drains(&prusik).await == 1
        })
        .await;
        assert_eq!(prusik.reload_with(whole()).await, Outcome::Done);
        assert_eq!(drains(&prusik).await, 0);
        assert!(all_live(&mut sessions).await, "{gone}");
    });
    join_all(all).await;
}

/// Its handshake was under way when the new process began to serve, and TLS stays with the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_begins_while_the_old_process_winds_down_is_told() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let late = Origin::start(|request| match request.target() {
        "/late" => Answer::upgrade(request).after(Duration::from_millis(1500)),
        _ => Answer::upgrade(request),
    })
    .await;
    let server = "server: { tls_sessions: tell, drain: { window: 500ms, deadline: 20s } }";
    let config = Config::to(&[&late]).top(server).top(ADMIN);
    let config = config.tls(certificates(&[&pair]));
    let prusik = Prusik::start(config).await;
    let client = authority.client();
    let over = async || {
        let stream = client.try_connect(prusik.public(), "chat.test").await;
        stream.expect("a TLS handshake")
    };
    let mut early = Session::over(over().await, "/").await.expect("a session");
    let stream = over().await;
    let opening = tokio::spawn(async move { Session::over(stream, "/late").await });
    late.has_got("/late").await;
    prusik.order(&["upgrade"]).await;
    assert_eq!(early.ended().await, Ended::Close(1012));
    let mut session = opening.await.expect("no panic").expect("a session");
    assert_eq!(session.ended().await, Ended::Close(1012));
}
