//! `systemctl restart`: sessions, connections and listeners wait in systemd's store for the next
//! process. `tests/long/systemd.py` has the shipped unit under a real one.

use std::fs::File;
use std::os::unix::net;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::HandshakeKind;
use tokio::net::UnixStream;

use crate::support::{
    Answer, Authority, Client, Config, Ended, Origin, Prusik, ServiceManager, Session,
    certificates, status_of, tls_connect,
};

const BUNDLE: &str = "prusik-sessions";
const LISTENER: &str = "prusik-listener";

fn config(origin: &Origin, manager: &ServiceManager) -> Config {
    Config::to(&[origin]).top(format!(
        "server: {{ drain: {{ window: 200ms, deadline: 20s }} }}\n\
         admin: {{ listen: \"unix:{}/admin.sock\" }}",
        manager.folder().display()
    ))
}

/// The first half of a restart. Returns when the process has ended.
async fn stop_to_restart(manager: &ServiceManager, prusik: &mut Prusik) {
    assert_eq!(manager.begin_restart(prusik), "");
    assert_eq!(prusik.exit_code().await, Some(0), "{}", prusik.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_listeners_and_connections_live_through_restarts() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    let mut prusik = manager.start(&config).await;
    let address = prusik.public();
    let mut sessions = join_all((0..50).map(|_| Session::open(address, "/"))).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/").await.status(), 200);
    for round in 0..3 {
        for session in &mut sessions {
            session.say(&format!("{round} before")).await;
        }
        stop_to_restart(&manager, &mut prusik).await;
        assert_eq!(manager.stored(), [LISTENER, LISTENER, BUNDLE]);
        prusik
            .wait_stderr("50 sessions kept for the next process")
            .await;

        // Nobody serves now, and nobody notices.
        for session in &mut sessions {
            session.say(&format!("{round} meanwhile")).await;
        }
        let newcomer = tokio::spawn(async move { status_of(address, "/").await });
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;

        prusik = manager.start(&config).await;
        assert_eq!(prusik.public(), address);
        for session in &mut sessions {
            assert_eq!(session.hear().await, format!("{round} before"));
            assert_eq!(session.hear().await, format!("{round} meanwhile"));
        }
        assert_eq!(newcomer.await.unwrap(), 200);
        assert_eq!(client.response().await.status(), 200);
        prusik.wait_stderr("50 sessions moved, 0 told to go").await;
        assert_eq!(manager.stored(), [""; 0], "systemd holds nothing any more");
        let status = crate::support::prusik(&[
            "status",
            "--admin",
            &format!("unix:{}/admin.sock", manager.folder().display()),
        ]);
        assert!(status.status.success(), "{status:?}");
    }
    for session in sessions {
        assert_eq!(session.close(1000).await, Ended::Close(1000));
    }
}

/// With their keys, and those of tickets.
#[tokio::test(flavor = "multi_thread")]
async fn connections_by_tls_live_through_restarts() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let config = config(&origin, &manager).tls(certificates(&[&pair]));
    let mut prusik = manager.start(&config).await;
    let address = prusik.public();
    let tls = authority.client().config();
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let stream = tls_connect(&tls, address, "chat.test").await;
        let session = Session::over(stream.expect("a handshake"), "/").await;
        sessions.push(session.expect("a session"));
    }
    let mut client = authority.client().connect(address, "chat.test").await;
    assert_eq!(client.get("/").await.status(), 200);
    for round in 0..3 {
        for session in &mut sessions {
            session.say(&format!("{round} before")).await;
        }
        stop_to_restart(&manager, &mut prusik).await;
        for session in &mut sessions {
            session.say(&format!("{round} meanwhile")).await;
        }
        prusik = manager.start(&config).await;
        for session in &mut sessions {
            assert_eq!(session.hear().await, format!("{round} before"));
            assert_eq!(session.hear().await, format!("{round} meanwhile"));
        }
        assert_eq!(client.get("/").await.status(), 200);
        prusik.wait_stderr("20 sessions moved, 0 told to go").await;
        let again = tls_connect(&tls, address, "chat.test").await;
        let kind = again.expect("a handshake").get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Resumed));
    }
}

