//! The shell around the [`Supervisor`]: tells it what happens, and does what it decides.

mod answers;
mod predecessor;
mod stopping;

use std::collections::HashMap;
use std::future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info, warn};
use rustix::process::Signal as Posix;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_blocking};

use super::control::as_json;
use super::pid_file::PidFile;
use super::primary_tasks::PrimaryTasks;
use super::process::{Inbox, Message, Process};
use super::signals::Signals;
use super::supervisor::{
    Action, Asker, Caller, Change, Event, HandedOver, Reason, Signal, Supervisor,
};
use super::systemd;
use super::upgrade::UpgradeError;
use super::upgrade::hand_over::{self, News, Order, To};
use super::upgrade::old::Verdict;
use super::upgrade::rendezvous::Visit;
use crate::admin::view::UpgradeReport;
use crate::admin::{Command, CommandOutcome, ControlError, Request};
use crate::app::{self, ReloadError};
use crate::observe::entry::Operation;
use predecessor::{Predecessor, said_by};

/// How long an upgrade waits for the process before this one to end.
const PREDECESSOR_GOES_WITHIN: Duration = Duration::from_secs(10);

/// How often to check whether a drain has ended.
const WATCH_DRAINS: Duration = Duration::from_millis(500);

/// How long the admin API's thread may take until it accepts no more.
const YIELDS_WITHIN: Duration = Duration::from_secs(2);

/// A caller that waits for the result of a command.
struct Waiting {
    request: Request,
    tell: oneshot::Sender<CommandOutcome>,
}

pub struct Shell {
    process: Arc<Process>,
    supervisor: Supervisor,
    pid_file: PidFile,
    /// Names this process for systemd as long as it could serve again instead of a new one.
    fallback: PidFile,
    tasks: Option<PrimaryTasks>,
    waiting: HashMap<Caller, Waiting>,
    /// Processes that have asked to take over, and have no answer yet.
    visits: HashMap<Caller, Box<Visit>>,
    last_caller: Caller,
    reload: Option<(AbortHandle, Asker)>,
    /// The channel to the hand-over that is under way.
    orders: Option<UnboundedSender<Order>>,
    news: Option<UnboundedReceiver<News>>,
    /// The id of the new process.
    successor: u32,
    report: Option<UpgradeReport>,
    why: Option<ControlError>,
    stop: Option<AbortHandle>,
    /// Ends the keeping that is under way. Dropped when that has ended.
    keeping: Option<oneshot::Sender<()>>,
    /// The signal that has ended this process.
    stopped_by: Option<&'static str>,
    /// The process before serves again.
    has_lost: bool,
    /// Whether the process that takes over was started by something else.
    is_for_guest: bool,
    /// A signal to stop that waits for such a process.
    stops_after: Option<Signal>,
    is_over: bool,
}

impl Shell {
    pub fn new(process: Arc<Process>, pid_file: PidFile, has_predecessor: bool) -> Self {
        process.app.expect_sessions(has_predecessor);
        // Where there is a predecessor, systemd has been told before that one could end.
        if !has_predecessor {
            systemd::ready();
        }
        Self {
            tasks: Some(PrimaryTasks::begin(&process)),
            supervisor: Supervisor::new(has_predecessor),
            process,
            pid_file,
            fallback: PidFile::new(systemd::fallback_file()),
            waiting: HashMap::new(),
            visits: HashMap::new(),
            last_caller: 0,
            reload: None,
            orders: None,
            news: None,
            successor: 0,
            report: None,
            why: None,
            stop: None,
            keeping: None,
            stopped_by: None,
            has_lost: false,
            is_for_guest: false,
            stops_after: None,
            is_over: false,
        }
    }

