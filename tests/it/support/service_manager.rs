//! What systemd is for a service: it listens to what the service says, holds the descriptors that
//! it is given, and gives them to the next process.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

use super::{Prusik, eventually};

pub struct ServiceManager {
    folder: TempDir,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    store: Mutex<Vec<(String, OwnedFd)>>,
    said: Mutex<Vec<String>>,
    /// `FileDescriptorStoreMax=0`.
    holds_nothing: AtomicBool,
    is_over: AtomicBool,
}

impl ServiceManager {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let often = Duration::from_millis(50);
        socket
            .set_read_timeout(Some(often))
            .expect("it is a socket");
        let state = Arc::new(State::default());
        let heard = state.clone();
        thread::spawn(move || {
            while !heard.is_over.load(SeqCst) {
                heard.hear(&socket);
            }
        });
        Self { folder, state }
    }

    /// For files that all processes of the service share.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn notify(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// From now on nothing is put into the store.
    pub fn hold_nothing(&self) {
        self.state.holds_nothing.store(true, SeqCst);
    }

    /// Puts something into the store.
    pub fn put(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        lock(&self.state.store).push((name.to_owned(), descriptor.into()));
    }

    /// The names in the store.
    pub fn stored(&self) -> Vec<String> {
        let store = lock(&self.state.store);
        store.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Starts the service with what is in the store, and waits until it serves.
    pub async fn start(&self, config: impl std::fmt::Display) -> Prusik {
        let mut prusik = self.begin(config);
        prusik.is_ready().await;
        let pid = format!("MAINPID={}", prusik.pid());
        eventually("the service is ready", async || {
            lock(&self.state.said).contains(&pid)
        })
        .await;
        prusik
    }

    /// Starts it. The store keeps what it holds.
    pub fn begin(&self, config: impl std::fmt::Display) -> Prusik {
        let copy = |(name, descriptor): &(String, OwnedFd)| {
            (name.clone(), descriptor.try_clone().expect("a descriptor"))
        };
        let named = lock(&self.state.store).iter().map(copy).collect();
        Prusik::start_with(config, named, &self.notify())
    }

    /// The first half of `systemctl restart`: `ExecStop=`, then TERM. Returns what the first said.
    pub fn begin_restart(&self, prusik: &Prusik) -> String {
        let said = self.exec_stop(prusik, "restart");
        prusik.signal("TERM");
        said
    }

    /// `ExecStop=` while a job of this type runs.
    pub fn exec_stop(&self, prusik: &Prusik, job: &str) -> String {
        let systemctl = self.folder.path().join("systemctl");
        let script = format!("#!/bin/sh\necho '7 prusik.service {job} running'\n");
        fs::write(&systemctl, script).expect("the file can be written");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&systemctl, executable).expect("it is ours");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(env!("CARGO_BIN_EXE_prusik"))
            .args(["keep", "--unit", "prusik.service", "--config"])
            .arg(prusik.folder().join("prusik.yaml"))
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("MAINPID", prusik.pid().to_string())
            .env("RUNTIME_DIRECTORY", self.folder.path())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        self.state.is_over.store(true, SeqCst);
    }
}

impl State {
    fn hear(&self, socket: &UnixDatagram) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 1024];
        let mut parts = [IoSliceMut::new(&mut text)];
        // Nothing was said for a while.
        let Ok(received) = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        else {
            return;
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let said = String::from_utf8_lossy(&text[..received.bytes]);
        let words: Vec<String> = said.lines().map(str::to_owned).collect();
        let is = |word: &str| words.iter().any(|other| other == word);
        let name = words.iter().find_map(|word| word.strip_prefix("FDNAME="));
        let name = name.unwrap_or("stored").to_owned();
        if is("FDSTORE=1") && !self.holds_nothing.load(SeqCst) {
            assert!(is("FDPOLL=0"), "systemd would drop it: {words:?}");
            let mut store = lock(&self.store);
            store.extend(descriptors.drain(..).map(|one| (name.clone(), one)));
        }
        if is("FDSTOREREMOVE=1") {
            lock(&self.store).retain(|(other, _)| *other != name);
        }
        lock(&self.said).extend(words);
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
