//! Who belongs to an upstream: the entries of the file, what DNS has answered, and for how long a
//! server that is missing from answers stays. It has no sockets and no clock: times come in as
//! values.
//!
//! ```text
//!  one address of one name:
//!
//!                answer has it              answer lacks it          answer lacks it,
//!   not known ────────────────► in the answer ───────────► missing ────────────────► gone
//!                                     ▲                       │     for `hold` by then
//!                                     └───────────────────────┘
//!                                           answer has it
//! ```
//!
//! A failed lookup changes nothing: only an answer takes a server out. So one wrong answer removes
//! nobody, because the next look comes when `hold` is over at the latest
//! ([`Membership::next_look`]).
//!
//! A name without any answer yet may mean servers that are members today: the file may only call
//! them otherwise. So, at a change of entries, members on the name's port that the new entries lack
//! are its *stand-ins*: they stay until its first answer, for `hold` at most.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What the configuration has in one place of its list of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Address(SocketAddr),
    Name {
        name: Name,
        /// Time between two lookups.
        refresh: Duration,
        /// How long an address that is missing from answers stays.
        hold: Duration,
    },
}

/// What an event has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<SocketAddr>,
    pub departed: Vec<SocketAddr>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.departed.is_empty()
    }
}

/// What came of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub changes: Changes,
    /// Whether the lookup before had another outcome: only then is it worth a line.
    pub is_news: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Membership {
    entries: Vec<Entry>,
    names: HashMap<Name, Known>,
    /// With the number of the entry that each is in for.
    members: Vec<(SocketAddr, usize)>,
}

/// What is known of one name.
#[derive(Debug, Clone)]
struct Known {
    refresh: Duration,
    hold: Duration,
    /// When the last lookup ended.
    looked: Option<Instant>,
    /// Why the last lookup failed, if it did.
    failure: Option<String>,
    addresses: Addresses,
}

#[derive(Debug, Clone)]
enum Addresses {
    /// There was no answer yet. Each stand-in stays until its time, at most.
    Unknown(BTreeMap<SocketAddr, Instant>),
    /// `Some`: it is missing from answers since then.
    Found(BTreeMap<SocketAddr, Option<Instant>>),
}

impl Known {
    fn is_unknown(&self) -> bool {
        matches!(self.addresses, Addresses::Unknown(_))
    }

    fn stand_ins(&self) -> impl Iterator<Item = (SocketAddr, Instant)> {
        let stand_ins = match &self.addresses {
            Addresses::Unknown(stand_ins) => Some(stand_ins),
            Addresses::Found(_) => None,
        };
        let stand_ins = stand_ins.into_iter().flatten();
        stand_ins.map(|(address, until)| (*address, *until))
    }

    /// All that belong to the name: also those that are missing, and stand-ins.
    fn all(&self) -> Vec<SocketAddr> {
        match &self.addresses {
            Addresses::Unknown(stand_ins) => stand_ins.keys().copied().collect(),
            Addresses::Found(found) => found.keys().copied().collect(),
        }
    }

    /// What was found out under the entries before. What is known here stays only where nothing
    /// was known there.
    fn follow(&mut self, before: &Self) {
        if before.is_unknown() && !self.is_unknown() {
            return;
        }
        self.looked = self.looked.max(before.looked);
        if !before.is_unknown() {
            self.addresses = before.addresses.clone();
            self.failure = before.failure.clone();
        } else if self.failure.is_none() {
            self.failure = before.failure.clone();
        }
    }

    /// Whether the answer is another than the last one.
    fn answer(&mut self, answer: &BTreeSet<SocketAddr>, now: Instant) -> bool {
        let before = match &self.addresses {
            Addresses::Unknown(_) => None,
            Addresses::Found(found) => Some(found.clone()),
        };
        let before_or_none = before.clone().unwrap_or_default();
        let missing = before_or_none.iter().filter_map(|(address, since)| {
            let since = since.unwrap_or(now);
            let stays = !answer.contains(address) && now.duration_since(since) < self.hold;
            stays.then_some((*address, Some(since)))
        });
        let missing: BTreeMap<_, _> = missing.collect();
        let present = answer.iter().map(|address| (*address, None));
        self.addresses = Addresses::Found(present.chain(missing).collect());
        let is_same = before.is_some_and(|before| {
            let present = before.iter().filter(|(_, missing)| missing.is_none());
            present.map(|(address, _)| address).eq(answer)
        });
        !is_same
    }

