//! Messages to systemd (sd_notify(3)), if it wants them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;
use std::{env, ffi::OsStr};

use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

/// This process serves, and is the main process of the unit.
pub fn ready() {
    say(&[
        NotifyState::Ready,
        NotifyState::MainPid(std::process::id()),
        NotifyState::Status("serving"),
    ]);
}

/// The file that `PIDFile=` of the unit names. When the main process ends, systemd reads this file,
/// and if the process in it lives, that is the main process from then on (`service_sigchld_event`
/// in systemd's src/core/service.c). So an old process that still ends its last sessions can serve
/// again if the new one, which is the main process, has died.
pub fn fallback_file() -> Option<PathBuf> {
    env::var_os("NOTIFY_SOCKET")?;
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    let folder = env::split_paths(&folders).next()?;
    Some(folder.join("fallback.pid"))
}

pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Asks for at least so much time until the end, where `TimeoutStopSec=` of the unit is shorter.
/// systemd must know by then that this process stops.
pub fn stops_within(time: Duration) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // The type of sd_notify's crate ends at 71 minutes.
    let text = format!("EXTEND_TIMEOUT_USEC={}", time.as_micros());
    if let Err(error) = send(&text, None) {
        warn!("cannot ask systemd for {time:?} until the end: {error}");
    }
}

/// Feeds the watchdog as long as the runtime makes progress. Never returns if there is a watchdog.
pub async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    // Twice as often as needed, as sd_watchdog_enabled(3) recommends.
    let mut turn = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        turn.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}

/// How long systemd may take to handle what it was told.
const HANDLES_WITHIN: Duration = Duration::from_secs(5);

/// Puts a descriptor into the unit's store, from which the next process gets it under this name.
/// systemd does not answer. It would also drop one whose other end is gone, unless it is told not
/// to look.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send(
        &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
        Some(descriptor),
    )
}

/// Removes all descriptors of this name from the unit's store.
pub fn forget(name: &str) {
    if let Err(error) = send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None) {
        warn!("cannot tell systemd to forget {name}: {error}");
    }
}

/// Returns when systemd has handled everything that it was told before.
pub fn barrier() -> io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    send("BARRIER=1", Some(theirs.as_fd()))?;
    drop(theirs);
    let limit = Timespec::try_from(HANDLES_WITHIN).map_err(io::Error::other)?;
    // systemd closes its end.
    match poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&limit))? {
        0 => Err(io::Error::other(format!(
            "systemd has not answered within {HANDLES_WITHIN:?}"
        ))),
        _ => Ok(()),
    }
}

fn send(text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let socket = env::var_os("NOTIFY_SOCKET");
    let socket = socket.ok_or_else(|| io::Error::other("NOTIFY_SOCKET is not set"))?;
    let systemd = UnixDatagram::unbound()?;
    systemd.connect_addr(&address_of(&socket)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many descriptors in one message"));
    }
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg(&systemd, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// An address that begins with `@` is in no folder.
fn address_of(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("cannot tell systemd: {error}");
    }
}
