//! The link between the old and the new process of an upgrade, with one side that does not do as it
//! should: each session is carried by exactly one, and nobody waits for long.

use std::time::{Duration, Instant};

use crate::support;
use crate::support::fake_new::{self, Link};
use crate::support::{
    Answer, Client, Config, Ended, Origin, Prusik, Session, eventually, status_of,
};
use futures_util::future::join_all;
use prusik::lifecycle::upgrade::protocol::{Message, wire};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

fn config(origins: &[&Origin]) -> Config {
    Config::to(origins).top(ADMIN)
}

/// Does nothing until the test ends this process: to hang is the role.
fn hang() {
    std::thread::sleep(Duration::from_secs(600));
}

/// Plays the new process where one of the tests below wants another than prusik.
#[test]
fn new_process() {
    let Some(role) = fake_new::role() else {
        return;
    };
    let mut link = Link::take();
    match role.as_str() {
        "hangs_when_told_to_go" => {
            link.say(&Message::Ready(wire::Ready {
                pid: std::process::id(),
                version: "9.9.9".to_owned(),
                unused: Vec::new(),
                protocol: wire::LATEST,
            }));
            hang();
        }
        "refuses_all" => {
            link.get_ready(wire::LATEST);
            link.serve();
            while let Some(heard) = link.hear() {
                let Some(number) = heard.message.number() else {
                    continue;
                };
                let reason = "no room".to_owned();
                link.say(&Message::Refused { number, reason });
            }
        }
        "says_what_nobody_knows" => {
            link.get_ready(wire::LATEST);
            link.serve();
            link.say_something_unknown();
            let mut adopted = Vec::new();
            while let Some(heard) = link.hear() {
                if let Message::Session { number, .. } = heard.message {
                    link.say(&Message::Adopted { number });
                    adopted.push(heard.descriptors);
                }
                link.say_something_unknown();
            }
        }
        "ends_when_it_serves" => {
            link.get_ready(wire::LATEST);
            link.serve();
            std::process::exit(1);
        }
        "dies_when_it_has_all" => {
            link.get_ready(wire::LATEST);
            link.serve();
            let mut adopted = Vec::new();
            while let Some(heard) = link.hear() {
                match heard.message {
                    Message::Session { number, .. } => {
                        link.say(&Message::Adopted { number });
                        adopted.push(heard.descriptors);
                    }
                    Message::End => break,
                    _ => {}
                }
            }
            // As the kernel does it to a process that dies: its sockets are closed first.
            drop(link);
            // The old process has to see the link's end while this one still lives.
            std::thread::sleep(Duration::from_millis(30));
            std::process::exit(1);
        }
        "dies_of_a_command" => {
            // Long enough for an operator to ask for something meanwhile.
            std::thread::sleep(Duration::from_secs(2));
            link.get_ready(wire::LATEST);
            link.serve();
            while let Some(heard) = link.hear() {
                if let Message::Command { .. } = heard.message {
                    std::process::exit(1);
                }
            }
        }
        "takes_nothing" => {
            link.get_ready(wire::LATEST);
            link.serve();
            hang();
        }
        "is_of_the_second_version" => {
            assert_eq!(link.get_ready(2).protocol, 2);
            link.serve();
            let mut adopted = Vec::new();
            while let Some(heard) = link.hear() {
                match heard.message {
                    Message::Session { number, session } => {
                        assert!(session.client.tls.is_none() && session.server.tls.is_none());
                        link.say(&Message::Adopted { number });
                        adopted.push(heard.descriptors);
                    }
                    Message::End => break,
                    _ => {}
                }
            }
            hang();
        }
        "is_of_the_first_version" => {
            assert_eq!(link.get_ready(wire::FIRST).protocol, wire::FIRST);
            link.serve();
            let mut adopted = Vec::new();
            while let Some(heard) = link.hear() {
                match heard.message {
                    Message::Session { number, .. } => {
                        link.say(&Message::Adopted { number });
                        adopted.push(heard.descriptors);
                    }
                    Message::End => break,
                    Message::Moved { .. } | Message::Idle { .. } => {}
                    other => panic!("the first version does not know {other:?}"),
                }
            }
            hang();
        }
        other => panic!("no role {other:?}"),
    }
}

