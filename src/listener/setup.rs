//! From the accepted socket to the first byte of HTTP: who may come in, whose connection it is, and
//! TLS. The listener's `header_timeout` is for all of it and the first head.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::BytesMut;
use http::{StatusCode, Version};
use log::debug;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::state::Entrance;
use crate::config::AcceptProxy;
use crate::forward::client_address::ClientAddress;
use crate::forward::proxy_protocol::{self, Ends, Header};
use crate::http1::Refusal;
use crate::limits::{RETRY_AFTER, Seat};
use super::accept::{Arrival, Edge};
use crate::net::{Socket, TCP_KEEPALIVE};
use crate::observe::entry::{Entry, Kind};
use crate::observe::repeated;
use crate::session::Admission;
use crate::tls::{Acceptor, TlsRevision, TlsStream};
use crate::transport::Transport;

/// How long it may go on sending, so that it reads why: closed with bytes unread, the connection
/// would be reset and the answer with it.
const LINGER: Duration = Duration::from_secs(1);

/// And what it may send in that time: who floods us is cut.
const LINGER_BYTES: u64 = 256 * 1024;

/// Those who linger at one time; others are cut. Their descriptors are set apart.
pub(super) const LINGERING_MAX: usize = 32;

pub(super) const TOO_MANY: Refusal = Refusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "this listener has as many connections as it may",
);
pub(super) const TOO_MANY_OF_CLIENT: Refusal = Refusal::new(
    StatusCode::TOO_MANY_REQUESTS,
    "this client has as many connections as it may",
);
pub(super) const NO_DESCRIPTORS: Refusal = Refusal::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "this process has no descriptors for more connections",
);
const NOT_A_PROXY: Refusal =
    Refusal::bad("who is not in trusted_proxies may not send a PROXY header");
const LATE_TLS: Refusal = Refusal::new(
    StatusCode::REQUEST_TIMEOUT,
    "the TLS handshake was not done in time",
);
const NO_HEADER: Refusal = Refusal::bad("the connection does not begin with a PROXY header");

/// Whether a connection has ended without a word of why.
pub(super) fn has_left(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
    )
}

/// A connection on its way in; its socket goes beside it.
struct Pending {
    entrance: Arc<Entrance>,
    /// As the kernel has them; `None` on a unix socket.
    ends: Option<Ends>,
    /// By when its first head must be there.
    deadline: Instant,
}

impl Pending {
    fn peer(&self) -> Option<SocketAddr> {
        self.ends.map(|ends| ends.peer)
    }
}

/// What a connection on a listener with `proxy_protocol` begins with.
enum Opening {
    Proxied(Ends),
    /// The ends are its own.
    Own,
    Refused(Refusal),
    /// It has ended without a byte: a balancer has looked whether we are here.
    Gone,
}

impl Edge {
    /// Lets a connection in that was just accepted, or turns it away.
    pub fn admit(self: &Arc<Self>, listener: usize, socket: Socket, ends: Option<Ends>) {
        let entrance = self.entrances[listener].clone();
        let (most, timeout, stall) = {
            let limits = entrance.limits();
            (limits.bounds.all, limits.header_timeout, limits.stall)
        };
        // Sessions have no other bound for it, and nothing may be given up sooner than the file says.
        if stall != TCP_KEEPALIVE.user_timeout {
            socket.set_stall(stall);
        }
        let pending = Pending {
            entrance,
            ends,
            deadline: Instant::now() + timeout,
        };
        if !self.has_descriptors() {
            return self.turn_away(&pending, socket, None, NO_DESCRIPTORS);
        }
        let Ok(seat) = pending.entrance.gate.enter_unnamed(most) else {
            return self.turn_away(&pending, socket, None, TOO_MANY);
        };
        let generation = self.current.load();
        let tls = generation.tls_of(listener);
        let proxied = generation.proxy_protocol_of(listener);
        let tls_revision = generation.tls_revision(listener);
        if tls.is_none() && proxied == AcceptProxy::Off {
            return match self.charge_client(&pending, (seat, tls_revision), None) {
                Some(admission) => self.let_in(pending, socket.into(), admission),
                None => self.turn_away(&pending, socket, None, TOO_MANY_OF_CLIENT),
            };
        }
        let (edge, before_http) = (self.clone(), (proxied, tls.cloned()));
        let seat = (seat, tls_revision);
        let (mut stopping, last_moment) = (self.stopping.clone(), self.last_moment());
        self.connections.spawn(async move {
            tokio::select! {
                () = edge.open(pending, socket, seat, before_http) => {}
                _ = stopping.wait_for(|stops| *stops) => {}
                () = last_moment => {}
            }
        });
    }

