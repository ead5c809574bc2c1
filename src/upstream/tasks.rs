//! The tasks that keep a group current: health checks, name resolution, and closing idle
//! connections. They run from [`Group::begin`] to [`Group::stop`].
//!
//! Each server is checked by a task of its own, so that one slow check does not delay the others. A
//! task of the group starts them for new servers and ends them for servers that are gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use log::{error, info, warn};
use rand::Rng;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::dial::Shortage;
use super::group::{Group, sweep};
use super::health::check::{Check, CheckError};
use super::health::counter::Transition;
use super::membership::Name;
use super::news::Departure;
use super::resolve::{Answer, Resolver};
use super::server::Server;
use crate::config::HealthCheck;
use crate::forward::proxy_protocol::PreambleClient;
use crate::observe::repeated::{self, Kind};

impl Group {
    /// From now on this group is at work: starts the checks and the resolution, and tells what has
    /// changed for the servers of the group before. Must be called once, inside the runtime, when
    /// requests already use this group.
    pub fn begin(self: &Arc<Self>, before: Option<&Group>) {
        self.set_at_work();
        if let Some(before) = before {
            self.tell_changes_since(before);
        }
        self.members().iter().for_each(|member| member.note());
        let mut tasks = self.tasks.lock();
        if let Some(check) = &self.config().health_check {
            tasks.spawn(check_members(Arc::downgrade(self), check.clone()));
        }
        // Also with `keepalive: 0`, because the configuration before may have left idle
        // connections.
        tasks.spawn(sweep(Arc::downgrade(self)));
        for name in self.names() {
            tasks.spawn(resolve(Arc::downgrade(self), name));
        }
    }

    /// Ends the checks and the resolution of a group that was replaced. Sessions that began under
    /// it may hold the group for days.
    pub fn stop(&self) {
        self.tasks.lock().abort_all();
    }
}

/// Looks one name up whenever it is due, as long as the group lives. Each name has a task of its
/// own, so that no name waits for the lookup of another.
async fn resolve(group: Weak<Group>, name: Name) {
    loop {
        let Some(next) = group.upgrade().map(|group| group.next_look(&name)) else {
            return;
        };
        sleep_until(next.into()).await;
        let answer = Resolver::new().look_up(&name).await;
        let Some(group) = group.upgrade() else { return };
        take_answers(group, vec![(name.clone(), answer)]).await;
    }
}

/// This may make balancers anew, which is too slow for a thread that carries sessions.
pub async fn take_answers(group: Arc<Group>, answers: Vec<(Name, Answer)>) {
    let taken = tokio::task::spawn_blocking(move || group.take_answers(answers)).await;
    if let Err(cause) = taken
        && cause.is_panic()
    {
        error!("the answer to a lookup could not be taken in: {cause}");
    }
}

/// The check task of one server. It ends when this value is dropped.
struct Checked {
    /// The value of [`Server::epoch`] when the task began.
    epoch: usize,
    _task: AbortOnDropHandle<()>,
}

/// Makes sure that each member, and no other server, has a task that checks it.
async fn check_members(group: Weak<Group>, config: HealthCheck) {
    let config = Arc::new(config);
    // Dropping this map ends every check.
    let mut tasks: HashMap<SocketAddr, Checked> = HashMap::new();
    loop {
        let Some(now) = group.upgrade() else { return };
        let (members, dialer) = (now.members(), now.dialer(PreambleClient::Own));
        let changed = now.members_changed.clone();
        // Else the group would live as long as this task waits.
        drop(now);
        let servers: HashMap<SocketAddr, &Arc<Server>> = members
            .iter()
            .map(|member| (member.server.address, &member.server))
            .collect();
        // A server that has left and come back in the meantime is checked anew.
        tasks.retain(|address, checked| {
            let here = servers.get(address);
            here.is_some_and(|server| checked.epoch == server.epoch())
        });
        for (address, server) in servers {
            tasks.entry(address).or_insert_with(|| {
                let check = Check::new(address, &config, dialer.clone());
                let task = check_server(group.clone(), server.clone(), check, config.clone());
                Checked {
                    epoch: server.epoch(),
                    _task: AbortOnDropHandle::new(tokio::spawn(task)),
                }
            });
        }
        changed.notified().await;
    }
}

/// Checks one server: at once, unless that was done before the group began, and then each interval.
async fn check_server(
    group: Weak<Group>,
    server: Arc<Server>,
    check: Check,
    config: Arc<HealthCheck>,
) {
    let Some(name) = group.upgrade().map(|group| group.label().clone()) else {
        return;
    };
    let mut was_short = false;
    let is_just_checked = group
        .upgrade()
        .is_some_and(|group| group.take_just_checked(server.address));
    if is_just_checked {
        sleep(jittered(config.interval)).await;
    }
    loop {
        let next = Instant::now() + jittered(config.interval);
        let shortage = check_once(&group, &server, &check, &config).await;
        if let Some(shortage) = shortage.filter(|_| !was_short) {
            warn_of(shortage, &name, &server);
        }
        was_short = shortage.is_some();
        sleep_until(next).await;
    }
}

/// Makes one check now.
pub(super) async fn check_now(group: &Arc<Group>, server: &Server, config: &HealthCheck) {
    let check = Check::new(server.address, config, group.dialer(PreambleClient::Own));
    let shortage = check_once(&Arc::downgrade(group), server, &check, config).await;
    if let Some(shortage) = shortage {
        warn_of(shortage, group.name(), server);
    }
}

