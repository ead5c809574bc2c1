//! The old process's side of an upgrade, with its sockets and clocks: the shell around [`Old`].
//!
//! One task does everything: the link, the life of the new process, the sessions that have stopped,
//! and the supervisor's orders.

mod commands;
mod ends;
mod parcels;
mod talk;

use std::collections::{HashMap, HashSet, VecDeque};
use std::future;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;

use super::census::Census;
use super::exec::{self, Started};
use super::link::Link;
use super::old::{Action, Awaited, Event, Old, Verdict, WINDOW};
use super::program::Program;
use super::protocol::{self, Message, wire};
use super::rendezvous::{self, Visit};
use super::severed::SeveredFlag;
use super::snapshot::Parcel;
use super::successor::Successor;
use crate::admin::view::UpgradeReport;
use crate::admin::{ControlError, Request};
use crate::app::App;
use crate::lifecycle::upgrade::UpgradeError;
use crate::net::Binder;
use crate::session::Leaving;

/// How long the new process may take until it is ready to serve.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to serve after it was told to.
const SERVING_WITHIN: Duration = Duration::from_secs(5);

/// How long it may leave all sessions that it was sent unanswered.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How long it may keep the link open when nothing more comes.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// How long a new process that does not serve may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A process that dies closes its sockets a moment before others see that it has ended.
const DIES_WITHIN: Duration = Duration::from_secs(2);

/// How long the old process waits for the answers to commands that it has passed on.
const COMMANDS_WITHIN: Duration = Duration::from_secs(30);

/// How long after a refusal a session is sent once more.
const TRIES_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How often the new process is told what still counts here.
const CENSUS_EVERY: Duration = Duration::from_millis(50);
/// The same when things only end here: at once, as whoever was told to go may be back at once, and
/// must not meet its own last session under a limit. If nothing has ended, every second.
const LATE_CENSUS_EVERY: Duration = Duration::from_secs(1);
const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// The supervisor's orders.
#[derive(Debug)]
pub enum Order {
    /// Nobody is accepted here any more, so the new process may serve.
    MayGo,
    /// The new process was told to stop: send nothing more to it.
    Stop,
    CallOff(ControlError),
    /// A command for the new process.
    Command(u64, Request),
    /// A signal for the new process.
    Signal(Signal),
    /// [`News::Settled`] was noted: nobody waits for it any more.
    Noted,
}

/// What the supervisor is told.
#[derive(Debug)]
pub enum News {
    /// The new process could serve.
    Ready,
    /// The new process serves.
    Serves {
        pid: u32,
    },
    /// All that can move at once has moved.
    Settled(UpgradeReport),
    /// The new process was told to stop.
    Stops,
    /// The new process has done a command, or could not.
    Outcome(u64, Result<Value, ControlError>),
    Ended(Verdict, Option<UpgradeError>),
    /// After [`News::Ended`]: nobody will tell the result of this command.
    Unanswered(u64),
}

/// A parcel, and the token that makes this process wait for it.
type InHand = (Arc<Parcel>, TaskTrackerToken);

type WindingDown = Pin<Box<dyn Future<Output = ()> + Send>>;

struct HandOver {
    app: Arc<App>,
    link: Link,
    severed: Arc<SeveredFlag>,
    successor: Successor,
    machine: Old<Uuid>,
    /// Events that have come and are not handled yet.
    events: VecDeque<Event<Uuid>>,
    is_acting: bool,
    /// The lower protocol version of both sides.
    protocol: u32,
    version: String,
    /// Parcels that are here, or sent and not answered.
    parcels: HashMap<u64, InHand>,
    last_number: u64,
    leave: UnboundedSender<Leaving>,
    census: Census,
    census_due: Option<Instant>,
    /// The sum of the counts at the last census, and when that was.
    counted: Option<(usize, Instant)>,
    /// When the new process was last told what was learned from answers.
    learned_told: Option<Instant>,
    /// What is awaited, and since when.
    awaited: Option<(Awaited, Instant)>,
    /// Commands that were passed on and not answered, with the time when that was.
    commands: Vec<(u64, Instant)>,
    /// No other connection is left here.
    is_empty: bool,
    /// Everything that waited here for the end of the upgrade was passed on.
    is_noted: bool,
    /// Sessions that the new process has refused once.
    refused: HashSet<Uuid>,
    winding_down: Option<WindingDown>,
    /// Drains of which the first protocol must name each session.
    named_drains: Vec<wire::NamedDrain>,
    news: UnboundedSender<News>,
    why: Option<UpgradeError>,
    verdict: Option<Verdict>,
    /// The new process has said that it needs nothing more.
    has_all: bool,
    /// It was told to end, or has said that it will.
    is_dismissed: bool,
    /// Nothing more comes from the link.
    is_closed: bool,
    has_ended: bool,
}

