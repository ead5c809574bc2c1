//! The state with which the new process continues: operations of operators, knowledge about
//! servers, running drains, sessions that servers have named, keys of tokens.

use std::net::SocketAddr;
use std::time::Duration;

use uuid::Uuid;

use super::convert;
use super::protocol::wire;
use crate::affinity::{Binding, Fingerprint};
use crate::app::App;
use crate::session::drain::DrainPlan;

/// With more servers than this their history does not fit into one message, and is not sent.
const HISTORIES: usize = 1000;

/// How many session names one message of the first protocol carries.
const NAMES_MAX: usize = 50_000;

/// How many bindings one message carries.
const BINDINGS_MAX: usize = 20_000;

/// All of it but [`learned`] and [`keys`].
pub fn go(app: &App, protocol: u32) -> wire::Go {
    wire::Go {
        drained: drained(app),
        tally: app.operations().tally().into(),
        known: known(app),
        drains: running_drains(app),
        protocol,
    }
}

/// Servers that operators have taken out.
fn drained(app: &App) -> Vec<(String, SocketAddr)> {
    let generation = app.generation();
    let drained = generation.groups().iter().flat_map(|group| {
        let servers = group.servers();
        let drained = servers.into_iter().filter(|server| server.is_drained());
        drained.map(|server| (group.name().to_owned(), server.address))
    });
    drained.collect()
}

/// What was found out about each upstream.
fn known(app: &App) -> Vec<(String, wire::Known)> {
    let generation = app.generation();
    let groups = generation.groups().iter();
    let mut known: Vec<(String, wire::Known)> = groups
        .map(|group| (group.name().to_owned(), group.warm_state().into()))
        .collect();
    let servers: usize = known.iter().map(|(_, of)| of.history.len()).sum();
    if servers > HISTORIES {
        known.iter_mut().for_each(|(_, of)| of.history.clear());
    }
    known
}

/// Drains whose sessions may come to the new process.
fn running_drains(app: &App) -> Vec<wire::RunningDrain> {
    let progress = app.drains().progress().into_iter();
    let drains = progress.filter_map(|drain| {
        let DrainPlan {
            code,
            window,
            deadline,
        } = drain.remaining_plan();
        Some(wire::RunningDrain {
            reason: convert::reason(&drain.reason)?,
            code,
            window,
            deadline,
        })
    });
    drains.collect()
}

/// The same for the first protocol, in which each session is named.
pub fn named_drains(app: &App) -> Vec<wire::NamedDrain> {
    let mut named = Vec::new();
    for drain in app.drains().progress() {
        let members = app.drains().members(&drain.reason);
        let sessions: Vec<Uuid> = members.iter().map(|live| live.identity.id).collect();
        let DrainPlan {
            code,
            window,
            deadline,
        } = drain.remaining_plan();
        named.extend(sessions.chunks(NAMES_MAX).map(|part| wire::NamedDrain {
            what: drain.reason.to_string(),
            code,
            window,
            deadline,
            sessions: part.to_vec(),
        }));
    }
    named
}

/// What was learned, or used again, within this time.
pub fn learned(app: &App, within: Duration) -> Vec<wire::Learned> {
    let mut parts = Vec::new();
    for group in app.generation().groups() {
        let bindings = group.learned_within(within);
        parts.extend(bindings.chunks(BINDINGS_MAX).map(|part| wire::Learned {
            upstream: group.name().to_owned(),
            bindings: part.iter().map(to_wire).collect(),
        }));
    }
    parts
}

/// Goes on with what the process before has learned.
pub fn restore_learned(app: &App, learned: wire::Learned) {
    if let Some(group) = app.generation().find_group(&learned.upstream) {
        group.restore_learned(learned.bindings.into_iter().filter_map(of_wire));
    }
}

/// What was fetched for `auth.jwt`, of each URL.
pub fn keys(app: &App) -> Vec<wire::Keys> {
    let fetched = app.generation().states.key_stores().fetched();
    let keys = fetched.into_iter();
    keys.map(|(url, content)| wire::Keys { url, content })
        .collect()
}

/// Goes on with these keys where nothing could be fetched yet.
pub fn restore_keys(app: &App, keys: &wire::Keys) {
    let generation = app.generation();
    let stores = generation.states.key_stores();
    stores.restore(&keys.url, &keys.content);
}

fn to_wire(binding: &Binding) -> (String, SocketAddr, u64) {
    let idle = u64::try_from(binding.idle.as_millis()).unwrap_or(u64::MAX);
    (binding.value.to_text(), binding.server, idle)
}

/// `None`: another version has another form.
fn of_wire((value, server, idle): (String, SocketAddr, u64)) -> Option<Binding> {
    Some(Binding {
        value: Fingerprint::from_text(&value)?,
        server,
        idle: Duration::from_millis(idle),
    })
}
