//! What systemd is told (sd_notify(3)), where it wants to be told something.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use log::warn;
use sd_notify::NotifyState;

/// This process serves, and is the one that the unit is about.
pub fn ready() {
    say(&[
        NotifyState::Ready,
        NotifyState::MainPid(std::process::id()),
        NotifyState::Status("serving"),
    ]);
}

/// Where `PIDFile=` of the unit points: systemd reads it when the main process ends, and the
/// process that it names, if it lives, is the main one from then on (`service_sigchld_event` in
/// systemd's src/core/service.c). So an old process that still ends what could not move can serve
/// again when the new one, of which systemd knows as the main one, has died.
pub fn fallback_file() -> Option<PathBuf> {
    env::var_os("NOTIFY_SOCKET")?;
    let folders = env::var_os("RUNTIME_DIRECTORY")?;
    let folder = env::split_paths(&folders).next()?;
    Some(folder.join("fallback.pid"))
}

pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Keeps the watchdog quiet for as long as the runtime turns; never returns if there is one.
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

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("cannot tell systemd: {error}");
    }
}