    pub async fn run(
        mut self,
        mut inbox: Inbox,
        (mut signals, early): (Option<Signals>, Vec<Signal>),
        mut predecessor: Option<Predecessor>,
    ) -> io::Result<()> {
        for signal in early {
            self.on(Event::Signal(signal)).await;
        }
        while !self.is_over {
            tokio::select! {
                biased;
                signal = next(&mut signals) => self.signalled(signal).await,
                Some(news) = heard(&mut self.news) => self.hear(news).await,
                Some(message) = inbox.recv() => self.take(message).await,
                said = said_by(&mut predecessor) => match said {
                    Ok((request, tell)) => self.take(Message::Command(request, tell)).await,
                    Err(parting) => {
                        predecessor = None;
                        self.parted(parting).await;
                    }
                },
                () = tokio::time::sleep(WATCH_DRAINS), if self.watches_drains() => {
                    self.process.look_at_drains();
                }
            }
        }
        // Who still asks hears at once that this process has ended.
        drop(inbox);
        if let Some(tasks) = self.tasks.take() {
            tasks.end().await;
        }
        if let Some(signal) = self.stopped_by {
            let by = format!("signal {signal}");
            self.record(Operation::Stop, &by, Ok("ended".to_owned()));
        }
        self.process.close_sockets();
        self.pid_file.remove_ours();
        self.fallback.remove_ours();
        self.process.app.close_log().await;
        match self.has_lost {
            true => Err(io::Error::other("the process before serves again")),
            false => Ok(()),
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.on(event).await,
            Message::Reloaded(outcome) => {
                if let Some((_, asker)) = self.reload.take() {
                    self.reloaded(asker, outcome);
                    self.on(Event::Reloaded).await;
                }
            }
            Message::Visit(visit) => {
                // The visitor hears the outcome by its link.
                let (tell, _) = oneshot::channel();
                let command = Command::Upgrade;
                let by = visit.by.clone();
                let caller = self.wait(Request { command, by }, tell);
                self.visits.insert(caller, visit);
                self.on(Event::Asked(Change::Upgrade, caller)).await;
            }
            Message::Command(request, tell) => {
                let event = match request.command {
                    Command::Reload => |caller| Event::Asked(Change::Reload, caller),
                    Command::Upgrade => |caller| Event::Asked(Change::Upgrade, caller),
                    _ => Event::Command,
                };
                let caller = self.wait(request, tell);
                self.on(event(caller)).await;
            }
        }
    }

