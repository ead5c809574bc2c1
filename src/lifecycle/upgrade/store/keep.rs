//! The old process of a restart, with its sockets and clocks: the shell around [`Keeper`].

use std::collections::{BTreeMap, VecDeque};
use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::BUNDLE;
use super::bundle::{Bundle, ROOM};
use super::keeper::{Action, Event, Keeper};
use super::record::Record;
use crate::app::App;
use crate::config::TlsSessions;
use crate::lifecycle::systemd;
use crate::lifecycle::upgrade::protocol::frame::Beside;
use crate::lifecycle::upgrade::protocol::{Message, name_of, wire};
use crate::lifecycle::upgrade::snapshot::Parcel;
use crate::lifecycle::upgrade::warm_state;
use crate::net::Binder;
use crate::session::Leaving;
use crate::tls::tickets;
use crate::upstream::export_key;

/// How long sessions may take to come to rest. Nobody reads the others meanwhile.
const RESTS_WITHIN: Duration = Duration::from_secs(2);

/// A session has two descriptors. Idle connections get what is left.
const SESSIONS_MAX: usize = ROOM / 2 - 5_000;

/// Sockets that wait for clients and operators.
pub type Listening = Vec<(Binder, OwnedFd)>;

struct Keep {
    app: Arc<App>,
    own: Listening,
    keeper: Keeper<Uuid>,
    /// Events that have come and are not handled yet.
    events: VecDeque<Event<Uuid>>,
    parcels: BTreeMap<u64, Parcel>,
    last_number: u64,
    /// Sessions that could not move.
    told: usize,
    rests_until: Option<Instant>,
    must_store: bool,
    is_kept: Option<bool>,
}

/// Gives everything that can move to systemd. Returns whether systemd has it; otherwise this
/// process has it again. `own`: the operator's sockets. `call_off`: to give up before that. The
/// phase must be one in which nothing is accepted, and sessions move.
pub async fn keep(app: Arc<App>, own: Listening, call_off: oneshot::Receiver<()>) -> bool {
    let (leave, leaving) = unbounded_channel();
    let policy = app.generation().config.server.tls_sessions;
    app.runner().hold_keys_back(policy == TlsSessions::Tell);
    app.runner().begin_moving(leave);
    app.hold_back(SESSIONS_MAX);
    let keep = Keep {
        app,
        own,
        keeper: Keeper::default(),
        events: VecDeque::new(),
        parcels: BTreeMap::new(),
        last_number: 0,
        told: 0,
        rests_until: None,
        must_store: false,
        is_kept: None,
    };
    keep.run(leaving, call_off).await
}

impl Keep {
    async fn run(
        mut self,
        mut leaving: UnboundedReceiver<Leaving>,
        mut call_off: oneshot::Receiver<()>,
    ) -> bool {
        let app = self.app.clone();
        let others = app.end_others();
        tokio::pin!(others);
        let (mut have_ended, mut is_called_off) = (false, false);
        loop {
            match self.is_kept {
                Some(true) => {
                    self.app.cut_all().await;
                    return true;
                }
                Some(false) => {
                    // A session may have stopped before it heard that it need not.
                    leaving.close();
                    while let Ok(late) = leaving.try_recv() {
                        self.leaving(late);
                    }
                    self.give_back();
                    return false;
                }
                None => {}
            }
            tokio::select! {
                biased;
                _ = &mut call_off, if !is_called_off => {
                    is_called_off = true;
                    self.on(Event::CalledOff);
                }
                Some(leaving) = leaving.recv() => self.leaving(leaving),
                told = &mut others, if !have_ended => {
                    have_ended = true;
                    self.told = told;
                    self.rests_until = Some(Instant::now() + RESTS_WITHIN);
                    self.on(Event::OthersEnded);
                }
                () = at(self.rests_until), if self.keeper.rests() => {
                    warn!("restart: sessions that do not rest within {RESTS_WITHIN:?} are cut");
                    self.on(Event::TimeUp);
                }
            }
            if std::mem::take(&mut self.must_store) {
                let stored = tokio::task::block_in_place(|| self.store());
                if let Err(error) = &stored {
                    warn!("restart: sessions are not kept, and are told to go: {error}");
                }
                self.on(Event::Stored(stored.is_ok()));
            }
        }
    }