/// Makes one check and applies its result. Without effect if this machine lacked a resource for it.
async fn check_once(
    group: &Weak<Group>,
    server: &Server,
    check: &Check,
    config: &HealthCheck,
) -> Option<Shortage> {
    let failure = check.run().await.err();
    let shortage = failure.as_ref().and_then(CheckError::shortage);
    if shortage.is_none()
        && let Some(group) = group.upgrade()
    {
        observe(&group, server, failure, config);
    }
    shortage
}

fn warn_of(shortage: Shortage, upstream: &str, server: &Server) {
    let (address, remedy) = (server.address, shortage.remedy());
    let line = format!("upstream {upstream:?}: {address} was not checked: {remedy}");
    // A resource that is short is short for all servers, so there is one line for all.
    let kind = Kind {
        upstream: Some(upstream.to_owned()),
        ..Kind::of(format!("not checked: {remedy}"))
    };
    repeated::warn(kind, line);
}

fn observe(group: &Group, server: &Server, failure: Option<CheckError>, config: &HealthCheck) {
    let Some(member) = group.member(server.address) else {
        // The server has left meanwhile. If it comes back, this result must not count.
        return;
    };
    server.note_check(failure.as_ref().map(ToString::to_string));
    let transition = server.observe_check(failure.is_none(), config);
    if transition.is_some() {
        member.note();
    }
    let (name, address) = (group.name(), server.address);
    match (transition, failure) {
        (Some(Transition::Down), Some(failure)) => {
            warn!("upstream {name:?}: {address} is down: {failure}");
            group.tell(vec![address], Departure::Down);
        }
        (Some(Transition::Recovered), _) => info!("upstream {name:?}: {address} is up again"),
        _ => {}
    }
}

/// Up to a fifth earlier, so that many proxies do not check at the same time, and a dead server is
/// never noticed later than the interval says.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.8..=1.0))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::net::TcpListener;
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::membership::Name;
    use super::*;

    /// A server on this address, and how often it was connected to.
    async fn server(ip: [u8; 4], port: u16) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((std::net::IpAddr::from(ip), port)).await;
        let listener = listener.expect("the port is free on a loopback address of its own");
        let address = listener.local_addr().unwrap();
        let checked = Arc::new(AtomicUsize::new(0));
        let count = checked.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, SeqCst);
            }
        });
        (address, checked)
    }

    async fn is_checked(checked: &AtomicUsize, times: usize) {
        let patience = Instant::now() + Duration::from_secs(30);
        while checked.load(SeqCst) != times {
            assert!(
                Instant::now() < patience,
                "{checked:?} checks and not {times}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Found by a name that only the test answers for.
    fn group(port: u16) -> (Arc<Group>, Name) {
        let file = format!(
            "listeners: [{{ listen: 127.0.0.1:0 }}]\n\
             upstreams: {{ u: {{ discover: {{ dns: \"chat.invalid:{port}\", hold: 0s }}, \
             health_check: {{ type: tcp, interval: 1h }} }} }}\n\
             routes: [{{ upstream: u }}]\n"
        );
        let config = crate::config::parse("test", &file).unwrap();
        let (departures, _) = unbounded_channel();
        let group = Group::new(
            config.upstreams[0].clone(),
            Arc::default(),
            None,
            departures,
            vec![],
        );
        let host = "chat.invalid".into();
        (group, Name { host, port })
    }

    fn answer(group: &Group, name: &Name, found: &[SocketAddr]) {
        group.take_answers(vec![(name.clone(), Ok(found.to_vec()))]);
    }

    #[tokio::test]
    async fn who_joins_or_comes_back_is_checked_at_once_and_who_stays_is_not_checked_again() {
        let (a, of_a) = server([127, 0, 0, 71], 0).await;
        let (b, of_b) = server([127, 0, 0, 72], a.port()).await;
        let (group, name) = group(a.port());
        group.begin(None);
        answer(&group, &name, &[a]);
        is_checked(&of_a, 1).await;
        answer(&group, &name, &[a, b]);
        is_checked(&of_b, 1).await;
        // Back as a server of which nothing is known.
        answer(&group, &name, &[b]);
        answer(&group, &name, &[a, b]);
        is_checked(&of_a, 2).await;
        assert_eq!(of_b.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn who_was_checked_before_the_group_began_is_not_checked_again_at_once() {
        let (a, of_a) = server([127, 0, 0, 74], 0).await;
        let (b, of_b) = server([127, 0, 0, 75], a.port()).await;
        let (group, name) = group(a.port());
        answer(&group, &name, &[a]);
        super::super::warm_up::warm_up(vec![group.clone()]).await;
        is_checked(&of_a, 1).await;
        group.begin(None);
        answer(&group, &name, &[a, b]);
        is_checked(&of_b, 1).await;
        assert_eq!(of_a.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn tasks_do_not_outlive_the_group_nor_keep_it() {
        let (group, name) = group(9);
        group.begin(None);
        let gone = Arc::downgrade(&group);
        answer(&group, &name, &[([127, 0, 0, 73], 9).into()]);
        // Every task has had a turn and waits.
        while group.members()[0].found_up().is_none() {
            tokio::task::yield_now().await;
        }
        drop(group);
        assert!(gone.upgrade().is_none());
    }
}
