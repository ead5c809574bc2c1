//! Turns a configuration into running services. This is the one file that knows all parts.
//!
//! [`reload`] changes its configuration, [`stop`] ends it, [`moving`] does what another process
//! asks for, and [`users`] logs a user out.

mod changes;
mod metrics;
mod moving;
mod reload;
mod stop;
mod users;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use log::{error, info, warn};
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::task::TaskTracker;

use crate::admin::view;
use crate::config::Config;
use crate::generation::Generation;
use crate::limits::descriptors;
use crate::listener::{self, BindError, BoundListener, ConnectionTasks, Edge};
use crate::net::{BoundId, Inherited, ListenAddress};
use crate::observe::access_log::AccessLog;
use crate::observe::entry::Operation;
use crate::observe::operations::{Asked, Operations};
use crate::observe::repeated;
use crate::phase::{Phase, PhaseWatch, Phases};
use crate::proxy::{Gateway, Http};
use crate::session::Runner;
use crate::session::drain::{DrainReason, Drains, MustGo};
use crate::session::registry::Registry;
use crate::upstream::{Departed, Departure};
pub use reload::{ReloadError, read};
pub use stop::Stop;

/// How often to log what the logs hold back: how many lines were lost, and how many were counted
/// instead of written.
const WATCH_LOG: Duration = Duration::from_secs(1);

/// How long prusik's own test request may take.
const PROBE: Duration = Duration::from_secs(5);

/// For work without waiting for others: a few turns of the event loop.
const AT_ONCE: Duration = Duration::from_millis(200);

/// A running prusik. One process may run several (the demo runs two).
pub struct App {
    current: Arc<ArcSwap<Generation>>,
    phases: Arc<Phases>,
    log: Arc<AccessLog>,
    edge: Arc<Edge>,
    runner: Arc<Runner>,
    connections: ConnectionTasks,
    /// The accept loops. They end when the process begins to drain.
    accepting: TaskTracker,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
    /// In the order of `config.listeners` at the start.
    listeners: Vec<Arc<BoundListener>>,
    /// Addresses on which the new process does not listen, so that no process does while this one
    /// ends.
    unwanted: Mutex<HashSet<String>>,
    /// While sessions may still come from the process before: users whose sessions an operator has
    /// closed, and the close codes. `None`: none can come.
    closed_users: Mutex<Option<Vec<(String, u16)>>>,
    /// When another process began to serve.
    winding_down_since: Mutex<Option<Instant>>,
    operations: Operations,
    reloading: Arc<tokio::sync::Mutex<()>>,
    /// Sessions that came from earlier processes, and sessions that could not come.
    moved: [AtomicU64; 2],
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("pid_file: cannot write {path}: {cause}")]
    PidFile { path: PathBuf, cause: io::Error },
    #[error("hand_over: cannot listen on {address}: {cause}")]
    HandOver {
        address: ListenAddress,
        cause: io::Error,
    },
    #[error("cannot take over from the process at {address}: {cause}")]
    TakeOver {
        address: ListenAddress,
        cause: io::Error,
    },
    #[error("run --take-over needs the socket of the other process: server.hand_over in the file")]
    NowhereToAsk,
    #[error("admin: cannot listen on {address}: {cause}")]
    Admin {
        address: ListenAddress,
        cause: io::Error,
    },
}

impl App {
    /// Binds every listener that is not inherited. Connections wait until a phase in which they are
    /// accepted. Must be called inside the runtime.
    pub fn start(config: Config, inherited: &mut Inherited) -> Result<Self, StartError> {
        let ceiling = descriptors::ceiling();
        warn_of(&config, ceiling);
        let listeners = config
            .listeners
            .iter()
            .map(|listener| listener::bind(listener, inherited).map(Arc::new))
            .collect::<Result<Vec<_>, BindError>>()?;
        let log = Arc::new(AccessLog::open(&config)?);
        let sessions = Arc::new(Registry::default());
        let server_conf = Arc::new(server_conf(&config));
        let (departures, departed) = unbounded_channel();
        let current = Arc::new(ArcSwap::from_pointee(Generation::new(config, departures)));
        let phases = Arc::new(Phases::default());
        let connections = TaskTracker::new();
        let runner = Runner::new(log.clone(), connections.clone());
        let must_go = must_go(current.clone(), phases.clone(), runner.clone());
        let drains = Arc::new(Drains::new(must_go));
        let gateway = Gateway::new(
            current.clone(),
            log.clone(),
            sessions.clone(),
            drains.clone(),
            (phases.watch(), runner.watch_moves()),
        );
        let edge = Arc::new(Edge::new(
            current.load().listener_settings(),
            Arc::new(Http::new(http_proxy(&server_conf, gateway))),
            (runner.clone(), log.clone()),
            (connections.clone(), phases.watch_draining()),
            ceiling,
        ));
        let accepting = TaskTracker::new();
        for (index, listener) in listeners.iter().enumerate() {
            let (listener, edge) = (listener.clone(), edge.clone());
            accepting.spawn(listener::serve(
                listener,
                BoundId::new(index),
                edge,
                phases.watch(),
            ));
        }
        accepting.close();
        tokio::spawn(watch_log(Arc::downgrade(&log)));
        tokio::spawn(drain_departed(
            departed,
            phases.watch(),
            current.clone(),
            sessions.clone(),
            drains.clone(),
        ));
        Ok(Self {
            current,
            phases,
            log,
            edge,
            runner,
            connections,
            accepting,
            sessions,
            drains,
            listeners,
            unwanted: Mutex::default(),
            closed_users: Mutex::default(),
            winding_down_since: Mutex::default(),
            operations: Operations::default(),
            reloading: Arc::default(),
            moved: Default::default(),
        })
    }

