//! The old process's side of an upgrade: starts the new one, and hands over when it has proved
//! itself. Until then nothing changes here, and whatever goes wrong there changes nothing. (What
//! goes wrong after that is not all mended here: see "Known faults" in the README.)

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use log::{info, warn};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::wire::{self, Message};
use super::{descriptors, notify, packing};
use crate::admin::view::UpgradeReport;
use crate::app::{App, UPGRADE};
use crate::listener::Binder;
use crate::session::{Parcel, Session};

/// How long the new process may take until it is ready to serve.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// And then until it does.
const SERVING_WITHIN: Duration = Duration::from_secs(5);

/// How long the report waits for sessions on their way; they go on moving after it.
const MOVED_WITHIN: Duration = Duration::from_secs(10);

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

/// The new process serves. The old one has to [wind down](Successor::wind_down).
pub struct Successor {
    pub report: UpgradeReport,
    child: Child,
    link: Arc<Link>,
    events: UnboundedReceiver<Event>,
}

/// What comes from the new process.
enum Event {
    Message(Message),
    /// It has closed its end, or broken it.
    Closed,
}

/// The socket to the new process, and what is on its way through it.
struct Link {
    stream: UnixStream,
    /// Sent, and not taken yet: should the new process fail they are served here again.
    underway: Mutex<HashMap<u64, Arc<Parcel>>>,
    /// Sessions that it has taken.
    adopted: AtomicUsize,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Why the old process kept on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("cannot start {path}: {cause}")]
    Spawn { path: PathBuf, cause: io::Error },
    #[error("the new process refused: {0}")]
    Refused(String),
    #[error("the new process ended before it served ({0}); its log says why")]
    Ended(String),
    #[error("the new process did not {what} within {limit:?} and was killed")]
    TooSlow { what: &'static str, limit: Duration },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Starts what lies at the program's path, and hands everything over to it that can move.
/// `admin`: the operator's listener.
pub async fn hand_over(
    app: &Arc<App>,
    program: &Program,
    admin: Option<(OwnedFd, Binder)>,
) -> Result<Successor, UpgradeError> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut given = Vec::new();
    for listener in app.listeners() {
        given.push((wire::name_of(listener.binder()), listener.descriptor()?));
    }
    given.extend(admin.map(|(admin, binder)| (wire::name_of(binder), admin)));
    given.push((wire::SOCKET, theirs.into()));
    let mut child = descriptors::spawn(&program.path, &program.args, given).map_err(|cause| {
        UpgradeError::Spawn {
            path: program.path.clone(),
            cause,
        }
    })?;
    info!(
        "upgrade: {} starts as {}",
        program.path.display(),
        child.id()
    );
    let link = Arc::new(Link {
        stream: ours,
        underway: Mutex::default(),
        adopted: AtomicUsize::new(0),
        writer: Mutex::new(None),
    });
    let (tell, mut events) = unbounded_channel();
    let served = match link.start_listening(app, tell) {
        Ok(()) => serve_with(app, &link, &mut events, &mut child).await,
        Err(error) => Err(error.into()),
    };
    match served {
        Ok(report) => Ok(Successor {
            report,
            child,
            link,
            events,
        }),
        Err(error) => {
            // Whatever state it is in: it must not serve beside us.
            let _ = child.kill();
            let _ = link.stream.shutdown(Shutdown::Both);
            let status = tokio::task::spawn_blocking(move || child.wait()).await;
            app.carrier().stop_moving();
            let parcels = tokio::task::spawn_blocking(move || link.take_back()).await;
            app.stay(parcels.unwrap_or_default());
            notify::ready();
            Err(match (error, status) {
                (UpgradeError::Ended(_), Ok(Ok(status))) => UpgradeError::Ended(status.to_string()),
                (error, _) => error,
            })
        }
    }
}

