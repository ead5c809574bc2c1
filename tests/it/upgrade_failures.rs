//! Upgrades that fail, and stops that meet one: what is there goes on, or ends as it should.

use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Prusik, Session, eventually, free_port_on, signal,
    status_of,
};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Alive, with every descriptor in hand, and never ready.
const HANGS: &str = "#!/bin/sh\nexec sleep 600\n";

fn config(origins: &[&Origin]) -> Config {
    Config::to(origins).top(ADMIN)
}

/// The old process goes on as if nothing had happened, and the command says why.
async fn refused(prusik: &Prusik, session: &mut Session, reason: &str) {
    let pid = prusik.status().await["pid"].clone();
    let output = tokio::task::block_in_place(|| prusik.operate(&["upgrade"]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(reason), "{said}");
    assert!(session.is_alive().await);
    assert_eq!(prusik.status().await["pid"], pid);
    assert_eq!(prusik.status().await["state"], "serving");
    let mut another = Session::open(prusik.public(), "/").await;
    assert!(another.is_alive().await);
    another.close(1000).await;
    eventually("no other process is left", async || {
        prusik.pids().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_fails_changes_nothing() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start_own(config(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;

    prusik.write_config("listeners: nonsense\n");
    refused(&prusik, &mut session, "prusik.yaml:1:12").await;
    prusik.write_config(config(&[&origin]));

    prusik.replace_program(None);
    refused(&prusik, &mut session, "No such file").await;
    prusik.replace_program(Some("#!/bin/sh\nkill -SEGV $$\n"));
    refused(&prusik, &mut session, "signal: 11").await;
    prusik.replace_program(Some("#!/bin/sh\nexit 3\n"));
    refused(&prusik, &mut session, "exit status: 3").await;
    prusik.replace_program(Some("no program at all"));
    refused(&prusik, &mut session, "Exec format error").await;
    prusik.replace_program(Some(HANGS));
    refused(&prusik, &mut session, "did not get ready within").await;

    assert_eq!(session.close(1000).await, Ended::Close(1000));
    eventually("nobody is left who waits to be buried", async || {
        children(prusik.pid()).is_empty()
    })
    .await;
}

fn children(of: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).expect("it lives");
    let children = tasks.map(|task| {
        let file = task.expect("a thread").path().join("children");
        std::fs::read_to_string(file).unwrap_or_default()
    });
    let children: Vec<String> = children.collect();
    let pids = children.iter().flat_map(|pids| pids.split_whitespace());
    pids.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_fails_leaves_no_file_of_a_socket() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(config(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let file = prusik.folder().join("new.sock");
    let more = config(&[&origin]).to_string().replace(
        "listeners: [",
        &format!("listeners: [{{ listen: \"unix:{}\" }}, ", file.display()),
    );
    let server = "server: { pid_file: /proc/prusik.pid }\n";
    prusik.write_config([server, &more].concat());
    refused(&prusik, &mut session, "pid_file").await;
    // The new process tells why it fails before it has ended.
    eventually("its socket's file is gone", async || !file.exists()).await;
}

/// Those that are on their way to the new process when it is told to stop are told so, each.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_sessions_move_tells_each_of_them() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 0s, deadline: 30s } }";
    for _ in 0..3 {
        let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
        let mut sessions = join_all((0..200).map(|_| Session::open(prusik.public(), "/"))).await;
        prusik.signal("USR2");
        prusik.wait_stderr("sessions move").await;
        prusik.signal_all("TERM");
        let ended = join_all(sessions.iter_mut().map(Session::ended)).await;
        assert_eq!(
            ended
                .iter()
                .filter(|ended| **ended == Ended::Close(1012))
                .count(),
            200
        );
        prusik.ended().await;
    }
}

/// A stop of the new process is one of both, from the first moment on.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_new_process_while_sessions_move_is_one_of_the_old_one_at_once() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 3s, deadline: 30s } }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let old = prusik.pid();
    let mut sessions = join_all((0..400).map(|_| Session::open(prusik.public(), "/"))).await;
    prusik.signal("USR2");
    prusik.wait_stderr("sessions move").await;
    let new = prusik.pids().into_iter().find(|pid| *pid != old);
    signal(new.expect("both live"), "TERM");
    let told = Instant::now();
    let ended = join_all(sessions.iter_mut().map(Session::ended)).await;
    assert!(ended.iter().all(|ended| *ended == Ended::Close(1012)));
    let took = told.elapsed();
    assert!(
        took < Duration::from_millis(4500),
        "within one window: {took:?}"
    );
    prusik.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_cannot_be_bound_is_the_reason() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(config(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    let taken = origin.address();
    let more = config(&[&origin]).to_string().replace(
        "listeners: [",
        &format!("listeners: [{{ listen: \"{taken}\" }}, "),
    );
    prusik.write_config(more);
    refused(&prusik, &mut session, &taken.to_string()).await;
}

/// Nobody else would know: systemd has the new process from us, and waits for us to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_dies_while_the_old_one_ends_is_replaced_by_the_old_one() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(8)),
        "/" => Answer::text("quick"),
        _ => Answer::upgrade(request),
    })
    .await;
    let mut prusik = Prusik::start(config(&[&origin])).await;
    let old = prusik.pid();
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/slow").await;
    prusik.order(&["upgrade"]).await;
    let new = prusik.pids().into_iter().find(|pid| *pid != old);
    signal(new.expect("both live"), "KILL");
    prusik.wait_stderr("this one serves again").await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    let mut session = Session::open(prusik.public(), "/chat").await;
    assert!(session.is_alive().await);
    assert_eq!(prusik.status().await["pid"], old);
    assert_eq!(busy.response().await.text(), "slow");
    // And it can still be replaced.
    prusik.upgrade().await;
    assert!(session.is_alive().await);
}

/// Its file lacks a listener: nobody waits there for an accept that never comes, while the old
/// process still ends what could not move.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_to_a_listener_that_is_gone_is_refused_until_the_old_process_serves_again() {
    let origin = Origin::chat().await;
    let server = "server: { tunnel: pingora, drain: { window: 3650d } }";
    let config = config(&[&origin]).top(server).to_string();
    // The kernel takes another port for one that was not asked for by its number.
    let second = free_port_on([127, 0, 0, 4].into());
    let two = format!("listeners: [{{ listen: \"{second}\" }}, ");
    let prusik = Prusik::start(config.replace("listeners: [", &two)).await;
    let old = prusik.pid();
    let mut session = Session::open(second, "/").await;
    prusik.write_config(&config);
    prusik.order(&["upgrade"]).await;
    let refused = tokio::net::TcpStream::connect(second).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(session.is_alive().await);
    let new = prusik.pids().into_iter().find(|pid| *pid != old);
    signal(new.expect("both live"), "KILL");
    prusik.wait_stderr("this one serves again").await;
    assert_eq!(status_of(second, "/").await, 200);
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    assert!(session.is_alive().await);
}

/// Its listeners are bound by then, and its servers checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_fails_late_takes_no_file_with_it() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("web.sock");
    let listener = format!("listeners: [{{ listen: \"unix:{}\" }}, ", file.display());
    let config = |pid_file: &str| {
        let server = format!("server: {{ pid_file: {pid_file} }}");
        let config = config(&[&origin]).top(server).to_string();
        config.replace("listeners: [", &listener)
    };
    let prusik = Prusik::start(config("prusik.pid")).await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.write_config(config("/proc/prusik.pid"));
    refused(&prusik, &mut session, "/proc/prusik.pid").await;
    let mut by_file = Client::connect_unix(&file).await;
    assert_eq!(by_file.get("/").await.status(), 200);
    let pid = std::fs::read_to_string(prusik.folder().join("prusik.pid"));
    assert_eq!(pid.ok(), Some(format!("{}\n", prusik.pid())));
}

/// It stands still while sessions move: those that it had not adopted come back, and nobody is
/// served twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_hangs_while_sessions_move_is_killed() {
    let origin = Origin::chat().await;
    let server = "server: { pid_file: prusik.pid }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let mut sessions = join_all((0..400).map(|_| Session::open(prusik.public(), "/"))).await;
    let pid_file = prusik.folder().join("prusik.pid");
    // One that has everything before it is stopped serves on, and the next is tried.
    for _ in 0..20 {
        let old = prusik.status().await["pid"].as_u64().expect("a pid") as u32;
        let output = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let upgrade = scope.spawn(|| prusik.operate(&["upgrade"]));
                let new = loop {
                    let written = std::fs::read_to_string(&pid_file).unwrap_or_default();
                    match written.trim().parse() {
                        Ok(pid) if pid != old => break pid,
                        _ => std::thread::yield_now(),
                    }
                };
                send(new, Signal::STOP);
                let output = upgrade.join().expect("it does not panic");
                send(new, Signal::CONT);
                output
            })
        });
        eventually("one process is left", async || {
            prusik.reap();
            prusik.pids().len() == 1
        })
        .await;
        if output.status.success() {
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("and was killed"), "{said}");
        assert_eq!(prusik.status().await["pid"], old);
        let mut alive = 0;
        for session in &mut sessions {
            alive += usize::from(session.is_alive().await);
        }
        assert_eq!(prusik.status().await["sessions"], alive);
        eventually(
            "no session is left at the server that nobody has",
            async || origin.sessions() == alive,
        )
        .await;
        assert_eq!(status_of(prusik.public(), "/").await, 200);
        return;
    }
    panic!("no upgrade was caught in the act");
}

