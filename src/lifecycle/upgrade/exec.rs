//! Starts the process that takes over, with descriptors by the protocol of sd_listen_fds(3), and
//! finds those that this process was started with.
//!
//! The process `LISTEN_PID` gets `LISTEN_FDS` descriptors from number 3 on, with the names in
//! `LISTEN_FDNAMES`. systemd starts prusik this way, and prusik starts the process that takes over
//! this way. All `unsafe` code is in this file, except that of `net/pages.rs`.
//!
//! ```text
//!   old process ── fork ── holder ── fork ── new process
//! ```
//!
//! The new process must not be a child of the old one when systemd is told that it is the main
//! process: systemd could wait for neither, and would kill it at once at a stop. So a holder stands
//! between them. If the new process ends early, the holder tells how. The holder ends when it is
//! let go or the old process dies. Then the new process becomes the child of whoever adopts
//! orphans: of systemd, under systemd. The holder waits for the end of its child only when the old
//! process has a pidfd of the child: until then the child's number must not be reused.

#![allow(
    unsafe_code,
    reason = "descriptors that are known by number only, and what happens between fork and exec"
)]

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open,
    pidfd_send_signal, set_dumpable_behavior, waitpid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The first inherited descriptor: after stdin, stdout and stderr.
const FIRST: RawFd = 3;

/// The descriptors that a process got at its start, with their names.
pub type Named = (String, OwnedFd);

/// The descriptors that this process was given by whoever started it. They are returned once, and
/// are not inherited by children of the process. Must be called before any file is opened.
pub fn inherited() -> Vec<Named> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    let Some(count) = number("LISTEN_FDS").filter(|_| is_ours) else {
        return Vec::new();
    };
    if GIVEN.swap(true, Relaxed) {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (FIRST..)
        .take(count as usize)
        .filter_map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            // SAFETY: the descriptor is only examined during this call.
            let is_open = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
            if !is_open {
                return None;
            }
            // SAFETY: the descriptor is open, the protocol makes it ours, and `GIVEN` ensures that
            // it is taken from here only once.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let is_private = fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_ok();
            is_private.then_some((name, descriptor))
        })
        .collect()
}

/// The argument that makes this binary a holder, and the variable with the id of the held process.
pub const HOLD: &str = "--hold";
const HELD: &str = "PRUSIK_HOLDS";

/// A descriptor with which another process can watch this one. `None`: the kernel has none.
pub fn own_pidfd() -> Option<OwnedFd> {
    pidfd_open(getpid(), PidfdFlags::empty()).ok()
}

/// Refers to one process, even when its number is reused.
#[derive(Debug)]
pub struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Must be called inside the runtime.
    pub fn watch(pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and stays open and unchanged as long as it is
        // registered.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE)? };
        Ok(Self(pidfd))
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) {
        // An error does not mean that the process has ended, and nobody would report the end later.
        while self.0.ready(Interest::READABLE).await.is_err() {}
    }

    pub fn is_alive(&self) -> bool {
        let mut look = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut look, Some(&Timespec::default())), Ok(0))
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match pidfd_send_signal(&self.0, signal) {
            Err(Errno::SRCH) => Ok(()),
            sent => sent,
        }
    }
}

/// The process between us and the new one.
struct Holder {
    /// `None`: the holder has ended.
    process: Option<Child>,
    /// When this is dropped the holder ends, and the new process is adopted as an orphan.
    hold: Option<OwnedFd>,
}

/// The new process, and the holder between it and us.
pub struct Started {
    holder: Holder,
    pid: Pid,
    pidfd: Pidfd,
}

impl Started {
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Ends the holder. Under systemd the new process is systemd's child when this returns.
    pub fn let_go(&mut self) {
        self.holder.hold = None;
        self.holder.status();
    }

    /// Returns when the new process has ended.
    pub async fn ended(&self) {
        self.pidfd.ended().await;
    }

