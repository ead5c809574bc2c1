//! The old process's side of an upgrade: starts the new one, and hands over when it has proved
//! itself. Until then nothing changes here. Should the new one fail later, while sessions move, it
//! is killed, and all that it had not adopted goes on here.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use log::{info, warn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::link::{ANSWERS_WITHIN, Event, Link};
use super::wire::{self, Message};
use super::{Refusal, descriptors, notify};
use crate::admin::view::UpgradeReport;
use crate::app::{App, Stop, UPGRADE};
use crate::listener::Binder;
use crate::upstream::Knowledge;

/// How long the new process may take until it is ready to serve.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// And then until it does.
const SERVING_WITHIN: Duration = Duration::from_secs(5);

/// When nothing has moved for so long, nothing more can for now.
const SETTLED: Duration = Duration::from_millis(500);

/// With more servers than these their history would not fit into one message, and stays behind.
const HISTORIES: usize = 1000;

/// How long a process whose link is closed may take to end.
const GONE_WITHIN: Duration = Duration::from_secs(1);

/// The program as this process was started: what lies there now is what takes over.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// Call it at the start: paths may be relative to a directory that is left later.
    ///
    /// `/proc/self/exe` would not do: a package manager puts a new file at the path, and the link
    /// then names the old one, as deleted.
    pub fn of_this_process() -> io::Result<Self> {
        let mut args = env::args_os();
        let name = args.next().map(PathBuf::from).unwrap_or_default();
        let path = match name.components().count() {
            0 | 1 if !name.to_string_lossy().contains('/') => in_path(&name),
            _ => Some(env::current_dir()?.join(name)),
        };
        Ok(Self {
            path: match path {
                Some(path) => path,
                None => env::current_exe()?,
            },
            args: args.collect(),
        })
    }
}

fn in_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The new process. Unless it is [let go](NewProcess::let_go), it does not outlive this: it must
/// not serve beside us.
struct NewProcess {
    child: Option<Child>,
}

impl NewProcess {
    /// Its exit, if it ends within this time.
    async fn exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        exit_of(self.child.as_mut()?, limit).await
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child
            && let Err(error) = child.kill()
        {
            warn!("upgrade: cannot kill {}: {error}", child.id());
        }
    }

    fn let_go(mut self) -> Option<Child> {
        self.child.take()
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        self.kill();
        if let Some(child) = &mut self.child {
            // After a SIGKILL; whoever is left is init's to wait for.
            let _ = child.try_wait();
        }
    }
}

async fn exit_of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if started.elapsed() < limit => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(None) | Err(_) => return None,
        }
    }
}

/// The new process serves. The old one has to [wind down](Successor::wind_down).
pub struct Successor {
    pub report: UpgradeReport,
    /// The addresses that it does not listen on: nobody does from now on.
    pub unused: Vec<String>,
    child: Option<Child>,
    link: Arc<Link>,
    events: UnboundedReceiver<Event>,
}

/// Why the old process kept on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("cannot start {path}: {cause}")]
    Spawn { path: PathBuf, cause: io::Error },
    #[error("{}", .0.what)]
    NotNow(Refusal),
    #[error("the new process refused: {0}")]
    Refused(String),
    #[error("the new process ended before it served ({0}); its log says why")]
    Ended(String),
    #[error("the new process did not {what} within {limit:?} and was killed")]
    TooSlow { what: &'static str, limit: Duration },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UpgradeError {
    /// What the operator can make of it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotNow(refusal) => refusal.hint,
            _ => "this process goes on as before",
        }
    }
}

