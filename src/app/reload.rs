//! From one configuration to the next: all of it, or nothing of it.
//!
//! ```text
//!  read ─► next generation ─► warm-up ─► swap ─► begin
//!  (off the workers)          (bounded)  (at once)
//! ```
//!
//! Until the swap nothing has changed, and whoever drops the future gives the reload up. No part of
//! it keeps a worker from its sessions, however large the file is.

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

/// Reads and checks the file. A large one takes seconds, which no worker has.
pub async fn read(file: PathBuf) -> Result<Config, ReloadError> {
    Ok(spawn_blocking(move || config::load(&file, Extent::Start)).await??)
}

impl App {
    /// Makes names and servers known before clients are served, within a bound; looks after them
    /// from then on. Once, before [`App::accept`].
    pub async fn warm_up(&self) {
        let generation = self.current.load_full();
        for line in generation.warm_up(None).await {
            warn!("{line}");
        }
        generation.begin(None);
    }

    /// [`App::warm_up`], and a request through the whole of the process.
    pub async fn prove(&self) -> io::Result<()> {
        self.warm_up().await;
        tokio::time::timeout(PROBE, self.edge.probe())
            .await
            .unwrap_or_else(|_| Err(io::Error::other("no answer to a request of its own")))
    }

    /// Swaps the configuration: all of it, or nothing of it. Returns what changed and what is not
    /// known yet of names and servers, in words.
    pub async fn reload(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        // Two at a time would both take the place of the same generation.
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

/// Dropped before the swap has begun, it calls it off.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// What a swap has to do with. It has thousands of routes, groups and sessions to go through, which
/// is no work for a thread that carries sessions.
struct Swap {
    is_given_up: Arc<AtomicBool>,
    current: Arc<ArcSwap<Generation>>,
    log: Arc<AccessLog>,
    edge: Arc<Edge>,
    sessions: Arc<Registry>,
    drains: Arc<Drains>,
}

impl Swap {
    /// Nothing in here waits: a reload is done or not begun.
    fn run(&self, before: &Generation, next: Arc<Generation>) -> Result<(), ReloadError> {
        if self.is_given_up.load(SeqCst) {
            return Err(ReloadError::GivenUp);
        }
        self.log.reopen(&next.config)?;
        warn_of(&next.config, self.edge.ceiling());
        next.replace(before);
        self.edge.follow(next.listener_settings());
        // Before anybody is told to go, who is asked whether it must by what is current then.
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
