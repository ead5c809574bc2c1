//! The parcels: each session or connection that has stopped, until the new process has it or it is
//! served here again.

use std::io;
use std::sync::Arc;

use log::error;

use super::{HandOver, TRIES_AGAIN_AFTER};
use crate::lifecycle::upgrade::old::Event;
use crate::lifecycle::upgrade::protocol::wire;
use crate::lifecycle::upgrade::snapshot::Parcel;
use crate::lifecycle::upgrade::warm_state;
use crate::session::live::{LiveSession, SessionKind};
use crate::session::{Leaving, Session};

impl HandOver {
    /// The new process serves: everything that can move goes there, the rest is told to go.
    pub(super) fn find(&mut self) {
        self.app.shut_unwanted();
        if !wire::takes_streams(self.protocol) {
            let is_stream = |live: &LiveSession| live.kind == SessionKind::Stream;
            let streams = self.app.sessions().select(is_stream);
            streams
                .iter()
                .for_each(|live| live.traffic.set_refused(true));
        }
        self.app.runner().begin_moving(self.leave.clone());
        if self.protocol == wire::FIRST {
            self.named_drains = warm_state::named_drains(&self.app);
        }
        self.wind_down();
        let runner = self.app.runner();
        for live in self.app.sessions().select(|live| runner.moves(live)) {
            self.on(Event::Found(live.identity.id));
        }
        self.on(Event::Listed);
    }

    pub(super) fn leaving(&mut self, leaving: Leaving) {
        match leaving {
            Leaving::Found(live)
                if live.kind == SessionKind::Stream && !wire::takes_streams(self.protocol) =>
            {
                self.app.tell_refused(&live);
            }
            Leaving::Found(live) => self.on(Event::Found(live.identity.id)),
            Leaving::Stays(id) => self.on(Event::Stays(id)),
            Leaving::Session(session) => {
                let id = session.live.identity.id;
                let number = self.take_in_hand(Parcel::Session(session));
                self.on(Event::AtRest(Some(id), number));
            }
            Leaving::Idle(idle) => {
                let number = self.take_in_hand(Parcel::Idle(idle));
                self.on(Event::AtRest(None, number));
            }
        }
    }

    fn take_in_hand(&mut self, parcel: Parcel) -> u64 {
        self.last_number += 1;
        let token = self.app.connection_token();
        self.parcels
            .insert(self.last_number, (Arc::new(parcel), token));
        self.last_number
    }

    pub(super) fn send(&mut self, number: u64) {
        let Some(parcel) = self.parcels.get(&number).map(|(parcel, _)| parcel.clone()) else {
            return;
        };
        let is_answerless = self.awaited.is_none();
        let said = match () {
            () if !self.is_wanted(&parcel) => Err(io::Error::other("its listener is gone")),
            // Orders do not move.
            () if parcel.has_orders() => Err(io::Error::other("it was told to go")),
            () => parcel.pack(number, &self.app).and_then(|packed| {
                if packed.has_keys() && !wire::takes_keys(self.protocol) {
                    return Err(io::Error::other("the new process knows no keys of TLS"));
                }
                let (beside, count) = (packed.beside(&parcel), packed.descriptors);
                self.link
                    .say_with(&packed.message, beside, Some(parcel.clone()), count)
            }),
        };
        match said {
            Ok(()) if is_answerless => self.answered(),
            Ok(()) => {}
            Err(cause) => {
                log::debug!("upgrade: a connection is not handed over: {cause}");
                drop(parcel);
                self.on(Event::Refused(number));
            }
        }
    }

    /// In the first protocol an idle connection whose listener is gone would come to another
    /// listener.
    fn is_wanted(&self, parcel: &Parcel) -> bool {
        match parcel {
            Parcel::Idle(idle) if self.protocol == wire::FIRST => {
                !self.app.is_unwanted(idle.listener)
            }
            _ => true,
        }
    }

    pub(super) fn take_back(&mut self, number: u64) {
        let in_hand = self.parcels.remove(&number);
        let parcel = in_hand.map(|(parcel, _token)| Arc::into_inner(parcel));
        match parcel {
            Some(Some(Parcel::Session(session))) if self.machine.has_handed_over() => {
                self.offer_again(*session);
            }
            Some(Some(Parcel::Session(session))) => self.app.runner().run_again(*session),
            Some(Some(Parcel::Idle(idle))) if self.machine.has_handed_over() => {
                self.app.serve_last(idle.listener, idle.client);
            }
            Some(Some(Parcel::Idle(idle))) => self.app.serve(idle.listener, idle.client),
            Some(None) => error!("upgrade: parcel {number} was taken back while it was sent"),
            None => {}
        }
    }

    /// The new process may have room for the session in a moment. Otherwise it must go.
    fn offer_again(&mut self, session: Session) {
        let live = Arc::clone(&session.live);
        if !self.refused.insert(live.identity.id) {
            return self.app.run_refused(session);
        }
        self.app.runner().run_again(session);
        let leave = self.leave.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TRIES_AGAIN_AFTER).await;
            // The hand-over may be over, which is no error.
            let _ = leave.send(Leaving::Found(live));
        });
    }
}
