//! What systemd relies on, with the test in its place: a socket that it holds, and what it is told.
//! `tests/long/systemd.py` has the shipped units under a real one.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::{Answer, Client, Config, Origin, Prusik, Session, eventually, signal, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};

/// Holds the listening socket, whoever serves on it.
struct Manager {
    socket: OwnedFd,
    address: SocketAddr,
    notify: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self {
            address: socket.local_addr().expect("its number"),
            notify: UnixDatagram::bind(folder.path().join("notify")).expect("a socket"),
            socket: socket.into(),
            folder,
        }
    }

    fn notify(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// What the service says next.
    async fn told(&self) -> Vec<String> {
        let mut said = [0; 1024];
        let length = within("a word", self.notify.recv(&mut said)).await;
        let said = String::from_utf8_lossy(&said[..length.expect("a message")]).into_owned();
        said.lines().map(str::to_owned).collect()
    }

    async fn start(&self, config: &Config) -> Prusik {
        let prusik = Prusik::start_activated(config, &self.socket, &self.notify()).await;
        assert_eq!(prusik.public(), self.address);
        self.serves(prusik.pid()).await;
        prusik
    }

    /// The next word is that this process is the service.
    async fn serves(&self, pid: u32) {
        let told = self.told().await;
        assert!(told.contains(&"READY=1".to_owned()), "{told:?}");
        assert!(told.contains(&format!("MAINPID={pid}")), "{told:?}");
    }
}

/// How the requests of those ended who came all the time.
#[derive(Default)]
struct Callers {
    is_over: AtomicBool,
    answered: AtomicUsize,
    cut: AtomicUsize,
}

impl Callers {
    /// One connection after the other, none of which may be refused.
    async fn call(self: Arc<Self>, address: SocketAddr) {
        while !self.is_over.load(SeqCst) {
            let mut stream = TcpStream::connect(address).await.expect("no refusal");
            let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
            let mut answer = Vec::new();
            let asked = within("an end", async {
                stream.write_all(request.as_ref()).await?;
                stream.read_to_end(&mut answer).await
            });
            match asked.await.is_ok() && answer.starts_with(b"HTTP/1.1 200 ") {
                true => self.answered.fetch_add(1, SeqCst),
                false => self.cut.fetch_add(1, SeqCst),
            };
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_socket_of_systemds_nobody_is_refused_whatever_happens() {
    let origin = Origin::chat().await;
    let server = "server: { drain: { window: 0s } }";
    let admin = "admin: { listen: \"127.0.0.1:0\" }";
    let config = Config::to(&[&origin]).top(server).top(admin);
    let manager = Manager::new();
    let mut prusik = manager.start(&config).await;
    let callers = Arc::new(Callers::default());
    let calling = tokio::spawn(callers.clone().call(manager.address));
    let more = async || {
        let before = callers.answered.load(SeqCst);
        let is_more = async || callers.answered.load(SeqCst) > before + 20;
        eventually("more requests are answered", is_more).await;
    };
    let mut session = Session::open(manager.address, "/").await;
    more().await;
    prusik.order(&["reload"]).await;
    for _ in 0..2 {
        prusik.upgrade().await;
        manager.serves(prusik.pid()).await;
        more().await;
        assert!(session.is_alive().await);
    }
    assert_eq!(callers.cut.load(SeqCst), 0);

    // It cannot say a word: systemd sees its end, and starts it again.
    signal(prusik.pid(), "KILL");
    prusik.ended().await;
    let mut again = manager.start(&config).await;
    more().await;
    assert!(callers.cut.load(SeqCst) <= 1, "the one that was under way");

    // A stop leaves the socket to systemd: who comes then waits for the next start.
    again.signal("TERM");
    assert_eq!(manager.told().await, ["STOPPING=1"]);
    // 60 s of `drain.deadline`, and its end.
    assert_eq!(manager.told().await, ["EXTEND_TIMEOUT_USEC=70000000"]);
    assert_eq!(again.exit_code().await, Some(0));
    let last = manager.start(&config).await;
    more().await;
    callers.is_over.store(true, SeqCst);
    within("the callers end", calling).await.unwrap();
    assert!(callers.cut.load(SeqCst) <= 1);
    drop(last);
}

/// Both processes live: the new one is the main one, and `PIDFile=` names the old one, for the case
/// that the new one dies.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_old_process_ends_it_can_be_the_main_one_again() {
    let slowly = |_: &_| Answer::text("slow").after(Duration::from_secs(3));
    let origin = Origin::start(slowly).await;
    let config = Config::to(&[&origin]).top("admin: { listen: \"127.0.0.1:0\" }");
    let manager = Manager::new();
    let prusik = manager.start(&config).await;
    let old = prusik.pid();
    let fallback = manager.folder.path().join("fallback.pid");
    let named = || fs::read_to_string(&fallback).ok();
    let slow = |dies: bool| {
        let (prusik, origin, manager, named) = (&prusik, &origin, &manager, &named);
        async move {
            let mut busy = Client::connect(manager.address).await;
            let target = format!("/dies-{dies}");
            busy.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"))
                .await;
            origin.has_got(&target).await;
            prusik.order(&["upgrade"]).await;
            let new = prusik.pids().into_iter().find(|pid| *pid != old);
            let new = new.expect("both live");
            manager.serves(new).await;
            assert_eq!(named(), Some(format!("{old}\n")));
            if dies {
                signal(new, "KILL");
                manager.serves(old).await;
            }
            assert_eq!(busy.response().await.text(), "slow");
        }
    };
    slow(true).await;
    eventually("nobody is named", async || named().is_none()).await;
    slow(false).await;
    eventually("nobody is named", async || named().is_none()).await;
}

/// At most 2.0 of 10, by the file alone. Where there is no systemd nobody can tell.
#[test]
fn the_shipped_unit_exposes_little() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/prusik.service");
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let analysed = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output();
    let Ok(output) = analysed else {
        eprintln!("skipped: systemd-analyze is not there");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{failed}");
    assert!(
        said.contains("Overall exposure level for prusik.service: "),
        "{said}"
    );
}