/// Starts what lies at the program's path, and hands everything over to it that can move.
/// `admin`: the operator's listener. Once it is `called_off`, or dropped, the new process is killed.
pub async fn hand_over(
    app: &Arc<App>,
    program: &Program,
    admin: Option<(OwnedFd, Binder)>,
    called_off: &CancellationToken,
) -> Result<Successor, UpgradeError> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut given = Vec::new();
    for listener in app.listeners() {
        given.push((wire::name_of(listener.binder()), listener.descriptor()?));
    }
    given.extend(admin.map(|(admin, binder)| (wire::name_of(binder), admin)));
    given.push((wire::SOCKET, theirs.into()));
    let (tell, mut events) = unbounded_channel();
    let link = Link::open(ours, app, tell)?;
    let child = descriptors::spawn(&program.path, &program.args, given).map_err(|cause| {
        UpgradeError::Spawn {
            path: program.path.clone(),
            cause,
        }
    })?;
    let pid = child.id();
    info!("upgrade: {} starts as {pid}", program.path.display());
    let mut process = NewProcess { child: Some(child) };
    let served = tokio::select! {
        biased;
        () = called_off.cancelled() => Err(UpgradeError::NotNow(Refusal::new(
            "this process was told to stop now",
            "start it again instead",
        ))),
        served = serve_with(app, &link, &mut events, &mut process, pid) => served,
    };
    match served {
        Ok((report, unused)) => Ok(Successor {
            report,
            unused,
            child: process.let_go(),
            link,
            events,
        }),
        Err(error) => {
            process.kill();
            let status = process.exit(SERVING_WITHIN).await;
            bring_back(app, &link).await;
            app.stay();
            notify::ready();
            Err(match (error, status) {
                (UpgradeError::Ended(_), Some(status)) => UpgradeError::Ended(status.to_string()),
                (error, _) => error,
            })
        }
    }
}

/// What was on its way to a process that takes no more; how much it was.
async fn bring_back(app: &App, link: &Arc<Link>) -> usize {
    app.carrier().stop_moving();
    let link = link.clone();
    let parcels = tokio::task::spawn_blocking(move || link.take_back()).await;
    let parcels = parcels.unwrap_or_else(|error| {
        warn!("upgrade: what was on its way is lost: {error}");
        Vec::new()
    });
    let count = parcels.len();
    app.bring_back(parcels);
    count
}

async fn serve_with(
    app: &Arc<App>,
    link: &Arc<Link>,
    events: &mut UnboundedReceiver<Event>,
    process: &mut NewProcess,
    pid: u32,
) -> Result<(UpgradeReport, Vec<String>), UpgradeError> {
    let (version, unused) = match next(events, "get ready", READY_WITHIN).await? {
        Message::Ready {
            pid: said,
            version,
            unused,
        } if said == pid => (version, unused),
        other => return Err(unexpected(&other)),
    };
    link.send(&Message::Go {
        tally: app.operations().tally(),
        drained: drained(app),
        known: known(app),
    })?;
    match next(events, "serve", SERVING_WITHIN).await? {
        Message::Serving => {}
        other => return Err(unexpected(&other)),
    }
    info!("upgrade: {pid} serves (version {version}), sessions move");
    let drains = app.drains().rest();
    let (leave, leaving) = unbounded_channel();
    link.start_sending(app, leaving)?;
    app.begin_moving(leave);
    if let Moved::Gone = all_that_can(app, link, events).await? {
        match process.exit(GONE_WITHIN).await {
            Some(status) if !status.success() => {
                return Err(UpgradeError::Ended(status.to_string()));
            }
            // It serves or served, and ended because it was told to: so will we.
            _ => {}
        }
    }
    let (mover, report) = (
        link.clone(),
        UpgradeReport {
            pid,
            version,
            moved: link.adopted(),
            left: app.sessions().len(),
        },
    );
    let told = tokio::task::spawn_blocking(move || {
        for (manner, sessions) in drains {
            mover.send_drain(&manner, &sessions)?;
        }
        mover.send(&Message::Moved)
    });
    if let Ok(Err(error)) = told.await {
        warn!("upgrade: the new process listens no more: {error}");
    }
    Ok((report, unused))
}

enum Moved {
    All,
    /// The new process has closed the link.
    Gone,
}

/// Until everything has moved, or nothing more does.
async fn all_that_can(
    app: &App,
    link: &Link,
    events: &mut UnboundedReceiver<Event>,
) -> Result<Moved, UpgradeError> {
    let mut seen = (usize::MAX, 0);
    let mut since = Instant::now();
    loop {
        match timeout(Duration::from_millis(5), events.recv()).await {
            Ok(Some(Event::Message(Message::Failed { reason }))) => {
                return Err(UpgradeError::Refused(reason));
            }
            Ok(Some(Event::Message(_))) | Err(_) => {}
            Ok(Some(Event::Closed) | None) => return Ok(Moved::Gone),
        }
        let here = app.sessions().len();
        if here == 0 && !link.awaits_answers() {
            return Ok(Moved::All);
        }
        if seen != (here, link.answers()) {
            seen = (here, link.answers());
            since = Instant::now();
        }
        match link.awaits_answers() {
            false if since.elapsed() > SETTLED => return Ok(Moved::All),
            true if since.elapsed() > ANSWERS_WITHIN => {
                return Err(UpgradeError::TooSlow {
                    what: "take over the sessions",
                    limit: ANSWERS_WITHIN,
                });
            }
            _ => {}
        }
    }
}