    /// What comes before HTTP.
    async fn open(
        self: &Arc<Self>,
        pending: Pending,
        mut socket: Socket,
        seat: (Seat, TlsRevision),
        (proxied, tls): (AcceptProxy, Option<Arc<Acceptor>>),
    ) {
        let peer = pending.peer();
        let ends = match proxied {
            AcceptProxy::Off => None,
            AcceptProxy::Required => match self.read_header(&pending, &mut socket).await {
                Opening::Proxied(ends) => Some(ends),
                Opening::Own => None,
                Opening::Refused(refusal) => return self.shut_out(&pending, refusal),
                Opening::Gone => return,
            },
        };
        let Some(admission) = self.charge_client(&pending, seat, ends) else {
            let peer = ends.map(|ends| ends.peer);
            return self.turn_away(&pending, socket, peer, TOO_MANY_OF_CLIENT);
        };
        let transport = match tls {
            Some(tls) => match self
                .secure(&pending, socket, &tls, admission.peer(peer))
                .await
            {
                Some(stream) => stream.into(),
                None => return,
            },
            None => socket.into(),
        };
        self.let_in(pending, transport, admission);
    }

    /// The TLS handshake. `None`: it has failed, and that is told.
    async fn secure(
        &self,
        pending: &Pending,
        socket: Socket,
        tls: &Acceptor,
        peer: Option<SocketAddr>,
    ) -> Option<TlsStream> {
        match timeout_at(pending.deadline, tls.accept(socket)).await {
            Ok(Ok(stream)) => return Some(stream),
            // Everyday: who looks whether we are here.
            Ok(Err(error)) if has_left(&error) => {
                debug!("{peer:?} has left within its TLS handshake");
            }
            Ok(Err(error)) => self.fail(&pending.entrance, peer, "the TLS handshake", &error),
            Err(_) => self.record(&pending.entrance, peer, LATE_TLS),
        }
        None
    }

    /// Counts the connection for its client, who is known now. `None`: it has as many as it may.
    fn charge_client(
        &self,
        pending: &Pending,
        (mut seat, tls_revision): (Seat, TlsRevision),
        proxied: Option<Ends>,
    ) -> Option<Admission> {
        let peer = proxied.or(pending.ends).map(|ends| ends.peer);
        let generation = self.current.load();
        let charged = pending
            .entrance
            .charge_client(&mut seat, peer, generation.trusted());
        charged.ok()?;
        Some(Admission {
            seat: Some(seat),
            proxied: proxied.map(Box::new),
            tls_revision,
        })
    }

    fn let_in(self: &Arc<Self>, pending: Pending, transport: Transport, admission: Admission) {
        let Pending {
            entrance,
            ends,
            deadline,
        } = pending;
        if transport.is_http2() {
            let edge = self.clone();
            let last_moment = self.last_moment();
            let serving = edge.serve_http2(entrance, transport, admission, deadline);
            self.connections.spawn(async move {
                tokio::select! {
                    () = serving => {}
                    () = last_moment => {}
                }
            });
            return;
        }
        let arrival = Arrival::New { deadline, ends };
        self.serve(
            entrance.number,
            transport,
            BytesMut::new(),
            admission,
            arrival,
        );
    }

    async fn read_header(&self, pending: &Pending, socket: &mut Socket) -> Opening {
        let peer = pending.peer();
        if !self.current.load().trusted().trusts_peer(peer) {
            return Opening::Refused(NOT_A_PROXY);
        }
        let header = receive_header(socket);
        match timeout_at(pending.deadline, header).await {
            Ok(Ok(Some(Header::Proxied(ends)))) => Opening::Proxied(ends),
            Ok(Ok(Some(Header::Own))) => Opening::Own,
            Ok(Ok(None)) => Opening::Gone,
            Ok(Err(_)) | Err(_) => Opening::Refused(NO_HEADER),
        }
    }

    /// Without a word: who sends no header, or may not, speaks another language.
    fn shut_out(&self, pending: &Pending, refusal: Refusal) {
        let (entrance, peer) = (&pending.entrance, pending.peer());
        let who = peer.map_or("a unix socket".to_owned(), |peer| peer.to_string());
        let line = format!("{who} is shut out: {}", refusal.reason);
        self.warn_of(entrance, refusal.reason, &line);
        self.record(entrance, peer, refusal);
    }

    /// Of what each new connection may give cause for. `what` makes lines alike.
    pub(super) fn warn_of(&self, entrance: &Entrance, what: &str, line: &str) {
        let name = self.name_of(entrance);
        let kind = repeated::Kind::of(format!("listener {name:?}: {what}"));
        repeated::warn(kind, format!("listener {name:?}: {line}"));
    }

