//! Start, reload, upgrade and stop of the process that `prusik run` is.
//!
//! ```text
//!   signals, admin API ──► Process ──► App (one configuration after the other)
//!                             │
//!                  upgrade ───┴── wire ── take_over      the old process and the new one
//! ```

mod control;
mod descriptors;
mod notify;
mod packing;
mod take_over;
mod upgrade;
pub mod wire;

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{error, info};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;

use crate::admin::view::UpgradeReport;
use crate::admin::{self, Access, AdminSocket};
use crate::app::{App, PidFile, StartError, Stop};
use crate::config::{self, Config, ListenAddress};
use crate::listener::{Binder, Inherited};
use descriptors::Named;
use take_over::Predecessor;
use upgrade::{Program, UpgradeError};

/// What this process was started with, besides its configuration.
#[derive(Debug)]
pub struct Origin {
    program: Program,
    named: Vec<Named>,
}

impl Origin {
    /// Call it before anything else: the descriptors have numbers that are free otherwise.
    pub fn find() -> io::Result<Self> {
        Ok(Self {
            named: descriptors::inherited(),
            program: Program::of_this_process()?,
        })
    }

    /// This process cannot serve. An old one that waits for it is told why.
    pub fn refuse(self, reason: &str) {
        let (_, predecessor) = take_over::sort(self.named);
        if let Some(predecessor) = predecessor {
            predecessor.refuse(reason);
        }
    }
}

/// The running process: what the operator can do with it.
pub(crate) struct Process {
    app: Arc<App>,
    /// `None`: it has no file that could be read again.
    file: Option<PathBuf>,
    program: Option<Program>,
    started: Instant,
    admin: Option<AdminSocket>,
    /// systemd has bound it, and owns its file.
    admin_is_systemds: bool,
    access: Access,
    /// One at a time: a reload must not meet an upgrade.
    changing: Mutex<()>,
    /// Another process has taken over: this one is to end.
    replaced: Notify,
    successor: Mutex<Option<upgrade::Successor>>,
}

/// How long a process that ends waits for answers of its admin API.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The signals that prusik answers to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Serves until a signal or a new process ends it.
pub async fn run(path: &Path, config: Config, origin: Origin) -> Result<(), StartError> {
    // Before anything is served: a signal that comes early must not kill the process.
    let mut signals = Signals::install()?;
    let (mut inherited, predecessor) = take_over::sort(origin.named);
    let pid_file = config.server.pid_file.clone();
    let token_file = config
        .admin
        .as_ref()
        .and_then(|admin| admin.token_file.clone());
    let access = Access::new(token_file);
    let built = build(config, &mut inherited, predecessor.as_ref()).await;
    let (app, admin) = match built {
        Ok(built) => built,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.refuse(&error.to_string());
            }
            return Err(error);
        }
    };
    app.accept();
    let admin_is_systemds = matches!(admin, Some((_, Binder::Systemd)));
    let mut process = Process::new(app, admin.map(|(socket, _)| socket), access);
    process.admin_is_systemds = admin_is_systemds;
    process.file = Some(path.to_owned());
    process.program = Some(origin.program);
    let process = Arc::new(process);
    // Only now: a second process that finds its listeners taken must leave the first one's alone.
    let mut duties = Duties::begin(&process, pid_file.clone())?;
    if let Some(predecessor) = predecessor {
        predecessor.take_in(process.app.clone())?;
    }
    info!("ready");
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => drop(process.reload().await),
            _ = signals.user2.recv() => {
                let process = process.clone();
                tokio::spawn(async move { process.upgrade().await.ok() });
            }
            _ = signals.interrupt.recv() => {
                info!("INT: stopping now");
                notify::stopping();
                process.app.stop(Stop::Now).await;
                break;
            }
            _ = signals.terminate.recv() => {
                break stop(&process, "TERM", &mut signals).await;
            }
            _ = signals.quit.recv() => break stop(&process, "QUIT", &mut signals).await,
            () = process.replaced.notified() => {
                duties.end().await;
                if wind_down(&process, &mut signals).await == Wound::Down {
                    info!("stopped");
                    return Ok(());
                }
                duties = Duties::begin(&process, pid_file.clone())?;
            }
        }
    }
    duties.end().await;
    info!("stopped");
    Ok(())
}

