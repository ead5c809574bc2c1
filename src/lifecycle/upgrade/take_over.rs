//! The new process's side of an upgrade, with its sockets: the shell around [`New`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use super::about::Attachments;
use super::census::HeldCounts;
use super::link::{Heard, Link};
use super::new::{Action, Event, New};
use super::predecessor::{Life, Predecessor};
use super::protocol::frame::{Decoded, Framing};
use super::protocol::{Message, wire};
use super::severed::SeveredFlag;
use super::snapshot;
use super::stream_snapshot;
use super::warm_state;
use crate::admin::{CommandOutcome, Request};
use crate::app::App;
use crate::lifecycle::systemd;
use crate::net::{BoundId, ListenAddress};
use crate::observe::entry::Operation;
use crate::phase::PhaseWatch;
use crate::session::ClientEnd;
use crate::session::Session;
use crate::session::drain::{DrainPlan, DrainReason};
use crate::session::live::LiveSession;
use crate::tls::tickets;
use crate::upstream::import_key;

/// A process that dies closes its sockets a moment before others see that it has ended.
const DEAD_WITHIN: Duration = Duration::from_secs(2);

/// A command that the old process has passed on, and where its result goes.
pub type PassedOn = (Request, oneshot::Sender<CommandOutcome>);

/// What the rest of the process is told.
pub struct TakingOver {
    /// `Ok`: this process must serve from now on, and nothing may fail any more.
    pub may_serve: oneshot::Receiver<Result<(), String>>,
    /// Commands that the old process has received.
    pub commands: UnboundedReceiver<PassedOn>,
    /// Comes when nothing more comes from the old process.
    pub done: oneshot::Receiver<Parting>,
}

/// How a hand-over has ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// This process serves alone.
    Alone,
    /// The old process did not wait for this one, and serves again.
    OldServesAgain,
}

impl Predecessor {
    /// Asks to serve, and takes over the state of the old process. `unused`: inherited addresses
    /// that are not in the file. Must be called inside the runtime.
    pub fn take_over(self, app: Arc<App>, unused: &[ListenAddress]) -> io::Result<TakingOver> {
        let (tell, may_serve) = oneshot::channel();
        let (pass_on, commands) = unbounded_channel();
        let (ends, done) = oneshot::channel();
        let (stream, life) = self.meet()?;
        let phase = app.phases().watch();
        let task = TakeOver {
            link: Link::new(stream)?,
            machine: New::default(),
            held: HeldCounts::default(),
            parcels: HashMap::new(),
            life,
            severed: None,
            phase,
            unused: unused.iter().map(ListenAddress::to_string).collect(),
            may_serve: Some(tell),
            pass_on,
            unplaced: Some(Vec::new()),
            is_reported: false,
            has_closed: false,
            is_over: false,
            parting: Parting::Alone,
            app,
        };
        tokio::spawn(async move {
            // If nobody waits any more, the process is ending.
            let _ = ends.send(task.run().await);
        });
        Ok(TakingOver {
            may_serve,
            commands,
            done,
        })
    }
}

/// What has come and is not served yet.
enum Taken {
    Session(Box<Session>),
    Idle(BoundId, Box<ClientEnd>),
}

struct TakeOver {
    app: Arc<App>,
    link: Link,
    machine: New,
    held: HeldCounts,
    parcels: HashMap<u64, Taken>,
    life: Life,
    /// Whether the old process has severed the link. `None`: it speaks a protocol without this.
    severed: Option<SeveredFlag>,
    phase: PhaseWatch,
    unused: Vec<String>,
    may_serve: Option<oneshot::Sender<Result<(), String>>>,
    pass_on: UnboundedSender<PassedOn>,
    /// Sessions that have come and must go, as long as the first protocol may still name the drain
    /// that they are in. `None`: each one is told when it comes.
    unplaced: Option<Vec<Arc<LiveSession>>>,
    /// The old process has reported. What comes later is counted one by one.
    is_reported: bool,
    has_closed: bool,
    is_over: bool,
    parting: Parting,
}

/// A command's number and its result.
type Answered = (u64, CommandOutcome);

impl TakeOver {
    async fn run(mut self) -> Parting {
        let (answer, mut answers) = unbounded_channel::<Answered>();
        let mut has_stopped = false;
        self.on(Event::Proved).await;
        while !self.is_over {
            tokio::select! {
                biased;
                // First in order: what comes after this is not taken.
                () = self.phase.until(|phase| phase.is_stopping()), if !has_stopped => {
                    has_stopped = true;
                    self.on(Event::Stop).await;
                }
                heard = self.link.hear(), if !self.has_closed => self.heard(heard, &answer).await,
                Some((number, outcome)) = answers.recv() => {
                    let outcome = outcome.into();
                    self.say(&Message::Outcome { number, outcome }).await;
                }
            }
        }
        self.drain_unplaced();
        if self.parting == Parting::Alone {
            info!("upgrade: done, {} sessions live", self.app.sessions().len());
        }
        self.parting
    }