async fn played_by(prusik: &Prusik, role: &str) {
    prusik.replace_program(Some(&fake_new::script("hand_over::new_process", role)));
}

async fn open(prusik: &Prusik, count: usize) -> Vec<Session> {
    join_all((0..count).map(|_| Session::open(prusik.public(), "/"))).await
}

async fn alive(sessions: &mut [Session]) -> usize {
    let alive = join_all(sessions.iter_mut().map(Session::is_alive)).await;
    alive.into_iter().filter(|alive| *alive).count()
}

fn upgrade(prusik: &Prusik) -> (bool, String) {
    let output = tokio::task::block_in_place(|| prusik.operate(&["upgrade"]));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_new_process_refuses_goes_on_in_the_old_one() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    let mut sessions = open(&prusik, 5).await;
    played_by(&prusik, "refuses_all").await;
    let (done, said) = upgrade(&prusik);
    assert!(
        done && said.contains("0 sessions moved, 5 told to go"),
        "{said}"
    );
    assert_eq!(alive(&mut sessions).await, 5);
    assert!(!prusik.stderr().contains("panicked"), "{}", prusik.stderr());
    prusik.signal_all("INT");
    prusik.ended().await;
}

/// A real new process that has no room in its table for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_find_no_descriptors_in_the_new_process_stay_in_the_old_one() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 3650d } }";
    let mut prusik = Prusik::start_own(config(&[&origin]).top(server)).await;
    let mut sessions = open(&prusik, 60).await;
    let script = format!(
        "#!/bin/sh\nulimit -n 80\nexec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_prusik")
    );
    prusik.replace_program(Some(&script));
    let (done, said) = upgrade(&prusik);
    assert!(done && !said.contains("60 sessions moved"), "{said}");
    assert!(!said.contains(" 0 sessions moved"), "{said}");
    assert_eq!(alive(&mut sessions).await, 60, "{}", prusik.stderr());
    prusik.signal_all("INT");
    prusik.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_old_process_does_not_know_is_skipped() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    let _sessions = open(&prusik, 20).await;
    played_by(&prusik, "says_what_nobody_knows").await;
    let (done, said) = upgrade(&prusik);
    assert!(done && said.contains("20 sessions moved"), "{said}");
    prusik.signal_all("KILL");
    prusik.ended().await;
}

/// It has closed the link as one does that has everything.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_new_process_dies_that_has_just_got_everything_the_old_one_serves_again() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    let _sessions = open(&prusik, 5).await;
    played_by(&prusik, "dies_when_it_has_all").await;
    let (done, said) = upgrade(&prusik);
    assert!(done && said.contains("5 sessions moved"), "{said}");
    prusik.wait_stderr("this one serves again").await;
    let mut session = Session::open(prusik.public(), "/").await;
    assert!(session.is_alive().await);
    prusik.signal_all("INT");
    prusik.ended().await;
}

/// What it is told is larger than the link holds (the state of very many servers).
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_hangs_when_it_is_told_to_go_holds_up_nobody() {
    let origin = Origin::chat().await;
    let server = "server: { threads: 1 }";
    let mut config = config(&[&origin]).top(server).to_string();
    let many: Vec<String> = (0..4000)
        .map(|number| format!("\"127.1.{}.{}:9\"", number / 250, 1 + number % 250))
        .collect();
    let many = format!("upstreams:\n  many: {{ servers: [{}] }}\n", many.join(", "));
    config = config.replace("upstreams:\n", &many);
    config = config.replace(
        "routes:\n",
        "routes:\n  - { match: { path: /many }, upstream: many }\n",
    );
    let prusik = Prusik::start_own(&config).await;
    let mut session = Session::open(prusik.public(), "/").await;
    played_by(&prusik, "hangs_when_told_to_go").await;
    let started = Instant::now();
    let slowest = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| upgrade(&prusik));
        let mut slowest = Duration::ZERO;
        while !upgrade.is_finished() {
            let asked = Instant::now();
            assert!(tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(session.is_alive())
            }));
            slowest = slowest.max(asked.elapsed());
        }
        let (done, said) = upgrade.join().expect("no panic");
        assert!(!done && said.contains("did not serve within 5s"), "{said}");
        slowest
    });
    assert!(started.elapsed() < Duration::from_secs(9));
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

