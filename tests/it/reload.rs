//! `HUP`: everything of the file at once, or nothing; nobody notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Frame, Origin, Outcome, Prusik, RawSession, Session, client_frame,
    eventually, get, handshake, status_of,
};
use futures_util::future::join_all;
use serde_json::Value;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Their lines of the log, without those of what operators do.
fn requests(prusik: &Prusik) -> Vec<Value> {
    let mut log = prusik.access_log();
    log.retain(|entry| entry["kind"] == "request");
    log
}

#[tokio::test]
async fn routes_come_and_go_while_a_session_and_a_request_go_on() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(1)),
        _ if request.field("upgrade").is_some() => Answer::upgrade(request),
        _ => Answer::text("hello"),
    })
    .await;
    // The session's own route is gone too: it is told so, but not within the test.
    let old = Config::to(&[&origin]).first("{ match: { path: /old }, respond: { status: 201 } }");
    let prusik = Prusik::start(old).await;
    assert_eq!(status_of(prusik.public(), "/old").await, 201);
    let mut session = RawSession::open(prusik.public(), handshake("/chat")).await;
    let mut slow = Client::connect(prusik.public()).await;
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the server has the slow request", async || {
        origin.received().len() == 2
    })
    .await;

    // Not even the upstream is left.
    let new = "server: { drain: { window: 1h, deadline: 1h } }\n\
               listeners: [{ listen: 127.0.0.1:0, name: public }]\n\
               routes: [{ match: { path: /new }, respond: { status: 202 } }]\n";
    assert_eq!(prusik.reload_with(new).await, Outcome::Done);
    assert_eq!(status_of(prusik.public(), "/old").await, 404);
    assert_eq!(status_of(prusik.public(), "/new").await, 202);
    assert_eq!(slow.response().await.text(), "slow");
    session.send(client_frame(1, b"still here")).await;
    assert_eq!(session.frame().await, Frame::text("still here"));
}

#[tokio::test]
async fn a_kept_connection_gets_the_new_rules() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let with = |value: &str| {
        Config::to(&[&origin]).route(format!(
            "headers: {{ response: {{ set: {{ X-Version: {value} }} }} }}"
        ))
    };
    let prusik = Prusik::start(with("one")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/").await.field("x-version"), Some("one"));
    assert_eq!(prusik.reload_with(with("two")).await, Outcome::Done);
    assert_eq!(client.get("/").await.field("x-version"), Some("two"));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_everything_that_is_wrong() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let bad = "listeners: [{ listen: 127.0.0.1:0, name: public }]
upstreams:
  backend: { servers: [127.0.0.1:1], atempts: 3 }
routes:
  - upstream: bakend
    timeouts: { idle: soon }
";
    let Outcome::Refused(said) = prusik.reload_with(bad).await else {
        panic!("a bad file was taken: {}", prusik.stderr());
    };
    for error in [
        "prusik.yaml:3:38: ",
        "atempts",
        "prusik.yaml:5:15: ",
        "\"bakend\"",
        "did you mean \"backend\"?",
        "prusik.yaml:6:23: ",
    ] {
        assert!(said.contains(error), "no {error:?} in {said}");
    }
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    assert!(session.is_alive().await);
    let good = Config::to(&[&origin]);
    assert_eq!(prusik.reload_with(good).await, Outcome::Done);
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    std::fs::remove_file(prusik.folder().join("prusik.yaml")).unwrap();
    assert!(matches!(prusik.reload().await, Outcome::Refused(_)));
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

#[tokio::test]
async fn what_only_a_new_process_can_take_is_refused() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]);
    let prusik = Prusik::start(&config).await;
    let moved = config.to_string().replace("127.0.0.1:0", "127.0.0.1:1");
    let more = format!("{config}\nserver: {{ threads: 7 }}\n");
    let second = config
        .to_string()
        .replace("name: public }", "name: public }, { listen: 127.0.0.2:0 }");
    for (yaml, about) in [(moved, "listen"), (more, "threads"), (second, "listen")] {
        match prusik.reload_with(yaml).await {
            Outcome::Refused(said) => assert!(said.contains(about), "{said}"),
            Outcome::Done => panic!("{about} was changed"),
        }
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
}