    async fn on(&mut self, event: Event) {
        let mut actions: Vec<Action> = self.machine.on(event);
        actions.reverse();
        while let Some(action) = actions.pop() {
            let event = self.act(action).await;
            let more = event
                .map(|event| self.machine.on(event))
                .unwrap_or_default();
            actions.extend(more.into_iter().rev());
        }
    }

    /// Does an action. Returns the event that follows at once.
    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::SayReady => {
                let ready = Message::Ready(wire::Ready {
                    pid: std::process::id(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    unused: std::mem::take(&mut self.unused),
                    protocol: wire::LATEST,
                });
                self.say(&ready).await;
            }
            Action::Accept => {
                // Before the old process learns that this one serves, and closes its own sockets.
                self.app.listen();
                // Before the old process can end, or systemd would regard the unit as stopped.
                systemd::ready();
                self.answer(Ok(()));
            }
            Action::SayServing => {
                self.say(&Message::Serving).await;
            }
            Action::SayAdopted(number) => {
                return Some(match self.say(&Message::Adopted { number }).await {
                    true => Event::Said(number),
                    false => Event::Unsaid(number),
                });
            }
            // The reason was sent where it arose.
            Action::SayRefused(_) => {}
            Action::SayStopping => {
                self.say(&Message::Stopping).await;
            }
            Action::Carry(number) => self.carry(number),
            Action::Drop(number) => {
                self.parcels.remove(&number);
                let reason = "this process stops, or the hand-over is over".to_owned();
                self.say(&Message::Refused { number, reason }).await;
            }
            Action::AskWhetherDead => {
                return Some(match self.old_is_dead().await {
                    // A dead process sets no flag any more.
                    true => Event::OldIsDead {
                        has_severed: self.severed.as_ref().is_some_and(SeveredFlag::is_set),
                    },
                    false => Event::OldLives,
                });
            }
            Action::Finish => {
                // If the link is closed without this message, the process counts as dead. The first
                // protocol has no such message, and no longer reads.
                if !self.has_closed {
                    self.say(&Message::End).await;
                }
                self.is_over = true;
            }
            Action::StepDown => self.parting = Parting::OldServesAgain,
            Action::GiveUp => {
                self.answer(Err("the old process has closed the link".to_owned()));
                self.is_over = true;
            }
        }
        None
    }

    fn answer(&mut self, answer: Result<(), String>) {
        if let Some(may_serve) = self.may_serve.take() {
            // If nobody waits any more, the process is ending.
            let _ = may_serve.send(answer);
        }
    }

    /// Returns whether the kernel has the message.
    async fn say(&mut self, message: &Message) -> bool {
        if let Err(error) = self.link.say(message) {
            warn!("upgrade: {message:?} cannot be said: {error}");
            return false;
        }
        self.link.flush().await.is_ok()
    }

    async fn old_is_dead(&self) -> bool {
        match &self.life {
            Life::Known(old) => timeout(DEAD_WITHIN, old.ended()).await.is_ok(),
            Life::Dead => true,
            Life::Unknown => false,
        }
    }

    async fn heard(&mut self, heard: io::Result<Heard>, answer: &UnboundedSender<Answered>) {
        let (decoded, descriptors) = match heard {
            Ok(Heard::Message(decoded, descriptors)) => (decoded, descriptors),
            closed => {
                if let Err(error) = closed {
                    warn!("upgrade: the link to the old process is broken: {error}");
                    self.link.shut();
                }
                self.has_closed = true;
                let severed = self.severed.as_ref();
                let is_condemned = severed.is_some_and(SeveredFlag::is_condemned);
                return self.on(Event::Closed { is_condemned }).await;
            }
        };
        match decoded {
            Decoded::Frame(frame) => {
                if !frame.tickets.0.is_empty() {
                    tickets::import(&frame.tickets.0);
                }
                if !frame.affinity.0.is_empty() {
                    import_key(&frame.affinity.0);
                }
                let attachments = Attachments {
                    to_client: frame.to_client,
                    to_server: frame.to_server,
                    client_tls: frame.client_tls,
                    server_tls: frame.server_tls,
                    descriptors,
                };
                self.said(frame.message, attachments, answer).await;
            }
            Decoded::Unknown { number, why } => match number {
                Some(number) => self.refuse(number, why).await,
                None => info!("upgrade: the old process says what this one does not know: {why}"),
            },
        }
    }

    async fn said(
        &mut self,
        message: Message,
        attachments: Attachments,
        answer: &UnboundedSender<Answered>,
    ) {
        match message {
            Message::Go(go) => self.go(go).await,
            Message::Census(census) => self.held.set(census, &self.app),
            Message::Learned(learned) => warm_state::restore_learned(&self.app, learned),
            Message::Keys(keys) => warm_state::restore_keys(&self.app, &keys),
            Message::Accept => {
                let flag = attachments.descriptors.into_iter().next();
                self.severed = flag.map(SeveredFlag::received);
                self.on(Event::Accept).await;
            }
            Message::Session { number, session } => {
                let unpacked = snapshot::unpack(*session, attachments, &self.app, &mut self.held);
                let taken = unpacked.map(|session| Taken::Session(Box::new(session)));
                self.take(number, taken).await;
            }
            Message::Stream { number, stream } => {
                let unpacked =
                    stream_snapshot::unpack(*stream, attachments, &self.app, &mut self.held);
                let taken = unpacked.map(|session| Taken::Session(Box::new(session)));
                self.take(number, taken).await;
            }
            Message::Idle { number, idle } => {
                let unpacked = snapshot::unpack_idle(idle, attachments, &self.app, &mut self.held);
                let taken = unpacked.map(|(bound, client)| Taken::Idle(bound, Box::new(client)));
                self.take(number, taken).await;
            }
            Message::Command {
                number,
                command,
                by,
            } => {
                let command = command.into();
                self.command(number, Request { command, by }, answer);
            }
            Message::Drain(drain) => self.go_on_with(drain),
            Message::Moved { sessions, told } => {
                info!("upgrade: {sessions} sessions moved, {told} told to go");
                self.app.count_moved(sessions, told);
                self.is_reported = true;
                self.drain_unplaced();
            }
            Message::End => self.on(Event::End).await,
            other => warn!("upgrade: the old process said {other:?} out of turn"),
        }
    }

    /// Takes over the state of operations and servers.
    async fn go(&mut self, go: wire::Go) {
        let generation = self.app.generation();
        for (upstream, known) in go.known {
            if let Some(group) = generation.find_group(&upstream) {
                group.restore(known.into());
            }
        }
        for (upstream, address) in go.drained {
            if let Some(group) = generation.find_group(&upstream) {
                group.set_drained(address, true);
            }
        }
        for drain in go.drains {
            let plan = DrainPlan {
                code: drain.code,
                window: drain.window,
                deadline: drain.deadline,
            };
            self.app.drains().start(drain.reason.into(), &[], plan);
        }
        let operations = self.app.operations();
        let by = go.tally.upgrade_by.clone();
        operations.restore(go.tally.into());
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
        let outcome = format!("version {version} has taken over as {pid}");
        self.app.record(Operation::Upgrade, &by, None, Ok(outcome));
        let speaks_more = go.protocol > wire::FIRST;
        if speaks_more {
            self.link.set_framing(Framing::Second);
            self.unplaced = None;
        }
        self.on(Event::Go(speaks_more)).await;
    }

    async fn take(&mut self, number: u64, taken: io::Result<Taken>) {
        match taken {
            Ok(taken) => {
                self.parcels.insert(number, taken);
                self.on(Event::Parcel(number)).await;
            }
            Err(error) => self.refuse(number, error.to_string()).await,
        }
    }

    async fn refuse(&mut self, number: u64, reason: String) {
        self.on(Event::Unfit(number)).await;
        self.say(&Message::Refused { number, reason }).await;
    }

    fn carry(&mut self, number: u64) {
        match self.parcels.remove(&number) {
            Some(Taken::Session(session)) => {
                if self.is_reported {
                    self.app.count_moved(1, 0);
                }
                let live = Arc::clone(&session.live);
                self.app.runner().run(*session);
                match &mut self.unplaced {
                    Some(unplaced) => unplaced.push(live),
                    None => self.app.drain_if_gone(&live),
                }
            }
            Some(Taken::Idle(bound, client)) => self.app.serve(bound, *client),
            None => {}
        }
    }

    fn command(&self, number: u64, request: Request, answer: &UnboundedSender<Answered>) {
        let (tell, told) = oneshot::channel();
        if self.pass_on.send((request, tell)).is_err() {
            return;
        }
        let answer = answer.clone();
        tokio::spawn(async move {
            if let Ok(outcome) = told.await {
                // The link may have ended in the meantime.
                let _ = answer.send((number, outcome));
            }
        });
    }

    /// A drain in the first protocol, with those of its sessions that are here.
    fn go_on_with(&mut self, drain: wire::NamedDrain) {
        let sessions = self.app.sessions();
        let found = |id: &Uuid| sessions.find(*id);
        let members: Vec<Arc<LiveSession>> = drain.sessions.iter().filter_map(found).collect();
        let plan = DrainPlan {
            code: drain.code,
            window: drain.window,
            deadline: drain.deadline,
        };
        if let Some(unplaced) = &mut self.unplaced {
            unplaced.retain(|live| !drain.sessions.contains(&live.identity.id));
        }
        let reason = DrainReason::Other(drain.what);
        self.app.drains().start(reason, &members, plan);
    }

    /// Tells the sessions to go that do not fit this configuration and are in no drain.
    fn drain_unplaced(&mut self) {
        for live in self.unplaced.iter_mut().flat_map(std::mem::take) {
            self.app.drain_if_gone(&live);
        }
    }
}
