//! What systemd is told (sd_notify(3)), where it wants to be told something.

use std::io;
use std::time::Duration;

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
