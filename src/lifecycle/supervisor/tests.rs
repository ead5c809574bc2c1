use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const DRAINING: Phase = Phase::Stopping(Stopping::Draining);

fn handing_over() -> Supervisor {
    let mut supervisor = Supervisor::new(false);
    assert_eq!(
        supervisor.on(Event::Asked(Change::Upgrade, 1)),
        [Action::Start(Asker::Caller(1))]
    );
    assert_eq!(
        supervisor.on(Event::SuccessorReady),
        [Action::Enter(Phase::HandingOver), Action::Yield]
    );
    assert_eq!(supervisor.on(Event::Yielded), [Action::SayGo]);
    supervisor
}

#[test]
fn a_reload_during_an_upgrade_is_done_by_whoever_serves_then() {
    let mut supervisor = Supervisor::new(false);
    supervisor.on(Event::Signal(Signal::User2));
    assert_eq!(supervisor.on(Event::Asked(Change::Reload, 7)), []);
    let mut fails = supervisor.clone();
    assert_eq!(
        fails.on(Event::HandedOver(HandedOver::Failed)),
        [
            Action::Refuse(Change::Upgrade, Asker::Signal, Reason::Failed),
            Action::Reload(Asker::Caller(7)),
        ]
    );
    supervisor.on(Event::SuccessorReady);
    supervisor.on(Event::Yielded);
    assert_eq!(
        supervisor.on(Event::Settled),
        [
            Action::Enter(Phase::WindingDown),
            Action::Report(Asker::Signal),
            Action::PassOn(7),
        ]
    );
}

#[test]
fn once_handed_over_commands_and_signals_go_to_the_new_process() {
    let mut supervisor = handing_over();
    assert_eq!(supervisor.on(Event::Command(2)), [Action::PassOn(2)]);
    let mut interrupted = supervisor.clone();
    interrupted.on(Event::Settled);
    let actions = interrupted.on(Event::Signal(Signal::Interrupt));
    assert_eq!(actions[0], Action::PassSignalOn(Signal::Interrupt));
    assert_eq!(actions.last(), Some(&Action::Stop(Stop::Now)));
    for signal in [Signal::Hangup, Signal::User2] {
        let passed_on = [Action::PassSignalOn(signal)];
        assert_eq!(supervisor.on(Event::Signal(signal)), passed_on);
    }
    assert_eq!(
        supervisor.on(Event::Asked(Change::Reload, 3)),
        [Action::PassOn(3)]
    );
    let refused = Action::Refuse(Change::Upgrade, Asker::Caller(4), Reason::UpgradeUnderWay);
    assert_eq!(supervisor.on(Event::Asked(Change::Upgrade, 4)), [refused]);
}

#[test]
fn a_second_upgrade_is_declined_with_its_reason() {
    let mut supervisor = Supervisor::new(false);
    supervisor.on(Event::Signal(Signal::User2));
    let refused = Action::Refuse(Change::Upgrade, Asker::Signal, Reason::UpgradeUnderWay);
    assert_eq!(supervisor.on(Event::Signal(Signal::User2)), [refused]);
}

#[test]
fn a_stop_interrupts_whatever_is_under_way() {
    let mut reloading = Supervisor::new(false);
    reloading.on(Event::Asked(Change::Reload, 1));
    reloading.on(Event::Asked(Change::Reload, 2));
    let stopping = |change, caller| Action::Refuse(change, Asker::Caller(caller), Reason::Stopping);
    assert_eq!(
        reloading.on(Event::Signal(Signal::Terminate)),
        [
            Action::AbortReload,
            stopping(Change::Reload, 1),
            stopping(Change::Reload, 2),
            Action::Enter(Phase::Stopping(Stopping::Announced)),
            Action::Announce(Signal::Terminate),
        ]
    );
    assert_eq!(
        reloading.on(Event::Announced),
        [Action::Enter(DRAINING), Action::Stop(Stop::Gracefully)]
    );
    let mut starting = Supervisor::new(false);
    starting.on(Event::Asked(Change::Upgrade, 1));
    let actions = starting.on(Event::Signal(Signal::Terminate));
    assert_eq!(actions[0], Action::CallOff);
    // What comes of the new process concerns nobody any more.
    assert_eq!(starting.on(Event::SuccessorReady), []);
    assert_eq!(starting.on(Event::HandedOver(HandedOver::Failed)), []);

    let mut moving = handing_over();
    let actions = moving.on(Event::Signal(Signal::Terminate));
    assert_eq!(actions[0], Action::PassSignalOn(Signal::Terminate));
    assert!(actions.contains(&Action::StopMoving));
    assert_eq!(actions.last(), Some(&Action::Stop(Stop::Gracefully)));
}

