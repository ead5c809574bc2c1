//! The keys of a source at work: those that are there, and the task that keeps them fresh.
//!
//! [`Schedule`] decides when they are fetched. Keys that are there stay until others have been
//! fetched, however long that fails. Routes with the same source share one store, and so do the
//! configurations before and after a reload.

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use log::{info, warn};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;

use super::keys::{KeySet, Secrets};
use super::schedule::Schedule;
use super::source::{KeySource, SourceError};

pub struct KeyStore {
    source: KeySource,
    /// `None`: they could not be fetched yet.
    keys: ArcSwapOption<KeySet>,
    schedule: Mutex<Schedule>,
    /// The schedule has changed.
    changed: Arc<Notify>,
    /// How many fetches are over.
    fetched: watch::Sender<u64>,
    /// Why the last fetch has failed.
    failure: Mutex<Option<String>>,
    /// `None`: not at work yet, or there is nothing to do.
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl KeyStore {
    /// `keys`: those that another store of the same URL had.
    fn new(source: KeySource, keys: Option<Arc<KeySet>>) -> Arc<Self> {
        let fresh = source.keys().cloned();
        if let Some(keys) = &fresh {
            tell_left_out(&source, keys);
        }
        // What was taken over may be old.
        let schedule = Schedule::new(source.refresh(), fresh.is_some(), Instant::now());
        Arc::new(Self {
            keys: ArcSwapOption::new(fresh.or(keys)),
            schedule: Mutex::new(schedule),
            source,
            changed: Arc::default(),
            fetched: watch::Sender::new(0),
            failure: Mutex::default(),
            task: Mutex::default(),
        })
    }

    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Goes on with the keys that the process before had of this URL, if none were fetched yet.
    fn restore(&self, content: &str) {
        if let Ok(keys) = KeySet::parse(content.as_bytes(), Secrets::Left) {
            let count = keys.count();
            let none = None::<Arc<KeySet>>;
            let before = self.keys.compare_and_swap(&none, Some(Arc::new(keys)));
            if before.is_none() {
                info!(
                    "jwt: keys of {}: {count} of the process before in use",
                    self.source
                );
            }
        }
    }

    /// Whether these are no longer the keys.
    pub fn has_other_keys(&self, keys: &KeySet) -> bool {
        self.keys.load().as_deref().is_some_and(|now| now != keys)
    }

    /// A token names a key that is not there. Waits for a fetch, if that causes one or one is under
    /// way, and returns whether there was one.
    pub async fn look_again(&self) -> bool {
        let mut fetched = self.fetched.subscribe();
        {
            let (mut schedule, now) = (self.schedule.lock(), Instant::now());
            if !schedule.miss(now) && !schedule.is_coming(now) {
                return false;
            }
        }
        self.changed.notify_one();
        // A fetch has its own time limit.
        fetched.changed().await.is_ok()
    }

    /// Fetches keys before anybody asks for them, if there are none.
    async fn warm_up(&self) {
        if self.keys.load().is_none() {
            self.fetch_if_due().await;
        }
    }

    /// Starts the task, if there is anything to do for it.
    fn begin(self: &Arc<Self>) {
        let mut task = self.task.lock();
        if task.is_some() {
            self.schedule.lock().hurry(Instant::now());
            self.changed.notify_one();
        } else if self.schedule.lock().due().is_some() {
            let (store, changed) = (Arc::downgrade(self), self.changed.clone());
            *task = Some(AbortOnDropHandle::new(tokio::spawn(follow(store, changed))));
        }
    }

    fn is_at_work(&self) -> bool {
        self.task.lock().is_some()
    }

    async fn fetch_if_due(&self) {
        if !self.schedule.lock().begin(Instant::now()) {
            return;
        }
        let mut fetch = Fetch {
            store: self,
            loaded: None,
        };
        fetch.loaded = Some(self.source.load().await);
    }

    fn take(&self, loaded: Result<KeySet, SourceError>) {
        let now = Instant::now();
        let had_failed = self.schedule.lock().has_failed();
        match loaded {
            Ok(keys) => {
                let (count, source) = (keys.count(), &self.source);
                let keys = Some(Arc::new(keys));
                let before = self.keys.swap(keys.clone());
                self.schedule.lock().succeeded(now);
                *self.failure.lock() = None;
                if had_failed || before != keys {
                    info!("jwt: keys of {source}: {count} in use");
                    if let Some(keys) = &keys {
                        tell_left_out(source, keys);
                    }
                }
            }
            Err(error) => {
                let why = error.to_string();
                let pause = self.schedule.lock().failed(now);
                let before = self.failure.lock().replace(why.clone());
                self.tell_failure(&why, pause, before.is_none_or(|before| before != why));
            }
        }
    }

    /// Before the store is at work, whoever has asked for a warm-up tells.
    fn tell_failure(&self, why: &str, pause: Duration, is_news: bool) {
        let source = &self.source;
        match self.keys.load().is_some() {
            _ if !is_news => {}
            true => warn!(
                "jwt: the keys of {source} could not be renewed: {why}; the last ones are kept, \
                 and it is tried again in {pause:?}"
            ),
            false if self.is_at_work() => warn!("jwt: {}", self.without_keys(why)),
            false => {}
        }
    }

    fn without_keys(&self, why: &str) -> String {
        format!(
            "no keys of {} yet: {why}; requests that need them get 503 until they are there, and \
             it is tried again and again",
            self.source
        )
    }

    /// In words. `None`: keys are there.
    fn what_is_missing(&self) -> Option<String> {
        if self.keys.load().is_some() {
            return None;
        }
        let failure = self.failure.lock().clone();
        let why = failure.unwrap_or_else(|| "no answer".to_owned());
        Some(format!("jwt: {}", self.without_keys(&why)))
    }
}

fn tell_left_out(source: &KeySource, keys: &KeySet) {
    for left_out in keys.left_out() {
        warn!("jwt: keys of {source}: {left_out}");
    }
}

/// A fetch that is under way. One that is given up has failed.
struct Fetch<'a> {
    store: &'a KeyStore,
    loaded: Option<Result<KeySet, SourceError>>,
}