/// The process that takes over.
pub enum To<'a> {
    /// The program at this path, which must be started.
    Program(&'a Program),
    /// A process that something else has started, and that has asked.
    Guest(Box<Visit>),
}

/// Begins the hand-over. A task continues with the rest. `admin`: the operator's sockets. Returns
/// the new process's id.
pub fn begin(
    app: Arc<App>,
    to: To<'_>,
    admin: Vec<(Binder, OwnedFd)>,
    orders: UnboundedReceiver<Order>,
    news: UnboundedSender<News>,
) -> Result<u32, UpgradeError> {
    let mut given = Vec::new();
    for listener in app.listeners() {
        let socket = &listener.socket;
        given.push((protocol::name_of(socket.binder()), socket.descriptor()?));
    }
    let admin = admin.into_iter();
    given.extend(admin.map(|(binder, socket)| (protocol::name_of(binder), socket)));
    let (link, successor) = match to {
        To::Program(program) => {
            let (link, started) = start(program, given)?;
            (link, Successor::Child(started))
        }
        To::Guest(visit) => {
            let Visit {
                guest, mut link, ..
            } = *visit;
            rendezvous::give(&mut link, given)?;
            (link, Successor::Guest(guest))
        }
    };
    let (pid, severed) = (successor.pid(), SeveredFlag::new()?);
    let (leave, leaving) = unbounded_channel();
    let hand_over = HandOver {
        app,
        link,
        severed: Arc::new(severed),
        successor,
        machine: Old::new(WINDOW),
        events: VecDeque::new(),
        is_acting: false,
        protocol: wire::FIRST,
        version: String::new(),
        parcels: HashMap::new(),
        last_number: 0,
        leave,
        census: Census::default(),
        census_due: None,
        counted: None,
        learned_told: None,
        awaited: None,
        commands: Vec::new(),
        is_empty: false,
        is_noted: false,
        refused: HashSet::new(),
        winding_down: None,
        named_drains: Vec::new(),
        news,
        why: None,
        verdict: None,
        has_all: false,
        is_dismissed: false,
        is_closed: false,
        has_ended: false,
    };
    tokio::spawn(hand_over.run(orders, leaving));
    Ok(pid)
}

fn start(
    program: &Program,
    mut given: Vec<(&str, OwnedFd)>,
) -> Result<(Link, Started), UpgradeError> {
    let (ours, theirs) = UnixStream::pair()?;
    given.push((protocol::LINK, theirs.into()));
    let link = Link::new(ours)?;
    let spawned = exec::spawn(&program.path, &program.args, given);
    let started = spawned.map_err(|cause| UpgradeError::Spawn {
        path: program.path.clone(),
        cause,
    })?;
    info!(
        "upgrade: {} starts as {}",
        program.path.display(),
        started.pid()
    );
    Ok((link, started))
}

impl HandOver {
    async fn run(
        mut self,
        mut orders: UnboundedReceiver<Order>,
        mut leaving: UnboundedReceiver<Leaving>,
    ) {
        self.await_next();
        while self.verdict.is_none() {
            let (due, commands_due) = (self.due(), self.commands_due());
            tokio::select! {
                biased;
                heard = self.link.hear(), if !self.is_closed => self.heard(heard),
                Some(leaving) = leaving.recv() => self.leaving(leaving),
                Some(order) = orders.recv() => self.order(order),
                () = self.successor.ended(), if !self.has_ended => {
                    // What it has sent is still read, even if another process has its end of the
                    // link.
                    self.has_ended = true;
                    self.link.shut();
                }
                () = wound_down(&mut self.winding_down) => self.wound_down(&mut leaving),
                () = at(commands_due) => self.give_commands_up(),
                () = at(self.census_due) => self.census_is_due(),
                () = at(due) => self.time_is_up(),
            }
            self.await_next();
        }
        // A session that has stopped in the meantime stays here.
        leaving.close();
        while let Ok(leaving) = leaving.try_recv() {
            self.leaving(leaving);
        }
        let is_child = matches!(self.successor, Successor::Child(_));
        if self.is_dismissed
            && is_child
            && timeout(ENDS_WITHIN, self.successor.ended()).await.is_err()
        {
            self.successor.kill();
        }
        let verdict = match self.verdict.unwrap_or(Verdict::Failed) {
            Verdict::Finished if self.machine.successor_stops() => Verdict::Stopped,
            // Otherwise no process would serve.
            Verdict::Finished if !self.has_all && has_died(&self.successor).await => Verdict::Died,
            verdict => verdict,
        };
        let why = self.why.take();
        self.tell(News::Ended(verdict, why));
        // Now it is known which process serves.
        for (number, _) in std::mem::take(&mut self.commands) {
            self.tell(News::Unanswered(number));
        }
    }

    /// Ends when no connection is left, except those that have just stopped and are not taken in
    /// hand yet.
    fn wound_down(&mut self, leaving: &mut UnboundedReceiver<Leaving>) {
        while let Ok(one) = leaving.try_recv() {
            self.leaving(one);
        }
        if self.app.connections() > 0 {
            return self.wind_down();
        }
        self.winding_down = None;
        self.is_empty = true;
        self.end_if_nobody_waits();
    }

