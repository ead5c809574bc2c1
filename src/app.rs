//! Configuration to running services: the one file that knows all the parts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use arc_swap::ArcSwap;
use log::info;
use pingora::apps::ServerApp;
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::sync::watch;

use crate::config::{Config, ListenAddress};
use crate::listener::{self, BindError, Connections, Edge};
use crate::observe::access_log::AccessLog;
use crate::proxy::{Gateway, Generation, GenerationError};
use crate::session::registry::Registry;
use crate::session::tap::CLOSE_WAIT;

/// How often the access log is asked for dropped lines.
const WATCH_LOG: Duration = Duration::from_secs(5);

/// A prusik at work. Several may run in one process (the demo's two tiers do).
pub struct App {
    current: Arc<ArcSwap<Generation>>,
    log: Arc<AccessLog>,
    edge: Arc<Edge>,
    connections: Connections,
    sessions: Arc<Registry>,
    shutdown: watch::Sender<bool>,
    /// Each listener's name and where it is bound.
    listening: Vec<(String, ListenAddress)>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("pid_file: cannot write {path}: {cause}")]
    PidFile { path: PathBuf, cause: io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl App {
    /// Binds every listener, then serves. Must run inside the runtime.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let bound = config
            .listeners
            .iter()
            .map(listener::bind)
            .collect::<Result<Vec<_>, BindError>>()?;
        let listening = bound
            .iter()
            .map(|listener| Ok((listener.name.clone(), listener.address()?)))
            .collect::<io::Result<Vec<_>>>()?;
        let log = Arc::new(AccessLog::open(&config.access_log)?);
        let sessions = Arc::new(Registry::default());
        let server_conf = Arc::new(server_conf(&config));
        let generation = Generation::new(config);
        generation.take_over(None);
        let current = Arc::new(ArcSwap::from_pointee(generation));
        let gateway = Gateway::new(current.clone(), log.clone(), sessions.clone());
        let edge = Arc::new(Edge::new(http_proxy(&server_conf, gateway)));
        let (shutdown, stopping) = watch::channel(false);
        let connections = Connections::new();
        for (index, listener) in bound.into_iter().enumerate() {
            let (edge, connections) = (edge.clone(), connections.clone());
            tokio::spawn(listener::serve(
                listener,
                index,
                edge,
                connections,
                stopping.clone(),
            ));
        }
        tokio::spawn(watch_log(log.clone(), stopping));
        for (name, address) in &listening {
            info!("listening on {address} as {name:?}");
        }
        Ok(Self {
            current,
            log,
            edge,
            connections,
            sessions,
            shutdown,
            listening,
        })
    }

    /// Each listener's name and address, with the port that the kernel chose.
    pub fn listening(&self) -> &[(String, ListenAddress)] {
        &self.listening
    }

    /// Swaps the configuration: all of it, or nothing of it.
    pub fn reload(&self, config: Config) -> Result<(), ReloadError> {
        let before = self.current.load_full();
        let next = before.next(config)?;
        self.log.reopen(&next.config.access_log)?;
        next.take_over(Some(&before));
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Accepts nothing more, waits until the requests in flight are done, at most for `grace`,
    /// then tells every session to go and waits for their answers.
    pub async fn stop(self, grace: Duration) {
        self.shutdown.send_replace(true);
        self.edge.cleanup().await;
        self.connections.close();
        self.wait_for_connections(grace, || self.sessions.len())
            .await;
        self.sessions.end_all(SERVICE_RESTART);
        // Without patience for requests, none for goodbyes: what can be sent at once is sent.
        let closing = if grace.is_zero() {
            AT_ONCE
        } else {
            CLOSE_WAIT + AT_ONCE
        };
        self.wait_for_connections(closing, || 0).await;
        if !self.connections.is_empty() {
            info!("{} connections are cut", self.connections.len());
        }
        self.log.close();
    }

    /// Until no more are left than this, or the time is up.
    async fn wait_for_connections(&self, limit: Duration, left: impl Fn() -> usize) {
        let done = async {
            while self.connections.len() > left() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // Who is left after the limit is cut by the caller.
        let _ = tokio::time::timeout(limit, done).await;
    }
}

/// What sessions are told when the process stops (IANA's registry of WebSocket close codes).
const SERVICE_RESTART: u16 = 1012;

/// For what needs nobody else: a few turns of the event loop.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Pingora's own settings, where they matter to a proxy that is not run by its server.
fn server_conf(config: &Config) -> ServerConf {
    let kept: usize = config
        .upstreams
        .iter()
        .map(|upstream| upstream.keepalive)
        .sum();
    ServerConf {
        threads: config.server.threads,
        // One pool serves all upstreams; each one's own bound is held by `Group::may_keep_idle`,
        // and upstreams that a reload adds share what is here.
        upstream_keepalive_pool_size: kept.max(DEFAULT_POOL),
        // Attempts are counted by the exchange, against the upstream's own limit.
        max_retries: usize::MAX,
        ..ServerConf::default()
    }
}

/// Room in the pool for upstreams that come later.
const DEFAULT_POOL: usize = 4096;

async fn watch_log(log: Arc<AccessLog>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(WATCH_LOG) => log.tell_dropped(),
        }
    }
}

/// The process id, where the configuration wants it; the file goes with the value.
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    pub fn write(path: Option<PathBuf>) -> Result<Self, StartError> {
        if let Some(path) = &path {
            fs::write(path, format!("{}\n", std::process::id())).map_err(|cause| {
                StartError::PidFile {
                    path: path.clone(),
                    cause,
                }
            })?;
        }
        Ok(Self(path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
