//! The state with which the new process continues: operations of operators, knowledge about
//! servers, running drains.

use std::net::SocketAddr;

use uuid::Uuid;

use super::convert;
use super::protocol::wire;
use crate::app::App;
use crate::session::drain::DrainPlan;

/// With more servers than this their history does not fit into one message, and is not sent.
const HISTORIES: usize = 1000;

/// How many session names one message of the first protocol carries.
const NAMES_MAX: usize = 50_000;

/// All of it.
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