/// What only the process does that serves: it answers operators, feeds systemd's watchdog, and has
/// its number in the file for it.
struct Duties {
    admin_ends: watch::Sender<bool>,
    serving_admin: Option<JoinHandle<()>>,
    watchdog: JoinHandle<()>,
    pid_file: PidFile,
}

impl Duties {
    fn begin(process: &Arc<Process>, pid_file: Option<PathBuf>) -> Result<Self, StartError> {
        let pid_file = PidFile::write(pid_file)?;
        let (admin_ends, admin_stops) = watch::channel(false);
        let serving_admin = process.serve_admin(admin_stops);
        notify::ready();
        Ok(Self {
            admin_ends,
            serving_admin,
            watchdog: tokio::spawn(notify::feed_watchdog()),
            pid_file,
        })
    }

    async fn end(self) {
        // At once: fed by an old process, the watchdog would not see the new one hang.
        self.watchdog.abort();
        self.admin_ends.send_replace(true);
        if let Some(serving) = self.serving_admin {
            // Answers that are on their way; not for longer than they need.
            let _ = tokio::time::timeout(LAST_ANSWERS, serving).await;
        }
        drop(self.pid_file);
    }
}

/// Everything but the first accept.
async fn build(
    config: Config,
    inherited: &mut Inherited,
    predecessor: Option<&Predecessor>,
) -> Result<(Arc<App>, Option<(AdminSocket, Binder)>), StartError> {
    let admin = config.admin.clone();
    let app = Arc::new(App::start(config, inherited)?);
    let admin = match admin {
        Some(admin) => Some(bind_admin(admin, inherited)?),
        None => None,
    };
    for address in inherited.unused() {
        info!("the inherited socket on {address} is not in the file and is closed");
    }
    if let Some(predecessor) = predecessor {
        app.prove().await?;
        tokio::task::block_in_place(|| predecessor.ask_to_serve(&app))?;
        // From now on the files of unix sockets are this process's, less those that systemd has
        // bound.
        for listener in app.listeners() {
            listener.keep_file(false);
        }
        if let Some((admin, Binder::Us)) = &admin {
            admin.take_file();
        }
    }
    Ok((app, admin))
}

fn bind_admin(
    admin: config::Admin,
    inherited: &mut Inherited,
) -> Result<(AdminSocket, Binder), StartError> {
    let address = admin.listen;
    let bound = match (inherited.take(&address), &address) {
        (Some((descriptor, binder)), ListenAddress::Tcp(_)) => {
            AdminSocket::from_std_tcp(descriptor.into()).map(|socket| (socket, binder))
        }
        (Some((descriptor, binder)), ListenAddress::Unix(_)) => {
            AdminSocket::from_std_unix(descriptor.into()).map(|socket| (socket, binder))
        }
        (None, address) => admin::bind(address).map(|socket| (socket, Binder::Us)),
    };
    bound.map_err(|cause| StartError::Admin { address, cause })
}

/// How the end of a replaced process went.
#[derive(Debug, PartialEq, Eq)]
enum Wound {
    Down,
    /// The new process has died: this one serves again.
    Up,
}

/// What is left when another process serves.
async fn wind_down(process: &Process, signals: &mut Signals) -> Wound {
    let Some(successor) = process.successor.lock().await.take() else {
        return Wound::Down;
    };
    info!("replaced by another process, ending with what cannot move");
    let ended = tokio::select! {
        ended = successor.wind_down(&process.app) => ended,
        // TERM and QUIT ask for no more than what is done already.
        _ = signals.interrupt.recv() => {
            info!("INT: not waiting any longer");
            process.app.stop(Stop::Now).await;
            return Wound::Down;
        }
    };
    match ended {
        Ok(()) => Wound::Down,
        Err(died) => {
            error!("the process that took over has died ({died}): this one serves again");
            if let Some(admin) = process
                .admin
                .as_ref()
                .filter(|_| !process.admin_is_systemds)
            {
                admin.take_file();
            }
            Wound::Up
        }
    }
}