    /// With an answer, unless TLS would have to come first.
    fn turn_away(
        &self,
        pending: &Pending,
        socket: Socket,
        peer: Option<SocketAddr>,
        refusal: Refusal,
    ) {
        let entrance = &pending.entrance;
        self.record(entrance, peer.or(pending.peer()), refusal);
        if self.current.load().tls_of(entrance.number).is_some() {
            return;
        }
        let mut transport = Transport::from(socket);
        transport.send_at_once(&answer(refusal));
        self.see_off(transport);
    }

    /// Closes a connection whose client has not read its last word yet, or goes on sending.
    pub(super) fn see_off(&self, mut transport: Transport) {
        let Ok(place) = self.lingering.clone().try_acquire_owned() else {
            return;
        };
        // None: the process ends.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let last_moment = self.last_moment();
        let going = async move {
            let rest = async {
                transport.shutdown().await?;
                let mut rest = transport.take(LINGER_BYTES);
                while rest.read(&mut [0; 4096]).await? > 0 {}
                io::Result::Ok(())
            };
            // Whoever is not done by then is cut.
            tokio::select! {
                _ = timeout(LINGER, rest) => {}
                () = last_moment => {}
            }
            drop(place);
        };
        self.connections.spawn_on(going, &runtime);
    }

    /// What has to come before HTTP did not.
    pub(super) fn fail(
        &self,
        entrance: &Entrance,
        peer: Option<SocketAddr>,
        what: &str,
        why: &dyn fmt::Display,
    ) {
        let reason = format!("{what} failed: {why}");
        self.record_as(entrance, peer, StatusCode::BAD_REQUEST, &reason);
    }

    pub(super) fn record(&self, entrance: &Entrance, peer: Option<SocketAddr>, refusal: Refusal) {
        self.record_as(entrance, peer, refusal.status, refusal.reason);
    }

    /// Every connection that is refused, or fails before HTTP, comes by here.
    fn record_as(
        &self,
        entrance: &Entrance,
        peer: Option<SocketAddr>,
        status: StatusCode,
        reason: &str,
    ) {
        let generation = self.current.load();
        generation
            .metrics_of(None)
            .count_request(status.as_u16(), Duration::ZERO);
        if !self.log.is_on() {
            return;
        }
        let client = peer.map_or(ClientAddress::Unix, |peer| {
            ClientAddress::Ip(peer.ip().to_canonical())
        });
        self.log.write(&Entry {
            kind: Kind::Request,
            id: Uuid::now_v7(),
            request_id: None,
            trace: None,
            listener: &generation.config.listeners[generation.listener(entrance.number)].name,
            route: None,
            upstream: None,
            server: None,
            client: client.to_string(),
            method: "",
            host: None,
            path: "",
            version: Version::HTTP_11,
            status: status.as_u16(),
            duration_ms: 0.0,
            handshake_ms: None,
            bytes_in: 0,
            bytes_out: 0,
            messages_in: None,
            messages_out: None,
            close_code: None,
            closed_by: None,
            attempts: 0,
            user_agent: None,
            referer: None,
            error: Some(reason),
        });
    }

    fn name_of(&self, entrance: &Entrance) -> String {
        let generation = self.current.load();
        let number = generation.listener(entrance.number);
        generation.config.listeners[number].name.clone()
    }
}

/// What a client reads that is turned away.
pub(super) fn words(refusal: Refusal) -> String {
    let status = refusal.status.as_u16();
    let name = refusal.status.canonical_reason().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    format!("{status} {name}: {}\n", refusal.reason)
}

fn answer(refusal: Refusal) -> Vec<u8> {
    let status = refusal.status.as_u16();
    let name = refusal.status.canonical_reason().unwrap_or_default();
    let body = words(refusal);
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {name}\r\nContent-Length: {length}\r\nContent-Type: text/plain; \
         charset=utf-8\r\nCache-Control: no-store\r\nRetry-After: {RETRY_AFTER}\r\nConnection: \
         close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Takes the header off the front, and not a byte more: what follows may be TLS. `None`: not a byte
/// has come.
async fn receive_header(socket: &mut Socket) -> io::Result<Option<Header>> {
    let mut bytes = Vec::new();
    let mut ahead = [0; 256];
    loop {
        let seen = match socket.peek(&mut ahead).await {
            Ok(0) if bytes.is_empty() => return Ok(None),
            // A balancer's probe: it connects, and resets what it has got.
            Err(_) if bytes.is_empty() => return Ok(None),
            seen => seen?,
        };
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = bytes.len();
        bytes.extend_from_slice(&ahead[..seen]);
        let parsed = proxy_protocol::parse(&bytes)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let end = parsed.map_or(bytes.len(), |(_, end)| end);
        socket.read_exact(&mut ahead[..end - before]).await?;
        if let Some((header, _)) = parsed {
            return Ok(Some(header));
        }
    }
}
