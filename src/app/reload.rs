//! From one configuration to the next: all of it, or nothing of it.
//!
//! ```text
//!  read ─► next generation ─► warm-up ─► swap ─► begin
//!  (off the workers)          (bounded)  (at once)
//! ```
//!
//! Before the swap nothing has changed, and dropping the future cancels the reload. However large
//! the file is, no step blocks a worker.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use arc_swap::ArcSwap;
use log::warn;
use tokio::task::{JoinError, spawn_blocking};

use super::{App, PROBE, changes, warn_of};
use crate::config::{self, Config, ConfigErrors, Extent};
use crate::generation::{Generation, GenerationError};
use crate::listener::Edge;
use crate::observe::access_log::AccessLog;
use crate::session::drain::{DrainReason, Drains};
use crate::session::live::LiveSession;
use crate::session::registry::Registry;

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    File(#[from] ConfigErrors),
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "this process was not started from a file: start it by `prusik run --config FILE` to be \
         able to reload it"
    )]
    NoFile,
    #[error("the reload was given up")]
    GivenUp,
    #[error("the reload ended badly ({0}); the log has more")]
    Panic(#[from] JoinError),
}

impl ReloadError {
    /// What the operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            // It names the command that does it.
            Self::Generation(_) => "the configuration stays as it was",
            _ => "the configuration stays as it was; mend the file and reload again",
        }
    }
}

/// Reads and checks the file. A large file takes seconds, so a worker must not do it.
pub async fn read(file: PathBuf) -> Result<Config, ReloadError> {
    Ok(spawn_blocking(move || config::load(&file, Extent::Start)).await??)
}

impl App {
    /// Resolves names and checks servers before clients are served, within a time limit, and starts
    /// the tasks that repeat this. Called once, before [`App::accept`].
    pub async fn warm_up(&self) {
        let generation = self.current.load_full();
        for line in generation.warm_up(None).await {
            warn!("{line}");
        }
        generation.begin(None);
    }

    /// Does [`App::warm_up`], and sends a request through the whole process.
    pub async fn prove(&self) -> io::Result<()> {
        self.warm_up().await;
        tokio::time::timeout(PROBE, self.edge.probe())
            .await
            .unwrap_or_else(|_| Err(io::Error::other("no answer to a request of its own")))
    }

    /// Swaps the whole configuration, or changes nothing. Returns as text what changed, and which
    /// names and servers are not known yet.
    pub async fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        // Two reloads at the same time would both replace the same generation.
        let one = self.reloading.clone().lock_owned().await;
        let before = self.current.load_full();
        let (next, mut lines) = {
            let before = before.clone();
            spawn_blocking(move || prepare(&before, config)).await??
        };
        let unknown = next.warm_up(Some(&before)).await;
        let given_up = GivenUp::default();
        let swap = Swap {
            is_given_up: given_up.0.clone(),
            current: self.current.clone(),
            log: self.log.clone(),
            edge: self.edge.clone(),
            sessions: self.sessions.clone(),
            drains: self.drains.clone(),
        };
        spawn_blocking(move || {
            let _one = one;
            swap.run(&before, next)
        })
        .await??;
        lines.extend(unknown);
        Ok(lines)
    }
}

/// Cancels the swap if this is dropped before the swap has begun.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The parts that a swap needs. It visits thousands of routes, groups and sessions, which is too
/// slow for a thread that carries sessions.
struct Swap {
    is_given_up: Arc<AtomicBool>,
    current: Arc<ArcSwap<Generation>>,
    log: Arc<AccessLog>,
    edge: Arc<Edge>,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
}

impl Swap {
    /// Never waits: a reload is either done or not begun.
    fn run(&self, before: &Generation, next: Arc<Generation>) -> Result<(), ReloadError> {
        if self.is_given_up.load(SeqCst) {
            return Err(ReloadError::GivenUp);
        }
        self.log.reopen(&next.config)?;
        warn_of(&next.config, self.edge.ceiling());
        next.replace(before);
        self.edge.follow(next.listener_settings());
        // Before any session is told to go, because the check whether it must go uses the current
        // configuration.
        self.current.store(next.clone());
        next.begin(Some(before));
        self.drain_removed_routes(before, &next);
        Ok(())
    }

    fn drain_removed_routes(&self, before: &Generation, now: &Generation) {
        let names = |generation: &Generation| -> HashSet<Arc<str>> {
            generation.labels.routes.iter().cloned().collect()
        };
        let (had, has) = (names(before), names(now));
        let mut leaving: HashMap<Arc<str>, Vec<Arc<LiveSession>>> = HashMap::new();
        self.sessions.for_each(|live| {
            let route = &live.identity.route;
            if had.contains(route) && !has.contains(route) {
                leaving.entry(route.clone()).or_default().push(live.clone());
            }
        });
        for (route, sessions) in leaving {
            let reason = DrainReason::RouteRemoved(route);
            self.drains.start(reason, &sessions, now.drain_plan());
        }
    }
}

fn prepare(
    before: &Generation,
    config: Config,
) -> Result<(Arc<Generation>, Vec<String>), ReloadError> {
    let changes = changes::between(&before.config, &config);
    let next = Arc::new(before.next(config)?);
    Ok((next, changes))
}