/// The next one begins while sessions are still on their way from the last one.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_may_follow_each_other_at_once() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    let mut prusik = manager.start(&config).await;
    let address = prusik.public();
    let mut sessions = join_all((0..100).map(|_| Session::open(address, "/"))).await;
    // All of them are shown if one fails.
    let mut before = Vec::new();
    for _ in 0..5 {
        stop_to_restart(&manager, &mut prusik).await;
        let next = manager.start(&config).await;
        before.push(std::mem::replace(&mut prusik, next));
    }
    for session in &mut sessions {
        assert!(session.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_no_restart_drains() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    for job in ["stop", "none at all"] {
        let mut prusik = manager.start(&config).await;
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(manager.exec_stop(&prusik, job), "");
        prusik.signal("TERM");
        assert_eq!(session.ended().await, Ended::Close(1012));
        assert_eq!(prusik.exit_code().await, Some(0));
        assert_eq!(manager.stored(), [""; 0]);
    }
}

/// No process would start with it, so nobody could take the sessions.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_wrong_file_sessions_are_told_to_go() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let mut prusik = manager.start(config(&origin, &manager)).await;
    let mut session = Session::open(prusik.public(), "/").await;
    prusik.write_config("listeners: []");
    let said = manager.begin_restart(&prusik);
    assert!(said.contains("prusik.yaml:1:1"), "{said}");
    assert!(said.contains("sessions are told to go"), "{said}");
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert_eq!(prusik.exit_code().await, Some(0));
    assert_eq!(manager.stored(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_sessions_are_told_to_go() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let mut prusik = manager.start(config(&origin, &manager)).await;
    manager.hold_nothing();
    let address = prusik.public();
    let mut session = Session::open(address, "/").await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/").await.status(), 200);
    manager.begin_restart(&prusik);
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert_eq!(prusik.exit_code().await, Some(0));
    prusik
        .wait_stderr("FileDescriptorStoreMax= of the unit is missing")
        .await;
}

/// What the first process that fails has not used is there for the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_fails_at_its_start_leaves_the_sessions_to_the_next() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    let mut prusik = manager.start(&config).await;
    let mut session = Session::open(prusik.public(), "/").await;
    stop_to_restart(&manager, &mut prusik).await;
    session.say("meanwhile").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = format!("admin: {{ listen: \"{}\" }}", taken.local_addr().unwrap());
    let broken = Config::to(&[&origin]).top(admin);
    let mut fails = manager.begin(broken);
    assert_eq!(fails.exit_code().await, Some(1));
    let mut wrong = manager.begin("listeners: []");
    assert_eq!(wrong.exit_code().await, Some(78));
    assert_eq!(manager.stored(), [LISTENER, LISTENER, BUNDLE]);
    let next = manager.start(&config).await;
    assert_eq!(session.hear().await, "meanwhile");
    assert!(session.is_alive().await);
    drop(next);
}

/// The restart comes in the middle of it, and so do bytes that nobody has read yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_comes_whole_through_a_restart() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    let mut prusik = manager.start(&config).await;
    let long = "0123456789abcdef".repeat(1 << 18);
    let mut session = Session::open(prusik.public(), "/").await;
    let (said, next) = tokio::join!(session.say(&long), async {
        stop_to_restart(&manager, &mut prusik).await;
        manager.start(&config).await
    });
    let () = said;
    assert!(session.hear().await == long);
    assert!(session.is_alive().await);
    drop(next);
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_kept_with_their_files() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let path = manager.folder().join("web.sock");
    let listener = format!("{{ listen: \"unix:{}\", name: inside }}", path.display());
    let config = Config::to(&[&origin]).top("server: { drain: { window: 200ms } }");
    let config = config
        .to_string()
        .replace("name: public }]", &format!("name: public }}, {listener}]"));
    let mut prusik = manager.start(&config).await;
    let stream = UnixStream::connect(&path).await.expect("it listens");
    let mut session = Session::over(stream, "/").await.expect("it is let in");
    stop_to_restart(&manager, &mut prusik).await;
    let newcomer = UnixStream::connect(&path).await.expect("the file is there");
    let mut next = manager.start(&config).await;
    assert!(session.is_alive().await);
    let mut newcomer = Session::over(newcomer, "/").await.expect("it is let in");
    assert!(newcomer.is_alive().await);
    next.signal("TERM");
    assert_eq!(next.exit_code().await, Some(0));
    assert_eq!(session.ended().await, Ended::Close(1012));
    assert!(!path.exists(), "the file goes with the last process");
}

/// Requests come to their end first, and sessions do not stand still for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_while_sessions_go_on() {
    let slowly = |_: &_| Answer::text("slow").after(Duration::from_secs(1));
    let (slow, chat) = (Origin::start(slowly).await, Origin::chat().await);
    let manager = ServiceManager::new();
    let config = config(&chat, &manager).first("{ match: { path: /slow }, upstream: slow }");
    let text = config.to_string().replace(
        "upstreams:\n",
        &format!(
            "upstreams:\n  slow: {{ servers: [\"{}\"] }}\n",
            slow.address()
        ),
    );
    let mut prusik = manager.start(&text).await;
    let address = prusik.public();
    let mut session = Session::open(address, "/").await;
    let mut busy = Client::connect(address).await;
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    slow.has_got("/slow").await;
    manager.begin_restart(&prusik);
    prusik.wait_stderr("restart: what can be kept").await;
    assert_eq!(session.ask("here").await, "here");
    assert_eq!(busy.response().await.text(), "slow");
    assert_eq!(prusik.exit_code().await, Some(0));
    let next = manager.start(&text).await;
    assert_eq!(session.ask("there").await, "there");
    busy.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(busy.response().await.text(), "slow");
    drop(next);
}

/// An operator's INT means the process, whatever it is doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_now_ends_a_restart_that_waits() {
    let never = |_: &_| Answer::text("slow").after(Duration::from_secs(600));
    let (origin, manager) = (Origin::start(never).await, ServiceManager::new());
    let mut prusik = manager.start(config(&origin, &manager)).await;
    let mut busy = Client::connect(prusik.public()).await;
    busy.send("GET /never HTTP/1.1\r\nHost: test\r\n\r\n").await;
    origin.has_got("/never").await;
    manager.begin_restart(&prusik);
    prusik.wait_stderr("restart: what can be kept").await;
    prusik.signal("HUP");
    prusik
        .wait_stderr("reload declined: this process is stopping")
        .await;
    prusik.signal("INT");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert_eq!(manager.stored(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_the_store_is_closed() {
    let (origin, manager) = (Origin::chat().await, ServiceManager::new());
    let config = config(&origin, &manager);
    let (_other, empty) = net::UnixStream::pair().expect("a pair");
    manager.put(BUNDLE, empty);
    manager.put(
        "unknown",
        File::open("/dev/null").expect("every system has it"),
    );
    let prusik = manager.start(&config).await;
    prusik
        .wait_stderr("the sessions that were kept cannot be used, and are closed: it is empty")
        .await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
    assert!(!manager.stored().contains(&BUNDLE.to_owned()));
}