#[tokio::test]
async fn the_sessions_of_servers_that_stay_are_still_counted() {
    let origin = Origin::chat().await;
    let with = |line: &str| {
        Config::default()
            .server(format!(
                "{{ address: \"{}\", max_sessions: 1 }}",
                origin.address()
            ))
            .upstream(line)
    };
    let prusik = Prusik::start(with("attempts: 1")).await;
    let session = Session::open(prusik.public(), "/").await;
    assert_eq!(prusik.reload_with(with("attempts: 2")).await, Outcome::Done);
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.ask(handshake("/")).await.status(), 503);
    drop(session);
    eventually("there is room again", async || {
        Session::try_open(prusik.public(), "/").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_health_of_servers_that_stay_is_still_known() {
    let origin = Origin::chat().await;
    let dead = support::free_address();
    let with = |line: &str| {
        Config::to(&[&origin])
            .server(dead)
            .upstream("health_check: { interval: 30s, rise: 1, fall: 1 }")
            .upstream(line)
    };
    let prusik = Prusik::start(with("attempts: 3")).await;
    prusik.wait_stderr("is down").await;
    assert_eq!(prusik.reload_with(with("attempts: 2")).await, Outcome::Done);
    for _ in 0..6 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
    eventually("six requests are in the log", async || {
        requests(&prusik).len() == 6
    })
    .await;
    for entry in requests(&prusik) {
        assert_eq!(entry["attempts"], 1, "{entry}");
    }
}

#[tokio::test]
async fn a_server_that_was_added_gets_its_share_and_one_that_left_gets_none() {
    let [a, b] = [Origin::chat().await, Origin::chat().await];
    let prusik = Prusik::start(Config::to(&[&a])).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    let share_of_b = async || {
        let mut share = 0;
        for _ in 0..6 {
            let page = get(prusik.public(), "/").await.text();
            share += usize::from(page == b.address().to_string());
        }
        share
    };
    assert_eq!(
        prusik.reload_with(Config::to(&[&a, &b])).await,
        Outcome::Done
    );
    assert_eq!(share_of_b().await, 3);
    assert_eq!(prusik.reload_with(Config::to(&[&b])).await, Outcome::Done);
    assert_eq!(share_of_b().await, 6);
}

#[tokio::test]
async fn reloads_under_traffic_cost_nothing() {
    let origins = [Origin::chat().await, Origin::chat().await];
    let with = |number: usize| {
        Config::to(&[&origins[0], &origins[1]])
            .upstream(format!("attempts: {}", number % 3 + 1))
            .upstream("health_check: { interval: 100ms }")
    };
    let prusik = Prusik::start(with(0)).await;
    let address = prusik.public();
    let mut session = Session::open(address, "/").await;
    prusik.reload_with(with(1)).await;
    let before = prusik.fds();
    let reloads = async {
        for number in 0..30 {
            assert_eq!(prusik.reload_with(with(number)).await, Outcome::Done);
        }
    };
    let traffic = async {
        let mut client = Client::connect(address).await;
        loop {
            assert_eq!(client.get("/").await.status(), 200);
            assert_eq!(status_of(address, "/").await, 200);
            assert!(session.is_alive().await);
            let mut new = Session::open(address, "/").await;
            assert!(new.is_alive().await);
        }
    };
    tokio::select! {
        () = reloads => {}
        () = traffic => {}
    }
    eventually("the old configurations leave nothing open", async || {
        prusik.fds() <= before + 8
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_checked_before_they_are_picked_at_a_start_and_at_a_reload() {
    let origin = Origin::chat().await;
    let (dead, silent) = (support::free_address(), support::listen());
    // One refuses connections, one takes them and says nothing.
    let silent_address = silent.local_addr().unwrap();
    let check = "health_check: { type: http, interval: 1h, timeout: 500ms }";
    let with_bad = |line: &str| {
        let bad = Config::to(&[&origin]).server(dead).server(silent_address);
        bad.upstream(check).upstream(line).top(ADMIN)
    };
    let all_at_first = async |prusik: &Prusik, count: usize| {
        for _ in 0..6 {
            assert_eq!(status_of(prusik.public(), "/").await, 200);
        }
        eventually("the requests are in the log", async || {
            requests(prusik).len() == count
        })
        .await;
        assert!(requests(prusik).iter().all(|entry| entry["attempts"] == 1));
    };
    let prusik = Prusik::start(with_bad("attempts: 3")).await;
    all_at_first(&prusik, 6).await;
    let failed = |bad: SocketAddr| format!("upstream \"backend\": {bad} failed its first check");
    for bad in [dead, silent_address] {
        assert!(
            prusik.stderr().contains(&failed(bad)),
            "{}",
            prusik.stderr()
        );
    }
    drop(prusik);

    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    prusik.write_config(with_bad("attempts: 3"));
    let said = prusik.order(&["reload"]).await;
    all_at_first(&prusik, 6).await;
    for bad in [dead, silent_address] {
        assert!(said.contains(&failed(bad)), "{said}");
    }
    // They are known by now: nobody waits for them, or is told again.
    let known = prusik.status().await["upstreams"][0]["servers"].clone();
    let states: Vec<_> = (0..3)
        .map(|number| known[number]["state"].clone())
        .collect();
    assert_eq!(states, ["up", "down", "down"]);
    prusik.write_config(with_bad("attempts: 2"));
    let said = prusik.order(&["reload"]).await;
    assert!(!said.contains("first check"), "{said}");
}

/// Everything is done on the one worker that also carries the session, unless it is done elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_keeps_no_worker_from_its_sessions() {
    let origin = Origin::chat().await;
    let with = |name: &str, more: usize, wrong: &str| {
        let routes = (0..more).map(|number| {
            format!("{{ name: {name}{number}, match: {{ host: h{number}.test }}, upstream: backend{wrong} }}")
        });
        let top = "server: { threads: 1 }";
        let config = Config::to(&[&origin]).top(top).top(ADMIN);
        routes.fold(config, Config::first)
    };
    let prusik = Prusik::start(with("a", 1, "")).await;
    let mut session = Session::open(prusik.public(), "/").await;
    for (what, config) in [
        ("many routes", with("b", 5000, "")),
        ("as many others", with("c", 5000, "")),
        ("many errors", with("d", 300, ", timeout: 3s")),
    ] {
        prusik.write_config(config);
        let started = Instant::now();
        let reload = prusik.reload();
        tokio::pin!(reload);
        let mut slowest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            tokio::select! {
                biased;
                _ = &mut reload => break,
                answer = session.ask("still here?") => assert_eq!(answer, "still here?"),
            }
            slowest = slowest.max(asked.elapsed());
        }
        let took = started.elapsed();
        assert!(slowest < took / 3, "{what}: {slowest:?} of {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_the_sessions_of_what_leaves_the_file_and_comes_back() {
    let origin = Origin::chat().await;
    let limited = |max_on_route: usize| {
        format!(
            "server: {{ drain: {{ window: 1h, deadline: 2h }} }}\n\
             listeners: [{{ listen: \"127.0.0.1:0\", name: public }}]\n\
             upstreams: {{ chat: {{ servers: [{{ address: \"{}\", max_sessions: 5 }}] }} }}\n\
             routes: [{{ name: chat, upstream: chat, websocket: {{ max_sessions: {max_on_route} }} }}]\n",
            origin.address()
        )
    };
    let without = "listeners: [{ listen: \"127.0.0.1:0\", name: public }]\n\
                   routes: [{ name: none, respond: { status: 204 } }]\n";
    // By the route first, then by the server.
    for max_on_route in [5, 100] {
        let prusik = Prusik::start(limited(max_on_route)).await;
        let sessions = join_all((0..5).map(|_| Session::open(prusik.public(), "/"))).await;
        assert_eq!(prusik.reload_with(without).await, Outcome::Done);
        assert_eq!(
            prusik.reload_with(limited(max_on_route)).await,
            Outcome::Done
        );
        let mut client = Client::connect(prusik.public()).await;
        let refused = client.ask(handshake("/")).await;
        assert_eq!(refused.status(), 503, "{max_on_route}");
        drop(sessions);
    }
}