    /// How the new process ended, if it did before it was [let go](Started::let_go).
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.holder.hold.as_ref()?;
        self.holder.status()
    }

    pub fn signal(&self, signal: Signal) {
        if let Err(error) = self.pidfd.signal(signal) {
            warn!("upgrade: cannot signal {}: {error}", self.pid());
        }
    }
}

impl Holder {
    /// The holder does nothing but wait, and ends at once when there is nothing to wait for.
    fn status(&mut self) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.process.as_mut()?.try_wait() {
                Ok(Some(status)) => {
                    self.process = None;
                    return Some(status);
                }
                Ok(None) if started.elapsed() < LET_GO_WITHIN => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.hold = None;
        if let Some(mut process) = self.process.take() {
            // Nobody else waits for it: it would remain a zombie as long as this process lives.
            tokio::task::spawn_blocking(move || process.wait());
        }
    }
}

const LET_GO_WITHIN: Duration = Duration::from_millis(500);

/// The holder's whole life. It ends when the process that started it lets go, or as its child
/// ended.
pub fn hold() -> ExitCode {
    // A signal to stop all processes of a unit or a terminal is not for the holder.
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // SAFETY: no handler is set, so none of our code runs at a signal.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let child = env::var(HELD).ok().and_then(|pid| pid.parse().ok());
    let Some(child) = child.and_then(Pid::from_raw) else {
        return ExitCode::from(2);
    };
    let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty()) else {
        return ExitCode::SUCCESS;
    };
    // One byte means that the old process has the pidfd. Otherwise it has given up.
    if !matches!(io::stdin().read(&mut [0]), Ok(1)) {
        return ExitCode::SUCCESS;
    }
    let stdin = io::stdin();
    let mut look = [
        PollFd::new(&stdin, PollFlags::IN),
        PollFd::new(&pidfd, PollFlags::IN),
    ];
    while poll(&mut look, None).is_err() {}
    if look[1].revents().is_empty() {
        return ExitCode::SUCCESS;
    }
    let Ok(Some((_, status))) = waitpid(Some(child), WaitOptions::empty()) else {
        return ExitCode::SUCCESS;
    };
    if let Some(signal) = status.terminating_signal().and_then(Signal::from_named_raw) {
        // The process that waits for us must see how the child ended. The child's core dump is
        // enough.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        // SAFETY: as above.
        unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
        // The first SIGSEGV and SIGBUS go to Rust's handler, which checks for a stack overflow.
        for _ in 0..2 {
            let _ = kill_process(getpid(), signal);
        }
    }
    ExitCode::from(status.exit_status().unwrap_or(1) as u8)
}

