//! The binary under test: started on a file, watched by what it writes, gone with the value.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// With everything that was said about it.
    Refused(String),
}

/// The configuration, in the process's folder.
pub(super) const FILE: &str = "prusik.yaml";
const HOSTS: &str = "hosts";

pub struct Prusik {
    child: Child,
    folder: TempDir,
    stderr: Text,
    stdout: Text,
    /// Who serves now, if upgrades have put another process in the child's place.
    successors: Mutex<Vec<u32>>,
    /// Every process that was met in the folder.
    met: Mutex<BTreeSet<u32>>,
}

/// What the process has written so far.
type Text = Arc<Mutex<String>>;

impl Prusik {
    /// Runs it on this configuration, and returns when it is ready.
    pub async fn start(config: impl Display) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prusik"));
        command.args(["run", "--config", FILE]);
        Self::start_by(command, &config.to_string(), &[]).await
    }

    /// As [`Prusik::start`], from a program in its own folder, which the test may replace.
    pub async fn start_own(config: impl Display) -> Self {
        let mut command = Command::new("sh");
        // A link would do if the temporary folder were on the same file system.
        let script = "ln \"$0\" program || cp \"$0\" program; exec ./program run --config \"$1\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        Self::start_by(command, &config.to_string(), &[]).await
    }

    /// As [`Prusik::start_own`], and each nonce that seals is noted in a file.
    pub async fn start_noting_nonces(config: impl Display) -> Self {
        let mut command = Command::new("sh");
        let script = "ln \"$0\" program || cp \"$0\" program; \
                      export PRUSIK_NONCE_AUDIT=\"$PWD/nonces\"; exec ./program run --config \"$1\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        Self::start_by(command, &config.to_string(), &[]).await
    }

    /// The file in which [`Prusik::start_noting_nonces`] notes them.
    pub fn nonces(&self) -> PathBuf {
        self.folder.path().join("nonces")
    }

    /// What [`Prusik::start_own`] was started from is now this; `None`: it is gone.
    pub fn replace_program(&self, script: Option<&str>) {
        let program = self.folder.path().join("program");
        // It is gone already after a `None`.
        let _ = fs::remove_file(&program);
        if let Some(script) = script {
            fs::write(&program, script).expect("the file can be written");
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, executable).expect("it is ours");
        }
    }

    /// As [`Prusik::start`], where `ulimit` has been set so.
    pub async fn start_limited(config: impl Display, ulimit: &str) -> Self {
        let mut command = Command::new("sh");
        let script = format!("ulimit {ulimit} && exec \"$0\" run --config \"$1\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        Self::start_by(command, &config.to_string(), &[]).await
    }

    /// With a hosts file of its own. `None` without the right to make a mount namespace.
    pub async fn start_with_hosts(yaml: &str, hosts: &str) -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        let allowed = Command::new("unshare").args(["--mount", "true"]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let script = "mount --bind hosts /etc/hosts && exec \"$0\" run --config \"$1\"";
        command.args([script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        Some(Self::start_by(command, yaml, &[(HOSTS, hosts)]).await)
    }

    /// As the first process of a container. `None` without the right to make a PID namespace.
    pub async fn start_as_pid_1(config: impl Display) -> Option<Self> {
        Self::start_in_container(config, &[]).await
    }

    /// The same, with `--take-over`.
    pub async fn start_taking_over(config: impl Display) -> Option<Self> {
        Self::start_in_container(config, &["--take-over"]).await
    }

    async fn start_in_container(config: impl Display, arguments: &[&str]) -> Option<Self> {
        let namespaces = ["--pid", "--fork", "--kill-child", "--mount-proc"];
        let allowed = Command::new("unshare")
            .args(namespaces)
            .arg("true")
            .output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(namespaces);
        command.args([env!("CARGO_BIN_EXE_prusik"), "run", "--config", FILE]);
        command.args(arguments);
        Some(Self::start_by(command, &config.to_string(), &[]).await)
    }

    /// Runs one that is not to serve.
    pub fn run_to_its_end(config: impl Display, arguments: &[&str]) -> Output {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(FILE), config.to_string()).expect("the file can be written");
        Command::new(env!("CARGO_BIN_EXE_prusik"))
            .args(["run", "--config", FILE])
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .expect("the binary runs")
    }

    /// Replaces the hosts file that [`Prusik::start_with_hosts`] began with.
    pub fn write_hosts(&self, hosts: &str) {
        fs::write(self.folder.path().join(HOSTS), hosts).expect("the file can be written");
    }

    /// As systemd does for a unit with a socket: the process inherits `socket`, and says how it is
    /// doing on `notify`.
    pub async fn start_activated(config: impl Display, socket: &OwnedFd, notify: &Path) -> Self {
        let mut command = Command::new("sh");
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=prusik.socket; \
                      exec \"$0\" run --config \"$1\" 3<&0 </dev/null";
        command.args(["-c", script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        command.env("NOTIFY_SOCKET", notify);
        command.env("RUNTIME_DIRECTORY", notify.parent().expect("its folder"));
        let socket = socket.try_clone().expect("a descriptor");
        Self::start_from(command, &config.to_string(), &[], socket.into()).await
    }

    /// As systemd does: with these descriptors, at most three, under these names. Does not wait
    /// until it is ready.
    pub fn start_with(config: impl Display, named: Vec<(String, OwnedFd)>, notify: &Path) -> Self {
        let mut command = Command::new("sh");
        let names: Vec<&str> = named.iter().map(|(name, _)| &**name).collect();
        // Its standard streams are taken by descriptors, so its output goes by way of two pipes.
        let script = "export LISTEN_PID=$$; \
                      exec \"$0\" run --config \"$1\" 3<&0 4<&1 5<&2 </dev/null >out 2>err";
        command.args(["-c", script, env!("CARGO_BIN_EXE_prusik"), FILE]);
        command.env("LISTEN_FDS", names.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":"));
        command.env("NOTIFY_SOCKET", notify);
        command.env("RUNTIME_DIRECTORY", notify.parent().expect("its folder"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(FILE), config.to_string()).expect("the file can be written");
        let pipes = ["out", "err"].map(|name| folder.path().join(name));
        let made = Command::new("mkfifo").args(&pipes).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        let [stdout, stderr] = pipes.map(|pipe| collect(Later(pipe, None)));
        let mut streams = named
            .into_iter()
            .map(|(_, descriptor)| Stdio::from(descriptor));
        let mut next = || streams.next().unwrap_or_else(Stdio::null);
        let child = command
            .current_dir(folder.path())
            .env_remove("RUST_LOG")
            .stdin(next())
            .stdout(next())
            .stderr(next())
            .spawn()
            .expect("the binary runs");
        Self {
            child,
            folder,
            stderr,
            stdout,
            successors: Mutex::default(),
            met: Mutex::default(),
        }
    }

    /// As [`Prusik::start`], by this command, in a folder with these files.
    pub(super) async fn start_by(command: Command, yaml: &str, files: &[(&str, &str)]) -> Self {
        Self::start_from(command, yaml, files, Stdio::null()).await
    }

    async fn start_from(
        mut command: Command,
        yaml: &str,
        files: &[(&str, &str)],
        stdin: Stdio,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files.iter().chain([&(FILE, yaml)]) {
            fs::write(folder.path().join(name), text).expect("the file can be written");
        }
        let mut child = command
            .current_dir(folder.path())
            .env_remove("RUST_LOG")
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = collect(child.stdout.take().expect("a pipe was asked for"));
        let stderr = collect(child.stderr.take().expect("a pipe was asked for"));
        let mut prusik = Self {
            child,
            folder,
            stderr,
            stdout,
            successors: Mutex::default(),
            met: Mutex::default(),
        };
        prusik.is_ready().await;
        prusik
    }

    pub async fn is_ready(&mut self) {
        eventually("prusik is ready", async || {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "prusik ended: {}", self.stderr());
            self.lines().any(|line| line == "ready")
        })
        .await;
    }

    /// Where the listener of this name is.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let wanted = format!(" as {listener:?}");
        self.lines()
            .filter_map(|line| {
                let address = line.strip_prefix("listening on ")?;
                address.strip_suffix(&wanted)?.parse().ok()
            })
            .next()
            .unwrap_or_else(|| panic!("no TCP listener {listener:?}: {}", self.stderr()))
    }

    /// The listener that the tests' configurations have.
    pub fn public(&self) -> SocketAddr {
        self.address("public")
    }

    /// Where its file is, and where relative paths of it point to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process that serves now.
    pub fn pid(&self) -> u32 {
        let successors = self
            .successors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        successors.last().copied().unwrap_or(self.child.id())
    }

    /// Every process of it that lives: its folder is theirs alone. One that ends leaves the folder
    /// before it closes its sockets, and is in the list until it has.
    pub fn pids(&self) -> Vec<u32> {
        let folder = fs::canonicalize(self.folder.path()).expect("the folder is there");
        let processes = fs::read_dir("/proc").expect("this is Linux");
        let there = processes.filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
            (cwd == folder).then_some(pid)
        });
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.extend(there);
        met.retain(|&pid| !has_ended(pid));
        met.iter().copied().collect()
    }

    /// Where operators are served.
    pub fn admin(&self) -> SocketAddr {
        self.lines()
            .filter_map(|line| line.strip_prefix("admin API on ")?.parse().ok())
            .last()
            .unwrap_or_else(|| panic!("no admin API: {}", self.stderr()))
    }

    /// As an operator types it, less the address of the admin API.
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let address = self.admin().to_string();
        prusik(&[arguments, &["--admin", &address]].concat())
    }

    /// [`Prusik::operate`], which must succeed; what it prints.
    pub async fn order(&self, arguments: &[&str]) -> String {
        let output = tokio::task::block_in_place(|| self.operate(arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `prusik status --json`.
    pub async fn status(&self) -> Value {
        let said = self.order(&["status", "--json"]).await;
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
    }

    /// The same; `None`: whoever is asked does not answer any more, because another one does.
    pub fn try_status(&self) -> Option<Value> {
        let said = tokio::task::block_in_place(|| self.operate(&["status", "--json"]));
        let said = said.status.success().then_some(said.stdout)?;
        Some(serde_json::from_slice(&said).expect("it is JSON"))
    }

    /// `prusik upgrade`, which must succeed. Returns when only the new process is left.
    pub async fn upgrade(&mut self) -> String {
        let before = self.pid();
        let said = self.order(&["upgrade"]).await;
        let pid = self.status().await["pid"].as_u64().expect("a pid") as u32;
        assert_ne!(pid, before, "{said}");
        self.successors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
        eventually("the old process has ended", async || {
            let _ = self.child.try_wait();
            self.pids() == [pid]
        })
        .await;
        said
    }

    /// Takes the exit status of the first process, if it has ended.
    pub fn reap(&mut self) {
        let _ = self.child.try_wait();
    }

    /// To every process of it, whoever serves; one may end meanwhile.
    pub fn signal_all(&self, name: &str) {
        for pid in self.pids() {
            try_signal(pid, name);
        }
    }

    /// Waits until no process of it is left.
    pub async fn ended(&mut self) {
        eventually("every process has ended", async || {
            let _ = self.child.try_wait();
            self.pids().is_empty()
        })
        .await;
    }

    pub fn write_config(&self, config: impl Display) {
        fs::write(self.file(), config.to_string()).expect("the file can be written");
    }

    pub fn stderr(&self) -> String {
        lock(&self.stderr)
    }

    /// Waits for a line that contains this.
    pub async fn wait_stderr(&self, part: &str) {
        eventually(format!("stderr says {part:?}"), async || {
            self.stderr().contains(part)
        })
        .await;
    }

    /// Puts other text in the file and reloads.
    pub async fn reload_with(&self, config: impl Display) -> Outcome {
        self.write_config(config);
        self.reload().await
    }

    /// `HUP`, and what came of it.
    pub async fn reload(&self) -> Outcome {
        let before = self.stderr().len();
        self.signal("HUP");
        let news = || self.stderr()[before..].to_owned();
        eventually("the reload is over", async || {
            news().contains("reload done: ") || news().contains("reload refused: ")
        })
        .await;
        match news().split_once("reload refused: ") {
            Some((_, said)) => Outcome::Refused(said.to_owned()),
            None => Outcome::Done,
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end of the process.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("prusik ends", async || {
            code = self.child.try_wait().expect("a child can be asked");
            code.is_some()
        })
        .await;
        code.and_then(|status| status.code())
    }

    /// Every line of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = lock(&self.stdout);
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
            })
            .collect()
    }

    /// The first line of the access log for which this holds.
    pub async fn wait_log(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually(format!("in the access log: {what}"), async || {
            found = self.access_log().into_iter().find(|entry| wanted(entry));
            found.is_some()
        })
        .await;
        found.unwrap_or_default()
    }

    /// The `session_close` line of the only session so far.
    pub async fn session_close(&self) -> Value {
        self.wait_log("session_close", |entry| entry["kind"] == "session_close")
            .await
    }

    /// Open descriptors.
    pub fn fds(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    /// CPU time of all its threads so far, to ten milliseconds.
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(path).expect("it runs");
        // Behind the name, which may be anything: utime and stime are the 12th and 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The most memory that was ever resident.
    pub fn peak_rss_kib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Memory that no file stands behind.
    pub fn anonymous_kib(&self) -> u64 {
        self.memory("RssAnon:")
    }

    pub fn rss_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the process lives");
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
            .expect("the kernel says so")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// What was logged, without time and level.
    fn lines(&self) -> impl Iterator<Item = String> {
        let text = self.stderr();
        let lines: Vec<String> = text
            .lines()
            .filter_map(|line| Some(line.split_once("] ")?.1.to_owned()))
            .collect();
        lines.into_iter()
    }
}

impl Drop for Prusik {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.signal_all("KILL");
        if thread::panicking() {
            eprintln!("--- prusik's stderr\n{}---", self.stderr());
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    assert!(try_signal(pid, name), "kill -{name}");
}

/// Whether there is such a process.
fn try_signal(pid: u32, name: &str) -> bool {
    // The shell's own kill: there is no binary of that name on a small system.
    let output = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether it holds no descriptor any more: it is gone, or nothing but its exit status is left.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let is_zombie = stat
        .rsplit(')')
        .next()
        .is_some_and(|fields| fields.trim_start().starts_with(['Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    is_zombie && threads <= 1
}

/// Runs the binary to its end.
pub fn prusik(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_prusik"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// `prusik check` on this text; the file is called `prusik.yaml`.
pub fn check(yaml: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, yaml).expect("the file can be written");
    let file = file.to_str().expect("temporary folders have plain names");
    prusik(&["check", "--config", file])
}

fn lock(text: &Text) -> String {
    text.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A named pipe that is opened at the first read, which waits for a writer.
struct Later(PathBuf, Option<fs::File>);

impl Read for Later {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let file = match self.1.take() {
            Some(file) => file,
            None => fs::File::open(&self.0)?,
        };
        self.1.insert(file).read(into)
    }
}

/// Reads on a thread of its own, so that a full pipe never holds the process up.
fn collect(mut pipe: impl Read + Send + 'static) -> Text {
    let text = Text::default();
    let reader = text.clone();
    thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    // Only whole lines matter, and they are UTF-8.
                    let part = String::from_utf8_lossy(&chunk[..length]);
                    let mut text = reader.lock().unwrap_or_else(PoisonError::into_inner);
                    text.push_str(&part);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    text
}