async fn stop(process: &Process, signal: &str, signals: &mut Signals) {
    // An upgrade that is under way ends first: a process that takes over must not be left alone.
    let _one = process.changing.lock().await;
    if let Some(successor) = &*process.successor.lock().await {
        info!(
            "{signal}: passed on to {}, which has taken over",
            successor.report.pid
        );
        successor.terminate();
        return;
    }
    let drain = process.app.config().server.drain;
    info!(
        "{signal}: accepting no more; sessions are told to go within {:?}, and cut after {:?}",
        drain.window, drain.deadline
    );
    notify::stopping();
    tokio::select! {
        () = process.app.stop(Stop::Gracefully) => {}
        _ = signals.interrupt.recv() => {
            info!("INT: stopping now");
            process.app.stop(Stop::Now).await;
        }
    }
}

impl Process {
    /// One that can neither reload nor upgrade.
    pub(crate) fn new(app: Arc<App>, admin: Option<AdminSocket>, access: Access) -> Self {
        Self {
            app,
            file: None,
            program: None,
            started: Instant::now(),
            admin,
            admin_is_systemds: false,
            access,
            changing: Mutex::new(()),
            replaced: Notify::new(),
            successor: Mutex::new(None),
        }
    }

    pub(crate) fn serve_admin(
        self: &Arc<Self>,
        stops: watch::Receiver<bool>,
    ) -> Option<JoinHandle<()>> {
        let socket = self.admin.clone()?;
        if let Ok(address) = socket.address() {
            info!("admin API on {address}");
        }
        let access = self.access.clone();
        Some(tokio::spawn(admin::serve(
            socket,
            self.clone(),
            access,
            stops,
        )))
    }

    /// All of the file, or nothing of it. Returns what changed, an item a line.
    async fn reload(&self) -> Result<Vec<String>, String> {
        let _one = self.changing.lock().await;
        let Some(file) = &self.file else {
            return Err("this process was not started from a file".to_owned());
        };
        let outcome = match config::load(file) {
            Ok(config) => {
                let token_file = config
                    .admin
                    .as_ref()
                    .and_then(|admin| admin.token_file.clone());
                let reloaded = self.app.reload(config).map_err(|error| error.to_string());
                if reloaded.is_ok() {
                    self.access.set_token_file(token_file);
                }
                reloaded
            }
            Err(errors) => Err(errors.to_string()),
        };
        match &outcome {
            Ok(changes) if changes.is_empty() => info!("reload done: nothing changed"),
            Ok(changes) => {
                info!("reload done: {} changes", changes.len());
                changes.iter().for_each(|change| info!("  {change}"));
            }
            Err(error) => error!("reload refused: the configuration stays as it was\n{error}"),
        }
        outcome
    }

    /// Starts the binary that lies at this one's path, and hands over to it.
    async fn upgrade(&self) -> Result<UpgradeReport, UpgradeError> {
        let _one = self.changing.lock().await;
        let mut successor = self.successor.lock().await;
        if successor.is_some() {
            return Err(UpgradeError::Refused(
                "another one has taken over already".to_owned(),
            ));
        }
        let Some(program) = &self.program else {
            let reason = "this process was not started by `prusik run`";
            return Err(UpgradeError::Refused(reason.to_owned()));
        };
        let admin = match &self.admin {
            Some(admin) => {
                let binder = match self.admin_is_systemds {
                    true => Binder::Systemd,
                    false => Binder::Us,
                };
                Some((admin.as_fd().try_clone_to_owned()?, binder))
            }
            None => None,
        };
        match upgrade::hand_over(&self.app, program, admin).await {
            Ok(taken) => {
                if let Some(admin) = &self.admin {
                    admin.leave_file();
                }
                let report = taken.report.clone();
                *successor = Some(taken);
                self.replaced.notify_one();
                Ok(report)
            }
            Err(error) => {
                error!("upgrade failed, this process goes on: {error}");
                Err(error)
            }
        }
    }
}