/// Starts a process that finds these descriptors by [`inherited`]. It has our environment,
/// arguments and standard streams. Must be called inside the runtime.
pub fn spawn(
    program: &Path,
    args: &[OsString],
    given: Vec<(&str, OwnedFd)>,
) -> io::Result<Started> {
    let last = FIRST + given.len() as RawFd;
    // Moves the descriptors away from the numbers that they will get in the new process.
    let aside =
        |descriptor: BorrowedFd<'_>| Ok::<_, io::Error>(fcntl_dupfd_cloexec(descriptor, last)?);
    let sources = given
        .iter()
        .map(|(_, descriptor)| aside(descriptor.as_fd()))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    let path = c_string(program.as_os_str().as_bytes())?;
    let arguments = std::iter::once(program.as_os_str())
        .chain(args.iter().map(OsString::as_os_str))
        .map(|argument| c_string(argument.as_bytes()))
        .collect::<io::Result<Vec<CString>>>()?;
    let mut new = Exec::new(arguments, environment(given.len(), &names)?, path);
    let mut holder = Exec::of_holder()?;
    let (held, hold) = pipe_with(PipeFlags::CLOEXEC)?;
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let (held_aside, tell_aside) = (aside(held.as_fd())?, aside(tell.as_fd())?);
    // The pipe by which `Command` learns of a failed exec must not have one of these numbers
    // either.
    let _occupied = occupy(last)?;
    let mut command = Command::new(program);
    // SAFETY: the closure runs between fork and exec. It calls dup2, fork, chdir, write, close,
    // getpid and execve, which are all async-signal-safe, and it neither allocates nor takes a
    // lock.
    unsafe {
        command.pre_exec(move || {
            for (number, source) in (FIRST..).zip(&sources) {
                checked(libc::dup2(source.as_raw_fd(), number))?;
            }
            let child = checked(libc::fork())?;
            if child == 0 {
                let error = new.run(std::process::id());
                told_as(Told::Failed, error.raw_os_error().unwrap_or(0), &tell_aside);
                libc::_exit(127);
            }
            // The holder keeps nothing of ours except the pipe at which it waits, and keeps no
            // directory in use.
            libc::chdir(c"/".as_ptr());
            told_as(Told::Pid, child, &tell_aside);
            libc::dup2(held_aside.as_raw_fd(), 0);
            for number in FIRST..last {
                libc::close(number);
            }
            holder.run(child as u32);
            // Without the holder the new process is an orphan at once: nobody learns how it ended.
            libc::_exit(0)
        });
    }
    let process = command.spawn()?;
    let holder = Holder {
        process: Some(process),
        hold: Some(hold),
    };
    // With a writing end of our own we would wait for ever if the holder were killed before it
    // writes.
    drop((command, tell, held));
    let pid = hear(told)?;
    let pidfd = Pidfd::watch(pidfd_open(pid, PidfdFlags::empty())?)?;
    // The holder may have been killed already. Then the new process itself tells what there is to
    // know.
    let _ = holder.hold.as_ref().map(|hold| write(hold, &[1]));
    Ok(Started { holder, pid, pidfd })
}

/// Reads the new process's id. Returns when both processes have started their programs.
fn hear(told: OwnedFd) -> io::Result<Pid> {
    let mut said = Vec::new();
    // Both have closed the pipe when they have started their programs.
    File::from(told).read_to_end(&mut said)?;
    if let Some(error) = Told::Failed.find(&said) {
        return Err(io::Error::from_raw_os_error(error));
    }
    let pid = Told::Pid.find(&said).and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the process before it was killed"))
}

/// What the two processes send before they start their programs: a mark and a number.
#[derive(Clone, Copy)]
enum Told {
    /// The id of the new process.
    Pid = 1,
    /// execve(2) has failed with this error.
    Failed = 2,
}

const TOLD_LEN: usize = 8;

impl Told {
    fn find(self, said: &[u8]) -> Option<i32> {
        let mut records = said.chunks_exact(TOLD_LEN);
        let record = records.find(|record| record[..4] == (self as i32).to_ne_bytes())?;
        Some(i32::from_ne_bytes(record[4..].try_into().ok()?))
    }
}

/// Async-signal-safe.
fn told_as(what: Told, number: i32, tell: &OwnedFd) {
    let mut record = [0; TOLD_LEN];
    record[..4].copy_from_slice(&(what as i32).to_ne_bytes());
    record[4..].copy_from_slice(&number.to_ne_bytes());
    // SAFETY: the buffer is ours, and has the length that is given.
    unsafe { libc::write(tell.as_raw_fd(), record.as_ptr().cast(), record.len()) };
}