    /// From now on clients can connect to every listener. They wait until they are served.
    pub fn listen(&self) {
        for listener in &self.listeners {
            if let Err(cause) = listener.socket.listen() {
                let (name, address) = (&listener.name, listener.socket.address());
                error!("listener {name:?}: cannot listen on {address}: {cause}");
            }
        }
    }

    /// From now on clients are served.
    pub fn accept(&self) {
        self.phases.enter(Phase::Serving);
        for listener in &self.listeners {
            let (address, name) = (listener.socket.address(), &listener.name);
            info!("listening on {address} as {name:?}");
        }
    }

    /// The phase of the process. The supervisor changes it.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// The listeners, as operators see them.
    pub fn listening_now(&self) -> Vec<view::Listener> {
        let generation = self.generation();
        let listener_states = self.edge.listener_states().iter();
        let listening = self.listeners.iter().zip(listener_states);
        listening
            .map(|(listener, state)| view::Listener {
                name: generation.listener(state.id).name.clone(),
                listen: listener.socket.address().to_string(),
                connections: state.limiter.taken(),
            })
            .collect()
    }

    pub fn config(&self) -> Config {
        self.current.load().config.clone()
    }

    pub fn listeners(&self) -> &[Arc<BoundListener>] {
        &self.listeners
    }

    pub fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    pub fn runner(&self) -> &Arc<Runner> {
        &self.runner
    }

    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Records an operation for the log and the API. `of`: `None` for the process itself.
    pub fn record(
        &self,
        operation: Operation,
        by: &str,
        of: Option<&str>,
        outcome: Result<String, String>,
    ) {
        let asked = Asked { operation, by, of };
        self.operations.record(&self.log, asked, outcome);
    }

    pub fn drains(&self) -> &Drains {
        &self.drains
    }

    /// Adds to the sessions that came from earlier processes, and to those that stayed there and
    /// were told to go.
    pub fn count_moved(&self, moved: u64, told: u64) {
        for (count, more) in self.moved.iter().zip([moved, told]) {
            count.fetch_add(more, Relaxed);
        }
    }

    /// The number of connections, including sessions.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// Whether a session in a drain must go. Asked at the moment when the session would be told.
fn must_go(current: Arc<ArcSwap<Generation>>, phases: Arc<Phases>, runner: Arc<Runner>) -> MustGo {
    Arc::new(move |live| match phases.now() {
        phase if phase.is_draining() => true,
        phase if phase.moves() && !runner.moves(live) => true,
        _ => current.load().why_gone(&live.identity).is_some(),
    })
}

fn warn_of(config: &Config, ceiling: usize) {
    let limits = config.listeners.iter().map(|listener| listener.limits);
    let allowed = limits.filter_map(|limits| limits.bounds.all).sum();
    let short = descriptors::warning(allowed, ceiling);
    for warning in config.warnings().into_iter().chain(short) {
        warn!("{warning}");
    }
}

/// Tells the sessions of departed servers to go.
async fn drain_departed(
    mut departed: UnboundedReceiver<Departed>,
    mut phase: PhaseWatch,
    current: Arc<ArcSwap<Generation>>,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
) {
    loop {
        let told = tokio::select! {
            // From this phase on all sessions go anyway.
            () = phase.until(Phase::is_draining) => return,
            told = departed.recv() => told,
        };
        let Some(Departed {
            upstream,
            server,
            why,
        }) = told
        else {
            return;
        };
        let on_it = sessions
            .select(|live| live.identity.server == server && live.identity.upstream == upstream);
        let reason = match why {
            Departure::Down => DrainReason::ServerDown(upstream, server),
            Departure::Removed => DrainReason::ServerRemoved(upstream, server),
        };
        drains.start(reason, &on_it, current.load().drain_plan());
    }
}

/// The time for the log lines of connections that are cut. Each ends in a moment; only with many
/// thousands of them this time is needed.
const LAST_LINES: Duration = Duration::from_secs(3);

/// Pingora's own settings that matter although Pingora's server does not run.
fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.server.threads,
        // `upstream::Pool` keeps connections, so Pingora need not.
        upstream_keepalive_pool_size: 1,
        // The exchange counts attempts, against the upstream's own limit.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}

/// Ends when the log is dropped.
async fn watch_log(log: Weak<AccessLog>) {
    loop {
        tokio::time::sleep(WATCH_LOG).await;
        let Some(log) = log.upgrade() else {
            return;
        };
        log.tell_lost();
        repeated::tell();
    }
}
