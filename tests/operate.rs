//! What the commands that talk to a running process say: to scripts, and to people on a terminal.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{Answer, Config, Ended, Origin, Outcome, Prusik, Session, eventually, status_of};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn with_sessions(count: usize) -> (Origin, Prusik, Vec<Session>, String) {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let sessions = join_all((0..count).map(|_| Session::open(prusik.public(), "/"))).await;
    let name = format!("backend/{}", origin.address());
    (origin, prusik, sessions, name)
}

async fn json_of(prusik: &Prusik, arguments: &[&str]) -> Value {
    let said = prusik.order(&[arguments, &["--json"]].concat()).await;
    assert_eq!(said.lines().count(), 1, "{said}");
    serde_json::from_str(&said).expect("JSON")
}

/// On a terminal of its own (util-linux' script(1)): what that was sent.
async fn on_a_terminal(prusik: &Prusik, environment: &str, arguments: &str) -> String {
    let (program, admin) = (env!("CARGO_BIN_EXE_prusik"), prusik.admin());
    let line = format!("{environment} {program} {arguments} --admin {admin}");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    let output = tokio::task::block_in_place(|| command.output()).expect("script runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_has_json_for_scripts() {
    let (_origin, prusik, sessions, server) = with_sessions(3).await;
    assert_eq!(
        json_of(&prusik, &["reload"]).await,
        json!({ "changes": [] })
    );
    let id = json_of(&prusik, &["sessions"]).await["sessions"][0]["id"].clone();
    let closed = json_of(&prusik, &["close", id.as_str().unwrap()]).await;
    assert_eq!(closed, json!({ "closed": id }));
    eventually("it is gone", async || {
        prusik.status().await["sessions"] == 2
    })
    .await;
    let drained = json_of(&prusik, &["drain", &server, "--window", "0s", "--wait"]).await;
    assert_eq!(
        (&drained["sessions"], &drained["code"]),
        (&json!(2), &json!(1012))
    );
    // It has waited.
    assert_eq!(prusik.status().await["sessions"], 0);
    for mut session in sessions {
        assert_eq!(session.ended().await, Ended::Close(1012));
    }
    assert_eq!(
        json_of(&prusik, &["enable", &server]).await,
        json!({ "enabled": server })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_drain_that_is_called_off_is_told_so() {
    let (_origin, prusik, mut sessions, server) = with_sessions(1).await;
    let words = ["drain", &server, "--window", "10m", "--wait"];
    let admin = prusik.admin().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_prusik"));
    command.args(words).args(["--admin", &admin]);
    let waiting = tokio::task::spawn_blocking(move || command.output());
    eventually("it is drained", async || {
        prusik.status().await["drains"].as_array().unwrap().len() == 1
    })
    .await;
    prusik.order(&["enable", &server]).await;
    let output = waiting.await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("was called off: it has 1 session still"),
        "{said}"
    );
    assert!(sessions[0].is_alive().await);
}

/// Its session begins when all others have gone: it is not that the drain was called off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_drain_also_waits_for_a_handshake_that_was_under_way() {
    let origin = Origin::start(|request| {
        let pause = match request.target() {
            "/late" => Duration::from_secs(1),
            _ => Duration::ZERO,
        };
        Answer::upgrade(&request.head).after(pause)
    })
    .await;
    let prusik = Prusik::start(Config::to(&[&origin]).top(ADMIN)).await;
    let public = prusik.public();
    let mut early = Session::open(public, "/").await;
    let late = tokio::spawn(async move { Session::open(public, "/late").await.ended().await });
    eventually("both handshakes are there", async || {
        origin.received().len() == 2
    })
    .await;
    let server = format!("backend/{}", origin.address());
    let begun = Instant::now();
    let said = prusik
        .order(&["drain", &server, "--window", "0s", "--wait"])
        .await;
    assert!(said.contains("it has no sessions any more"), "{said}");
    assert!(
        begun.elapsed() > Duration::from_millis(500),
        "it has not waited"
    );
    assert_eq!(early.ended().await, Ended::Close(1012));
    assert_eq!(late.await.unwrap(), Ended::Close(1012));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_gets_progress_and_colours_and_nobody_else_does() {
    let (_origin, prusik, sessions, server) = with_sessions(4).await;
    let ending = tokio::spawn(async move {
        for mut session in sessions {
            session.ended().await;
        }
    });
    let said = on_a_terminal(&prusik, "", &format!("drain {server} --window 1s")).await;
    assert!(said.contains("of 4 sessions are gone"), "{said:?}");
    assert!(said.contains("it has no sessions any more"), "{said:?}");
    ending.await.unwrap();

    let yellow = |said: &str| {
        said.lines()
            .any(|line| line.contains("drained") && line.contains("\x1b[38;5;"))
    };
    let said = on_a_terminal(&prusik, "", "status").await;
    assert!(yellow(&said), "{said:?}");
    let said = on_a_terminal(&prusik, "NO_COLOR=1", "status").await;
    assert!(
        said.contains("drained") && !said.contains('\x1b'),
        "{said:?}"
    );
    let said = prusik.order(&["status"]).await;
    assert!(
        said.contains("drained") && !said.contains('\x1b'),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_upgrades_are_remembered_with_their_outcome_also_by_the_next_process() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top(ADMIN);
    let mut prusik = Prusik::start(&config).await;
    prusik
        .reload_with(config.clone().route("timeouts: { idle: 7s }"))
        .await;
    prusik.reload_with("listeners: nonsense\n").await;
    prusik.write_config(&config);
    prusik.upgrade().await;
    let status = prusik.status().await;
    let operations = status["operations"].as_array().unwrap();
    let told: Vec<_> = operations
        .iter()
        .map(|done| {
            (
                done["operation"].as_str().unwrap(),
                done["succeeded"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [("upgrade", true), ("reload", false), ("reload", true)]
    );
    let outcome = |number: usize| operations[number]["outcome"].as_str().unwrap();
    assert!(outcome(0).contains(&format!("has taken over as {}", prusik.pid())));
    assert!(outcome(1).contains("prusik.yaml:1:"), "{}", outcome(1));
    assert!(outcome(2).contains("route"), "{}", outcome(2));
    let table = prusik.order(&["status"]).await;
    assert!(table.contains("refused: "), "{table}");
}

/// As an operator who comes late sees it: over a reload and an upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_server_is_told_with_its_times() {
    let is_well = Arc::new(AtomicBool::new(true));
    let switch = is_well.clone();
    let origin = Origin::start(move |request| match request.target() {
        "/healthz" if switch.load(SeqCst) => Answer::text("well"),
        "/healthz" => Answer::status(500, &[], ""),
        "/cut" => Answer::nothing(),
        _ => Answer::text("hello"),
    })
    .await;
    let check = "health_check: { type: http, path: /healthz, interval: 100ms, rise: 1, fall: 1 }";
    let eject = "eject: { failures: 1, within: 10s, for: 500ms }";
    let config = Config::to(&[&origin])
        .upstream(check)
        .upstream(eject)
        .top(ADMIN);
    let mut prusik = Prusik::start(&config).await;
    let history = async |prusik: &Prusik| -> Vec<(String, String)> {
        let server = prusik.status().await["upstreams"][0]["servers"][0].clone();
        let changes = server["history"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        changes
            .map(|change| (text(&change["state"]), text(&change["since"])))
            .collect()
    };
    let mut expected = vec!["unchecked", "up"];
    let is = async |prusik: &Prusik, expected: &[&str]| {
        eventually(format!("its history is {expected:?}"), async || {
            let seen = history(prusik).await;
            seen.iter().map(|(state, _)| state).eq(expected)
        })
        .await;
    };
    is(&prusik, &expected).await;
    is_well.store(false, SeqCst);
    expected.push("down");
    is(&prusik, &expected).await;
    is_well.store(true, SeqCst);
    expected.push("up");
    is(&prusik, &expected).await;
    let name = format!("backend/{}", origin.address());
    prusik.order(&["drain", &name]).await;
    prusik.order(&["enable", &name]).await;
    expected.extend(["drained", "up"]);
    is(&prusik, &expected).await;
    // Its end comes by itself, and has its time though nobody looks then.
    assert_eq!(status_of(prusik.public(), "/cut").await, 502);
    expected.extend(["ejected", "up"]);
    is(&prusik, &expected).await;
    let seen = history(&prusik).await;
    let times: Vec<jiff::Timestamp> = seen
        .iter()
        .map(|(_, since)| since.parse().expect("RFC 3339"))
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    let [.., ejected, back] = times[..] else {
        panic!("{times:?}");
    };
    let out = back.duration_since(ejected).as_millis();
    assert!((400..=500).contains(&out), "{out} ms");
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert_eq!(history(&prusik).await, seen);
    prusik.upgrade().await;
    assert_eq!(history(&prusik).await, seen);
}

/// Each process counts from its own beginning, as its metrics do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_servers_handshakes_and_messages_are_counted_while_sessions_live() {
    let origins = [Origin::chat().await, Origin::chat().await];
    let [first, second] = &origins;
    let mut prusik = Prusik::start(Config::to(&[first, second]).top(ADMIN)).await;
    let counts = async |prusik: &Prusik| -> Vec<(u64, u64)> {
        let status = prusik.status().await;
        let servers = status["upstreams"][0]["servers"].as_array().unwrap();
        let count = |server: &Value, what: &str| server[what].as_u64().expect("a count");
        let of = |server: &Value| (count(server, "handshakes"), count(server, "messages"));
        servers.iter().map(of).collect()
    };
    assert_eq!(counts(&prusik).await, [(0, 0), (0, 0)]);
    // One after the other: each server gets every second.
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Session::open(prusik.public(), "/").await);
    }
    for session in &mut sessions {
        for _ in 0..5 {
            session.ask("hello").await;
        }
    }
    assert_eq!(counts(&prusik).await, [(2, 20), (2, 20)]);
    for session in sessions.drain(..2) {
        session.close(1000).await;
    }
    eventually("two have ended", async || {
        prusik.status().await["sessions"] == 2
    })
    .await;
    assert_eq!(counts(&prusik).await, [(2, 20), (2, 20)]);
    prusik.upgrade().await;
    assert_eq!(counts(&prusik).await, [(0, 0), (0, 0)]);
    for session in &mut sessions {
        session.ask("hello").await;
    }
    assert_eq!(counts(&prusik).await, [(0, 2), (0, 2)]);
    drop(sessions);
    eventually("all have ended", async || {
        prusik.status().await["sessions"] == 0
    })
    .await;
    assert_eq!(counts(&prusik).await, [(0, 2), (0, 2)]);
}