fn checked(returned: libc::c_int) -> io::Result<libc::c_int> {
    match returned {
        0.. => Ok(returned),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Occupies every number below `end`, so that nothing else is opened there.
fn occupy(end: RawFd) -> io::Result<Vec<File>> {
    let mut held = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        if file.as_raw_fd() >= end {
            return Ok(held);
        }
        held.push(file);
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::other)
}

/// Our environment with the protocol's variables for the new process. The two that hold its process
/// id come last, with room for the id.
fn environment(count: usize, names: &[&str]) -> io::Result<Vec<Vec<u8>>> {
    let ours = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "WATCHDOG_PID"];
    let mut variables: Vec<Vec<u8>> = env::vars_os()
        .filter(|(name, _)| !ours.iter().any(|ours| OsStr::new(ours) == name))
        .map(|(name, value)| {
            let mut variable = name.into_vec();
            variable.push(b'=');
            variable.extend(value.into_vec());
            variable
        })
        .collect();
    variables.push(format!("LISTEN_FDS={count}").into_bytes());
    variables.push(format!("LISTEN_FDNAMES={}", names.join(":")).into_bytes());
    variables.push(b"LISTEN_PID=".to_vec());
    variables.push(b"WATCHDOG_PID=".to_vec());
    for variable in &mut variables {
        variable.push(0);
    }
    Ok(variables)
}

/// How many variables at the end of the environment hold the process id.
const WITH_PID: usize = 2;

/// The digits of the largest process id, and a final zero.
const PID_ROOM: usize = 11;

/// An execve(2) that is prepared so that it need not allocate.
struct Exec {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<Vec<u8>>,
    /// Addresses in the fields above, as numbers so that the closure may hold them. A zero ends
    /// each list.
    argv: Vec<usize>,
    envp: Vec<usize>,
}

impl Exec {
    fn new(arguments: Vec<CString>, mut environment: Vec<Vec<u8>>, path: CString) -> Self {
        let plain = environment.len() - WITH_PID;
        for variable in &mut environment[plain..] {
            variable.resize(variable.len() + PID_ROOM, 0);
        }
        let argv = arguments.iter().map(|argument| argument.as_ptr() as usize);
        let envp = environment
            .iter()
            .map(|variable| variable.as_ptr() as usize);
        Self {
            argv: argv.chain([0]).collect(),
            envp: envp.chain([0]).collect(),
            path,
            arguments,
            environment,
        }
    }

    /// Runs this very binary, whatever file is at its path now.
    fn of_holder() -> io::Result<Self> {
        let arguments = ["prusik", HOLD].map(|argument| c_string(argument.as_bytes()));
        let arguments = arguments.into_iter().collect::<io::Result<_>>()?;
        let variables = [HELD, "PID"].map(|name| format!("{name}=\0").into_bytes());
        let path = c_string(b"/proc/self/exe")?;
        Ok(Self::new(arguments, variables.into(), path))
    }

    /// Returns only if it failed. `pid`: the value of the last variables.
    fn run(&mut self, pid: u32) -> io::Error {
        debug_assert_eq!(self.arguments.len() + 1, self.argv.len());
        let plain = self.environment.len() - WITH_PID;
        for variable in &mut self.environment[plain..] {
            write_pid(variable, pid);
        }
        // SAFETY: both lists end with a null and point to strings that end with a zero. `self` owns
        // the strings, and they have not moved since their addresses were taken (a Vec that neither
        // grows nor is dropped stays where it is).
        unsafe {
            libc::execve(
                self.path.as_ptr(),
                self.argv.as_ptr().cast(),
                self.envp.as_ptr().cast(),
            );
        }
        io::Error::last_os_error()
    }
}

/// Writes after the `=`. The room after the digits is filled with zeros.
fn write_pid(variable: &mut [u8], mut pid: u32) {
    let mut digits = [0; PID_ROOM];
    let mut count = 0;
    while pid > 0 || count == 0 {
        digits[count] = b'0' + (pid % 10) as u8;
        pid /= 10;
        count += 1;
    }
    let start = variable
        .iter()
        .position(|&byte| byte == b'=')
        .map_or(0, |at| at + 1);
    for (byte, digit) in variable[start..]
        .iter_mut()
        .zip(digits[..count].iter().rev())
    {
        *byte = *digit;
    }
}

#[cfg(test)]
mod tests;