#[test]
fn an_upgrade_waits_for_the_process_before_or_is_declined() {
    let mut supervisor = Supervisor::new(true);
    assert_eq!(
        supervisor.on(Event::Asked(Change::Upgrade, 1)),
        [Action::AwaitPredecessor]
    );
    // A reload need not wait.
    let reload = [Action::Reload(Asker::Caller(2))];
    assert_eq!(supervisor.on(Event::Asked(Change::Reload, 2)), reload);
    supervisor.on(Event::Reloaded);
    let mut declined = supervisor.clone();
    let stays = Action::Refuse(Change::Upgrade, Asker::Caller(1), Reason::PredecessorStays);
    assert_eq!(declined.on(Event::PredecessorStays), [stays]);
    // The next one is given as long.
    let again = [Action::AwaitPredecessor];
    assert_eq!(declined.on(Event::Asked(Change::Upgrade, 3)), again);
    let start = [Action::Start(Asker::Caller(1))];
    assert_eq!(supervisor.on(Event::PredecessorGone), start);
}

#[test]
fn a_process_whose_successor_has_died_serves_again() {
    let mut supervisor = handing_over();
    supervisor.on(Event::Settled);
    assert_eq!(
        supervisor.on(Event::HandedOver(HandedOver::Died)),
        [Action::Enter(Phase::Serving), Action::ServeAgain]
    );
    let start = [Action::Start(Asker::Signal)];
    assert_eq!(supervisor.on(Event::Signal(Signal::User2)), start);
}

#[test]
fn a_stop_that_was_passed_on_is_not_lost_with_the_new_process() {
    let mut supervisor = handing_over();
    supervisor.on(Event::Settled);
    assert_eq!(
        supervisor.on(Event::Signal(Signal::Terminate)),
        [Action::PassSignalOn(Signal::Terminate)]
    );
    assert_eq!(
        supervisor.on(Event::HandedOver(HandedOver::Died)),
        [
            Action::StopMoving,
            Action::Enter(DRAINING),
            Action::Stop(Stop::Gracefully)
        ]
    );
}

#[test]
fn a_stop_that_is_part_of_a_restart_keeps_the_sessions_if_it_can() {
    let begun = || {
        let mut supervisor = Supervisor::new(false);
        assert_eq!(
            supervisor.on(Event::Restart(Signal::Terminate)),
            [Action::Enter(Phase::HandingOver), Action::Keep]
        );
        supervisor
    };
    let mut kept = begun();
    assert_eq!(kept.on(Event::Signal(Signal::Terminate)), []);
    assert_eq!(kept.on(Event::Command(1)), [Action::Do(1)]);
    let refused = |change, asker| [Action::Refuse(change, asker, Reason::Stopping)];
    assert_eq!(
        kept.on(Event::Asked(Change::Upgrade, 2)),
        refused(Change::Upgrade, Asker::Caller(2))
    );
    assert_eq!(
        kept.on(Event::Signal(Signal::Hangup)),
        refused(Change::Reload, Asker::Signal)
    );
    assert_eq!(kept.on(Event::Kept(true)), [Action::Exit]);

    assert_eq!(
        begun().on(Event::Kept(false)),
        [
            Action::Enter(Phase::Serving),
            Action::Enter(Phase::Stopping(Stopping::Announced)),
            Action::Announce(Signal::Terminate)
        ]
    );
    let mut interrupted = begun();
    let interrupt = Event::Signal(Signal::Interrupt);
    assert_eq!(interrupted.on(interrupt), [Action::CallKeepOff]);
    let actions = interrupted.on(Event::Kept(false));
    assert_eq!(actions.last(), Some(&Action::Stop(Stop::Now)));
}

#[test]
fn with_another_process_around_a_restart_is_a_stop() {
    let announced = Action::Announce(Signal::Terminate);
    let restart = Event::Restart(Signal::Terminate);
    let mut waiting = Supervisor::new(true);
    assert_eq!(waiting.on(restart), [Action::AwaitPredecessor]);
    // The process before passes its own signal on.
    assert_eq!(waiting.on(Event::Signal(Signal::Terminate)), []);
    let kept = waiting.clone().on(Event::PredecessorGone);
    assert_eq!(kept, [Action::Enter(Phase::HandingOver), Action::Keep]);
    let interrupted = waiting.clone().on(Event::Signal(Signal::Interrupt));
    assert_eq!(interrupted.last(), Some(&Action::Stop(Stop::Now)));
    let actions = waiting.on(Event::PredecessorStays);
    assert_eq!(actions[0], Action::SayNotKept(Reason::PredecessorStays));
    assert!(actions.contains(&announced));
    let mut starting = Supervisor::new(false);
    starting.on(Event::Asked(Change::Upgrade, 1));
    assert!(starting.on(restart).contains(&announced));
    let passed_on = Action::PassSignalOn(Signal::Terminate);
    assert!(handing_over().on(restart).contains(&passed_on));
}