/// It serves, and reads nothing of what it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_the_new_process_does_not_take_come_back_and_are_answered() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start_own(config(&[&origin])).await;
    let mut sessions = open(&prusik, 200).await;
    played_by(&prusik, "takes_nothing").await;
    let (done, said) = upgrade(&prusik);
    assert!(!done && said.contains("and was killed"), "{said}");
    assert_eq!(alive(&mut sessions).await, 200);
    assert_eq!(prusik.status().await["state"], "serving");
}

/// It was asked for before the hand-over, passed on, and not done there.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_the_new_process_dies_of_is_done_by_the_old_one() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let prusik = Prusik::start_own(config(&[&origin])).await;
    played_by(&prusik, "dies_of_a_command").await;
    let admin = prusik.admin().to_string();
    let typed = |what: &'static str| {
        let admin = admin.clone();
        tokio::task::spawn_blocking(move || support::prusik(&[what, "--admin", &admin]))
    };
    let upgrade = typed("upgrade");
    prusik.wait_stderr("starts as").await;
    let answer = "{ match: { path: /new }, respond: { status: 200, body: reloaded } }";
    prusik.write_config(config(&[&origin]).first(answer));
    let reload = typed("reload").await.expect("no panic");
    assert!(reload.status.success(), "{reload:?}");
    upgrade.await.expect("no panic");
    assert_eq!(
        support::get(prusik.public(), "/new").await.text(),
        "reloaded"
    );
}

/// It stands still for longer than the drain's deadline, with more sessions than are on their way
/// at a time.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_can_move_are_not_cut_because_the_new_process_is_slow() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 0s, deadline: 1s } }";
    let prusik = Prusik::start_own(config(&[&origin]).top(server)).await;
    let mut sessions = open(&prusik, 200).await;
    played_by(&prusik, "takes_nothing").await;
    let (done, said) = upgrade(&prusik);
    assert!(!done && said.contains("and was killed"), "{said}");
    assert_eq!(alive(&mut sessions).await, 200);
}

