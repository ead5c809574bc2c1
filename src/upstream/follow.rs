//! Makes a group follow the file and DNS: the shell around the pure [`Membership`].

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use log::warn;

use super::group::Group;
use super::members::{self, Members};
use super::membership::{Changes, LookupOutcome, Membership, Name, Presence};
use super::news::Departure;
use super::resolve::Answer;
use super::roster::Roster;
use super::server::Member;
use crate::config::{self, Start};

impl Group {
    /// Takes over what `before` has found out until now.
    pub(super) fn follow(&self, before: &Group) {
        self.follow_in(&before.roster.lock());
    }

    /// Takes over for the last time: what `before` finds out after this is ignored. The caller must
    /// then use this group for picks, and [begin](Group::begin) it.
    pub fn replace(&self, before: &Group) {
        let mut theirs = before.roster.lock();
        self.follow_in(&theirs);
        theirs.is_replaced = true;
    }

    fn follow_in(&self, theirs: &Roster) {
        let mut roster = self.roster.lock();
        let listed = roster.membership.members().to_vec();
        // Changes for the sessions of `before` are told when this group begins.
        roster.membership.follow(&theirs.membership, Instant::now());
        let is_first = self.members.load().all.is_empty();
        if is_first || listed != roster.membership.members() {
            self.assemble(&roster.membership);
        }
    }

    /// Takes over the results of lookups.
    pub(super) fn take_answers(&self, answers: Vec<(Name, Answer)>) {
        let now = Instant::now();
        let mut roster = self.roster.lock();
        if roster.is_replaced {
            return;
        }
        for (name, answer) in answers {
            let heard = match &answer {
                Ok(found) => roster.membership.answered(&name, found, now),
                Err(why) => roster.membership.failed(&name, why.clone(), now),
            };
            self.apply(&roster.membership, &heard.changes);
            self.report(&roster.membership, &name, &heard, answer.err());
        }
    }

    /// Uses the present members from now on, and tells which servers have come and gone.
    pub(super) fn apply(&self, membership: &Membership, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        self.assemble(membership);
        // A group that is not at work yet does this when it begins, for all its members.
        if self.is_at_work() {
            self.tell_joined(&changes.added);
            self.tell_departed(&changes.departed);
            self.members().iter().for_each(|member| member.note());
            self.members_changed.notify_one();
        }
    }

    /// Called for servers that are members from now on.
    pub(super) fn tell_joined(&self, added: &[SocketAddr]) {
        for address in added {
            self.servers.of(*address).start_slowly();
        }
    }

    /// Called for servers that are no longer members.
    pub(super) fn tell_departed(&self, departed: &[SocketAddr]) {
        for address in departed {
            // If the server comes back, it is checked before it gets traffic.
            self.servers.of(*address).forget_health();
        }
        self.tell(departed.to_vec(), Departure::Removed);
    }

    /// Logs one line for each outcome that differs from the last. The line is true when it is
    /// written.
    fn report(
        &self,
        membership: &Membership,
        name: &Name,
        heard: &LookupOutcome,
        failure: Option<String>,
    ) {
        let upstream = self.name();
        match (failure, membership.found(name)) {
            (None, Some(found)) if heard.is_news => {
                let list = |wanted: Presence| {
                    let found = found.iter().filter(|(_, presence)| *presence == wanted);
                    let found: Vec<_> = found.map(|(address, _)| address.to_string()).collect();
                    found.join(", ")
                };
                let (present, missing) = (list(Presence::Present), list(Presence::Missing));
                let rest = match missing.is_empty() {
                    true => String::new(),
                    false => format!(
                        "; {missing} is missing from it and stays for {:?}",
                        membership.hold(name)
                    ),
                };
                self.news
                    .line(format!("upstream {upstream:?}: {name} is {present}{rest}"));
            }
            (Some(why), Some(_)) if heard.is_news => warn!(
                "upstream {upstream:?}: cannot resolve {name}: {why}; keeping the last answer and \
                 trying again every {:?}",
                membership.refresh(name)
            ),
            _ => {}
        }
        let departed = &heard.changes.departed;
        if !departed.is_empty() {
            let departed: Vec<_> = departed.iter().map(ToString::to_string).collect();
            self.news.line(format!(
                "upstream {upstream:?}: {} has left",
                departed.join(", ")
            ));
        }
    }

    /// The names that this group must resolve.
    pub(super) fn names(&self) -> Vec<Name> {
        self.roster.lock().membership.names()
    }

    pub(super) fn next_look(&self, name: &Name) -> Instant {
        self.roster
            .lock()
            .membership
            .next_look(name, Instant::now())
    }

    /// Makes the members and balancers anew from the membership.
    pub(super) fn assemble(&self, membership: &Membership) {
        let check = self.config.health_check.as_ref();
        let mut all: Vec<Arc<Member>> = Vec::new();
        for (address, number) in membership.members() {
            if self.is_admin(*address) {
                continue;
            }
            let server = self.servers.of(*address);
            let entry = members::entry(&self.config, *number, *address);
            all.push(Arc::new(Member {
                server,
                weight: entry.weight,
                max_sessions: entry.max_sessions,
                backup: entry.backup,
                slow_start: self.config.slow_start,
                checked: check.is_some(),
                start: check.map_or(Start::Up, |check| check.start),
                ejectable: self.config.eject.is_some(),
            }));
        }
        let members = Members::new(&self.config, all, &self.keys_in_use);
        self.members.store(Arc::new(members));
    }

    fn is_admin(&self, address: SocketAddr) -> bool {
        let is_met = |admin| config::is_met_at(admin, address, is_here);
        let is_admin = self.admin.iter().copied().any(is_met);
        if is_admin {
            warn!(
                "upstream {:?}: {address} is the address of admin and is left out: who can reach \
                 a listener must not reach the API; give one of them another port",
                self.config.name
            );
        }
        is_admin
    }
}

/// Only an address of this machine can be bound.
fn is_here(ip: IpAddr) -> bool {
    ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}
