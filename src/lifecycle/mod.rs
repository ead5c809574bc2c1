//! Start, reload, upgrade and stop of the process that `prusik run` is.
//!
//! ```text
//!   signals, admin API ──► Process ──► App (one configuration after the other)
//!                             │
//!                  upgrade ───┴── wire ── take_over      the old process and the new one
//! ```
//!
//! [`control`] is what the API asks, [`apart`] the thread that it is asked on.

mod apart;
mod control;
mod descriptors;
mod duties;
mod link;
mod notify;
mod packing;
mod start;
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
use tokio_util::sync::CancellationToken;

use crate::admin::view::{State, UpgradeReport};
use crate::admin::{Access, AdminSocket};
use crate::app::{App, StartError, Stop};
use crate::config::{self, Config};
use crate::listener::{Binder, Inherited};
use crate::observe::operations::Operation;
use descriptors::Named;
use duties::{Duties, PidFile};
use start::Started;
use take_over::Predecessor;
use upgrade::{Program, Successor, UpgradeError};

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
    pid_file: PidFile,
    /// One at a time: a reload must not meet an upgrade, and none of them a stop.
    changing: Mutex<()>,
    /// Cancelled once the process before this one, if there was one, hands over no more.
    taken_in: CancellationToken,
    /// An upgrade that is under way is given up: this process ends now.
    called_off: CancellationToken,
    /// Another process has taken over: this one is to end.
    replaced: Notify,
    succession: Mutex<Succession>,
}

/// What was asked for is not done, and nothing has changed.
#[derive(Debug)]
pub(crate) struct Refusal {
    what: String,
    hint: &'static str,
}

impl Refusal {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        let what = what.into();
        Self { what, hint }
    }
}

/// Who serves.
enum Succession {
    /// This process.
    Ours,
    /// The one of this id. What is left to do with it, unless that is being done.
    Theirs(u32, Option<Successor>),
}

/// How long an upgrade waits for the one before to be done.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(10);

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
    crate::limits::descriptors::raise();
    // Before anything is served: a signal that comes early must not kill the process.
    let mut signals = Signals::install()?;
    let (inherited, predecessor) = take_over::sort(origin.named);
    let (started, mut process) = match start(config, inherited, predecessor.as_ref()).await {
        Ok(started) => started,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.refuse(&error.to_string());
            }
            return Err(error);
        }
    };
    if predecessor.is_some() {
        process.taken_in = CancellationToken::new();
    }
    process.file = Some(path.to_owned());
    process.program = Some(origin.program);
    let process = Arc::new(process);
    process.app.accept();
    if let Some(predecessor) = predecessor {
        started.own_files();
        process.pid_file.claim();
        let (taken_in, leftover) = (process.taken_in.clone().drop_guard(), started.leftover);
        predecessor.take_in(process.app.clone(), move || {
            start::remove_leftover(&leftover);
            drop(taken_in);
        });
    }
    let mut duties = Duties::begin(&process);
    info!("ready");
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                let process = process.clone();
                tokio::spawn(async move { process.reload().await.ok() });
            }
            _ = signals.user2.recv() => {
                let process = process.clone();
                tokio::spawn(async move { process.upgrade().await.ok() });
            }
            _ = signals.interrupt.recv() => {
                stop_now(&process).await;
                break;
            }
            _ = signals.terminate.recv() => {
                if stop(&process, "TERM", &mut signals).await {
                    break;
                }
            }
            _ = signals.quit.recv() => {
                if stop(&process, "QUIT", &mut signals).await {
                    break;
                }
            }
            () = process.replaced.notified() => {
                duties.end().await;
                if wind_down(&process, &mut signals).await == Wound::Down {
                    process.app.close_log().await;
                    info!("stopped");
                    return Ok(());
                }
                process.pid_file.claim();
                duties = Duties::begin(&process);
            }
        }
    }
    duties.end().await;
    info!("stopped");
    Ok(())
}

/// Everything that can fail.
async fn start(
    config: Config,
    inherited: Inherited,
    predecessor: Option<&Predecessor>,
) -> Result<(Started, Process), StartError> {
    let pid_file = PidFile::new(config.server.pid_file.clone());
    let admin = config.admin.as_ref();
    let access = Access::new(admin.and_then(|admin| admin.token_file.clone()));
    let started = Started::new(config, inherited)?;
    match predecessor {
        Some(predecessor) => started.take_over(predecessor, &pid_file).await?,
        // Only now: a second process that finds its listeners taken must leave the first one's alone.
        None => pid_file.write()?,
    }
    let admin = started.admin.clone();
    let admin_is_systemds = matches!(admin, Some((_, Binder::Systemd)));
    let mut process = Process::new(started.app.clone(), admin.map(|(socket, _)| socket), access);
    process.admin_is_systemds = admin_is_systemds;
    process.pid_file = pid_file;
    Ok((started, process))
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
    let successor = match &mut *process.succession.lock().await {
        Succession::Theirs(_, successor) => successor.take(),
        Succession::Ours => None,
    };
    let Some(successor) = successor else {
        return Wound::Down;
    };
    info!("replaced by another process, ending with what cannot move");
    if let Some(admin) = process.own_admin()
        && admin
            .address()
            .is_ok_and(|address| successor.unused.contains(&address.to_string()))
    {
        admin.shut();
    }
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
            let outcome = format!("the process that took over has died ({died})");
            process
                .app
                .operations()
                .record(Operation::Upgrade, Err(outcome));
            error!("the process that took over has died ({died}): this one serves again");
            *process.succession.lock().await = Succession::Ours;
            if let Some(admin) = process.own_admin() {
                admin.take_file();
                admin.open();
            }
            Wound::Up
        }
    }
}