fn event() -> impl Strategy<Value = Event> {
    let signal = prop_oneof![
        Just(Signal::Hangup),
        Just(Signal::User2),
        Just(Signal::Terminate),
        Just(Signal::Interrupt),
    ];
    let how = prop_oneof![
        Just(HandedOver::Failed),
        Just(HandedOver::Finished),
        Just(HandedOver::Died),
        Just(HandedOver::Alone),
        Just(HandedOver::Stopped),
    ];
    prop_oneof![
        2 => signal.prop_map(Event::Signal),
        3 => Just(Event::Asked(Change::Reload, 0)),
        3 => Just(Event::Asked(Change::Upgrade, 0)),
        3 => Just(Event::Command(0)),
        3 => Just(Event::Reloaded),
        3 => Just(Event::SuccessorReady),
        3 => Just(Event::Yielded),
        3 => Just(Event::Settled),
        1 => Just(Event::SuccessorStops),
        2 => how.prop_map(Event::HandedOver),
        1 => Just(Event::PredecessorGone),
        1 => Just(Event::PredecessorStays),
        1 => Just(Event::Announced),
        1 => Just(Event::Restart(Signal::Terminate)),
        1 => prop_oneof![Just(true), Just(false)].prop_map(Event::Kept),
    ]
}

/// The shell: what can happen at this point, and what it has promised to whom.
#[derive(Default)]
struct World {
    callers: u64,
    open: HashMap<Caller, u32>,
    reloads: bool,
    /// A new process is there.
    starts: bool,
    /// The sessions are being given to systemd.
    keeps: bool,
    stops: u32,
    phase: Option<Phase>,
    is_over: bool,
}

impl World {
    fn can_happen(&self, event: Event) -> bool {
        let phase = self.phase.unwrap_or(Phase::Serving);
        match event {
            Event::Reloaded => self.reloads,
            Event::SuccessorReady => self.starts && phase == Phase::Serving,
            Event::Yielded | Event::Settled | Event::SuccessorStops => {
                self.starts && phase == Phase::HandingOver
            }
            Event::HandedOver(HandedOver::Failed) => self.starts && phase != Phase::WindingDown,
            Event::HandedOver(HandedOver::Stopped) => self.starts && phase.moves(),
            Event::HandedOver(_) => self.starts && phase == Phase::WindingDown,
            Event::Kept(_) => self.keeps,
            Event::Announced => phase == Phase::Stopping(Stopping::Announced),
            _ => true,
        }
    }

    fn settle(&mut self, action: Action) {
        let answered = match action {
            Action::Do(caller) | Action::PassOn(caller) => Some(caller),
            Action::Refuse(_, Asker::Caller(caller), _) | Action::Report(Asker::Caller(caller)) => {
                Some(caller)
            }
            Action::Reload(asker) => {
                assert!(!self.reloads && !self.starts, "two changes at a time");
                self.reloads = true;
                match asker {
                    Asker::Caller(caller) => Some(caller),
                    Asker::Signal => None,
                }
            }
            Action::Start(_) => {
                assert!(!self.reloads && !self.starts, "two changes at a time");
                self.starts = true;
                None
            }
            Action::Keep => {
                assert!(!self.reloads && !self.starts, "two changes at a time");
                self.keeps = true;
                None
            }
            Action::AbortReload => {
                assert!(std::mem::take(&mut self.reloads));
                return;
            }
            Action::Enter(phase) => {
                assert!(
                    !self.phase.is_some_and(Phase::is_draining),
                    "nothing comes after the end"
                );
                self.phase = Some(phase);
                None
            }
            Action::Stop(_) => {
                self.stops += 1;
                None
            }
            Action::Exit => {
                self.is_over = true;
                None
            }
            _ => None,
        };
        if let Some(caller) = answered {
            // Of a reload that is broken off the caller is told so as well.
            self.open.remove(&caller);
        }
    }
}

proptest! {
    /// Whatever comes in whatever order: one change at a time, everybody who asks is answered, and
    /// a process that stops does nothing else.
    #[test]
    fn everybody_is_answered_and_one_change_is_made_at_a_time(
        events in prop::collection::vec(event(), 1..60),
        has_predecessor: bool,
    ) {
        let mut supervisor = Supervisor::new(has_predecessor);
        let mut world = World::default();
        for event in events {
            if !world.can_happen(event) || world.is_over {
                continue;
            }
            world.callers += 1;
            let caller = world.callers;
            let event = match event {
                Event::Asked(change, _) => {
                    world.open.insert(caller, 0);
                    Event::Asked(change, caller)
                }
                Event::Command(_) => {
                    world.open.insert(caller, 0);
                    Event::Command(caller)
                }
                other => other,
            };
            match event {
                Event::Reloaded => world.reloads = false,
                Event::HandedOver(_) => world.starts = false,
                Event::Kept(_) => world.keeps = false,
                _ => {}
            }
            for action in supervisor.on(event) {
                world.settle(action);
            }
        }
        if !world.is_over && !world.phase.is_some_and(Phase::is_stopping) {
            for action in supervisor.on(Event::Signal(Signal::Terminate)) {
                world.settle(action);
            }
            // In WindingDown the new process is told, and nothing waits here.
        }
        prop_assert!(world.is_over || world.open.is_empty(), "{:?}", world.open);
    }
}
