//! Packs and unpacks a session that has stopped, or an idle connection, for the link.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::Instant;

use super::census::{CensusKey, HeldCounts};
use super::link::Descriptors;
use super::protocol::frame::{Beside, Secret};
use super::protocol::{Message, wire};
use crate::app::App;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::Permit;
use crate::net::{BoundId, Socket};
use crate::session::leg::{Leg, SendState};
use crate::session::live::{Identity, LiveSession};
use crate::session::relay::{Clocks, Limits, Relay};
use crate::session::traffic::Traffic;
use crate::session::{Admission, ClientEnd};
use crate::session::{IdleConnection, Session};
use crate::tls::record::Saved;
use crate::tls::{Security, TlsStream};
use crate::transport::Transport;
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
            Self::Session(session) => Ok(vec![
                session.relay.client.transport.descriptor()?.1,
                session.relay.server.transport.descriptor()?.1,
            ]),
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
    /// What is sent beside the message of this parcel.
    pub fn beside<'a>(&'a self, parcel: &'a Parcel) -> Beside<'a> {
        let [to_client, to_server] = parcel.waiting();
        Beside {
            to_client,
            to_server,
            client_tls: self.client_tls.as_ref().map_or(&[], Saved::as_bytes),
            server_tls: self.server_tls.as_ref().map_or(&[], Saved::as_bytes),
            tickets: &[],
        }
    }
}

