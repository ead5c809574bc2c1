//! Messages to systemd (sd_notify(3)), if it wants them.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, io};

use log::warn;
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

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!("cannot tell systemd: {error}");
    }
}
