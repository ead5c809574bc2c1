//! Descriptors that go from one process to the next, by the protocol of sd_listen_fds(3).
//!
//! `LISTEN_FDS` descriptors from 3 on are for the process `LISTEN_PID`, and `LISTEN_FDNAMES` names
//! them. systemd starts us so, and so do we start the process that takes over at an upgrade. All of
//! prusik's `unsafe` is here.

#![allow(
    unsafe_code,
    reason = "descriptors that are known by number only, and what happens between fork and exec"
)]

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// The first inherited descriptor: after stdin, stdout and stderr.
const FIRST: RawFd = 3;

/// What a process was given at its start.
pub type Named = (String, OwnedFd);

/// The descriptors that whoever started this process meant for it. They are given out once, and
/// the process's children don't inherit them. Call it before anything opens a file.
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
            // SAFETY: only looked at, for as long as this call lasts.
            let is_open = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
            if !is_open {
                return None;
            }
            // SAFETY: it is open, the protocol makes it ours, and `GIVEN` sees to it that nobody
            // else gets it from here.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let is_private = fcntl_setfd(&descriptor, FdFlags::CLOEXEC).is_ok();
            is_private.then_some((name, descriptor))
        })
        .collect()
}

/// Starts a process that finds these descriptors as [`inherited`]; otherwise it has our
/// environment, our arguments and our standard streams.
pub fn spawn(program: &Path, args: &[OsString], given: Vec<(&str, OwnedFd)>) -> io::Result<Child> {
    let last = FIRST + given.len() as RawFd;
    // Out of the way of the numbers that they are to get.
    let sources = given
        .iter()
        .map(|(_, descriptor)| Ok(fcntl_dupfd_cloexec(descriptor.as_fd(), last)?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    let path = c_string(program.as_os_str().as_bytes())?;
    let arguments = std::iter::once(program.as_os_str())
        .chain(args.iter().map(OsString::as_os_str))
        .map(|argument| c_string(argument.as_bytes()))
        .collect::<io::Result<Vec<CString>>>()?;
    let mut exec = Exec::new(arguments, environment(given.len(), &names)?, path);
    // What Command opens to hear of a failed exec must not be at one of the numbers either.
    let _occupied = occupy(last)?;
    let mut command = Command::new(program);
    // SAFETY: the closure runs between fork and exec. It calls dup2, getpid and execve, all of
    // them async-signal-safe, and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            for (number, source) in (FIRST..).zip(&sources) {
                if libc::dup2(source.as_raw_fd(), number) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Err(exec.run())
        });
    }
    command.spawn()
}

/// Holds every number below `end`, so that nothing else is opened there.
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

/// Ours, with the protocol's variables as the new process must have them. The two that hold its
/// process id come last, with room for it.
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

/// How many variables at the environment's end hold the process id.
const WITH_PID: usize = 2;

/// Digits of the largest process id, and the zero behind.
const PID_ROOM: usize = 11;

/// An execve(2) that is ready to run: nothing is left to allocate.
struct Exec {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<Vec<u8>>,
    /// Addresses within the above, as numbers so that they may cross into the closure; a zero ends
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

    /// Returns only when it failed.
    fn run(&mut self) -> io::Error {
        debug_assert_eq!(self.arguments.len() + 1, self.argv.len());
        let plain = self.environment.len() - WITH_PID;
        let pid = std::process::id();
        for variable in &mut self.environment[plain..] {
            write_pid(variable, pid);
        }
        // SAFETY: both lists end with a null and point to strings that end with one; they are
        // owned by `self` and have not moved since their addresses were taken (a Vec that is
        // neither grown nor dropped stays where it is).
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

/// Behind the `=`; the room behind it is zeros.
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
    for (place, digit) in variable[start..]
        .iter_mut()
        .zip(digits[..count].iter().rev())
    {
        *place = *digit;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_child_finds_its_own_pid_and_the_descriptors_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut other, second) = UnixStream::pair().unwrap();
        let script = "test $LISTEN_PID = $$ && test $WATCHDOG_PID = $$ && \
                      echo \"$LISTEN_FDS $LISTEN_FDNAMES\" >&3 && echo second >&4";
        let args = ["-c", script].map(OsString::from);
        let given = vec![("one", theirs.into()), ("two", second.into())];
        let mut child = spawn(Path::new("/bin/sh"), &args, given).unwrap();
        assert!(child.wait().unwrap().success());
        let mut said = String::new();
        (&ours).read_to_string(&mut said).unwrap();
        assert_eq!(said, "2 one:two\n");
        said.clear();
        other.flush().unwrap();
        other.read_to_string(&mut said).unwrap();
        assert_eq!(said, "second\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_here() {
        let failed = spawn(Path::new("/nonexistent/prusik"), &[], Vec::new());
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
