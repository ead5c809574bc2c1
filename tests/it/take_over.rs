//! `run --take-over`: a process that was started by itself, in another container, takes listeners,
//! connections and sessions from the one at `server.hand_over`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::support::fake_new;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Prusik, Session, eventually, signal, status_of,
};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::task;

/// A folder that two containers share.
fn shared() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn config(origin: &Origin, shared: &Path) -> Config {
    Config::to(&[origin]).top(format!(
        "server: {{ hand_over: \"unix:{}/hand-over.sock\", drain: {{ window: 1s, deadline: 20s }} }}\n\
         admin: {{ listen: \"127.0.0.1:0\" }}",
        shared.display()
    ))
}

async fn taking_over(config: &Config) -> Prusik {
    let started = Prusik::start_taking_over(config).await;
    started.expect("there was the right to make namespaces before")
}

async fn talk(sessions: &mut [Session], text: &str) {
    for session in sessions {
        assert_eq!(session.ask(text).await, text);
    }
}

/// Each is PID 1 of its own, with its own /proc; they share the network and a folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_another_container_takes_everything_over() {
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let Some(mut before) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let address = before.public();
    let mut sessions = join_all((0..50).map(|_| Session::open(address, "/"))).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/").await.status(), 200);
    for round in 0..3 {
        let next = taking_over(&config).await;
        assert_eq!(next.public(), address, "round {round}");
        talk(&mut sessions, &format!("round {round}")).await;
        assert_eq!(client.get("/").await.status(), 200);
        assert_eq!(status_of(address, "/").await, 200);
        next.wait_stderr("50 sessions moved, 0 told to go").await;
        before.ended().await;
        assert!(before.stderr().contains("replaced by another process"));
        let status = next.status().await;
        assert_eq!(status["sessions"], 50, "{status}");
        before = next;
    }
    for session in sessions {
        assert_eq!(session.close(1000).await, Ended::Close(1000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_serves_it_just_starts() {
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let Some(prusik) = Prusik::start_taking_over(config).await else {
        return;
    };
    prusik.wait_stderr("nobody is at unix:").await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

/// What cannot move stays in the old process for a while. If the new one dies meanwhile, the old
/// one serves again, though neither knows a number for the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_process_serves_again_when_the_new_one_dies() {
    let slow = Origin::start(|request| match request.target() {
        "/slow" => Answer::silence(),
        _ => Answer::text("ok"),
    })
    .await;
    let shared = shared();
    let config = config(&slow, shared.path());
    let Some(old) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let address = old.public();
    let mut held = Client::connect(address).await;
    held.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    slow.has_got("/slow").await;
    let mut new = taking_over(&config).await;
    assert_eq!(status_of(address, "/").await, 200);
    new.signal_all("KILL");
    new.ended().await;
    old.wait_stderr("this one serves again").await;
    assert_eq!(status_of(address, "/").await, 200);
    // And the next one finds it there.
    let next = taking_over(&config).await;
    assert_eq!(status_of(next.public(), "/").await, 200);
}

/// One that hangs in the middle is not waited for, and no second one is let in meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn one_takes_over_at_a_time_and_hears_why_not_now() {
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let Some(old) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let mut session = Session::open(old.public(), "/").await;
    // A new process whose servers' names are not known for long gets ready late: a link that says
    // nothing more stands for it here.
    let hung = fake_new::Link::visit(&shared.path().join("hand-over.sock"));
    let refused = task::block_in_place(|| Prusik::run_to_its_end(&config, &["--take-over"]));
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("an upgrade is under way"), "{said}");
    drop(hung);
    old.wait_stderr("upgrade failed, this process goes on")
        .await;
    assert_eq!(session.ask("still here").await, "still here");
    let next = taking_over(&config).await;
    assert_eq!(session.ask("moved").await, "moved");
    assert_eq!(next.status().await["sessions"], 1);
}

/// The old one cannot wait, and cannot kill a process of another container. When that goes on, one
/// of the two serves.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_stood_still_while_sessions_moved_steps_down() {
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let Some(old) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let mut sessions = join_all((0..600).map(|_| Session::open(old.public(), "/"))).await;
    let mut new = taking_over(&config).await;
    new.signal_all("STOP");
    old.wait_stderr("upgrade failed, this process goes on")
        .await;
    let stays = old.status().await["sessions"].as_u64().expect("a number");
    new.signal_all("CONT");
    new.wait_stderr("serves again: this one ends").await;
    assert_eq!(new.exit_code().await, Some(1), "{}", new.stderr());
    let alive = join_all(sessions.iter_mut().map(Session::is_alive)).await;
    let alive = alive.into_iter().filter(|is_alive| *is_alive).count();
    assert_eq!(alive as u64, stays);
    for _ in 0..10 {
        assert_eq!(status_of(old.public(), "/").await, 200);
        assert_eq!(old.status().await["sessions"], stays);
    }
    // And the next one gets all of them.
    let next = taking_over(&config).await;
    next.wait_stderr(&format!("{stays} sessions moved, 0 told to go"))
        .await;
}

/// Checks of it take so long.
async fn slow(well_after: Duration) -> Origin {
    Origin::start(move |request| match request.target() {
        "/healthz" => Answer::text("well").after(well_after),
        _ => Answer::upgrade(request),
    })
    .await
}