async fn serve_with(
    app: &Arc<App>,
    link: &Arc<Link>,
    events: &mut UnboundedReceiver<Event>,
    child: &mut Child,
) -> Result<UpgradeReport, UpgradeError> {
    // A process that is no prusik may have gone already: then its exit says so.
    let told = wire::send(&link.stream, &state(app));
    let (pid, version) = match next(events, "get ready", READY_WITHIN).await? {
        Message::Ready { pid, version } if pid == child.id() => (pid, version),
        other => return Err(unexpected(&other)),
    };
    told?;
    wire::send(&link.stream, &Message::Go)?;
    match next(events, "serve", SERVING_WITHIN).await? {
        Message::Serving => {}
        other => return Err(unexpected(&other)),
    }
    info!("upgrade: {pid} serves (version {version}), sessions move");
    let (leave, leaving) = unbounded_channel();
    let writer = thread::Builder::new()
        .name("upgrade-write".to_owned())
        .spawn({
            let (link, app) = (link.clone(), app.clone());
            move || link.send_all(&app, leaving)
        })?;
    *lock(&link.writer) = Some(writer);
    app.begin_moving(leave);
    let started = Instant::now();
    let mut quiet_since = Instant::now();
    let mut left = app.sessions().len();
    while left > 0 && started.elapsed() < MOVED_WITHIN {
        match timeout(Duration::from_millis(5), events.recv()).await {
            Ok(Some(Event::Message(_))) | Err(_) => {}
            Ok(Some(Event::Closed) | None) => return Err(UpgradeError::Ended(String::new())),
        }
        let now_left = app.sessions().len();
        if now_left < left {
            quiet_since = Instant::now();
        } else if quiet_since.elapsed() > Duration::from_millis(500) {
            break;
        }
        left = now_left;
    }
    Ok(UpgradeReport {
        pid,
        version,
        moved: link.adopted.load(Relaxed),
        left,
    })
}

fn state(app: &App) -> Message {
    let generation = app.generation();
    let drained = generation.groups().iter().flat_map(|group| {
        let servers = group.servers();
        let drained = servers.into_iter().filter(|server| server.is_drained());
        drained.map(|server| (group.name().to_owned(), server.address))
    });
    Message::State {
        drained: drained.collect(),
    }
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

impl Successor {
    /// Whoever wanted this process to end means that one now.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.report.pid).ok().and_then(Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
            warn!("cannot end {}: {error}", self.report.pid);
        }
    }

    /// Ends with the last connection that cannot move, or when its time is up. Should the new
    /// process die before that, this one takes back what it still has and accepts again: nobody
    /// else would know of the death. (systemd hears of it only from us, whose child it is.)
    pub async fn wind_down(mut self, app: &App) -> Result<(), ExitStatus> {
        let closed = async { while let Some(Event::Message(_)) = self.events.recv().await {} };
        tokio::select! {
            () = app.wind_down() => {}
            () = closed => {
                let mut child = self.child;
                let status = tokio::task::spawn_blocking(move || child.wait()).await;
                if let Ok(Ok(status)) = status
                    && !status.success()
                {
                    app.drains().cancel(UPGRADE);
                    app.carrier().stop_moving();
                    let link = self.link.clone();
                    let parcels = tokio::task::spawn_blocking(move || link.take_back()).await;
                    app.stay(parcels.unwrap_or_default());
                    return Err(status);
                }
                // It was told to stop, and has.
                app.wind_down().await;
                return Ok(());
            }
        }
        app.carrier().stop_moving();
        let link = self.link.clone();
        // What is still under way arrives before the end is told.
        let _ = tokio::task::spawn_blocking(move || link.join_writer()).await;
        if let Err(error) = wire::send(&self.link.stream, &Message::End) {
            warn!("upgrade: the new process has gone: {error}");
        }
        let closed = async { while let Some(Event::Message(_)) = self.events.recv().await {} };
        // It closes at once, unless it is no longer there.
        let _ = timeout(SERVING_WITHIN, closed).await;
        Ok(())
    }
}

