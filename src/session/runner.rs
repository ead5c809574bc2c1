//! Runs the relays, one task for each session, and sends sessions that move to another process.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::client_end::{Admission, ClientEnd};
use super::event_relay::{ClientFraming, EventRelay, ServerStream};
use super::leg::Leg;
use super::live::LiveSession;
use super::registry::Registered;
use super::relay::{Limits, Outcome, Relay};
use super::relaying::Relaying;
use super::traffic::Traffic;
use crate::limits::Permit;
use crate::net::BoundId;
use crate::observe::access_log::AccessLog;
use crate::session::log;
use crate::transport::{Mobility, Transport};
use crate::upstream::Lease;
use crate::websocket::frames::Sender;

/// A session on the relay, with everything that is counted as long as it lives.
#[derive(Debug)]
pub struct Session {
    pub relay: Relaying,
    pub live: Registered,
    pub lease: Lease,
    /// The client's admission on the listener.
    pub admission: Admission,
    /// The permit of the route. `None` if the route is gone.
    pub permit: Option<Permit>,
}

/// What remains of an exchange when it leaves Pingora as a session, except the client's socket.
#[derive(Debug)]
pub struct Upgraded {
    pub live: Registered,
    pub lease: Lease,
    pub permit: Option<Permit>,
    pub server: Transport,
    /// Bytes that came after the head of the answer.
    pub early: BytesMut,
    pub idle: Option<Duration>,
    pub max_session: Option<Duration>,
    pub ping: Option<Duration>,
    pub talk: Talk,
    /// How long the server may take nothing of the bytes that wait for it.
    pub server_stall: Duration,
}

/// What the two sides of a session speak.
#[derive(Debug)]
pub enum Talk {
    Frames {
        max_message: Option<u64>,
        messages_per_second: Option<NonZeroU32>,
        /// Whether the handshake agreed on an extension.
        extended: bool,
    },
    Events {
        stream: ServerStream,
        framing: ClientFraming,
        /// Bytes of the request that the server has not taken yet.
        unsent: BytesMut,
    },
}

/// A connection between two requests that moves to another process.
#[derive(Debug)]
pub struct IdleConnection {
    pub listener: BoundId,
    pub client: ClientEnd,
    /// Limits how many connections are on their way at a time. `None`: it left by itself after a
    /// request.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What the hand-over is told of sessions and connections.
#[derive(Debug)]
pub enum Leaving {
    /// A session that can move lives here.
    Found(Arc<LiveSession>),
    /// The session was asked to move, and has stopped.
    Session(Box<Session>),
    /// The session was asked to move, but it has ended or is about to end.
    Stays(Uuid),
    Idle(Box<IdleConnection>),
}

/// Runs the sessions of a process.
#[derive(Debug)]
pub struct Runner {
    log: Arc<AccessLog>,
    tasks: TaskTracker,
    leaving: watch::Sender<Destination>,
    /// Whether connections whose keys would have to go along stay here.
    holds_keys_back: Arc<AtomicBool>,
}

/// The channel to the hand-over, while there is one.
type Destination = Option<UnboundedSender<Leaving>>;

/// Tells whether connections can move to another process at the moment, and which.
#[derive(Debug, Clone)]
pub struct MoveWatch {
    destination: watch::Receiver<Destination>,
    holds_keys_back: Arc<AtomicBool>,
}

fn takes(mobility: Mobility, holds_keys_back: &AtomicBool) -> bool {
    match mobility {
        Mobility::Never => false,
        Mobility::WithKeys => !holds_keys_back.load(Relaxed),
        Mobility::Free => true,
    }
}

impl MoveWatch {
    pub fn is_open(&self) -> bool {
        self.destination.borrow().is_some()
    }

    /// Whether the other process continues, or would continue, such connections.
    pub fn takes(&self, mobility: Mobility) -> bool {
        takes(mobility, &self.holds_keys_back)
    }