/// Orders reach every session after hand-overs that came to nothing at any point.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_reaches_every_session_after_upgrades_that_failed() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 0s } }";
    let prusik = Prusik::start_own(config(&[&origin]).top(server)).await;
    let mut sessions = open(&prusik, 500).await;
    played_by(&prusik, "ends_when_it_serves").await;
    for _ in 0..5 {
        let (done, said) = upgrade(&prusik);
        assert!(!done, "{said}");
    }
    assert_eq!(prusik.status().await["sessions"], 500);
    let server = format!("backend/{}", origin.address());
    prusik.order(&["drain", &server]).await;
    let ended = join_all(sessions.iter_mut().map(Session::ended)).await;
    assert!(ended.iter().all(|ended| *ended == Ended::Close(1012)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_of_the_first_version_gets_what_it_understands() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    let _sessions = open(&prusik, 20).await;
    played_by(&prusik, "is_of_the_first_version").await;
    let (done, said) = upgrade(&prusik);
    assert!(done && said.contains("20 sessions moved"), "{said}");
    eventually("the old process has ended", async || {
        prusik.reap();
        prusik.pids().len() == 1
    })
    .await;
    prusik.signal_all("KILL");
    prusik.ended().await;
}

/// It may be served by that listener's routes alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_stays_with_its_listener_or_ends() {
    let origin = Origin::chat().await;
    let file = |listeners: &str| {
        format!(
            "{ADMIN}\nlisteners: [{listeners}]\nupstreams:\n  backend: {{ servers: [{}] }}\nroutes:\n  \
             - {{ match: {{ path: /secret, listener: inner }}, respond: {{ status: 200, body: secret }} }}\n  \
             - {{ match: {{ path_prefix: / }}, respond: {{ status: 403, body: public }} }}\n",
            origin.address()
        )
    };
    let inner = "{ listen: \"127.0.0.1:0\", name: inner }";
    let both = |name: &str| {
        file(&format!(
            "{inner}, {{ listen: \"127.0.0.2:0\", name: {name} }}"
        ))
    };
    let mut prusik = Prusik::start(both("public")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/secret").await.text(), "public");
    // Elsewhere, but the same listener.
    prusik.write_config(file(&format!(
        "{inner}, {{ listen: \"127.0.0.3:0\", name: public }}"
    )));
    prusik.upgrade().await;
    assert_eq!(client.get("/secret").await.text(), "public");
    // In its place, but another one.
    prusik.write_config(file(&format!(
        "{inner}, {{ listen: \"127.0.0.3:0\", name: other }}"
    )));
    prusik.upgrade().await;
    client
        .send("GET /secret HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    client.expect_end().await;
}

/// A bound counts what is still in the old process.
#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_while_sessions_move() {
    const LIMIT: usize = 300;
    let origin = Origin::chat().await;
    let server = format!(
        "{{ address: \"{}\", max_sessions: {LIMIT} }}",
        origin.address()
    );
    let websocket =
        format!("websocket: {{ max_sessions: {LIMIT}, max_sessions_per_client: {LIMIT} }}");
    let config = Config::default().server(server).route(websocket).top(ADMIN);
    let mut prusik = Prusik::start(config).await;
    let mut sessions = open(&prusik, LIMIT).await;
    let address = prusik.public();
    let knocking: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let mut refused = 0;
                loop {
                    match Session::try_open(address, "/").await {
                        Ok(_) => return Err(refused),
                        Err(_) if refused > 200 => return Ok(refused),
                        Err(_) => refused += 1,
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        prusik.upgrade().await;
    }
    for knock in knocking {
        let knock = knock.await.expect("no panic");
        assert!(knock.is_ok(), "one was let in: {knock:?}");
    }
    assert_eq!(alive(&mut sessions).await, LIMIT);
    // And the place of one that ends is free.
    sessions.pop().expect("a session").close(1000).await;
    eventually("another may come", async || {
        Session::try_open(address, "/").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ejection_slow_start_and_counts_of_a_renamed_listener_go_along() {
    let (good, warm) = (Origin::chat().await, Origin::chat().await);
    let dead = support::free_port_on([127, 0, 0, 5].into());
    let file = |name: &str| {
        format!(
            "{ADMIN}\nlisteners: [{{ listen: \"127.0.0.1:0\", name: {name} }}]\nupstreams:\n  \
             backend: {{ servers: [{good}, {dead}], eject: {{ failures: 1, within: 10s, for: 60s }} }}\n  \
             warm: {{ servers: [{good}, {warm}], slow_start: 600s }}\nroutes:\n  \
             - {{ match: {{ path_prefix: /warm }}, upstream: warm }}\n  - {{ upstream: backend }}\n",
            good = good.address(),
            warm = warm.address(),
        )
    };
    let mut prusik = Prusik::start(file("public")).await;
    let address = prusik.public();
    let state = async |prusik: &Prusik, server: usize| {
        prusik.status().await["upstreams"][0]["servers"][server]["state"].clone()
    };
    eventually("it is ejected", async || {
        status_of(address, "/").await;
        state(&prusik, 1).await == "ejected"
    })
    .await;
    let server = format!("warm/{}", warm.address());
    prusik.order(&["drain", &server]).await;
    prusik.order(&["enable", &server]).await;
    let mut sessions = open(&prusik, 4).await;
    prusik.write_config(file("other"));
    prusik.upgrade().await;
    assert_eq!(state(&prusik, 1).await, "ejected");
    let before = warm.received().len();
    for _ in 0..40 {
        assert_eq!(status_of(address, "/warm").await, 200);
    }
    let got = warm.received().len() - before;
    assert!(
        got < 12,
        "{got} of 40 requests went to the server that warms up"
    );
    assert_eq!(prusik.status().await["listeners"][0]["connections"], 4);
    assert_eq!(alive(&mut sessions).await, 4);
}

/// The ping that was sent before counts on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_a_ping_is_given_no_more_time_by_an_upgrade() {
    let origin = Origin::start(|request| Answer::upgrade(request)).await;
    let config = config(&[&origin]).route("websocket: { ping: 2s }");
    let mut prusik = Prusik::start(config).await;
    let begun = Instant::now();
    let mut session = support::RawSession::open(prusik.public(), support::handshake("/")).await;
    assert_eq!(session.frame().await.opcode, 9);
    prusik.upgrade().await;
    prusik.upgrade().await;
    let close = session.frame().await;
    assert_eq!(close.opcode, 8, "no second ping: {close:?}");
    assert!(
        begun.elapsed() < Duration::from_millis(5500),
        "{:?}",
        begun.elapsed()
    );
}
