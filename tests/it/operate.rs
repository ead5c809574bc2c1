//! What the commands that talk to a running process say: to scripts, and to people on a terminal.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Outcome, Prusik, Session, eventually, status_of,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_found_by_what_is_known_of_them_and_counted() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(
        Config::to(&[&origin])
            .top(ADMIN)
            .first("{ name: rooms, match: { path_prefix: /room }, upstream: backend }"),
    )
    .await;
    let mut sessions = Vec::new();
    for path in ["/room?userId=7", "/room?userId=8", "/else"] {
        sessions.push(Session::open(prusik.public(), path).await);
    }
    let all = json_of(&prusik, &["sessions"]).await;
    let id = all["sessions"][1]["id"].as_str().expect("an id").to_owned();
    for (arguments, count) in [
        (&["sessions"][..], "3 sessions"),
        (&["sessions", "--route", "rooms"], "2 sessions"),
        (&["sessions", "--path", "userId=7"], "1 session"),
        (&["sessions", "--id", &id], "1 session"),
        (&["sessions", "--path", "nowhere"], "no sessions"),
    ] {
        let said = prusik.order(arguments).await;
        assert_eq!(said.lines().last(), Some(count), "{arguments:?}: {said}");
    }
    let found = json_of(&prusik, &["sessions", "--id", &id]).await;
    assert_eq!(found["sessions"][0]["path"], "/room?userId=8");
    let gone = "0190aaaa-0000-7000-8000-000000000001";
    for (arguments, says) in [
        (["--upstream", "bakend"], "there is no upstream \"bakend\""),
        (["--route", "romms"], "there is no route \"romms\""),
        (
            ["--server", "127.0.0.1:1"],
            "there is no server 127.0.0.1:1",
        ),
        (["--id", gone], "no live session has the id"),
    ] {
        let arguments = [&["sessions"][..], &arguments].concat();
        let output = tokio::task::block_in_place(|| prusik.operate(&arguments));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(says) && said.contains("hint: "), "{said}");
    }
    let request = "GET /api/v1/sessions?upstream=bakend HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Client::connect(prusik.admin()).await.ask(request).await;
    assert_eq!(answer.status(), 404, "{}", answer.text());
    let request = "GET /api/v1/sessions?search=ROOM+userid%3D8&limit=1 HTTP/1.1\r\nHost: \
                   localhost\r\n\r\n";
    let answer = Client::connect(prusik.admin()).await.ask(request).await;
    let page: Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!(
        (&page["total"], &page["sessions"][0]["id"]),
        (&json!(1), &json!(id))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_fit_eighty_columns_and_break_no_address() {
    let (_origin, prusik, _sessions, server) = with_sessions(2).await;
    let address = server.rsplit('/').next().expect("an address").to_owned();
    prusik.order(&["drain", &server, "--window", "1h"]).await;
    let admin = prusik.admin();
    for command in ["sessions", "status"] {
        let program = env!("CARGO_BIN_EXE_prusik");
        let line = format!("stty cols 80; NO_COLOR=1 {program} {command} --admin {admin}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        let output = tokio::task::block_in_place(|| script.output()).expect("script runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&address), "{said}");
        for line in said.lines() {
            assert!(line.chars().count() <= 80, "{line:?} of\n{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_has_sessions_is_draining_and_only_then_drained() {
    let (_origin, prusik, mut sessions, server) = with_sessions(1).await;
    prusik.order(&["drain", &server, "--window", "1h"]).await;
    let state = async || {
        let status = prusik.status().await;
        let server = &status["upstreams"][0]["servers"][0];
        let last = server["history"]
            .as_array()
            .and_then(|all| all.last().cloned());
        assert_eq!(server["state"], last.unwrap_or_default()["state"]);
        server["state"].clone()
    };
    assert_eq!(state().await, "draining");
    assert!(prusik.order(&["status"]).await.contains("draining"));
    let session = sessions.pop().expect("there is one");
    session.close(1000).await;
    eventually("it is drained", async || state().await == "drained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_interrupts_the_wait_for_a_drain_is_told_that_it_goes_on() {
    let (_origin, prusik, _sessions, server) = with_sessions(1).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_prusik"));
    let admin = prusik.admin().to_string();
    command.args([
        "drain", &server, "--window", "1h", "--wait", "--admin", &admin,
    ]);
    command.stdout(std::process::Stdio::null());
    let waiting = command.stderr(std::process::Stdio::piped()).spawn();
    let waiting = waiting.expect("the binary runs");
    eventually("the drain has begun", async || {
        prusik.status().await["upstreams"][0]["servers"][0]["state"] == "draining"
    })
    .await;
    // It waits for the signal once it has said that it has begun.
    let is_caught = || {
        let path = format!("/proc/{}/status", waiting.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap_or("0").trim(), 16);
        caught.is_ok_and(|signals| signals & 2 != 0)
    };
    eventually("it looks out for the signal", async || is_caught()).await;
    support::signal(waiting.id(), "INT");
    let output = tokio::task::block_in_place(|| waiting.wait_with_output()).expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("the drain of {server} goes on")),
        "{said}"
    );
    assert!(
        said.contains(&format!("`prusik enable {server}` ends it")),
        "{said}"
    );
    assert_eq!(
        prusik.status().await["upstreams"][0]["servers"][0]["state"],
        "draining"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_may_have_several_addresses_and_commands_take_the_first_that_answers() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("admin.sock");
    let tcp = support::free_address();
    let admin = |first: &str| format!("admin: {{ listen: [\"{first}\", \"{tcp}\"] }}");
    let unix = format!("unix:{}", socket.display());
    let mut prusik = Prusik::start(Config::to(&[&origin]).top(admin(&unix))).await;
    let by_file = |config: &str| {
        let output = tokio::task::block_in_place(|| {
            support::prusik(&["status", "--json", "--config", config])
        });
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    };
    let file = prusik.folder().join("prusik.yaml").display().to_string();
    for address in [&unix, &tcp.to_string()] {
        let said = tokio::task::block_in_place(|| {
            support::prusik(&["status", "--json", "--admin", address])
        });
        assert!(said.status.success(), "{address}");
    }
    assert!(by_file(&file).0);
    // Of a file whose first address nobody serves, the second one.
    let other = folder.path().join("other.yaml");
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let text = Config::to(&[&origin]).top(admin(&nobody)).to_string();
    std::fs::write(&other, text).expect("the file can be written");
    let (succeeded, said) = by_file(&other.display().to_string());
    assert!(succeeded, "{said}");
    // The new process has both of them.
    prusik.upgrade().await;
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Client::connect_unix(&socket).await.ask(request).await;
    assert_eq!(answer.status(), 200);
    assert!(by_file(&file).0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_as_the_unit_does_it_works_whatever_the_file_says_of_admin() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let file = prusik.folder().join("prusik.yaml").display().to_string();
    let pid = prusik.pid().to_string();
    let reload = || {
        let arguments = ["reload", "--config", &file, "--or-signal", &pid];
        let output = tokio::task::block_in_place(|| support::prusik(&arguments));
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("told by signal HUP"), "{said}");
    prusik.wait_stderr("reload done: nothing changed").await;
    prusik.write_config(Config::to(&[&origin]).route("stripp_prefix: /x"));
    let (code, said) = reload();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stripp_prefix"), "{said}");
    assert_eq!(prusik.stderr().matches("reload refused").count(), 0);
    // Nobody listens there: the running process has no API.
    let admin = format!("admin: {{ listen: \"{}\" }}", support::free_address());
    prusik.write_config(Config::to(&[&origin]).top(admin));
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    prusik.wait_stderr("reload refused").await;
}
