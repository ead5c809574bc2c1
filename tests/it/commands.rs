//! Commands and signals that meet a change of the process: each is done by whoever serves then, or
//! refused with the reason; none is lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Prusik, Session, eventually, get, listen, status_of,
};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Alive, with every descriptor in hand, and never ready.
const HANGS: &str = "#!/bin/sh\nexec sleep 600\n";

fn config(origins: &[&Origin]) -> Config {
    Config::to(origins).top(ADMIN)
}

/// As an operator types it beside what the test does.
fn typed(prusik: &Prusik, arguments: &[&str]) -> tokio::task::JoinHandle<(Option<i32>, String)> {
    let admin = prusik.admin().to_string();
    let arguments: Vec<String> = arguments
        .iter()
        .chain(&["--admin", &admin])
        .map(ToString::to_string)
        .collect();
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = support::prusik(&arguments);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    })
}

fn answers(body: &str) -> String {
    format!("{{ match: {{ path: /version }}, respond: {{ status: 200, body: {body} }} }}")
}

/// A server that answers no check: a new process needs as long to get ready as a check may take.
/// The path of a check tells which file the process has that makes it.
struct Silent {
    address: SocketAddr,
    asked: Arc<AtomicBool>,
}

impl Silent {
    fn start() -> Self {
        let listener = listen();
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::new(AtomicBool::new(false));
        let flag = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut check, _)) = listener.accept().await {
                let flag = flag.clone();
                tokio::spawn(async move {
                    let mut head = [0; 512];
                    while let Ok(1..) = check.read(&mut head).await {
                        if head.starts_with(b"GET /second") {
                            flag.store(true, SeqCst);
                        }
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn config(&self, origin: &Origin, path: &str) -> Config {
        let check = "health_check: { type: http, interval: 1s, timeout: 2s, path: ";
        let config = config(&[origin]).server(self.address);
        config.upstream(format!("{check}{path} }}"))
    }

    /// Waits for a process that has read the second file, and is not ready yet.
    async fn wait_second(&self) {
        eventually("a check by the second file", async || {
            self.asked.load(SeqCst)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_an_upgrade_is_done_by_the_process_that_serves_then() {
    let (origin, silent) = (Origin::chat().await, Silent::start());
    let prusik = Prusik::start(silent.config(&origin, "/first").first(answers("one"))).await;
    let second = silent.config(&origin, "/second");
    prusik.write_config(second.clone().first(answers("one")));
    let upgrade = typed(&prusik, &["upgrade"]);
    silent.wait_second().await;
    prusik.write_config(second.first(answers("two")));
    let reload = typed(&prusik, &["reload"]);
    let (code, said) = upgrade.await.expect("no panic");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = reload.await.expect("no panic");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(get(prusik.public(), "/version").await.text(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_needs_an_upgrade_advises_just_that() {
    let origin = Origin::chat().await;
    let config = config(&[&origin]);
    let prusik = Prusik::start(&config).await;
    prusik.write_config(config.top("server: { threads: 3 }"));
    let (code, said) = typed(&prusik, &["reload"]).await.expect("no panic");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`prusik upgrade` can"), "{said}");
    assert!(!said.contains("mend the file"), "{said}");
    prusik.write_config("nonsense: true");
    let (code, said) = typed(&prusik, &["reload"]).await.expect("no panic");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("mend the file and reload again"), "{said}");
}

/// With no session the old process could end at once. Who has called it is heard before.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_the_old_process_that_asks_after_the_upgrade_is_answered() {
    let origin = Origin::chat().await;
    let config = config(&[&origin]);
    let prusik = Prusik::start(config.clone().first(answers("one"))).await;
    // The old process accepts in order: it has this one when it has the upgrade's.
    let mut caller = TcpStream::connect(prusik.admin()).await.unwrap();
    let (code, said) = typed(&prusik, &["upgrade"]).await.expect("no panic");
    assert_eq!(code, Some(0), "{said}");
    prusik.write_config(config.first(answers("three")));
    let call = "POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    caller.write_all(call.as_bytes()).await.unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(get(prusik.public(), "/version").await.text(), "three");
}

#[tokio::test(flavor = "multi_thread")]
async fn hup_during_an_upgrade_is_not_lost() {
    let (origin, silent) = (Origin::chat().await, Silent::start());
    let prusik = Prusik::start(silent.config(&origin, "/first").first(answers("one"))).await;
    let second = silent.config(&origin, "/second");
    prusik.write_config(second.clone().first(answers("one")));
    prusik.signal("USR2");
    silent.wait_second().await;
    prusik.write_config(second.first(answers("two")));
    prusik.signal("HUP");
    eventually(
        "the file of after the upgrade's begin is served",
        async || get(prusik.public(), "/version").await.text() == "two",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_behind_an_upgrade_that_fails_is_done_here() {
    let origin = Origin::chat().await;
    let config = config(&[&origin]);
    let prusik = Prusik::start_own(config.clone().first(answers("one"))).await;
    prusik.replace_program(Some("#!/bin/sh\nsleep 1\nexit 3\n"));
    let upgrade = typed(&prusik, &["upgrade"]);
    prusik.wait_stderr("starts as").await;
    prusik.write_config(config.first(answers("two")));
    let (code, said) = typed(&prusik, &["reload"]).await.expect("no panic");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(upgrade.await.expect("no panic").0, Some(1));
    assert_eq!(get(prusik.public(), "/version").await.text(), "two");
}

/// Whatever is said to be done is so in the process that serves in the end.
#[tokio::test(flavor = "multi_thread")]
async fn drains_at_any_moment_of_an_upgrade_reach_the_new_process() {
    const SERVERS: u16 = 60;
    let origin = Origin::chat().await;
    let mut config = config(&[&origin]).upstream("on_removed: keep");
    for port in 1..=SERVERS {
        config = config.server(format!("127.9.9.9:{port}"));
    }
    let prusik = Prusik::start(&config).await;
    let sessions = join_all((0..300).map(|_| async {
        // Servers that are not there are passed over.
        loop {
            if let Ok(session) = Session::try_open(prusik.public(), "/").await {
                return session;
            }
        }
    }))
    .await;
    let admin = prusik.admin();
    let draining = tokio::spawn(async move {
        let mut done = Vec::new();
        for port in 1..=SERVERS {
            let path = format!("/api/v1/upstreams/backend/servers/127.9.9.9:{port}/drain");
            let call = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            let answer = Client::connect(admin).await.ask(call).await;
            if answer.status() == 200 {
                done.push(format!("127.9.9.9:{port}"));
            }
        }
        done
    });
    let (code, said) = typed(&prusik, &["upgrade"]).await.expect("no panic");
    assert_eq!(code, Some(0), "{said}");
    let done = draining.await.expect("no panic");
    assert!(done.len() > 10, "{done:?}");
    let servers = prusik.status().await["upstreams"][0]["servers"].clone();
    for server in servers.as_array().expect("a list") {
        let address = server["address"].as_str().unwrap_or_default().to_owned();
        if done.contains(&address) {
            assert_eq!(server["state"], "drained", "{address}");
        }
    }
    drop(sessions);
}

/// From the first call that the new process answers none is answered by the old one.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_answer_operators_at_a_time() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let _sessions = join_all((0..300).map(|_| Session::open(prusik.public(), "/"))).await;
    let admin = prusik.admin();
    let is_over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let is_over = is_over.clone();
            tokio::spawn(async move {
                let mut seen: Vec<(Instant, u64)> = Vec::new();
                while !is_over.load(SeqCst) {
                    let call = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\
                                Connection: close\r\n\r\n";
                    let asked = Instant::now();
                    let answer = Client::connect(admin).await.ask(call).await;
                    let answer: serde_json::Value =
                        serde_json::from_slice(&answer.body).expect("JSON");
                    if let Some(pid) = answer["pid"].as_u64() {
                        seen.push((asked, pid));
                    }
                }
                seen
            })
        })
        .collect();
    let old = u64::from(prusik.pid());
    prusik.upgrade().await;
    is_over.store(true, SeqCst);
    let mut seen = Vec::new();
    for asking in asking {
        seen.extend(asking.await.expect("no panic"));
    }
    seen.sort();
    let first_new = seen
        .iter()
        .find(|(_, pid)| *pid != old)
        .expect("the new one answers")
        .0;
    let last_old = seen
        .iter()
        .rfind(|(_, pid)| *pid == old)
        .expect("the old one has answered")
        .0;
    // Calls beside each other may be accepted in either order.
    assert!(
        last_old < first_new + Duration::from_millis(20),
        "{:?} after the new one",
        last_old - first_new
    );
    let pids: BTreeSet<u64> = seen.iter().map(|(_, pid)| *pid).collect();
    assert_eq!(pids.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_declined_has_its_line_and_is_counted() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    prusik.replace_program(Some(HANGS));
    prusik.signal("USR2");
    prusik.wait_stderr("starts as").await;
    prusik.signal("USR2");
    prusik
        .wait_stderr("upgrade declined: an upgrade is under way")
        .await;
    let (code, said) = typed(&prusik, &["upgrade"]).await.expect("no panic");
    assert_eq!(code, Some(1));
    assert!(said.contains("an upgrade is under way"), "{said}");
    let call = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let metrics = Client::connect(prusik.admin()).await.ask(call).await.text();
    let counted = "prusik_upgrades_total{result=\"failure\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    prusik.signal("INT");
    prusik.ended().await;
}

/// Both processes end as a stop has it, whoever of them is told.
#[tokio::test(flavor = "multi_thread")]
async fn term_while_the_old_process_winds_down_stops_both() {
    let origin = Origin::chat().await;
    // Sessions in Pingora's tunnel stay with the old process.
    let server = "server: { tunnel: pingora, drain: { window: 0s } }";
    let silent = "server: { tunnel: pingora, drain: { window: 20s, deadline: 30s } }";
    for to_old in [true, false] {
        let mut prusik = Prusik::start(config(&[&origin]).top(silent)).await;
        let old = prusik.pid();
        let mut stays = Session::open(prusik.public(), "/").await;
        prusik.write_config(config(&[&origin]).top(server));
        prusik.order(&["upgrade"]).await;
        let mut comes = Session::open(prusik.public(), "/").await;
        let new = prusik.pids().into_iter().find(|pid| *pid != old);
        support::signal(if to_old { old } else { new.expect("both live") }, "TERM");
        assert_eq!(comes.ended().await, Ended::Close(1012));
        assert_eq!(stays.ended().await, Ended::Close(1012));
        prusik.ended().await;
    }
}

/// The container would end with it, and every session.
/// What could not move has had some of its time already.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_an_old_process_that_winds_down_takes_no_second_deadline() {
    let origin = Origin::start(|_| Answer::silence()).await;
    let server = "server: { drain: { window: 0s, deadline: 6s } }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let mut asking = Client::connect(prusik.public()).await;
    asking
        .send("GET /silent HTTP/1.1\r\nHost: test\r\n\r\n")
        .await;
    origin.has_got("/silent").await;
    prusik.order(&["upgrade"]).await;
    let began = Instant::now();
    // Half of the deadline, whose passing is what is tested: no event tells of it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    prusik.signal("TERM");
    prusik.ended().await;
    let took = began.elapsed();
    assert!(took < Duration::from_millis(8500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_pid_1_declines_to_be_replaced() {
    let origin = Origin::chat().await;
    let Some(mut prusik) = Prusik::start_as_pid_1(config(&[&origin])).await else {
        return eprintln!("skipped: no right to make a PID namespace");
    };
    let mut session = Session::open(prusik.public(), "/").await;
    let (code, said) = typed(&prusik, &["upgrade"]).await.expect("no panic");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("this process is PID 1"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    assert!(session.is_alive().await);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    prusik.signal_all("KILL");
    prusik.ended().await;
}
