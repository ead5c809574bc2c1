//! Configuration to running services: the one file that knows all the parts.

mod changes;
mod metrics;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use log::{info, warn};
use pingora::apps::ServerApp;
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::admin::view::{self, State};
use crate::config::{Config, ListenAddress};
use crate::forward::proxy_protocol::Ends;
use crate::limits::descriptors;
use crate::listener::{
    self, Accepting, BindError, BoundListener, ClientEnd, Connections, Edge, Inherited, Ticket,
};
use crate::observe::access_log::AccessLog;
use crate::observe::operations::Operations;
use crate::proxy::{Gateway, Generation, GenerationError};
use crate::session::drain::{Drains, Manner};
use crate::session::registry::Registry;
use crate::session::traffic::{ClosedBy, Order};
use crate::session::transport::Transport;
use crate::session::{Carrier, Parcel};
use crate::upstream::{Departed, Departure};

/// What the drain of those is called that cannot move.
pub const UPGRADE: &str = "upgrade";

/// How often the access log is asked for dropped lines.
const WATCH_LOG: Duration = Duration::from_secs(5);

/// How long a process that is about to serve waits for names and first health checks, if it must;
/// what it has not heard of then it has from the process before.
const WARM_UP: Duration = Duration::from_secs(12);

/// And for the answer to a request of its own.
const PROBE: Duration = Duration::from_secs(5);

/// A prusik at work. Several may run in one process (the demo's two tiers do).
pub struct App {
    current: Arc<ArcSwap<Generation>>,
    log: Arc<AccessLog>,
    edge: Arc<Edge>,
    carrier: Arc<Carrier>,
    connections: Connections,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
    /// As `config.listeners` at the start.
    listeners: Vec<Arc<BoundListener>>,
    accepting: watch::Sender<Accepting>,
    stopping: watch::Sender<bool>,
    moving: watch::Sender<bool>,
    /// Who cannot move has been told to go.
    winding_down: AtomicBool,
    operations: Operations,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("pid_file: cannot write {path}: {cause}")]
    PidFile { path: PathBuf, cause: io::Error },
    #[error("admin: cannot listen on {address}: {cause}")]
    Admin {
        address: ListenAddress,
        cause: io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are told to go as `server.drain` has it, requests have as long.
    Gracefully,
    /// What can be said at once is said.
    Now,
}