impl Parcel {
    /// From now on, nothing of it may be sealed here, unless it is certain that the new process has
    /// not taken it.
    pub fn pack(&self, number: u64, app: &App) -> io::Result<Packed> {
        Ok(match self {
            Self::Session(session) => Packed {
                client_tls: session.relay.client.transport.saved_tls()?,
                server_tls: session.relay.server.transport.saved_tls()?,
                message: Message::Session {
                    number,
                    session: Box::new(pack(session, app)?),
                },
                descriptors: 2,
            },
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

    /// The bytes that wait for its client and for its server.
    fn waiting(&self) -> [&[u8]; 2] {
        match self {
            Self::Session(session) => {
                let relay = &session.relay;
                [&relay.client.waiting, &relay.server.waiting]
            }
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
                let route = session.permit.as_ref().map(|permit| CensusKey::Route {
                    name: identity.route.to_string(),
                    client: permit.client(),
                });
                let listener = listener_key(session.admission.permit.as_ref(), app);
                [Some(server), route, listener]
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

fn pack(session: &Session, app: &App) -> io::Result<wire::Session> {
    let Session {
        relay,
        live,
        admission,
        ..
    } = session;
    // The new process takes these limits from its own file.
    let Limits {
        idle, end, ping, ..
    } = relay.limits;
    let Clocks {
        quiet,
        unheard,
        pinged,
    } = relay.clocks();
    Ok(wire::Session {
        identity: (&live.identity).into(),
        age: live.age(),
        counts: live.traffic.counts().into(),
        client: pack_leg(&relay.client)?,
        server: pack_leg(&relay.server)?,
        idle,
        left: end.map(|end| end.saturating_duration_since(Instant::now())),
        ping,
        quiet,
        proxied: admission.proxied.as_deref().copied().map(Into::into),
        listener: admission
            .permit
            .as_ref()
            .and_then(|permit| app.listener_of(permit)),
        unheard: Some(unheard),
        pinged,
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
    if app.is_outdated(idle.listener, admission.tls_revision) {
        return Err(io::Error::other(
            "its listener asks for more than it has shown",
        ));
    }
    let proxied = idle.client.admission.proxied.as_deref().copied();
    Ok(wire::Idle {
        listener: address,
        kind: transport.descriptor()?.0.into(),
        proxied: proxied.map(Into::into),
        name: Some(name),
        tls: pack_tls(transport),
        vouched_by: app.authorities_of(idle.listener),
    })
}

fn pack_tls(transport: &Transport) -> Option<wire::Tls> {
    match transport.security() {
        Security::Plain => None,
        Security::Tls { client } => Some(wire::Tls {
            client: client.map(|client| client.to_string()),
        }),
    }
}

fn pack_leg(leg: &Leg) -> io::Result<wire::Leg> {
    Ok(wire::Leg {
        tls: pack_tls(&leg.transport),
        kind: leg.transport.descriptor()?.0.into(),
        scanner: leg.scanner.state().into(),
        ended: leg.ended,
        shut: leg.is_shut(),
        broken: leg.broken_since().map(|since| since.elapsed()),
    })
}

/// What came with a message.
pub struct Attachments {
    pub to_client: Vec<u8>,
    pub to_server: Vec<u8>,
    pub client_tls: Secret,
    pub server_tls: Secret,
    pub descriptors: Vec<OwnedFd>,
}

/// Must be called inside the runtime.
fn unpack_transport(
    kind: wire::Socket,
    descriptor: OwnedFd,
    tls: Option<wire::Tls>,
    keys: &Secret,
) -> io::Result<Transport> {
    let socket = Socket::from_descriptor(kind.into(), descriptor)?;
    let Some(tls) = tls else {
        return match keys.0.is_empty() {
            true => Ok(socket.into()),
            false => Err(io::Error::other(
                "a connection in plain text came with keys of TLS",
            )),
        };
    };
    let saved = Saved::from_bytes(&keys.0);
    let client = tls.client.map(Into::into);
    let stream = TlsStream::restore(socket, &saved, client).map_err(io::Error::other)?;
    Ok(stream.into())
}

/// Must be called inside the runtime.
pub fn unpack(
    state: wire::Session,
    attachments: Attachments,
    app: &App,
    held: &mut HeldCounts,
) -> io::Result<Session> {
    let Ok([client, server]) = <[OwnedFd; 2]>::try_from(attachments.descriptors) else {
        return Err(io::Error::other(
            "a session came without its two sockets: this process has no room for more of them",
        ));
    };
    let keys = [&attachments.client_tls, &attachments.server_tls];
    let client = unpack_leg(state.client, client, &attachments.to_client, keys[0])?;
    let server = unpack_leg(state.server, server, &attachments.to_server, keys[1])?;
    let generation = app.generation();
    let listener = state.listener.or_else(|| {
        // The first protocol sends only the listener's name at the beginning of the session.
        Some((state.identity.listener.clone(), String::new()))
    });
    let mut identity = Identity::from(state.identity);
    app.share_labels(&mut identity);
    let lease = held
        .lease(&identity)
        .unwrap_or_else(|| generation.adopt_on(&identity.upstream, identity.server));
    let proxied = state.proxied.map(AddrPair::from);
    let bound = match &listener {
        Some((name, address)) => app.find_listener(name, address),
        None => None,
    };
    let admission = match bound {
        Some(bound) => held.admission(app, bound, listener, (&client.transport, proxied)),
        None => Admission {
            permit: None,
            proxied: proxied.map(Box::new),
            ..Admission::default()
        },
    };
    let permit = Some(held.route_permit(&identity, &generation));
    let traffic = Arc::new(Traffic::continued(state.age, state.counts.into()));
    let limits = Limits {
        idle: state.idle,
        end: state.left.map(|left| Instant::now() + left),
        ping: state.ping,
        client_stall: bound.map(|bound| app.listener_states()[bound.index()].limits().stall),
        server_stall: generation
            .find_group(&identity.upstream)
            .map(|group| group.config().stall),
    };
    let clocks = Clocks {
        quiet: state.quiet,
        unheard: state.unheard.unwrap_or(state.quiet),
        pinged: state.pinged,
    };
    let relay = Relay::continued(client, server, traffic.clone(), limits, clocks);
    let live = app.sessions().adopt(LiveSession {
        identity,
        traffic,
        server: lease.server().clone(),
    });
    Ok(Session {
        relay,
        live,
        lease,
        admission,
        permit,
    })
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
        transport: unpack_transport(state.kind, descriptor, state.tls, keys)?,
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
    let bound = bound.filter(|bound| app.serves_moved(*bound, shown, proxied.is_some()));
    let Some(bound) = bound else {
        return Err(io::Error::other("its listener is gone, or is another now"));
    };
    let transport = unpack_transport(idle.kind, descriptor, idle.tls, &attachments.client_tls)?;
    let came_in_on = idle.name.map(|name| (name, idle.listener));
    let admission = held.admission(app, bound, came_in_on, (&transport, proxied));
    let client = ClientEnd {
        transport,
        early: BytesMut::from(&attachments.to_server[..]),
        ended: false,
        has_asked: true,
        admission,
    };
    Ok((bound, client))
}