const CHECK: &str = "health_check: { type: http, path: /healthz, interval: 1h, timeout: 9s }";

fn checks(origin: &Origin) -> usize {
    let received = origin.received();
    let checks = received.iter().filter(|one| one.target() == "/healthz");
    checks.count()
}

/// What stops is the old one alone, and it ends by handing over.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_process_that_gets_ready_to_take_over() {
    let (origin, shared) = (slow(Duration::from_secs(2)).await, shared());
    let config = config(&origin, shared.path()).upstream(CHECK);
    let mut old = Prusik::start(&config).await;
    let mut session = Session::open(old.public(), "/").await;
    let has_started = AtomicBool::new(false);
    let starting = async {
        let new = Prusik::start_taking_over(&config).await;
        has_started.store(true, SeqCst);
        new
    };
    let stopping = async {
        eventually("it looks at its servers, or may not run", async || {
            checks(&origin) == 2 || has_started.load(SeqCst)
        })
        .await;
        old.signal("TERM");
    };
    let (Some(new), ()) = tokio::join!(starting, stopping) else {
        return;
    };
    assert_eq!(old.exit_code().await, Some(0));
    assert!(old.stderr().contains("TERM: this process ends as soon as"));
    assert_eq!(session.ask("moved").await, "moved");
    assert_eq!(new.status().await["sessions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_asks_a_process_which_stops_begins_when_that_has_ended() {
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let old = Prusik::start(&config).await;
    let sessions = join_all((0..5).map(|_| Session::open(old.public(), "/"))).await;
    old.signal("TERM");
    old.wait_stderr("are told to go").await;
    let Some(new) = Prusik::start_taking_over(&config).await else {
        return;
    };
    assert!(
        new.stderr().contains("begins when that has ended"),
        "{}",
        new.stderr()
    );
    assert_eq!(status_of(new.public(), "/").await, 200);
    for mut session in sessions {
        assert_eq!(session.ended().await, Ended::Close(1012));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_its_turn_can_be_stopped() {
    let (origin, shared) = (Origin::chat().await, shared());
    let file = shared.path().join("prusik.yaml");
    fs::write(&file, config(&origin, shared.path()).to_string()).expect("it is ours");
    // It says nothing.
    let busy = UnixListener::bind(shared.path().join("hand-over.sock")).expect("a socket");
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_prusik"))
        .args(["run", "--take-over", "--config"])
        .arg(&file)
        .spawn()
        .expect("it runs");
    let ended = task::block_in_place(|| {
        let asked = busy.accept();
        signal(waiting.id(), "TERM");
        let ended = waiting.wait();
        drop(asked);
        ended
    });
    assert_eq!(ended.expect("its status").code(), Some(0));
}

/// It waits for its turn, however long the reload takes.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_during_a_reload_waits() {
    let (origin, late, shared) = (
        Origin::chat().await,
        slow(Duration::from_secs(6)).await,
        shared(),
    );
    let config = config(&origin, shared.path());
    let old = Prusik::start(&config).await;
    let mut session = Session::open(old.public(), "/").await;
    let before = config.to_string();
    let other = before.replace(
        "upstreams:",
        &format!(
            "upstreams:\n  late: {{ servers: [\"{}\"], {CHECK} }}",
            late.address()
        ),
    );
    assert_ne!(other, before);
    old.write_config(other);
    old.signal("HUP");
    eventually("the reload looks at the server", async || {
        checks(&late) == 1
    })
    .await;
    let Some(new) = Prusik::start_taking_over(&config).await else {
        return;
    };
    old.wait_stderr("reload done").await;
    assert_eq!(session.ask("moved").await, "moved");
    assert_eq!(new.status().await["sessions"], 1);
}

/// Whoever may connect could take every session: the file's mode is not all that is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_takes_nothing_over() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (origin, shared) = (Origin::chat().await, shared());
    let config = config(&origin, shared.path());
    let old = Prusik::start(&config).await;
    let mut session = Session::open(old.public(), "/").await;
    let (file, socket) = ("prusik.yaml", "hand-over.sock");
    fs::write(shared.path().join(file), config.to_string()).expect("it is ours");
    for (path, mode) in [("", 0o755), (file, 0o644), (socket, 0o666)] {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(shared.path().join(path), permissions).expect("it is ours");
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let binary = shared.path().join("prusik");
    fs::copy(env!("CARGO_BIN_EXE_prusik"), &binary).expect("it is ours");
    let ended = task::block_in_place(|| {
        Command::new("setpriv")
            .args(nobody)
            .arg(binary)
            .args(["run", "--take-over", "--config", file])
            .current_dir(shared.path())
            .output()
    });
    let ended = ended.expect("setpriv is part of util-linux");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("only the same user may take over"), "{said}");
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert_eq!(session.ask("still here").await, "still here");
}

/// The file that is wrong is the new process's: the old one hears nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_socket_in_the_file_there_is_nobody_to_ask() {
    let origin = Origin::chat().await;
    let ended =
        task::block_in_place(|| Prusik::run_to_its_end(Config::to(&[&origin]), &["--take-over"]));
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("server.hand_over"), "{said}");
}
