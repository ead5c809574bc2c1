//! What every session has that moves, whatever its two sides speak: packs it, and counts the
//! session in the new process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use super::began;
use super::census::HeldCounts;
use super::protocol::frame::Secret;
use super::protocol::wire;
use crate::app::App;
use crate::forward::proxy_protocol::AddrPair;
use crate::limits::{Permit, UserBound};
use crate::net::Socket;
use crate::session::expiry::Expiry;
use crate::session::live::{Identity, LiveSession, SessionKind};
use crate::session::relay::{Clocks, Limits};
use crate::session::traffic::Traffic;
use crate::session::{Admission, Relaying, Session};
use crate::tls::record::Saved;
use crate::tls::{ClientCertificate, Security, TlsStream};
use crate::transport::Transport;
use crate::upstream::Lease;

/// What is known of a session, whatever its sides speak.
pub fn about(session: &Session, app: &App) -> wire::About {
    let Session {
        relay,
        live,
        admission,
        ..
    } = session;
    // The new process takes the other limits from its own file.
    let Limits {
        idle, end, ping, ..
    } = relay.limits();
    let Clocks {
        quiet,
        unheard,
        pinged,
    } = relay.clocks();
    wire::About {
        identity: (&live.identity).into(),
        age: live.age(),
        began: began::sent(live.since()),
        counts: live.traffic.counts().into(),
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
        expiry: relay.alarm().map(|alarm| alarm.expiry.into()),
    }
}

/// What is known of a connection's TLS, but for its keys. `None`: it is plain text.
pub fn tls(transport: &Transport) -> Option<wire::Tls> {
    match transport.security() {
        Security::Plain => None,
        Security::Tls { client } => Some(wire::Tls {
            client: client.as_ref().map(|client| client.subject.to_string()),
            client_expires: client
                .and_then(|client| client.expires?.duration_since(UNIX_EPOCH).ok())
                .map(|expires| expires.as_secs()),
            needs_close_notify: transport.needs_close_notify(),
        }),
    }
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
pub fn transport(
    kind: wire::Socket,
    descriptor: OwnedFd,
    tls: Option<wire::Tls>,
    keys: &Secret,
) -> io::Result<Transport> {
    let socket = Socket::from_descriptor(kind.into(), descriptor)?;
    let Some(tls) = tls else {
        return match keys.0.is_empty() {
            true => Ok(socket.into()),
            false => Err(io::Error::other("plain text came with keys of TLS")),
        };
    };
    let saved = Saved::from_bytes(&keys.0);
    let expires = tls.client_expires.map(Duration::from_secs);
    let client = tls.client.map(|subject| {
        Arc::new(ClientCertificate {
            subject: subject.into(),
            expires: expires.and_then(|expires| UNIX_EPOCH.checked_add(expires)),
        })
    });
    let stream = TlsStream::restore(socket, &saved, client, tls.needs_close_notify);
    Ok(stream.map_err(io::Error::other)?.into())
}

/// The two sockets of a session, the client's first.
pub fn sockets(attachments: Vec<OwnedFd>) -> io::Result<[OwnedFd; 2]> {
    <[OwnedFd; 2]>::try_from(attachments).map_err(|_| {
        io::Error::other(
            "a session came without its two sockets: this process has no room for more of them",
        )
    })
}

/// A session that has come, but for its relay.
pub struct Arrived {
    kind: SessionKind,
    identity: Identity,
    lease: Lease,
    admission: Admission,
    permit: Permit,
    user_bound: Option<UserBound>,
    expiry: Option<Expiry>,
    pub traffic: Arc<Traffic>,
    pub limits: Limits,
    pub clocks: Clocks,
}

/// Counts the session here.
pub fn arrive(
    kind: SessionKind,
    about: wire::About,
    client: &Transport,
    app: &App,
    held: &mut HeldCounts,
) -> Arrived {
    let generation = app.generation();
    let mut identity = Identity::from(about.identity);
    app.share_labels(&mut identity);
    let lease = held
        .lease(&identity)
        .unwrap_or_else(|| generation.adopt_on(&identity.upstream, identity.server));
    let proxied = about.proxied.map(AddrPair::from);
    let bound = match &about.listener {
        Some((name, address)) => app.find_listener(name, address),
        None => None,
    };
    let admission = match bound {
        Some(bound) => held.admission(app, bound, about.listener, (client, proxied)),
        None => Admission {
            permit: None,
            proxied: proxied.map(Box::new),
            ..Admission::default()
        },
    };
    let permit = held.route_permit(kind, &identity, &generation);
    let since = began::received(about.age, about.began);
    // All sessions of a user share the name.
    identity.user = permit.user().cloned();
    Arrived {
        kind,
        permit,
        user_bound: generation.user_bound(kind, &identity.route),
        expiry: about.expiry.map(Into::into),
        traffic: Arc::new(Traffic::continued(since, about.counts.into())),
        limits: Limits {
            idle: about.idle,
            end: about.left.map(|left| Instant::now() + left),
            ping: about.ping,
            client_stall: bound.map(|bound| app.listener_states()[bound.index()].limits().stall),
            server_stall: generation
                .find_group(&identity.upstream)
                .map(|group| group.config().stall),
            messages_per_second: None,
        },
        clocks: Clocks {
            quiet: about.quiet,
            unheard: about.unheard.unwrap_or(about.quiet),
            pinged: about.pinged,
        },
        identity,
        lease,
        admission,
    }
}

impl Arrived {
    pub fn begin(self, mut relay: Relaying, app: &App) -> Session {
        relay.expire(self.expiry);
        let live = app.sessions().adopt(LiveSession {
            kind: self.kind,
            identity: self.identity,
            traffic: self.traffic,
            server: self.lease.server().clone(),
        });
        let mut permit = self.permit;
        app.sessions()
            .take_place(&live, &mut permit, self.user_bound);
        app.close_if_asked(&live);
        Session {
            relay,
            live,
            lease: self.lease,
            admission: self.admission,
            permit: Some(permit),
        }
    }
}
