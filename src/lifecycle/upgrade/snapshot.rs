//! Packs and unpacks a session that has stopped, or an idle connection, for the link.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use bytes::BytesMut;
use tokio::time::Instant;

use super::about::{self, Attachments, about, arrive, sockets};
use super::census::{CensusKey, HeldCounts};
use super::link::Descriptors;
use super::protocol::frame::{Beside, Secret};
use super::protocol::{Message, wire};
use super::stream_snapshot;
use crate::app::App;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::Permit;
use crate::net::BoundId;
use crate::session::leg::{Leg, SendState};
use crate::session::live::SessionKind;
use crate::session::message_rate::MessageRate;
use crate::session::relay::Relay;
use crate::session::{Admission, ClientEnd, IdleConnection, Relaying, Session};
use crate::tls::record::Saved;
use crate::websocket::frames::FrameScanner;

/// What moves to the new process.
#[derive(Debug)]
pub enum Parcel {
    Session(Box<Session>),
    Idle(Box<IdleConnection>),
}

impl Descriptors for Parcel {
    fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        match self {
            Self::Session(session) => {
                let transports = session.relay.transports().into_iter();
                transports.map(|one| Ok(one.descriptor()?.1)).collect()
            }
            Self::Idle(idle) => Ok(vec![idle.client.transport.descriptor()?.1]),
        }
    }
}

/// A parcel as it is sent.
#[derive(Debug)]
pub struct Packed {
    pub message: Message,
    /// How many descriptors belong to it.
    pub descriptors: usize,
    client_tls: Option<Saved>,
    server_tls: Option<Saved>,
}

impl Packed {
    /// Whether keys of TLS belong to it.
    pub fn has_keys(&self) -> bool {
        self.client_tls.is_some() || self.server_tls.is_some()
    }

    /// What is sent beside the message of this parcel.
    pub fn beside<'a>(&'a self, parcel: &'a Parcel) -> Beside<'a> {
        let [to_client, to_server] = parcel.waiting();
        Beside {
            to_client,
            to_server,
            client_tls: self.client_tls.as_ref().map_or(&[], Saved::as_bytes),
            server_tls: self.server_tls.as_ref().map_or(&[], Saved::as_bytes),
            tickets: &[],
            affinity: &[],
        }
    }
}

impl Parcel {
    /// From now on, nothing of it may be sealed here, unless it is certain that the new process has
    /// not taken it.
    pub fn pack(&self, number: u64, app: &App) -> io::Result<Packed> {
        Ok(match self {
            Self::Session(session) => {
                let about = about(session, app);
                let [client, server] = session.relay.transports();
                Packed {
                    client_tls: client.saved_tls()?,
                    server_tls: server.saved_tls()?,
                    message: match &session.relay {
                        Relaying::Frames(relay) => Message::Session {
                            number,
                            session: Box::new(pack(about, relay)?),
                        },
                        Relaying::Events(relay) => Message::Stream {
                            number,
                            stream: Box::new(stream_snapshot::pack(about, relay)?),
                        },
                    },
                    descriptors: 2,
                }
            }
            Self::Idle(idle) => Packed {
                client_tls: idle.client.transport.saved_tls()?,
                server_tls: None,
                message: Message::Idle {
                    number,
                    idle: pack_idle(idle, app)?,
                },
                descriptors: 1,
            },
        })
    }

    /// Whether its session was told to go since it has stopped.
    pub fn has_orders(&self) -> bool {
        match self {
            Self::Session(session) => session.live.traffic.order().is_some(),
            Self::Idle(_) => false,
        }
    }

    /// The bytes that wait for its client and for its server.
    fn waiting(&self) -> [&[u8]; 2] {
        match self {
            Self::Session(session) => session.relay.waiting(),
            Self::Idle(idle) => [&[], &idle.client.early],
        }
    }