impl Link {
    fn start_listening(
        self: &Arc<Self>,
        app: &Arc<App>,
        tell: UnboundedSender<Event>,
    ) -> io::Result<()> {
        let (link, app) = (self.clone(), app.clone());
        thread::Builder::new()
            .name("upgrade-read".to_owned())
            .spawn(move || link.listen(&app, &tell))
            .map(drop)
    }

    /// Reads until the end; runs on a thread of its own.
    fn listen(&self, app: &Arc<App>, tell: &UnboundedSender<Event>) {
        loop {
            let message = match wire::receive(&self.stream) {
                Ok(Some(frame)) => frame.message,
                Ok(None) => break,
                Err(error) => {
                    warn!("upgrade: {error}");
                    break;
                }
            };
            match &message {
                Message::Adopted { number } => {
                    if let Some(Parcel::Session(_)) = self.take(*number) {
                        self.adopted.fetch_add(1, Relaxed);
                    }
                }
                Message::Refused { number, reason } => {
                    warn!("upgrade: a session stays behind: {reason}");
                    if let Some(Parcel::Session(session)) = self.take(*number) {
                        session.live.traffic.take_back_move();
                        app.carrier().keep(*session);
                    }
                }
                _ => {}
            }
            if tell.send(Event::Message(message)).is_err() {
                break;
            }
        }
        // Nobody may wait for it any more.
        let _ = tell.send(Event::Closed);
    }

    /// Sends what comes until there is nobody left to send it; runs on a thread of its own.
    fn send_all(&self, app: &App, mut leaving: UnboundedReceiver<Parcel>) {
        let listeners: Vec<String> = app
            .listening()
            .into_iter()
            .map(|(_, address)| address.to_string())
            .collect();
        let mut number = 0;
        while let Some(parcel) = leaving.blocking_recv() {
            number += 1;
            // There before it is sent: its answer must find it. Not sent under the lock: the reader
            // needs it to go on reading, and the new process may wait for that.
            let parcel = Arc::new(parcel);
            lock(&self.underway).insert(number, parcel.clone());
            if let Err(error) = send_parcel(&self.stream, number, &parcel, &listeners) {
                // The reader sees the same end, and what is under way is taken back.
                warn!("upgrade: cannot hand over: {error}");
            }
        }
    }

    fn take(&self, number: u64) -> Option<Parcel> {
        let parcel = lock(&self.underway).remove(&number)?;
        // The writer lets go of it as soon as it is sent, and it was.
        while Arc::strong_count(&parcel) > 1 {
            thread::yield_now();
        }
        Arc::into_inner(parcel)
    }

    /// Whatever was not taken. Nothing may be on its way to the writer any more.
    fn take_back(&self) -> Vec<Parcel> {
        self.join_writer();
        let underway = std::mem::take(&mut *lock(&self.underway));
        underway.into_values().filter_map(Arc::into_inner).collect()
    }

    /// Ends when nobody can send it anything any more.
    fn join_writer(&self) {
        let writer = lock(&self.writer).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            warn!("upgrade: the thread that hands over has died");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send_parcel(
    stream: &UnixStream,
    number: u64,
    parcel: &Parcel,
    listeners: &[String],
) -> io::Result<()> {
    match parcel {
        Parcel::Session(session) => {
            let Session { relay, .. } = &**session;
            let message = Message::Session {
                number,
                session: Box::new(packing::pack(session)),
            };
            let waiting = [&relay.client.waiting[..], &relay.server.waiting[..]];
            let descriptors = [
                relay.client.transport.as_fd(),
                relay.server.transport.as_fd(),
            ];
            wire::send_with(stream, &message, waiting, &descriptors)
        }
        Parcel::Idle(listener, client) => {
            let message = Message::Idle {
                number,
                listener: listeners.get(*listener).cloned().unwrap_or_default(),
                kind: client.transport.kind(),
            };
            let descriptors = [client.transport.as_fd()];
            wire::send_with(stream, &message, [&[], &client.early], &descriptors)
        }
    }
}
