//! Active health checks: all servers of an upstream in parallel, each under one total timeout.

mod check;
pub mod counter;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use log::{info, warn};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout};

use self::counter::Transition;
use super::connect::Shortage;
use super::group::{Departure, Group};
use super::server::Member;
use crate::config;
use crate::forward::proxy_protocol::Source;
use crate::observe::in_short;

type Check = Box<dyn HealthCheck + Send + Sync>;

/// Checks the group's servers each interval, and new ones at once, until the group is gone.
pub async fn run(group: Weak<Group>, config: config::HealthCheck) {
    // A check carries a connector: made once for each address, not each time.
    let mut checks: HashMap<SocketAddr, (Backend, Check)> = HashMap::new();
    loop {
        let next_round = Instant::now() + jittered(config.interval);
        {
            let Some(group) = group.upgrade() else { return };
            let members = group.members();
            checks.retain(|address, _| members.iter().any(|m| m.server.address == *address));
            for member in &members {
                let address = member.server.address;
                checks
                    .entry(address)
                    .or_insert_with(|| check::build(address, &config, group.way(Source::Own)));
            }
            join_all(members.iter().map(|member| {
                let (backend, check) = &checks[&member.server.address];
                check_one(&group, member, backend, check, &config)
            }))
            .await;
        }
        let Some(group) = group.upgrade() else { return };
        tokio::select! {
            () = sleep_until(next_round) => {}
            () = group.members_changed.notified() => {}
        }
    }
}

async fn check_one(
    group: &Group,
    member: &Arc<Member>,
    backend: &Backend,
    check: &Check,
    config: &config::HealthCheck,
) {
    let failure = match timeout(config.timeout, check.check(backend)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => match Shortage::of_connecting(&error) {
            // Nothing was learnt of the server.
            Some(shortage) => {
                warn!(
                    "upstream {:?}: {} was not checked: {}",
                    group.name(),
                    member.server.address,
                    shortage.remedy()
                );
                return;
            }
            None => Some(in_short(&error)),
        },
        Err(_) => Some(format!("no result within {:?}", config.timeout)),
    };
    let server = &member.server;
    let name = group.name();
    let transition = server.observe_check(failure.is_none(), config);
    if transition.is_some() {
        member.note();
    }
    match (transition, failure) {
        (Some(Transition::Down), failure) => {
            let failure = failure.unwrap_or_default();
            warn!("upstream {name:?}: {} is down: {failure}", server.address);
            group.tell(vec![server.address], Departure::Down);
        }
        (Some(Transition::Recovered), _) => {
            info!("upstream {name:?}: {} is up again", server.address);
        }
        (Some(Transition::Up) | None, _) => {}
    }
}

/// Up to a fifth earlier, so that many proxies don't check in step, and a dead server is never
/// noticed later than the interval says.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.8..=1.0))
}
