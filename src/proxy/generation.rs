//! One configuration at work. A reload makes the next one and swaps; exchanges that began under
//! the old one end under it.

use std::sync::Arc;

use crate::config::{Config, ListenAddress, Listener, Route};
use crate::forward::client_address::TrustedProxies;
use crate::route::{RequestKey, RouteIndex};
use crate::upstream::Group;

pub struct Generation {
    pub config: Config,
    index: RouteIndex,
    /// As `config.upstreams`.
    groups: Vec<Arc<Group>>,
    trusted: TrustedProxies,
    /// The number that a bound listener has in this configuration.
    listeners: Vec<usize>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    #[error(
        "the listen addresses changed (bound: {bound}; in the file: {wanted}): a reload cannot \
         change them, start prusik anew"
    )]
    ListenersChanged { bound: String, wanted: String },
    #[error("`server.{0}` changed: a reload cannot change it, start prusik anew")]
    ServerChanged(&'static str),
}

impl Generation {
    /// The first one. Listeners are bound in the order of the file.
    pub fn new(config: Config) -> Self {
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| Group::new(upstream.clone(), None))
            .collect();
        let listeners = (0..config.listeners.len()).collect();
        Self::with(config, groups, listeners)
    }

    /// The next one: upstreams that didn't change stay as they are, the others take over the
    /// counts and the health of the servers that stay.
    pub fn next(&self, config: Config) -> Result<Self, GenerationError> {
        if config.server.threads != self.config.server.threads {
            return Err(GenerationError::ServerChanged("threads"));
        }
        if config.server.pid_file != self.config.server.pid_file {
            return Err(GenerationError::ServerChanged("pid_file"));
        }
        let listeners = self.find_listeners(&config.listeners)?;
        let groups = config
            .upstreams
            .iter()
            .map(|upstream| {
                let before = self
                    .groups
                    .iter()
                    .find(|group| group.name() == upstream.name);
                match before {
                    Some(same) if same.config() == upstream => same.clone(),
                    before => Group::new(upstream.clone(), before.map(Arc::as_ref)),
                }
            })
            .collect();
        Ok(Self::with(config, groups, listeners))
    }

    fn with(config: Config, groups: Vec<Arc<Group>>, listeners: Vec<usize>) -> Self {
        let index = RouteIndex::build(config.routes.iter().map(|route| &route.matcher));
        let trusted = TrustedProxies(config.trusted_proxies.clone());
        Self {
            config,
            index,
            groups,
            trusted,
            listeners,
        }
    }

    /// Starts the tasks of groups that `before` doesn't have, and ends those that it alone has.
    pub fn take_over(&self, before: Option<&Generation>) {
        let has = |generation: &Generation, group: &Arc<Group>| {
            generation
                .groups
                .iter()
                .any(|other| Arc::ptr_eq(other, group))
        };
        for group in &self.groups {
            if before.is_none_or(|before| !has(before, group)) {
                group.start();
            }
        }
        for group in before.iter().flat_map(|before| &before.groups) {
            if !has(self, group) {
                group.stop();
            }
        }
    }

    /// The number of a bound listener in this configuration.
    pub fn listener(&self, bound: usize) -> usize {
        self.listeners[bound]
    }

    /// Whose forwarding headers are believed.
    pub fn trusted(&self) -> &TrustedProxies {
        &self.trusted
    }

    pub fn find_route(&self, request: &RequestKey<'_>) -> Option<usize> {
        self.index.lookup(request)
    }

    pub fn route(&self, number: usize) -> &Route {
        &self.config.routes[number]
    }

    pub fn group(&self, upstream: usize) -> &Arc<Group> {
        &self.groups[upstream]
    }

    fn find_listeners(&self, wanted: &[Listener]) -> Result<Vec<usize>, GenerationError> {
        // In the order in which they were bound, whatever the order of either file.
        let bound = self
            .listeners
            .iter()
            .map(|&number| &self.config.listeners[number].address);
        let found: Vec<_> = bound
            .clone()
            .filter_map(|address| {
                wanted
                    .iter()
                    .position(|listener| listener.address == *address)
            })
            .collect();
        if found.len() == bound.len() && found.len() == wanted.len() {
            return Ok(found);
        }
        let list = |addresses: Vec<&ListenAddress>| {
            addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Err(GenerationError::ListenersChanged {
            bound: list(bound.collect()),
            wanted: list(wanted.iter().map(|listener| &listener.address).collect()),
        })
    }
}
