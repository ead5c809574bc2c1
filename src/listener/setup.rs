//! From the accepted socket to the first byte of HTTP: whether the client may come in, its address,
//! and TLS. The listener's `header_timeout` covers all of this and the first head.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use log::debug;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::client_stream::Arrival;
use super::edge::Edge;
use super::refuse::{
    LATE_TLS, NO_DESCRIPTORS, NO_HEADER, NOT_A_PROXY, TOO_MANY, TOO_MANY_OF_CLIENT,
};
use super::state::ListenerState;
use crate::config::AcceptProxy;
use crate::forward::proxy_protocol::{self, AddrPair, Header};
use crate::http1::Rejection;
use crate::limits::Permit;
use crate::net::{BoundId, Socket, TCP_KEEPALIVE};
use crate::session::Admission;
use crate::tls::{Acceptor, TlsRevision, TlsStream};
use crate::transport::Transport;

/// Whether the connection has ended without a reason given.
pub(super) fn is_disconnect(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
    )
}

/// A connection that is being set up. Its socket is passed beside it.
struct Pending {
    state: Arc<ListenerState>,
    /// The addresses from the kernel. `None` on a unix socket.
    ends: Option<AddrPair>,
    /// When the first head must be there.
    deadline: Instant,
}

impl Pending {
    fn peer(&self) -> Option<SocketAddr> {
        self.ends.map(|ends| ends.peer)
    }
}

/// What a connection on a listener with `proxy_protocol` begins with.
enum Opening {
    Proxied(AddrPair),
    /// No client is named: the addresses of the connection itself count.
    Own,
    Refused(Rejection),
    /// The connection ended without a byte: a balancer has checked that we are here.
    Gone,
}

impl Edge {
    /// Accepts a new connection, or turns it away.
    pub fn admit(self: &Arc<Self>, listener: BoundId, socket: Socket, ends: Option<AddrPair>) {
        let state = self.listener_states[listener.index()].clone();
        let settings = self.listener_states[listener.index()].settings();
        let limits = &settings.limits;
        let (most, timeout, stall) = (limits.bounds.all, limits.header_timeout, limits.stall);
        // Sessions have no other limit of this kind, and nothing may be given up sooner than the
        // file says.
        if stall != TCP_KEEPALIVE.user_timeout {
            socket.set_stall(stall);
        }
        let pending = Pending {
            state,
            ends,
            deadline: Instant::now() + timeout,
        };
        if !self.has_descriptors() {
            return self.turn_away(&pending.state, socket, pending.peer(), NO_DESCRIPTORS);
        }
        let Ok(permit) = pending.state.limiter.enter_unnamed(most) else {
            return self.turn_away(&pending.state, socket, pending.peer(), TOO_MANY);
        };
        let tls = settings.tls.as_ref();
        let (proxied, tls_revision) = (settings.proxy_protocol, settings.tls_revision);
        if tls.is_none() && proxied == AcceptProxy::Off {
            return match self.charge_client(&pending, (permit, tls_revision), None) {
                Some(admission) => self.let_in(pending, socket.into(), admission),
                None => self.turn_away(&pending.state, socket, pending.peer(), TOO_MANY_OF_CLIENT),
            };
        }
        let (edge, before_http) = (self.clone(), (proxied, tls.cloned()));
        let permit = (permit, tls_revision);
        let (mut stopping, last_moment) = (self.stopping.clone(), self.last_moment());
        self.connections.spawn(async move {
            tokio::select! {
                () = edge.open(pending, socket, permit, before_http) => {}
                _ = stopping.wait_for(|stops| *stops) => {}
                () = last_moment => {}
            }
        });
    }

    /// Handles what comes before HTTP.
    async fn open(
        self: &Arc<Self>,
        pending: Pending,
        mut socket: Socket,
        permit: (Permit, TlsRevision),
        (proxied, tls): (AcceptProxy, Option<Arc<Acceptor>>),
    ) {
        let peer = pending.peer();
        let ends = match proxied {
            AcceptProxy::Off => None,
            AcceptProxy::Required => match self.read_header(&pending, &mut socket).await {
                Opening::Proxied(ends) => Some(ends),
                Opening::Own => None,
                Opening::Refused(rejection) => {
                    return self.shut_out(&pending.state, peer, rejection);
                }
                Opening::Gone => return,
            },
        };
        let Some(admission) = self.charge_client(&pending, permit, ends) else {
            let peer = ends.map_or(peer, |ends| Some(ends.peer));
            return self.turn_away(&pending.state, socket, peer, TOO_MANY_OF_CLIENT);
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

    /// Does the TLS handshake. `None`: it has failed, and the failure is logged.
    async fn secure(
        &self,
        pending: &Pending,
        socket: Socket,
        tls: &Acceptor,
        peer: Option<SocketAddr>,
    ) -> Option<TlsStream> {
        match timeout_at(pending.deadline, tls.accept(socket)).await {
            Ok(Ok(stream)) => return Some(stream),
            // This happens daily, for example when a balancer checks that we are here.
            Ok(Err(error)) if is_disconnect(&error) => {
                debug!("{peer:?} has left within its TLS handshake");
            }
            Ok(Err(error)) => self.fail(&pending.state, peer, "the TLS handshake", &error),
            Err(_) => self.record(&pending.state, peer, LATE_TLS),
        }
        None
    }

    /// Counts the connection for its client, which is known now. `None`: the client has as many as
    /// it may.
    fn charge_client(
        &self,
        pending: &Pending,
        (mut permit, tls_revision): (Permit, TlsRevision),
        proxied: Option<AddrPair>,
    ) -> Option<Admission> {
        let peer = proxied.or(pending.ends).map(|ends| ends.peer);
        let charged = pending.state.charge_client(&mut permit, peer);
        charged.ok()?;
        Some(Admission {
            permit: Some(permit),
            proxied: proxied.map(Box::new),
            tls_revision,
        })
    }

    fn let_in(self: &Arc<Self>, pending: Pending, transport: Transport, admission: Admission) {
        let Pending {
            state,
            ends,
            deadline,
        } = pending;
        if transport.is_http2() {
            let edge = self.clone();
            let last_moment = self.last_moment();
            let serving = edge.serve_http2(state, transport, admission, deadline);
            self.connections.spawn(async move {
                tokio::select! {
                    () = serving => {}
                    () = last_moment => {}
                }
            });
            return;
        }
        let arrival = Arrival::New { deadline, ends };
        self.serve(state.id, transport, BytesMut::new(), admission, arrival);
    }

    async fn read_header(&self, pending: &Pending, socket: &mut Socket) -> Opening {
        let peer = pending.peer();
        if !pending.state.settings().trusted.trusts_peer(peer) {
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
}

/// Reads the PROXY header, and not a byte more: the next bytes may be TLS. `None`: no byte has
/// come.
async fn receive_header(socket: &mut Socket) -> io::Result<Option<Header>> {
    let mut bytes = Vec::new();
    let mut ahead = [0; 256];
    loop {
        let seen = match socket.peek(&mut ahead).await {
            Ok(0) if bytes.is_empty() => return Ok(None),
            // A balancer's check: it connects and then resets the connection.
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
