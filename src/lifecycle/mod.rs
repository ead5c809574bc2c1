//! Start, reload and stop of the process that `prusik run` is.

use std::path::Path;
use std::time::Duration;

use log::{error, info, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, PidFile, StartError};
use crate::config::{self, Config};

/// What requests in flight get to end after `TERM` or `QUIT`.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The signals that prusik answers to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Serves until a signal ends it.
pub async fn run(path: &Path, config: Config) -> Result<(), StartError> {
    // Before anything is served: a signal that comes early must not kill the process.
    let mut signals = Signals::install()?;
    let pid_file = config.server.pid_file.clone();
    let app = App::start(config)?;
    // Only now: a second process that finds its listeners taken must leave the first one's alone.
    let pid_file = PidFile::write(pid_file)?;
    info!("ready");
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => reload(&app, path),
            _ = signals.user2.recv() => {
                warn!("USR2: this version cannot hand over to a new binary; nothing is done");
            }
            _ = signals.interrupt.recv() => {
                info!("INT: stopping now");
                app.stop(Duration::ZERO).await;
                break;
            }
            _ = signals.terminate.recv() => break stop(app, "TERM", signals.interrupt).await,
            _ = signals.quit.recv() => break stop(app, "QUIT", signals.interrupt).await,
        }
    }
    drop(pid_file);
    info!("stopped");
    Ok(())
}

async fn stop(app: App, signal: &str, mut interrupt: Signal) {
    info!("{signal}: accepting no more, requests in flight have {STOP_GRACE:?}");
    tokio::select! {
        () = app.stop(STOP_GRACE) => {}
        _ = interrupt.recv() => info!("INT: stopping now"),
    }
}

/// All of the file, or nothing of it.
fn reload(app: &App, path: &Path) {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            error!("reload refused: the configuration stays as it was\n{errors}");
            return;
        }
    };
    let (routes, upstreams) = (config.routes.len(), config.upstreams.len());
    match app.reload(config) {
        Ok(()) => info!("reload done: {routes} routes, {upstreams} upstreams"),
        Err(error) => error!("reload refused: the configuration stays as it was\n{error}"),
    }
}
