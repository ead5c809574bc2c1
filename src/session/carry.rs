//! Who owns the relays: one task a session, and where sessions go that are to move.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::error::SendError;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::frames::Sender;
use super::leg::Leg;
use super::registry::Registered;
use super::relay::{Limits, Outcome, Relay};
use super::traffic::Order;
use super::transport::Transport;
use crate::limits::Seat;
use crate::listener::{ClientEnd, Ticket};
use crate::observe::access_log::AccessLog;
use crate::observe::record;
use crate::upstream::Lease;

/// A session on the relay, with all that is counted by its life.
#[derive(Debug)]
pub struct Session {
    pub relay: Relay,
    pub live: Registered,
    pub lease: Lease,
    /// Its client's on the listener.
    pub ticket: Ticket,
    /// Its own on the route; `None`: that has gone.
    pub place: Option<Seat>,
}

/// What Pingora leaves of a handshake, the client's socket apart.
#[derive(Debug)]
pub struct Upgraded {
    pub live: Registered,
    pub lease: Lease,
    pub place: Option<Seat>,
    pub server: Transport,
    /// What came behind the 101.
    pub early: BytesMut,
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
    pub ping: Option<Duration>,
    pub max_message: Option<u64>,
    /// The handshake agreed on an extension.
    pub extended: bool,
}

/// What goes to another process.
#[derive(Debug)]
pub enum Parcel {
    Session(Box<Session>),
    /// A connection between two requests, and the number of its listener.
    Idle(usize, ClientEnd),
}

/// Runs the sessions of a process.
#[derive(Debug)]
pub struct Carrier {
    log: Arc<AccessLog>,
    tasks: TaskTracker,
    /// Where everything goes that can move. `None`: it stays.
    leaving: Mutex<Option<UnboundedSender<Parcel>>>,
}

impl Session {
    pub fn begin(client: ClientEnd, upgraded: Upgraded) -> Self {
        let Upgraded {
            live,
            lease,
            place,
            mut server,
            early,
            idle,
            max_session,
            ping,
            max_message,
            extended,
        } = upgraded;
        let mut from_client = Leg::new(client.transport, Sender::Client, extended);
        server.carry_frames();
        let mut from_server = Leg::new(server, Sender::Server, extended);
        from_client.scanner.set_max_message(max_message);
        from_server.scanner.set_max_message(max_message);
        let limits = Limits {
            idle,
            end: max_session.map(|limit| Instant::now() + limit),
            ping,
        };
        let mut relay = Relay::new(
            (from_client, &client.early),
            (from_server, &early),
            live.traffic.clone(),
            limits,
        );
        if client.ended {
            relay.client_has_ended();
        }
        Self {
            relay,
            live,
            lease,
            ticket: client.ticket,
            place,
        }
    }
}

impl Carrier {
    pub fn new(log: Arc<AccessLog>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            log,
            tasks,
            leaving: Mutex::new(None),
        })
    }

    /// Carries the session until it ends or moves.
    pub fn carry(self: &Arc<Self>, session: Session) {
        if self.leaving().is_some() && session.relay.can_move() {
            session.live.traffic.ask(Order::Move);
        }
        self.keep(session);
    }

    /// As [`Carrier::carry`], also while others move.
    pub fn keep(self: &Arc<Self>, mut session: Session) {
        session.relay.rest();
        let carrier = self.clone();
        self.tasks.spawn(async move {
            match (&mut session.relay).await {
                Outcome::Ended => {
                    session.relay.client.transport.part();
                    session.relay.server.transport.part();
                    record::session_close(&carrier.log, &session.live, None);
                }
                Outcome::Move => carrier.send_away(session),
            }
        });
    }

    /// From now on, what can move goes there.
    pub fn begin_moving(&self, to: UnboundedSender<Parcel>) {
        *self.lock() = Some(to);
    }

    pub fn stop_moving(&self) {
        *self.lock() = None;
    }

    /// An idle connection has left Pingora. It comes back when there is nowhere to go.
    pub fn send_idle(&self, listener: usize, client: ClientEnd) -> Option<ClientEnd> {
        let Some(to) = self.leaving() else {
            return Some(client);
        };
        match to.send(Parcel::Idle(listener, client)) {
            Err(SendError(Parcel::Idle(_, client))) => Some(client),
            _ => None,
        }
    }

    fn send_away(self: &Arc<Self>, session: Session) {
        let refused = match self.leaving() {
            Some(to) => to
                .send(Parcel::Session(Box::new(session)))
                .err()
                .map(|e| e.0),
            None => Some(Parcel::Session(Box::new(session))),
        };
        if let Some(Parcel::Session(session)) = refused {
            session.live.traffic.take_back_move();
            self.keep(*session);
        }
    }

    fn leaving(&self) -> Option<UnboundedSender<Parcel>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<UnboundedSender<Parcel>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