    /// The keys of the counts that it has.
    pub fn census_keys(&self, app: &App) -> Vec<CensusKey> {
        match self {
            Self::Session(session) => {
                let identity = &session.live.identity;
                let server = CensusKey::Server {
                    upstream: identity.upstream.to_string(),
                    address: identity.server,
                };
                let route = session.permit.as_ref().map(|permit| {
                    CensusKey::of_session(session.live.kind, identity, permit.client())
                });
                let user = session.permit.as_ref().and_then(Permit::user);
                let user = user.map(|user| {
                    let (kind, route) = (session.live.kind, identity.route.to_string());
                    let user = user.clone();
                    CensusKey::User { kind, route, user }
                });
                let listener = listener_key(session.admission.permit.as_ref(), app);
                [Some(server), route, user, listener]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Self::Idle(idle) => {
                let permit = idle.client.admission.permit.as_ref();
                listener_key(permit, app).into_iter().collect()
            }
        }
    }
}

fn listener_key(permit: Option<&Permit>, app: &App) -> Option<CensusKey> {
    let permit = permit?;
    let (name, address) = app.listener_of(permit)?;
    Some(CensusKey::Listener {
        name,
        address,
        client: permit.client(),
    })
}

fn pack(about: wire::About, relay: &Relay) -> io::Result<wire::Session> {
    Ok(wire::Session {
        identity: about.identity,
        age: about.age,
        began: about.began,
        counts: about.counts,
        client: pack_leg(&relay.client)?,
        server: pack_leg(&relay.server)?,
        idle: about.idle,
        left: about.left,
        ping: about.ping,
        quiet: about.quiet,
        proxied: about.proxied,
        listener: about.listener,
        unheard: about.unheard,
        pinged: about.pinged,
        message_rate: relay.message_rate.as_deref().map(|rate| wire::MessageRate {
            per_second: rate.per_second(),
            until_full: rate.until_full(Instant::now()),
        }),
        expiry: about.expiry,
    })
}

fn pack_idle(idle: &IdleConnection, app: &App) -> io::Result<wire::Idle> {
    let gone = || io::Error::other("its listener is gone");
    let (name, address) = app.listener_now(idle.listener).ok_or_else(gone)?;
    let ClientEnd {
        transport,
        admission,
        ..
    } = &idle.client;
    let proxied = idle.client.admission.proxied.as_deref().copied();
    Ok(wire::Idle {
        listener: address,
        kind: transport.descriptor()?.0.into(),
        proxied: proxied.map(Into::into),
        name: Some(name),
        tls: about::tls(transport),
        vouched_by: app.vouched_by(idle.listener, admission.tls_revision)?,
    })
}

fn pack_leg(leg: &Leg) -> io::Result<wire::Leg> {
    Ok(wire::Leg {
        tls: about::tls(&leg.transport),
        kind: leg.transport.descriptor()?.0.into(),
        scanner: leg.scanner.state().into(),
        ended: leg.ended,
        shut: leg.is_shut(),
        broken: leg.broken_since().map(|since| since.elapsed()),
    })
}

/// Must be called inside the runtime.
pub fn unpack(
    state: wire::Session,
    attachments: Attachments,
    app: &App,
    held: &mut HeldCounts,
) -> io::Result<Session> {
    let keys = [&attachments.client_tls, &attachments.server_tls];
    let [client, server] = sockets(attachments.descriptors)?;
    let client = unpack_leg(state.client, client, &attachments.to_client, keys[0])?;
    let server = unpack_leg(state.server, server, &attachments.to_server, keys[1])?;
    let listener = state.listener.or_else(|| {
        // The first protocol sends only the listener's name at the beginning of the session.
        Some((state.identity.listener.clone(), String::new()))
    });
    let about = wire::About {
        identity: state.identity,
        age: state.age,
        began: state.began,
        counts: state.counts,
        idle: state.idle,
        left: state.left,
        ping: state.ping,
        quiet: state.quiet,
        proxied: state.proxied,
        listener,
        unheard: state.unheard,
        pinged: state.pinged,
        expiry: state.expiry,
    };
    let arrived = arrive(SessionKind::WebSocket, about, &client.transport, app, held);
    let (traffic, limits, clocks) = (arrived.traffic.clone(), arrived.limits, arrived.clocks);
    let mut relay = Relay::continued(client, server, traffic, limits, clocks);
    relay.message_rate = state.message_rate.map(|rate| {
        let now = Instant::now();
        Box::new(MessageRate::continued(
            rate.per_second,
            rate.until_full,
            now,
        ))
    });
    Ok(arrived.begin(Relaying::Frames(relay), app))
}

fn unpack_leg(
    state: wire::Leg,
    descriptor: OwnedFd,
    waiting: &[u8],
    keys: &Secret,
) -> io::Result<Leg> {
    let Some(scanner) = FrameScanner::from_state(state.scanner.into()) else {
        return Err(io::Error::other(
            "a session's parser is in a state that does not exist",
        ));
    };
    let now = Instant::now();
    let send_state = match state.broken {
        Some(broken) => SendState::Broken {
            since: now.checked_sub(broken).unwrap_or(now),
        },
        None if state.shut => SendState::Shut,
        None => SendState::Open,
    };
    Ok(Leg {
        transport: about::transport(state.kind, descriptor, state.tls, keys)?,
        waiting: BytesMut::from(waiting),
        scanner,
        ended: state.ended,
        send_state,
        stalled_since: None,
    })
}

/// Returns the number of its listener too. Must be called inside the runtime.
pub fn unpack_idle(
    idle: wire::Idle,
    attachments: Attachments,
    app: &App,
    held: &mut HeldCounts,
) -> io::Result<(BoundId, ClientEnd)> {
    let Ok([descriptor]) = <[OwnedFd; 1]>::try_from(attachments.descriptors) else {
        return Err(io::Error::other("a connection came without its socket"));
    };
    let proxied = idle.proxied.map(AddrPair::from);
    // Only by name: another listener may have other routes.
    let bound = match &idle.name {
        Some(name) => app.find_listener(name, ""),
        None => app.find_listener("", &idle.listener),
    };
    let shown = idle.tls.as_ref().map(|_| idle.vouched_by.as_deref());
    let served = bound.and_then(|bound| {
        let revision = app.serves_moved(bound, shown, proxied.is_some())?;
        Some((bound, revision))
    });
    let Some((bound, tls_revision)) = served else {
        return Err(io::Error::other("its listener is gone, or is another now"));
    };
    let transport = about::transport(idle.kind, descriptor, idle.tls, &attachments.client_tls)?;
    let came_in_on = idle.name.map(|name| (name, idle.listener));
    let admission = held.admission(app, bound, came_in_on, (&transport, proxied));
    let client = ClientEnd {
        transport,
        early: BytesMut::from(&attachments.to_server[..]),
        ended: false,
        has_asked: true,
        admission: Admission {
            tls_revision,
            ..admission
        },
    };
    Ok((bound, client))
}