impl Drop for Fetch<'_> {
    fn drop(&mut self) {
        match self.loaded.take() {
            Some(loaded) => self.store.take(loaded),
            None => {
                self.store.schedule.lock().failed(Instant::now());
            }
        }
        self.store.fetched.send_modify(|fetched| *fetched += 1);
        self.store.changed.notify_one();
    }
}

/// The task of a store. It ends with the store.
async fn follow(store: Weak<KeyStore>, changed: Arc<Notify>) {
    while let Some(due) = store.upgrade().map(|store| store.schedule.lock().due()) {
        tokio::select! {
            () = at(due) => {}
            () = changed.notified() => continue,
        }
        let Some(store) = store.upgrade() else {
            return;
        };
        store.fetch_if_due().await;
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// The stores of a configuration.
#[derive(Default)]
pub struct KeyStores {
    /// Each once.
    all: Vec<Arc<KeyStore>>,
    /// In the order of the routes.
    of_routes: Vec<Option<Arc<KeyStore>>>,
}

impl KeyStores {
    /// `sources`: in the order of the routes. Equal ones share a store, and a URL that is in
    /// `before` too keeps its keys.
    pub fn new<'s>(
        sources: impl Iterator<Item = Option<&'s KeySource>>,
        before: Option<&Self>,
    ) -> Self {
        let mut stores = Self::default();
        for source in sources {
            let store = source.map(|source| stores.of_source(source, before));
            stores.of_routes.push(store);
        }
        stores
    }

    fn of_source(&mut self, source: &KeySource, before: Option<&Self>) -> Arc<KeyStore> {
        if let Some(made) = self.all.iter().find(|made| made.source == *source) {
            return made.clone();
        }
        // A file was just read with the configuration.
        let mut before = before.iter().flat_map(|before| &before.all);
        let store = match before.find(|before| before.source.has_url_of(source)) {
            Some(same) if same.source == *source => same.clone(),
            same => KeyStore::new(source.clone(), same.and_then(|same| same.keys())),
        };
        self.all.push(store.clone());
        store
    }

    /// `None`: the route asks for no token.
    pub fn of_route(&self, position: usize) -> Option<&Arc<KeyStore>> {
        self.of_routes.get(position)?.as_ref()
    }

    /// Each URL with what was fetched there.
    pub fn fetched(&self) -> Vec<(String, String)> {
        let mut fetched: Vec<(String, String)> = Vec::new();
        for store in &self.all {
            let (keys, url) = (store.keys(), store.source.to_string());
            let content = keys.as_ref().and_then(|keys| keys.public());
            if let Some(content) = content
                && !fetched.iter().any(|(known, _)| *known == url)
            {
                fetched.push((url, content.to_owned()));
            }
        }
        fetched
    }

    /// Stores without keys go on with what the process before has fetched at their URL.
    pub fn restore(&self, url: &str, content: &str) {
        let has_url = |store: &&Arc<KeyStore>| match &store.source {
            KeySource::Url { endpoint, .. } => endpoint.to_string() == url,
            KeySource::File { .. } => false,
        };
        let stores = self.all.iter().filter(has_url);
        stores.for_each(|store| store.restore(content));
    }

    /// Returns when each store has keys, or has tried to fetch them once. Does not wait for those
    /// that are at work.
    pub async fn warm_up(&self) {
        let idle = self.all.iter().filter(|store| !store.is_at_work());
        join_all(idle.map(|store| store.warm_up())).await;
    }

    /// Starts the tasks. Those that are at work fetch their keys now. Must be called inside the
    /// runtime.
    pub fn begin(&self) {
        self.all.iter().for_each(KeyStore::begin);
    }

    /// One line for each store without keys.
    pub fn what_is_missing(&self) -> impl Iterator<Item = String> {
        self.all.iter().filter_map(|store| store.what_is_missing())
    }
}

#[cfg(test)]
mod tests;
