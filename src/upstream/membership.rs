//! Who belongs to an upstream: the servers of the file, the answers of DNS, and how long a server
//! that is missing from answers stays. Without sockets and clock: the caller passes in the time.
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
//! A failed lookup changes nothing: only an answer takes a server out. One wrong answer removes no
//! server, because the next lookup is made when `hold` is over at the latest
//! ([`Membership::next_look`]).
//!
//! A name without an answer may mean servers that are members already, if the file only names them
//! differently now. So when the entries change, members on the name's port that the new entries
//! lack become its *stand-ins*: they stay until the first answer, and at most for `hold`.

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

/// One entry of the list of servers in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Address(SocketAddr),
    Name {
        name: Name,
        /// The time between two lookups.
        refresh: Duration,
        /// How long an address stays that is missing from answers.
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

/// The result of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupOutcome {
    pub changes: Changes,
    /// Whether the result differs from that of the last lookup. Only then it is logged.
    pub is_news: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Membership {
    entries: Vec<Entry>,
    names: HashMap<Name, Known>,
    /// Each member with the number of its entry.
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
    /// No answer yet. Each stand-in stays at most until its time.
    Unknown(BTreeMap<SocketAddr, Instant>),
    /// `Some`: missing from answers since then.
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

    /// All addresses of the name, including missing ones and stand-ins.
    fn all(&self) -> Vec<SocketAddr> {
        match &self.addresses {
            Addresses::Unknown(stand_ins) => stand_ins.keys().copied().collect(),
            Addresses::Found(found) => found.keys().copied().collect(),
        }
    }

    /// Takes over what was found out under the entries before. Own knowledge stays only if nothing
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

    /// Returns whether the answer differs from the last one.
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
        // An address whose time was over at the last lookup waits for the next regular one.
        let ends = ends.into_iter().filter(|end| *end > looked);
        ends.chain([looked + self.refresh])
            .min()
            .map_or(now, |next| next.max(now))
    }
}

impl Membership {
    /// At first no name is resolved.
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
                // A name that is listed twice counts once, with the more careful settings of both.
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

    /// Replaces `before`, and may be called again while `before` is still at work. Returns the
    /// changes from the members of `before` to these.
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
                // Another reload in between does not extend the time.
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

    /// Takes over what the last process knew: the answer for each name, and its members. What is
    /// missing from our own answers counts as missing since then.
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

    /// Called when a lookup has found these addresses.
    pub fn answered(&mut self, name: &Name, answer: &[SocketAddr], now: Instant) -> LookupOutcome {
        let answer: BTreeSet<SocketAddr> = answer.iter().copied().collect();
        let is_news = self.names.get_mut(name).is_some_and(|known| {
            known.looked = Some(now);
            let had_failed = known.failure.take().is_some();
            known.answer(&answer, now) || had_failed
        });
        LookupOutcome {
            changes: self.settle(),
            is_news,
        }
    }

    /// Called when a lookup has failed. Stand-ins whose time is over are removed.
    pub fn failed(&mut self, name: &Name, why: String, now: Instant) -> LookupOutcome {
        let is_news = self.names.get_mut(name).is_some_and(|known| {
            known.looked = Some(now);
            if let Addresses::Unknown(stand_ins) = &mut known.addresses {
                stand_ins.retain(|_, until| *until > now);
            }
            known.failure.replace(why).is_none()
        });
        LookupOutcome {
            changes: self.settle(),
            is_news,
        }
    }

    /// When the name is to be looked up next.
    pub fn next_look(&self, name: &Name, now: Instant) -> Instant {
        let known = self.names.get(name);
        known.map_or(now, |known| known.next_look(now))
    }

    /// In the order of the entries. An address is listed once, for its first entry.
    pub fn members(&self) -> &[(SocketAddr, usize)] {
        &self.members
    }

    /// Each name once, in the order of the entries.
    pub fn names(&self) -> Vec<Name> {
        let mut seen = HashSet::new();
        let names = self.entries.iter().filter_map(|entry| match entry {
            Entry::Address(_) => None,
            Entry::Name { name, .. } => Some(name),
        });
        names.filter(|name| seen.insert(*name)).cloned().collect()
    }

    /// The names that have no answer yet.
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

    /// The addresses of the name, and which of them are missing from the last answer. `None`: no
    /// answer yet.
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

    /// Makes each departing member a stand-in for every unresolved name that may mean it.
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

    /// Makes the list of members anew, and returns what has changed.
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