/// It may be gone already.
fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id is not 0");
    let _ = kill_process(pid, signal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_takes_no_orders() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 20s, deadline: 30s } }";
    let mut prusik = Prusik::start(config(&[&origin]).top(server)).await;
    let _sessions = join_all((0..3).map(|_| Session::open(prusik.public(), "/"))).await;
    prusik.signal("TERM");
    prusik.wait_stderr("are told to go").await;
    for order in ["upgrade", "reload"] {
        let output = tokio::task::block_in_place(|| prusik.operate(&[order]));
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("this process is stopping"), "{said}");
    }
    prusik.signal("INT");
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn int_during_an_upgrade_leaves_no_process() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start_own(config(&[&origin])).await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.replace_program(Some(HANGS));
    prusik.signal("USR2");
    prusik.wait_stderr("starts as").await;
    prusik.signal("INT");
    assert_eq!(session.ended().await, Ended::Close(1012));
    prusik.ended().await;
}

/// A stop does not wait for the new process: that is given up, and requests have the drain's time.
#[tokio::test(flavor = "multi_thread")]
async fn term_during_an_upgrade_interrupts_it_and_lets_requests_end() {
    let origin = Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(3)),
        _ => Answer::upgrade(request),
    })
    .await;
    let server = "server: { drain: { window: 0s } }";
    let config = config(&[&origin]).top(server);
    let mut prusik = Prusik::start_own(&config).await;
    prusik.replace_program(Some(HANGS));
    let mut session = Session::open(prusik.public(), "/").await;
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/slow").await;
    let admin = prusik.admin().to_string();
    let upgrade =
        tokio::task::spawn_blocking(move || support::prusik(&["upgrade", "--admin", &admin]));
    prusik.wait_stderr("starts as").await;
    let told = Instant::now();
    prusik.signal("TERM");
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    let upgrade = upgrade.await.expect("the command does not panic");
    let said = String::from_utf8_lossy(&upgrade.stderr).into_owned();
    assert!(said.contains("this process is stopping"), "{said}");
    assert_eq!(busy.response().await.text(), "slow");
    assert_eq!(prusik.exit_code().await, Some(0));
    prusik.ended().await;
}
