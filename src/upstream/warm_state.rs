//! What a process has found out about an upstream, for the next process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::group::Group;
use super::history::Change;
use super::membership::Name;
use super::server::{Member, ServerState};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WarmState {
    /// The addresses of each name that was ever resolved.
    pub names: Vec<(Name, Vec<SocketAddr>)>,
    /// For each server that was checked, whether it is up.
    pub servers: Vec<(SocketAddr, bool)>,
    pub history: Vec<(SocketAddr, Vec<Change>)>,
    /// The states of servers that last for a time.
    pub states: Vec<(SocketAddr, ServerState)>,
    /// Every server that could be picked.
    pub members: Vec<SocketAddr>,
}

impl Group {
    pub fn warm_state(&self) -> WarmState {
        let members = self.members();
        let health_of = |member: &Arc<Member>| Some((member.server.address, member.found_up()?));
        let names = {
            let roster = self.roster.lock();
            let membership = &roster.membership;
            let names = membership.names().into_iter().filter_map(|name| {
                let found = membership.found(&name)?;
                Some((
                    name,
                    found.into_iter().map(|(address, _)| address).collect(),
                ))
            });
            names.collect()
        };
        WarmState {
            names,
            servers: members.iter().filter_map(health_of).collect(),
            history: members
                .iter()
                .map(|member| (member.server.address, member.history()))
                .collect(),
            states: members
                .iter()
                .map(|member| (member.server.address, member.server.state()))
                .filter(|(_, state)| *state != ServerState::default())
                .collect(),
            members: members.iter().map(|m| m.server.address).collect(),
        }
    }

    /// Takes over what is not known here, or known less surely.
    pub fn restore(&self, before: WarmState) {
        {
            let mut roster = self.roster.lock();
            let now = Instant::now();
            let changes = roster
                .membership
                .inherit(before.names, &before.members, now);
            self.apply(&roster.membership, &changes);
        }
        let servers: HashMap<_, _> = before.servers.into_iter().collect();
        let mut history: HashMap<_, _> = before.history.into_iter().collect();
        let states: HashMap<_, _> = before.states.into_iter().collect();
        for member in self.members() {
            let server = &member.server;
            if let Some(state) = states.get(&server.address) {
                server.resume(*state);
            }
            if let (Some(check), Some(was_up)) =
                (&self.config().health_check, servers.get(&server.address))
            {
                server.inherit_health(*was_up, check);
            }
            if let Some(history) = history.remove(&server.address) {
                member.restore(history);
            }
        }
    }
}