    fn wind_down(&mut self) {
        let app = self.app.clone();
        self.winding_down = Some(Box::pin(async move { app.wind_down().await }));
    }

    /// A caller that asked here for something the new process does gets its answer here.
    fn end_if_nobody_waits(&mut self) {
        if self.is_empty && self.is_noted && self.commands.is_empty() {
            self.on(Event::Empty);
        }
    }

    fn tell(&self, news: News) {
        // The supervisor lives as long as the process.
        let _ = self.news.send(news);
    }

    /// Handles an event, and the events that follow from it.
    fn on(&mut self, event: Event<Uuid>) {
        self.events.push_back(event);
        if std::mem::replace(&mut self.is_acting, true) {
            return;
        }
        while let Some(event) = self.events.pop_front() {
            for action in self.machine.on(event) {
                self.act(action);
            }
        }
        self.is_acting = false;
    }

    fn act(&mut self, action: Action<Uuid>) {
        match action {
            Action::Yield => self.tell(News::Ready),
            Action::SayGo => self.say_go(),
            Action::Find => self.find(),
            Action::Ask(id) => match self.app.sessions().find(id) {
                Some(live) => live.traffic.ask_to_move(),
                None => self.on(Event::Stays(id)),
            },
            Action::Unask(id) => {
                if let Some(live) = self.app.sessions().find(id) {
                    live.traffic.end_question();
                }
            }
            Action::Send(number) => self.send(number),
            Action::LetGo(number) => {
                self.parcels.remove(&number);
            }
            Action::TakeBack(number) => self.take_back(number),
            Action::Report => self.report(),
            Action::SayEnd => {
                self.say_learned();
                self.say(&Message::End);
            }
            Action::Sever => {
                self.severed.set();
                self.app.runner().stop_moving();
                self.census_due = None;
                self.winding_down = None;
                self.link.shut();
            }
            Action::Dismiss => self.dismiss(),
            Action::Kill => self.kill(),
            Action::Finish(verdict) => self.verdict = Some(verdict),
        }
    }

    fn report(&mut self) {
        let (moved, remaining) = (self.machine.moved(), self.app.sessions().len());
        let drains = std::mem::take(&mut self.named_drains);
        for drain in drains {
            self.say(&Message::Drain(drain));
        }
        self.say(&Message::Moved {
            sessions: moved,
            told: remaining as u64,
        });
        self.tell(News::Settled(UpgradeReport {
            pid: self.successor.pid(),
            version: self.version.clone(),
            moved: moved as usize,
            left: remaining,
        }));
    }

    fn answered(&mut self) {
        if let Some((Awaited::Answer, since)) = &mut self.awaited {
            *since = Instant::now();
        }
    }

    /// Notes what is awaited now, and since when.
    fn await_next(&mut self) {
        let awaited = self.machine.awaits();
        if self.awaited.map(|(awaited, _)| awaited) != awaited {
            self.awaited = awaited.map(|awaited| (awaited, Instant::now()));
        }
    }

    fn due(&self) -> Option<Instant> {
        let awaited = self.awaited.map(|(awaited, since)| since + limit(awaited));
        [awaited, self.link.due()].into_iter().flatten().min()
    }

    fn time_is_up(&mut self) {
        let awaited = self.awaited.map(|(awaited, _)| awaited);
        let (what, limit) = match awaited {
            Some(Awaited::Ready) => ("get ready", READY_WITHIN),
            Some(Awaited::Serving) => ("serve", SERVING_WITHIN),
            Some(Awaited::Answer) | None => ("take over the sessions", ANSWERS_WITHIN),
            Some(Awaited::Close) => ("end the hand-over", CLOSES_WITHIN),
        };
        if self.machine.has_handed_over() {
            warn!("upgrade: the new process did not {what} within {limit:?}");
        }
        self.why = Some(UpgradeError::TooSlow {
            what,
            limit,
            is_killed: matches!(self.successor, Successor::Child(_)),
        });
        self.on(Event::TimeUp);
    }
}

/// Whether a new process has died that closed the link without a message. If it has not, it speaks
/// the first protocol.
async fn has_died(successor: &Successor) -> bool {
    timeout(DIES_WITHIN, successor.ended()).await.is_ok()
}

fn limit(awaited: Awaited) -> Duration {
    match awaited {
        Awaited::Ready => READY_WITHIN,
        Awaited::Serving => SERVING_WITHIN,
        Awaited::Answer => ANSWERS_WITHIN,
        Awaited::Close => CLOSES_WITHIN,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}

async fn wound_down(winding_down: &mut Option<WindingDown>) {
    match winding_down {
        Some(winding_down) => winding_down.await,
        None => future::pending().await,
    }
}
