//! What must be known of a group before it serves: an answer for each of its names, and a first
//! check of each of its servers.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use log::error;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::group::Group;
use super::membership::Unknown;
use super::server::Member;
use super::{resolve, tasks};
use crate::config;

/// The longest wait, whatever the checks may take.
const LONGEST: Duration = Duration::from_secs(10);

/// Extra time for the work that follows the last lookup or check.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Looks up names without an answer and checks servers without a result, of all groups at once and
/// within a time limit. Does not wait for what is already known. When dropped, it leaves no task
/// behind.
pub async fn warm_up(groups: Vec<Arc<Group>>) {
    let cold: Vec<Arc<Group>> = groups
        .into_iter()
        .filter(|group| !group.is_warm())
        .collect();
    if cold.is_empty() {
        return;
    }
    let limit = cold.iter().map(|group| group.warms_within()).max();
    let limit = (limit.unwrap_or_default() + AT_ONCE).min(LONGEST);
    let resolver = resolve::Resolver::new();
    // One task for each group, so that thousands of groups do not block a worker.
    let mut tasks = JoinSet::new();
    for group in cold {
        tasks.spawn(warm(group, resolver.clone()));
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(cause) = ended {
                error!("a group could not be made ready: {cause}");
            }
        }
    };
    // The group itself reports what is not known by then.
    let _ = timeout(limit, all).await;
}

async fn warm(group: Arc<Group>, resolver: resolve::Resolver) {
    let names = group.unknown_names().into_iter();
    let lookups = join_all(names.map(async |name| {
        let answer = resolver.look_up(&name).await;
        (name, answer)
    }));
    let (answers, ()) = join(lookups, check_unchecked(&group)).await;
    if !answers.is_empty() {
        tasks::take_answers(group.clone(), answers).await;
        check_unchecked(&group).await;
    }
}

/// Makes the first check of all servers without a result, at the same time.
async fn check_unchecked(group: &Arc<Group>) {
    let Some(check) = &group.config().health_check else {
        return;
    };
    let members = group.members();
    let unchecked = members.iter().filter(|member| is_unchecked(member));
    join_all(unchecked.map(async |member| {
        // The server's history begins with this entry, however soon the check is over.
        member.note();
        tasks::check_now(group, &member.server, check).await;
        if !is_unchecked(member) {
            group.set_just_checked(member.server.address);
        }
    }))
    .await;
}

fn is_unchecked(member: &Member) -> bool {
    member.checked && member.found_up().is_none()
}

impl Group {
    /// Whether every name was resolved and every server was checked at least once.
    pub fn is_warm(&self) -> bool {
        self.unknown_names().is_empty() && !self.members().iter().any(|m| is_unchecked(m))
    }

    /// The longest time until the group [is warm](Group::is_warm): lookups and checks have limits
    /// of their own, and the servers of a name are checked when it is resolved.
    pub fn warms_within(&self) -> Duration {
        let check = self.config().health_check.as_ref();
        let check = check.map_or(Duration::ZERO, |check: &config::HealthCheck| check.timeout);
        match self.unknown_names().is_empty() {
            true => check,
            false => check + resolve::TIMEOUT,
        }
    }

    /// In words, one line for each name or server.
    pub fn what_is_unknown(&self) -> Vec<String> {
        let upstream = self.name();
        let mut lines = {
            let roster = self.roster.lock();
            let names = roster.membership.unknown();
            names
                .iter()
                .map(|name| unknown(upstream, name))
                .collect::<Vec<_>>()
        };
        if self.is_at_work() {
            // The checks are under way, and their results are logged elsewhere.
            return lines;
        }
        let checked: HashSet<SocketAddr> = self.just_checked.lock().clone();
        for member in self.members() {
            let address = member.server.address;
            if is_unchecked(&member) {
                lines.push(format!(
                    "upstream {upstream:?}: {address} was not checked yet"
                ));
            } else if checked.contains(&address) && !member.is_healthy() {
                lines.push(format!(
                    "upstream {upstream:?}: {address} failed its first check"
                ));
            }
        }
        lines
    }

    fn unknown_names(&self) -> Vec<super::membership::Name> {
        let roster = self.roster.lock();
        let unknown = roster.membership.unknown().into_iter();
        unknown.map(|unknown| unknown.name).collect()
    }
}

fn unknown(upstream: &str, unknown: &Unknown<'_>) -> String {
    let Unknown {
        name,
        refresh,
        hold,
        ..
    } = unknown;
    let why = unknown.failure.unwrap_or("no answer yet");
    let stand_ins: Vec<_> = unknown.stand_ins.iter().map(ToString::to_string).collect();
    let until_then = match stand_ins.is_empty() {
        true => String::new(),
        false => format!(
            "; until then {} stays, for {hold:?} at most",
            stand_ins.join(", ")
        ),
    };
    format!(
        "upstream {upstream:?}: {name} could not be resolved yet ({why}); it is tried again every \
         {refresh:?}{until_then}"
    )
}