    fn wait(&mut self, request: Request, tell: oneshot::Sender<CommandOutcome>) -> Caller {
        self.last_caller += 1;
        self.waiting
            .insert(self.last_caller, Waiting { request, tell });
        self.last_caller
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Ready => self.on(Event::SuccessorReady).await,
            News::Serves { pid } => {
                self.process.set_successor(Some(pid));
                let app = &self.process.app;
                self.process
                    .leave_sockets(|address| app.is_unwanted_at(address));
            }
            News::Settled(report) => {
                self.report = Some(report);
                self.on(Event::Settled).await;
                self.note_when_nobody_asks();
                info!("replaced by another process, ending with what cannot move");
            }
            News::Stops => self.on(Event::SuccessorStops).await,
            News::Outcome(caller, outcome) => self.answer(Asker::Caller(caller), outcome),
            // The process that serves now must do the command.
            News::Unanswered(caller) => {
                let waiting = self.waiting.get(&caller);
                let event = match waiting.map(|waiting| &waiting.request.command) {
                    Some(Command::Reload) => Event::Asked(Change::Reload, caller),
                    _ => Event::Command(caller),
                };
                self.on(event).await;
            }
            News::Ended(verdict, why) => {
                self.orders = None;
                self.why = why.map(ControlError::from);
                let successor = self.successor;
                self.on(Event::HandedOver(handed_over(verdict))).await;
                if let (Verdict::Failed | Verdict::Died, Some(signal)) =
                    (verdict, self.stops_after.take())
                {
                    self.on(Event::Signal(signal)).await;
                }
                // Not before it is true.
                if let Verdict::Died = verdict {
                    self.note_death(successor);
                }
            }
        }
    }

    /// A caller that has connected here may still ask for what only the new process can do.
    fn note_when_nobody_asks(&mut self) {
        let (Some(orders), Some(tasks)) = (self.orders.clone(), &mut self.tasks) else {
            return;
        };
        let hears_no_more = tasks.hears_no_more();
        tokio::spawn(async move {
            hears_no_more.await;
            // A hand-over that is over needs no orders.
            let _ = orders.send(Order::Noted);
        });
    }

    fn note_death(&self, successor: u32) {
        let outcome = format!("the process that took over has died ({successor})");
        error!("{outcome}: this one serves again");
        self.record(Operation::Upgrade, "prusik itself", Err(outcome));
    }

    async fn on(&mut self, event: Event) {
        let mut actions = self.supervisor.on(event);
        actions.reverse();
        while let Some(action) = actions.pop() {
            let event = self.act(action).await;
            let more = event.map(|event| self.supervisor.on(event));
            actions.extend(more.into_iter().flatten().rev());
        }
        let is_upgrading = self.supervisor.is_upgrading();
        self.process.set_upgrading(is_upgrading);
    }

    /// Does an action. Returns the event that follows at once.
    async fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Enter(phase) => self.process.app.phases().enter(phase),
            Action::Reload(asker) => self.begin_reload(asker),
            Action::AbortReload => {
                if let Some((task, _)) = self.reload.take() {
                    task.abort();
                }
            }
            Action::Start(asker) => {
                let by = self.by(Change::Upgrade, asker);
                self.process.app.operations().set_upgrade_by(&by);
                if let Err(why) = self.start(asker) {
                    self.why = Some(why);
                    return Some(Event::HandedOver(HandedOver::Failed));
                }
            }
            Action::CallOff => self.order(Order::CallOff(ControlError::refused(
                "this process was told to stop",
                "start it again instead",
            ))),
            Action::Yield => {
                self.yield_to_another().await;
                return Some(Event::Yielded);
            }
            Action::SayGo => {
                self.fallback.claim();
                self.order(Order::MayGo);
            }
            Action::ServeAgain => self.serve_again(),
            Action::Report(asker) => {
                let report = self.report.take().map(as_json).unwrap_or_default();
                self.answer(asker, Ok(report));
            }
            Action::Do(caller) => {
                if let Some(waiting) = self.waiting.remove(&caller) {
                    let outcome = self.process.do_at_once(&waiting.request);
                    // A caller that has hung up gets no answer.
                    let _ = waiting.tell.send(outcome);
                }
            }
            Action::PassOn(caller) => return self.pass_on(caller),
            Action::PassSignalOn(signal) => {
                let name = signal.name();
                info!(
                    "{name}: passed on to {}, which has taken over",
                    self.successor
                );
                self.order(Order::Signal(posix(signal)));
            }
            Action::Refuse(change, asker, reason) => self.refuse(change, asker, reason),
            Action::AwaitPredecessor => {
                self.later(PREDECESSOR_GOES_WITHIN, Event::PredecessorStays);
            }
            Action::Announce(signal) => return self.announce(signal),
            Action::StopMoving => self.order(Order::Stop),
            Action::Stop(stop) => self.stop(stop),
            Action::Keep => return self.keep(),
            Action::SayNotKept(reason) => {
                let why = self.why_not(reason).error;
                warn!("restart: sessions are told to go: {why}");
            }
            // Dropping the sender is the order.
            Action::CallKeepOff => self.keeping = None,
            Action::Exit => self.is_over = true,
        }
        None
    }

    fn begin_reload(&mut self, asker: Asker) {
        let process = self.process.clone();
        let task = tokio::spawn(async move {
            let outcome = reload(&process).await;
            let outcome =
                outcome.map_err(|error| ControlError::refused(error.to_string(), error.remedy()));
            // Logging thousands of lines is too slow for a thread that carries sessions.
            let logged = outcome.clone();
            if let Err(panic) = spawn_blocking(move || answers::log_reload(&logged)).await {
                error!("the reload could not be logged: {panic}");
            }
            process.send(Message::Reloaded(outcome));
        });
        self.reload = Some((task.abort_handle(), asker));
    }

    /// Makes the admin API accept no more here.
    async fn yield_to_another(&mut self) {
        if let Some(tasks) = &mut self.tasks
            && tokio::time::timeout(YIELDS_WITHIN, tasks.yield_to_another())
                .await
                .is_err()
        {
            warn!("admin: it does not leave its socket to the new process");
        }
    }

    fn watches_drains(&self) -> bool {
        // After the hand-over the new process watches the drains, because it has the sessions.
        self.orders.is_none() && !self.process.drain_watch.lock().is_empty()
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders
            && orders.send(order).is_err()
        {
            log::debug!("the hand-over is over");
        }
    }

    fn later(&self, after: Duration, event: Event) {
        let process = self.process.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            process.send(Message::Event(event));
        });
    }

    fn start(&mut self, asker: Asker) -> Result<(), ControlError> {
        let visit = match asker {
            Asker::Caller(caller) => self.visits.remove(&caller),
            Asker::Signal => None,
        };
        self.is_for_guest = visit.is_some();
        let to = match visit {
            Some(visit) => To::Guest(visit),
            None => To::Program(self.process.program()?),
        };
        let app = self.process.app.clone();
        let (orders, ordered) = unbounded_channel();
        let (tell, news) = unbounded_channel();
        let own = self.process.own_descriptors();
        let begun = tokio::task::block_in_place(|| hand_over::begin(app, to, own?, ordered, tell));
        self.successor = begun.map_err(|error: UpgradeError| ControlError::from(error))?;
        (self.orders, self.news) = (Some(orders), Some(news));
        Ok(())
    }

    fn serve_again(&mut self) {
        self.process.set_successor(None);
        self.process.app.serve_again();
        self.process.take_sockets_back();
        self.pid_file.claim();
        let before = self.tasks.replace(PrimaryTasks::begin(&self.process));
        systemd::ready();
        // Systemd has been told that this is the main process.
        self.fallback.remove_ours();
        if let Some(before) = before {
            // Calls that came before the upgrade are answered.
            tokio::spawn(before.end());
        }
    }

    /// Passes a command on to the new process, or returns it to be done here.
    fn pass_on(&mut self, caller: Caller) -> Option<Event> {
        let waiting = self.waiting.get(&caller)?;
        if self.process.is_only_ours(&waiting.request.command) {
            let outcome = self.process.do_at_once(&waiting.request);
            self.answer(Asker::Caller(caller), outcome);
        } else if self.orders.is_some() {
            let mut request = waiting.request.clone();
            if let Command::CloseUser { user, code, closed } = &mut request.command {
                *closed += self.process.close_user(user, *code);
            }
            self.order(Order::Command(caller, request));
        } else {
            let why = self.why_not(Reason::Replaced);
            self.answer(Asker::Caller(caller), Err(why));
        }
        None
    }
}