fn drained(app: &App) -> Vec<(String, std::net::SocketAddr)> {
    let generation = app.generation();
    let drained = generation.groups().iter().flat_map(|group| {
        let servers = group.servers();
        let drained = servers.into_iter().filter(|server| server.is_drained());
        drained.map(|server| (group.name().to_owned(), server.address))
    });
    drained.collect()
}

fn known(app: &App) -> Vec<(String, Knowledge)> {
    let generation = app.generation();
    let groups = generation.groups().iter();
    let mut known: Vec<_> = groups
        .map(|group| (group.name().to_owned(), group.knowledge()))
        .collect();
    let servers: usize = known.iter().map(|(_, of)| of.history.len()).sum();
    if servers > HISTORIES {
        known.iter_mut().for_each(|(_, of)| of.history.clear());
    }
    known
}

async fn next(
    events: &mut UnboundedReceiver<Event>,
    what: &'static str,
    limit: Duration,
) -> Result<Message, UpgradeError> {
    match timeout(limit, events.recv()).await {
        Ok(Some(Event::Message(Message::Failed { reason }))) => Err(UpgradeError::Refused(reason)),
        Ok(Some(Event::Message(message))) => Ok(message),
        Ok(Some(Event::Closed) | None) => Err(UpgradeError::Ended(String::new())),
        Err(_) => Err(UpgradeError::TooSlow { what, limit }),
    }
}

fn unexpected(message: &Message) -> UpgradeError {
    UpgradeError::Io(io::Error::other(format!(
        "the new process said {message:?} out of turn"
    )))
}

/// Whoever wanted this process to end means that one now.
pub fn terminate(pid: u32) {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = id.map(|id| kill_process(id, Signal::TERM)) {
        warn!("cannot end {pid}: {error}");
    }
}

impl Successor {
    /// Ends with the last connection that cannot move, or when its time is up. Should the new
    /// process die before that, this one takes back what it still has and accepts again: nobody
    /// else would know of the death. (systemd hears of it only from us, whose child it is.)
    pub async fn wind_down(mut self, app: &Arc<App>) -> Result<(), ExitStatus> {
        let link = self.link.clone();
        let finished = tokio::select! {
            () = finish(app, &link) => true,
            () = closed(&mut self.events) => false,
            () = link.stalls() => {
                warn!("upgrade: the new process answers no more, what it left stays here");
                false
            }
        };
        // It closes at once, unless it is no longer there.
        let is_done = finished
            && timeout(SERVING_WITHIN, closed(&mut self.events))
                .await
                .is_ok();
        let limit = if is_done { Duration::ZERO } else { GONE_WITHIN };
        let status = match &mut self.child {
            Some(child) => exit_of(child, limit).await,
            None => None,
        };
        app.drains().cancel(UPGRADE);
        let back = bring_back(app, &link).await;
        match status {
            Some(status) if !status.success() => {
                app.stay();
                Err(status)
            }
            None if is_done && back == 0 => Ok(()),
            // It was told to stop, and has; or it serves, and no longer talks to us.
            _ => {
                app.stop(Stop::Gracefully).await;
                Ok(())
            }
        }
    }
}

/// Waits for those who cannot move; then nothing more goes to the new process.
async fn finish(app: &App, link: &Arc<Link>) {
    app.wind_down().await;
    app.carrier().stop_moving();
    link.finish_sending().await;
    let link = link.clone();
    let told = tokio::task::spawn_blocking(move || link.send(&Message::End));
    if let Ok(Err(error)) = told.await {
        warn!("upgrade: the new process has gone: {error}");
    }
}

async fn closed(events: &mut UnboundedReceiver<Event>) {
    while let Some(Event::Message(_)) = events.recv().await {}
}