    fn next_look(&self, now: Instant) -> Instant {
        let Some(looked) = self.looked else {
            return now;
        };
        let ends: Vec<Instant> = match &self.addresses {
            Addresses::Unknown(stand_ins) => stand_ins.values().copied().collect(),
            Addresses::Found(found) => {
                let missing = found.values().flatten();
                missing.map(|since| *since + self.hold).collect()
            }
        };
        // One that was over when the last lookup ended waits for an answer like any other.
        let ends = ends.into_iter().filter(|end| *end > looked);
        ends.chain([looked + self.refresh])
            .min()
            .map_or(now, |next| next.max(now))
    }
}

impl Membership {
    /// No name is known yet.
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut names: HashMap<Name, Known> = HashMap::new();
        for entry in &entries {
            if let Entry::Name {
                name,
                refresh,
                hold,
            } = entry
            {
                let known = names.entry(name.clone()).or_insert_with(|| Known {
                    refresh: *refresh,
                    hold: *hold,
                    looked: None,
                    failure: None,
                    addresses: Addresses::Unknown(BTreeMap::new()),
                });
                // The same name twice is one name, looked after as its more careful entry says.
                known.refresh = known.refresh.min(*refresh);
                known.hold = known.hold.max(*hold);
            }
        }
        let mut membership = Self {
            entries,
            names,
            members: Vec::new(),
        };
        membership.settle();
        membership
    }

    /// Takes the place of `before`, and may do so again as `before` goes on. The changes are those
    /// from its members to these.
    pub fn follow(&mut self, before: &Self, now: Instant) -> Changes {
        let mut own_stand_ins: HashMap<SocketAddr, Instant> = HashMap::new();
        for (name, known) in &mut self.names {
            if let Some(before) = before.names.get(name) {
                known.follow(before);
            }
            if let Addresses::Unknown(stand_ins) = &mut known.addresses {
                own_stand_ins.extend(std::mem::take(stand_ins));
            }
        }
        for known in before.names.values() {
            for (address, until) in known.stand_ins() {
                // A reload in between gives nobody more time.
                let ours = own_stand_ins.entry(address).or_insert(until);
                *ours = (*ours).min(until);
            }
        }
        self.settle();
        let has: HashSet<SocketAddr> = self.members.iter().map(|(address, _)| *address).collect();
        let leaving = before.members.iter().map(|(address, _)| *address);
        let leaving: Vec<_> = leaving.filter(|address| !has.contains(address)).collect();
        self.add_stand_ins(&leaving, &own_stand_ins, now);
        self.members.clone_from(&before.members);
        self.settle()
    }

    /// Takes over what the process before knew: the answer for each name, and its members. What is
    /// missing from an answer of ours is as if that had come after theirs.
    pub fn inherit(
        &mut self,
        answers: Vec<(Name, Vec<SocketAddr>)>,
        members: &[SocketAddr],
        now: Instant,
    ) -> Changes {
        for (name, answer) in answers {
            let Some(known) = self.names.get_mut(&name) else {
                continue;
            };
            match &mut known.addresses {
                Addresses::Unknown(_) => {
                    let found = answer.into_iter().map(|address| (address, None));
                    known.addresses = Addresses::Found(found.collect());
                }
                Addresses::Found(found) if !known.hold.is_zero() => {
                    for address in answer {
                        found.entry(address).or_insert(Some(now));
                    }
                }
                Addresses::Found(_) => {}
            }
        }
        let changes = self.settle();
        let has = |address| self.members.iter().any(|(member, _)| *member == address);
        let leaving = members.iter().copied().filter(|address| !has(*address));
        let leaving: Vec<_> = leaving.collect();
        self.add_stand_ins(&leaving, &HashMap::new(), now);
        let mut later = self.settle();
        later.added.splice(0..0, changes.added);
        later.departed.splice(0..0, changes.departed);
        later
    }

    /// A lookup has found these.
    pub fn answered(&mut self, name: &Name, answer: &[SocketAddr], now: Instant) -> Heard {
        let answer: BTreeSet<SocketAddr> = answer.iter().copied().collect();
        let is_news = self.names.get_mut(name).is_some_and(|known| {
            known.looked = Some(now);
            let had_failed = known.failure.take().is_some();
            known.answer(&answer, now) || had_failed
        });
        Heard {
            changes: self.settle(),
            is_news,
        }
    }

    /// A lookup has failed. Stand-ins whose time is up go.
    pub fn failed(&mut self, name: &Name, why: String, now: Instant) -> Heard {
        let is_news = self.names.get_mut(name).is_some_and(|known| {
            known.looked = Some(now);
            if let Addresses::Unknown(stand_ins) = &mut known.addresses {
                stand_ins.retain(|_, until| *until > now);
            }
            known.failure.replace(why).is_none()
        });
        Heard {
            changes: self.settle(),
            is_news,
        }
    }

    /// When the name is to be looked up next.
    pub fn next_look(&self, name: &Name, now: Instant) -> Instant {
        let known = self.names.get(name);
        known.map_or(now, |known| known.next_look(now))
    }

    /// In the order of the entries; each address once, for the first entry that has it.
    pub fn members(&self) -> &[(SocketAddr, usize)] {
        &self.members
    }

    /// Each once, in the order of the entries.
    pub fn names(&self) -> Vec<Name> {
        let mut seen = HashSet::new();
        let names = self.entries.iter().filter_map(|entry| match entry {
            Entry::Address(_) => None,
            Entry::Name { name, .. } => Some(name),
        });
        names.filter(|name| seen.insert(*name)).cloned().collect()
    }

    /// Those for which there was no answer yet.
    pub fn unknown(&self) -> Vec<Unknown<'_>> {
        let names = self.names().into_iter().filter_map(|name| {
            let known = self.names.get(&name).filter(|known| known.is_unknown())?;
            Some(Unknown {
                name,
                refresh: known.refresh,
                hold: known.hold,
                failure: known.failure.as_deref(),
                stand_ins: known.all(),
            })
        });
        names.collect()
    }

    /// What stands for the name, and which of it is missing from the last answer; `None`: there was
    /// no answer yet.
    pub fn found(&self, name: &Name) -> Option<Vec<(SocketAddr, Presence)>> {
        let Addresses::Found(found) = &self.names.get(name)?.addresses else {
            return None;
        };
        let presence = |missing: Option<Instant>| match missing {
            Some(_) => Presence::Missing,
            None => Presence::Present,
        };
        let found = found.iter();
        Some(
            found
                .map(|(at, missing)| (*at, presence(*missing)))
                .collect(),
        )
    }

    pub fn hold(&self, name: &Name) -> Duration {
        self.names
            .get(name)
            .map_or(Duration::ZERO, |known| known.hold)
    }

    pub fn refresh(&self, name: &Name) -> Duration {
        let known = self.names.get(name);
        known.map_or(Duration::ZERO, |known| known.refresh)
    }

    /// Lets each of those that leave stand in for every unknown name that may mean it.
    fn add_stand_ins(
        &mut self,
        leaving: &[SocketAddr],
        given: &HashMap<SocketAddr, Instant>,
        now: Instant,
    ) {
        for (name, known) in &mut self.names {
            let hold = known.hold;
            let Addresses::Unknown(stand_ins) = &mut known.addresses else {
                continue;
            };
            let explained = leaving.iter().filter(|address| address.port() == name.port);
            let stays = explained.map(|address| {
                let until = given.get(address).copied().unwrap_or(now + hold);
                (*address, until.min(now + hold))
            });
            stand_ins.extend(stays.filter(|(_, until)| *until > now));
        }
    }

    /// Makes the list of members anew, and tells what is different in it.
    fn settle(&mut self) -> Changes {
        let mut has: HashSet<SocketAddr> = HashSet::new();
        let mut members = Vec::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let addresses = match entry {
                Entry::Address(address) => vec![*address],
                Entry::Name { name, .. } => {
                    self.names.get(name).map(Known::all).unwrap_or_default()
                }
            };
            let new = addresses.into_iter().filter(|address| has.insert(*address));
            members.extend(new.map(|address| (address, number)));
        }
        let had: HashSet<SocketAddr> = self.members.iter().map(|(address, _)| *address).collect();
        let added = members.iter().map(|(address, _)| *address);
        let departed = self.members.iter().map(|(address, _)| *address);
        let changes = Changes {
            added: added.filter(|address| !had.contains(address)).collect(),
            departed: departed.filter(|address| !has.contains(address)).collect(),
        };
        self.members = members;
        changes
    }
}

/// A name without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown<'a> {
    pub name: Name,
    pub refresh: Duration,
    pub hold: Duration,
    /// `None`: no lookup has ended yet.
    pub failure: Option<&'a str>,
    pub stand_ins: Vec<SocketAddr>,
}

/// Whether the last answer has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Missing,
}

#[cfg(test)]
mod tests;