/// Reloads all of the file or nothing of it. Returns what changed and what is not known yet, one
/// item for each line.
async fn reload(process: &Process) -> Result<Vec<String>, ReloadError> {
    let file = process.file.clone().ok_or(ReloadError::NoFile)?;
    let config = app::read(file).await?;
    let admin = config.admin.as_ref();
    let token_file = admin.and_then(|admin| admin.token_file.clone());
    let lines = process.app.reload(config).await?;
    process.access.set_token_file(token_file);
    Ok(lines)
}

fn handed_over(verdict: Verdict) -> HandedOver {
    match verdict {
        Verdict::Failed => HandedOver::Failed,
        Verdict::Finished => HandedOver::Finished,
        Verdict::Died => HandedOver::Died,
        Verdict::Silent => HandedOver::Alone,
        Verdict::Stopped => HandedOver::Stopped,
    }
}

fn posix(signal: Signal) -> Posix {
    match signal {
        Signal::Hangup => Posix::HUP,
        Signal::User2 => Posix::USR2,
        Signal::Terminate => Posix::TERM,
        Signal::Quit => Posix::QUIT,
        Signal::Interrupt => Posix::INT,
    }
}

async fn next(signals: &mut Option<Signals>) -> Signal {
    match signals {
        Some(signals) => signals.next().await,
        None => future::pending().await,
    }
}

async fn heard(news: &mut Option<UnboundedReceiver<News>>) -> Option<News> {
    match news {
        Some(news) => news.recv().await,
        None => future::pending().await,
    }
}