impl App {
    /// Binds every listener that is not inherited, then serves; connections wait until
    /// [`App::accept`]. Must run inside the runtime.
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
        let generation = Generation::new(config, departures);
        generation.take_over(None);
        let current = Arc::new(ArcSwap::from_pointee(generation));
        let (accepting, accepts) = watch::channel(Accepting::Pause);
        let (stopping, stops) = watch::channel(false);
        let (moving, moves) = watch::channel(false);
        let connections = TaskTracker::new();
        let carrier = Carrier::new(log.clone(), connections.clone());
        let gateway = Gateway::new(
            current.clone(),
            log.clone(),
            sessions.clone(),
            stops.clone(),
        );
        let edge = Arc::new(Edge::new(
            current.clone(),
            http_proxy(&server_conf, gateway),
            carrier.clone(),
            log.clone(),
            connections.clone(),
            stops.clone(),
            moves,
            ceiling,
        ));
        for (index, listener) in listeners.iter().enumerate() {
            let (listener, edge) = (listener.clone(), edge.clone());
            tokio::spawn(listener::serve(listener, index, edge, accepts.clone()));
        }
        let drains = Arc::new(Drains::default());
        tokio::spawn(watch_log(log.clone(), stops.clone()));
        tokio::spawn(see_off(
            departed,
            stops,
            current.clone(),
            sessions.clone(),
            drains.clone(),
        ));
        Ok(Self {
            current,
            log,
            edge,
            carrier,
            connections,
            sessions,
            drains,
            listeners,
            accepting,
            stopping,
            moving,
            winding_down: AtomicBool::new(false),
            operations: Operations::default(),
        })
    }

    /// From now on clients are served.
    pub fn accept(&self) {
        self.accepting.send_replace(Accepting::Accept);
        for (name, address) in self.listening() {
            info!("listening on {address} as {name:?}");
        }
    }

    /// Each listener's name and address, with the port that the kernel chose.
    pub fn listening(&self) -> Vec<(String, ListenAddress)> {
        self.listeners
            .iter()
            .filter_map(|listener| Some((listener.name.clone(), listener.address().ok()?)))
            .collect()
    }

    /// As operators see them.
    pub fn listening_now(&self) -> Vec<view::Listener> {
        let generation = self.generation();
        let entrances = self.edge.entrances().iter();
        let listening = self.listeners.iter().zip(entrances);
        listening
            .filter_map(|(listener, entrance)| {
                let number = generation.listener(entrance.number);
                Some(view::Listener {
                    name: generation.config.listeners[number].name.clone(),
                    listen: listener.address().ok()?.to_string(),
                    connections: entrance.gate.taken(),
                })
            })
            .collect()
    }

    pub fn config(&self) -> Config {
        self.current.load().config.clone()
    }

    /// Waits until every name was looked up and every server checked; then sends a request through
    /// the whole of the process.
    pub async fn prove(&self) -> io::Result<()> {
        let groups = self.current.load().groups().to_vec();
        let slowest = groups.iter().map(|group| group.warms_within()).max();
        let limit = (slowest.unwrap_or_default() + AT_ONCE).min(WARM_UP);
        let warm = async {
            while !groups.iter().all(|group| group.is_warm()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(limit, warm).await.is_err() {
            info!("not every server was checked within {limit:?}: going on by what is known");
        }
        tokio::time::timeout(PROBE, self.edge.probe())
            .await
            .unwrap_or_else(|_| Err(io::Error::other("no answer to a request of its own")))
    }

    /// Swaps the configuration: all of it, or nothing of it. Returns what changed, in words.
    pub fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        let before = self.current.load_full();
        let next = before.next(config)?;
        self.log.reopen(&next.config)?;
        warn_of(&next.config, self.edge.ceiling());
        let changes = changes::between(&before.config, &next.config);
        next.take_over(Some(&before));
        self.edge.set_limits(&next);
        let next = Arc::new(next);
        self.current.store(next.clone());
        self.drain_removed_routes(&before.config, &next.config);
        Ok(changes)
    }

    fn drain_removed_routes(&self, before: &Config, now: &Config) {
        let kept: HashSet<&str> = now.routes.iter().map(|route| route.name.as_str()).collect();
        for route in before.routes.iter().map(|route| route.name.as_str()) {
            if !kept.contains(route) {
                let sessions = self.sessions.select(|live| *live.identity.route == *route);
                self.drains.start(
                    sessions,
                    manner(now, format!("route {route:?} was removed")),
                );
            }
        }
    }

    /// Accepts nothing more and tells every session to go; returns when the last connection has
    /// ended, at the latest after the drain's deadline.
    pub async fn stop(&self, stop: Stop) {
        self.begin_stop();
        self.edge.cleanup().await;
        let config = self.config();
        let mut manner = manner(&config, "stop".to_owned());
        if stop == Stop::Now {
            manner.window = Duration::ZERO;
            manner.deadline = AT_ONCE;
        }
        let limit = manner.deadline;
        self.drains.start(self.sessions.select(|_| true), manner);
        self.close_idle();
        self.wait_for_connections(limit).await;
        self.cut().await;
        self.close_log().await;
    }

    /// What is left when a new process serves: it ends here, or when its time is up.
    pub async fn wind_down(&self) {
        let config = self.config();
        let manner = manner(&config, UPGRADE.to_owned());
        let limit = manner.deadline;
        self.winding_down.store(true, Relaxed);
        self.drains.start(self.sessions.select(|_| true), manner);
        self.close_idle();
        self.wait_for_connections(limit).await;
        self.cut().await;
    }

    /// Writes what is left of the log. Nothing is logged after this.
    pub async fn close_log(&self) {
        let log = self.log.clone();
        // It goes on writing should nobody wait any more.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }

    /// Accepts nothing more; the rest is [`App::stop`]'s.
    pub fn begin_stop(&self) {
        self.stopping.send_replace(true);
        self.accepting.send_replace(Accepting::Stop);
    }

    /// What is left to be done takes no connections to servers that wait for more requests.
    fn close_idle(&self) {
        let generation = self.current.load();
        generation
            .groups()
            .iter()
            .for_each(|group| group.close_idle());
    }

    async fn cut(&self) {
        if self.connections.is_empty() {
            return;
        }
        info!("{} connections are cut", self.connections.len());
        let cut = Order::Cut {
            by: ClosedBy::Drain,
        };
        self.sessions.for_each(|live| live.traffic.ask(cut));
        self.wait_for_connections(AT_ONCE).await;
    }

    /// Until no more are left, or the time is up.
    async fn wait_for_connections(&self, limit: Duration) {
        let done = async {
            while !self.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Who is left after the limit is cut by the caller.
        let _ = tokio::time::timeout(limit, done).await;
    }

    pub fn listeners(&self) -> &[Arc<BoundListener>] {
        &self.listeners
    }

    pub fn sessions(&self) -> &Arc<Registry> {
        &self.sessions
    }

    pub fn carrier(&self) -> &Arc<Carrier> {
        &self.carrier
    }

    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    pub fn drains(&self) -> &Drains {
        &self.drains
    }

    /// Serves a connection that another process had accepted.
    pub fn serve(&self, listener: usize, client: ClientEnd) {
        self.edge.serve_again(listener, client);
    }

    /// Counts such a connection, whatever the limits say.
    pub fn adopt(&self, listener: usize, transport: &Transport, proxied: Option<Ends>) -> Ticket {
        let peer = transport.peer();
        let generation = self.current.load();
        self.edge.entrances()[listener].adopt(peer, proxied, generation.trusted())
    }

    /// Accepts no more and sends what can move where `to` leads.
    pub fn begin_moving(&self, to: tokio::sync::mpsc::UnboundedSender<Parcel>) {
        self.accepting.send_replace(Accepting::Pause);
        for listener in &self.listeners {
            listener.keep_file(true);
        }
        self.carrier.begin_moving(to);
        self.moving.send_replace(true);
        self.sessions.for_each(|live| live.traffic.ask(Order::Move));
    }

    /// Nothing moves any more, and what was on its way is served here.
    pub fn bring_back(&self, parcels: Vec<Parcel>) {
        self.winding_down.store(false, Relaxed);
        self.carrier.stop_moving();
        self.moving.send_replace(false);
        self.sessions.for_each(|live| live.traffic.take_back_move());
        for parcel in parcels {
            match parcel {
                Parcel::Session(session) => self.carrier.carry(*session),
                Parcel::Idle(listener, client) => {
                    self.edge.serve_again(listener, client);
                }
            }
        }
    }

    /// The new process does not listen on these: while this one ends, nobody does.
    pub fn shut(&self, addresses: &[String]) {
        for listener in &self.listeners {
            let address = listener.address().map(|address| address.to_string());
            if address.is_ok_and(|address| addresses.contains(&address)) {
                listener.shut();
            }
        }
    }

    /// The new process has failed: this one serves again.
    pub fn stay(&self) {
        for listener in &self.listeners {
            listener.keep_file(false);
            listener.open();
        }
        self.accepting.send_replace(Accepting::Accept);
    }

    /// One that the new process does not want, while others go on moving. A connection that is idle
    /// is closed: it has nowhere to go.
    pub fn keep(&self, parcel: Parcel) {
        let Parcel::Session(session) = parcel else {
            return;
        };
        session.live.traffic.take_back_move();
        if self.winding_down.load(Relaxed) {
            // It comes too late for the window.
            session.live.traffic.ask(Order::End {
                by: ClosedBy::Drain,
                code: self.config().server.drain.code,
            });
        }
        self.carrier.keep(*session);
    }

    pub fn state(&self) -> State {
        match () {
            () if *self.stopping.borrow() => State::Draining,
            () if *self.moving.borrow() => State::Upgrading,
            () => State::Serving,
        }
    }

    /// How many connections there are, sessions among them.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}

fn warn_of(config: &Config, ceiling: usize) {
    let short = descriptors::warning(config, ceiling);
    for warning in config.warnings().into_iter().chain(short) {
        warn!("{warning}");
    }
}

/// As the file has it.
pub fn manner(config: &Config, what: String) -> Manner {
    let drain = &config.server.drain;
    Manner {
        what,
        code: drain.code,
        window: drain.window,
        deadline: drain.deadline,
    }
}

/// Tells the sessions of servers that are gone to go too.
async fn see_off(
    mut departed: UnboundedReceiver<Departed>,
    mut stopping: watch::Receiver<bool>,
    current: Arc<ArcSwap<Generation>>,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
) {
    loop {
        let told = tokio::select! {
            // Then all of them go.
            _ = stopping.wait_for(|stop| *stop) => return,
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
        let why = match why {
            Departure::Down => "is down",
            Departure::Removed => "was removed",
        };
        let on_it = sessions
            .select(|live| live.identity.server == server && live.identity.upstream == upstream);
        let what = format!("server {upstream}/{server} {why}");
        drains.start(on_it, manner(&current.load().config, what));
    }
}

/// For what needs nobody else: a few turns of the event loop.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Pingora's own settings, where they matter to a proxy that is not run by its server.
fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.server.threads,
        // Connections are kept by `upstream::Connections`, not here.
        upstream_keepalive_pool_size: 1,
        // Attempts are counted by the exchange, against the upstream's own limit.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}

async fn watch_log(log: Arc<AccessLog>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(WATCH_LOG) => log.tell_dropped(),
        }
    }
}