/// Whether it has stopped: after an upgrade it is the new process that does.
async fn stop(process: &Process, signal: &str, signals: &mut Signals) -> bool {
    {
        // An upgrade that is under way ends first: a process that takes over must not be left alone.
        let _one = tokio::select! {
            one = process.changing.lock() => one,
            _ = signals.interrupt.recv() => {
                stop_now(process).await;
                return true;
            }
        };
        if let Succession::Theirs(pid, _) = *process.succession.lock().await {
            info!("{signal}: passed on to {pid}, which has taken over");
            upgrade::terminate(pid);
            return false;
        }
        process.app.begin_stop();
    }
    let drain = process.app.config().server.drain;
    info!(
        "{signal}: accepting no more; sessions are told to go within {:?}, and cut after {:?}",
        drain.window, drain.deadline
    );
    notify::stopping();
    tokio::select! {
        () = process.app.stop(Stop::Gracefully) => {}
        _ = signals.interrupt.recv() => stop_now(process).await,
    }
    true
}

async fn stop_now(process: &Process) {
    info!("INT: stopping now");
    // A new process that is not done with its beginning is killed.
    process.called_off.cancel();
    let _one = process.changing.lock().await;
    notify::stopping();
    process.app.stop(Stop::Now).await;
}

impl Process {
    /// One that can neither reload nor upgrade.
    pub(crate) fn new(app: Arc<App>, admin: Option<AdminSocket>, access: Access) -> Self {
        let taken_in = CancellationToken::new();
        taken_in.cancel();
        Self {
            app,
            file: None,
            program: None,
            started: Instant::now(),
            admin,
            admin_is_systemds: false,
            access,
            pid_file: PidFile::new(None),
            changing: Mutex::new(()),
            taken_in,
            called_off: CancellationToken::new(),
            replaced: Notify::new(),
            succession: Mutex::new(Succession::Ours),
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
        let control = Arc::new(apart::Apart::new(self.clone()));
        Some(apart::serve(socket, control, self.access.clone(), stops))
    }

    /// The operator's socket, unless systemd has bound it.
    fn own_admin(&self) -> Option<&AdminSocket> {
        self.admin.as_ref().filter(|_| !self.admin_is_systemds)
    }

    /// All of the file, or nothing of it. Returns what changed, an item a line.
    async fn reload(&self) -> Result<Vec<String>, Refusal> {
        let _one = self.changing.lock().await;
        self.serves_on()?;
        let Some(file) = &self.file else {
            return Err(Refusal::new(
                "this process was not started from a file",
                "start it by `prusik run --config FILE` to be able to reload it",
            ));
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
        let in_words = outcome.clone().map(|changes| match changes.is_empty() {
            true => "nothing changed".to_owned(),
            false => changes.join("\n"),
        });
        self.app.operations().record(Operation::Reload, in_words);
        match &outcome {
            Ok(changes) if changes.is_empty() => info!("reload done: nothing changed"),
            Ok(changes) => {
                info!("reload done: {} changes", changes.len());
                changes.iter().for_each(|change| info!("  {change}"));
            }
            Err(error) => error!("reload refused: the configuration stays as it was\n{error}"),
        }
        outcome.map_err(|error| {
            let hint = "the configuration stays as it was; mend the file and reload again";
            Refusal::new(error, hint)
        })
    }

    fn serves_on(&self) -> Result<(), Refusal> {
        match self.app.state() {
            State::Draining => Err(Refusal::new(
                "this process is stopping",
                "start it again instead",
            )),
            State::Serving | State::Upgrading => Ok(()),
        }
    }

    /// Starts the binary that lies at this one's path, and hands over to it.
    async fn upgrade(&self) -> Result<UpgradeReport, UpgradeError> {
        // Nothing is held meanwhile: a reload or a stop need not wait for this.
        let taken_in = tokio::time::timeout(TAKEN_IN_WITHIN, self.taken_in.cancelled());
        if taken_in.await.is_err() {
            return Err(UpgradeError::NotNow(Refusal::new(
                "the process before this one still ends what could not move",
                "it is gone after server.drain.deadline at the latest; ask again then",
            )));
        }
        let _one = self.changing.lock().await;
        let mut succession = self.succession.lock().await;
        if let Succession::Theirs(pid, _) = *succession {
            return Err(UpgradeError::NotNow(Refusal::new(
                format!("{pid} has taken over already"),
                "it answers from now on; this process only ends what could not move",
            )));
        }
        self.serves_on().map_err(UpgradeError::NotNow)?;
        let Some(program) = &self.program else {
            return Err(UpgradeError::NotNow(Refusal::new(
                "this process was not started by `prusik run`",
                "start it by `prusik run --config FILE` to be able to replace it",
            )));
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
        match upgrade::hand_over(&self.app, program, admin, &self.called_off).await {
            Ok(taken) => {
                if let Some(admin) = &self.admin {
                    admin.leave_file();
                }
                self.app.shut(&taken.unused);
                let report = taken.report.clone();
                *succession = Succession::Theirs(report.pid, Some(taken));
                self.replaced.notify_one();
                Ok(report)
            }
            Err(error) => {
                self.app
                    .operations()
                    .record(Operation::Upgrade, Err(error.to_string()));
                error!("upgrade failed, this process goes on: {error}");
                // The new process may have got as far as that.
                self.pid_file.claim();
                Err(error)
            }
        }
    }
}