    /// Waits for the next change. Returns whether connections can move now.
    pub async fn changed(&mut self) -> bool {
        match self.destination.changed().await {
            Ok(()) => self.destination.borrow_and_update().is_some(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until connections can move.
    pub async fn opened(&mut self) {
        if self.destination.wait_for(Option::is_some).await.is_err() {
            std::future::pending().await
        }
    }
}

/// The task of one session. It is written by hand, because an `async` block would hold the session
/// three times: captured, as an argument and as a variable. There is one task for each session.
#[derive(Debug)]
struct Running {
    runner: Arc<Runner>,
    /// `None`: the session has ended or has moved.
    session: Option<Session>,
}

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let running = self.get_mut();
        while let Some(session) = &mut running.session {
            let outcome = ready!(Pin::new(&mut session.relay).poll(cx));
            if let Some(session) = running.session.take() {
                running.session = running.runner.after(outcome, session);
            }
        }
        Poll::Ready(())
    }
}

impl Session {
    /// `client_stall`: how long the client may take nothing of the bytes that wait for it.
    pub fn begin(client: ClientEnd, client_stall: Duration, upgraded: Upgraded) -> Self {
        let Upgraded {
            live,
            lease,
            permit,
            server,
            early,
            idle,
            max_session,
            ping,
            talk,
            server_stall,
        } = upgraded;
        let limits = Limits {
            idle,
            end: max_session.map(|limit| Instant::now() + limit),
            ping,
            client_stall: Some(client_stall),
            server_stall: Some(server_stall),
            messages_per_second: None,
        };
        let ClientEnd {
            transport,
            early: asked,
            ended,
            admission,
            ..
        } = client;
        let client = (transport.leave_rustls(), asked, ended);
        let server = (server.leave_rustls(), early);
        let relay = talk.begin(client, server, live.traffic.clone(), limits);
        Self {
            relay,
            live,
            lease,
            admission,
            permit,
        }
    }
}

impl Talk {
    /// `client`: its connection, the bytes that were read of it, and whether it has ended its side.
    fn begin(
        self,
        client: (Transport, BytesMut, bool),
        server: (Transport, BytesMut),
        traffic: Arc<Traffic>,
        limits: Limits,
    ) -> Relaying {
        let (client, asked, ended) = client;
        let (server, early) = server;
        match self {
            Self::Frames {
                max_message,
                messages_per_second,
                extended,
            } => {
                let limits = Limits {
                    messages_per_second,
                    ..limits
                };
                let leg = |transport, sender| {
                    let mut leg = Leg::new(transport, sender, extended);
                    leg.scanner.set_max_message(max_message);
                    leg
                };
                let mut server = leg(server, Sender::Server);
                server.transport.carry_frames();
                let client = (leg(client, Sender::Client), &asked[..]);
                let mut relay = Relay::new(client, (server, &early), traffic, limits);
                if ended {
                    relay.client_has_ended();
                }
                Relaying::Frames(relay)
            }
            Self::Events {
                stream,
                framing,
                unsent,
            } => {
                let mut client = Leg::with(client, ());
                client.ended = ended;
                let mut server = Leg::with(server, stream);
                server.waiting = unsent;
                let server = (server, early);
                Relaying::Events(EventRelay::new(client, server, framing, traffic, limits))
            }
        }
    }
}

impl Runner {
    pub fn new(log: Arc<AccessLog>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            log,
            tasks,
            leaving: watch::Sender::new(None),
            holds_keys_back: Arc::default(),
        })
    }

    /// Runs a new session until it ends or has moved. A running hand-over is told of it.
    pub fn run(self: &Arc<Self>, session: Session) {
        let mobility = session.relay.mobility();
        session.live.traffic.set_mobility(mobility);
        if takes(mobility, &self.holds_keys_back) {
            self.tell(Leaving::Found(Arc::clone(&session.live)));
        }
        self.run_again(session);
    }

    /// Like [`Runner::run`], for a session of which the hand-over was told already.
    pub fn run_again(self: &Arc<Self>, mut session: Session) {
        session.relay.suspend();
        self.tasks.spawn(Running {
            runner: self.clone(),
            session: Some(session),
        });
    }

    /// Returns the session if it continues to run here.
    fn after(&self, outcome: Outcome, mut session: Session) -> Option<Session> {
        // Every outcome answers the question whether the session moves.
        let was_asked = session.live.traffic.end_question();
        match outcome {
            Outcome::Move => self.hand_over(session),
            Outcome::Stays => {
                self.tell(Leaving::Stays(session.live.identity.id));
                Some(session)
            }
            Outcome::Ended => {
                if was_asked {
                    self.tell(Leaving::Stays(session.live.identity.id));
                }
                session.relay.part();
                log::session_close(&self.log, &session.live, session.relay.failure());
                None
            }
        }
    }

    /// Whether connections whose keys would have to go along stay here in the hand-over that is
    /// about to begin.
    pub fn hold_keys_back(&self, holds: bool) {
        self.holds_keys_back.store(holds, Relaxed);
    }

    /// Whether the session can move to another process.
    pub fn moves(&self, live: &LiveSession) -> bool {
        takes(live.traffic.mobility(), &self.holds_keys_back)
    }

    /// From now on, `to` is told of each session and connection that can move.
    pub fn begin_moving(&self, to: UnboundedSender<Leaving>) {
        self.leaving.send_replace(Some(to));
    }

    pub fn stop_moving(&self) {
        self.leaving.send_replace(None);
    }

    pub fn watch_moves(&self) -> MoveWatch {
        MoveWatch {
            destination: self.leaving.subscribe(),
            holds_keys_back: self.holds_keys_back.clone(),
        }
    }

    /// Sends an idle connection that has left Pingora. Returns it if there is no hand-over.
    pub fn send_idle(&self, idle: IdleConnection) -> Option<ClientEnd> {
        match self.tell(Leaving::Idle(Box::new(idle))) {
            Some(Leaving::Idle(idle)) => Some(idle.client),
            _ => None,
        }
    }

    /// Returns the session if there is no hand-over.
    fn hand_over(&self, session: Session) -> Option<Session> {
        match self.tell(Leaving::Session(Box::new(session))) {
            Some(Leaving::Session(session)) => Some(*session),
            _ => None,
        }
    }

    /// Returns the message if nobody receives it.
    fn tell(&self, leaving: Leaving) -> Option<Leaving> {
        match &*self.leaving.borrow() {
            Some(to) => to.send(leaving).err().map(|SendError(leaving)| leaving),
            None => Some(leaving),
        }
    }
}