    /// Handles an event, and the events that follow from it.
    fn on(&mut self, event: Event<Uuid>) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            for action in self.keeper.on(event) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action<Uuid>) {
        match action {
            Action::Find => {
                let sessions = self.app.sessions();
                let runner = self.app.runner();
                for live in sessions.select(|live| runner.moves(live)) {
                    self.events.push_back(Event::Found(live.identity.id));
                }
                self.events.push_back(Event::Listed);
            }
            Action::Ask(id) => match self.app.sessions().find(id) {
                Some(live) => live.traffic.ask_to_move(),
                None => self.events.push_back(Event::Stays(id)),
            },
            Action::Unask(id) => {
                if let Some(live) = self.app.sessions().find(id) {
                    live.traffic.end_question();
                }
            }
            Action::TakeBack(number) => {
                if let Some(parcel) = self.parcels.remove(&number) {
                    self.serve_again(parcel);
                }
            }
            Action::Store => self.must_store = true,
            Action::GiveBack => {
                self.app.runner().stop_moving();
                self.give_back();
            }
            Action::Finish(is_kept) => self.is_kept = Some(is_kept),
        }
    }

    fn leaving(&mut self, leaving: Leaving) {
        match leaving {
            // All sessions are looked for when the others have ended.
            Leaving::Found(_) if !self.keeper.rests() => {}
            Leaving::Found(live) => self.on(Event::Found(live.identity.id)),
            Leaving::Stays(id) => self.on(Event::Stays(id)),
            Leaving::Session(session) => {
                let id = session.live.identity.id;
                let number = self.take_in_hand(Parcel::Session(session));
                self.on(Event::AtRest(id, number));
            }
            Leaving::Idle(mut idle) => {
                // Any number of them may wait.
                idle.permit = None;
                self.take_in_hand(Parcel::Idle(idle));
            }
        }
    }

    fn take_in_hand(&mut self, parcel: Parcel) -> u64 {
        self.last_number += 1;
        self.parcels.insert(self.last_number, parcel);
        self.last_number
    }

    fn give_back(&mut self) {
        for (_, parcel) in std::mem::take(&mut self.parcels) {
            self.serve_again(parcel);
        }
    }

    fn serve_again(&self, parcel: Parcel) {
        match parcel {
            Parcel::Session(session) => self.app.runner().run_again(*session),
            Parcel::Idle(idle) => self.app.serve(idle.listener, idle.client),
        }
    }

    /// Blocks until systemd has answered.
    fn store(&self) -> io::Result<()> {
        let started = Instant::now();
        let (record, sessions) = self.record()?;
        let mut bundle = Bundle::fill(&record.bytes, &record.descriptors)?;
        for (binder, socket) in self.listening()? {
            // systemd has its own sockets already.
            if binder == Binder::Us {
                systemd::store(name_of(binder), socket.as_fd())?;
            }
        }
        if let Some(queue) = bundle.queue() {
            systemd::store(BUNDLE, queue)?;
        }
        let taken = systemd::barrier();
        if taken.is_err() {
            // Sessions go on here, so nobody else may use what was written down of them.
            bundle.spoil();
        }
        if taken.is_err() || !bundle.is_held() {
            systemd::forget(BUNDLE);
            systemd::forget(name_of(Binder::Us));
            taken?;
            return Err(io::Error::other(
                "systemd's store has not taken them: FileDescriptorStoreMax= of the unit is missing \
                 or too small (see systemd/prusik.service)",
            ));
        }
        info!(
            "restart: {sessions} sessions kept for the next process within {:?}, {} told to go",
            started.elapsed(),
            self.told
        );
        Ok(())
    }

    fn listening(&self) -> io::Result<Listening> {
        let listeners = self.app.listeners().iter().map(|listener| {
            let socket = &listener.socket;
            Ok((socket.binder(), socket.descriptor()?))
        });
        let own = self.own.iter();
        let own = own.map(|(binder, socket)| Ok((*binder, socket.try_clone()?)));
        listeners.chain(own).collect()
    }

    /// What would be said in an upgrade. Returns the number of sessions too.
    fn record(&self) -> io::Result<(Record<'_>, u64)> {
        let ticket_keys = match self.app.generation().config.server.tls_sessions {
            TlsSessions::Move => tickets::export(),
            TlsSessions::Tell => Zeroizing::default(),
        };
        let affinity = export_key();
        let beside = Beside {
            tickets: &ticket_keys,
            affinity: &affinity,
            ..Beside::default()
        };
        let learned = warm_state::learned(&self.app, Duration::MAX);
        let go = warm_state::go(&self.app, wire::LATEST);
        let keys = warm_state::keys(&self.app);
        let mut record = Record::begin(go, keys, learned, beside)?;
        let mut sessions = 0;
        let is_session = |parcel: &Parcel| matches!(parcel, Parcel::Session(_));
        let mut parcels: Vec<(&u64, &Parcel)> = self.parcels.iter().collect();
        parcels.sort_by_key(|(_, parcel)| !is_session(parcel));
        for (&number, parcel) in parcels {
            if record.descriptors.len() + 2 > ROOM {
                warn!("restart: there are too many idle connections to keep them all");
                break;
            }
            let packed = parcel.pack(number, &self.app);
            let said = packed
                .and_then(|packed| record.say_with(&packed.message, packed.beside(parcel), parcel));
            match said {
                Ok(()) => sessions += u64::from(is_session(parcel)),
                Err(cause) => log::debug!("restart: a connection is not kept: {cause}"),
            }
        }
        record.say(&Message::Moved {
            sessions,
            told: self.told as u64,
        })?;
        record.say(&Message::End)?;
        Ok((record, sessions))
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}
