//! The moment of the 101, or of the head of an event stream: an exchange becomes a session.

use std::sync::Arc;
use std::time::SystemTime;

use http::header;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::{Attempts, Exchange};
use super::record;
use super::shared::Gateway;
use crate::config::Tunnel;
use crate::listener::Reading;
use crate::session::drain::DrainReason;
use crate::session::goodbye::CLOSE_WAIT;
use crate::session::live::{Identity, LiveSession, SessionKind};
use crate::session::log::session_open;
use crate::upstream::pacing::Ended;

impl Gateway {
    /// The server has answered 101, so a session begins.
    pub(super) fn begin_session(
        &self,
        session: &Session,
        response: &ResponseHeader,
        exchange: &mut Exchange,
    ) {
        let (Some(connection), Some(route)) = (exchange.connection(), exchange.route()) else {
            return;
        };
        connection.clear_deadline();
        connection.needs_no_server();
        let websocket = route.websocket.as_ref();
        match exchange.generation.config.server.tunnel {
            Tunnel::Relay => connection.set_reading(Reading::Leave),
            Tunnel::Pingora => {
                if let Some(handshake) = &exchange.handshake {
                    connection.open_tunnel(handshake.traffic().clone());
                }
                // The tunnel watches the session. This is for a client that no longer reads:
                // Pingora then waits for the client and does not poll the tunnel.
                if let Some(idle) = websocket.and_then(|websocket| websocket.idle) {
                    connection.set_deadline(idle + 2 * CLOSE_WAIT);
                }
                let limit = websocket.and_then(|websocket| websocket.max_session);
                let limit = limit.map(|limit| limit.mul_f64(1.1));
                let handshake = exchange.handshake.as_ref();
                let expiry = handshake.and_then(|handshake| handshake.expiry());
                let expiry = expiry.map(|expiry| expiry.remaining(SystemTime::now()));
                if let Some(limit) = limit.into_iter().chain(expiry).min() {
                    connection.set_end(limit + 2 * CLOSE_WAIT);
                }
            }
        }
        let Some(identity) = record::identity(session, exchange) else {
            return;
        };
        let Some(handshake) = &mut exchange.handshake else {
            return;
        };
        let headers = &response.headers;
        exchange
            .attempts
            .iter_mut()
            .for_each(|attempts| attempts.end_handshake(Ended::Done));
        handshake.succeed(headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS));
        let Some(lease) = exchange.attempts.as_ref().and_then(Attempts::lease) else {
            return;
        };
        let live = LiveSession {
            kind: SessionKind::WebSocket,
            identity,
            traffic: handshake.traffic().clone(),
            server: lease.server().clone(),
        };
        self.register(live, exchange);
    }

    /// The server has begun an event stream, so a session begins.
    pub(super) fn open_stream(&self, session: &mut Session, exchange: &mut Exchange) {
        // Nothing follows the stream on the client's connection.
        session.set_keepalive(None);
        let Some(live) = stream_session(session, exchange) else {
            exchange.attempts.iter().for_each(Attempts::decline_stream);
            return;
        };
        if let Some(connection) = exchange.connection() {
            connection.clear_deadline();
            connection.needs_no_server();
            connection.set_reading(Reading::Leave);
        }
        self.register(live, exchange);
    }

    fn register(&self, live: LiveSession, exchange: &mut Exchange) {
        let live = self.sessions.register(live);
        if live.identity.user.is_some() {
            let (kind, route) = (live.kind, &live.identity.route);
            let bound = exchange.generation.user_bound(kind, route);
            if let Some(permit) = exchange.session_permit_mut() {
                self.sessions.take_place(&live, permit, bound);
            }
        }
        if let Some(reason) = self.why_late(&live, exchange) {
            let current = self.current.load();
            self.drains.admit(reason, &live, current.drain_plan());
        }
        if live.kind == SessionKind::WebSocket {
            let metrics = exchange.generation.metrics_of(exchange.route_id());
            metrics.count_handshake(live.identity.handshake);
        }
        session_open(&self.log, &live);
        exchange.live = Some(live);
    }
}

/// The session that an event stream becomes, whose server's connection is to leave.
fn stream_session(session: &Session, exchange: &Exchange) -> Option<LiveSession> {
    let identity = record::identity(session, exchange)?;
    let attempts = exchange.attempts.as_ref()?;
    let server = attempts.lease()?.server().clone();
    let traffic = exchange.stream.as_ref()?.traffic.clone();
    attempts.stream_offer()?.take_up();
    Some(LiveSession {
        kind: SessionKind::Stream,
        identity,
        traffic,
        server,
    })
}

impl Gateway {
    /// Why a session that begins now must go: its handshake was under way when all others were
    /// told.
    fn why_late(&self, live: &LiveSession, exchange: &Exchange) -> Option<DrainReason> {
        let phase = self.phase.now();
        if phase.is_draining() {
            return Some(DrainReason::Stop);
        }
        if phase.moves() && !self.moves.takes(exchange.mobility()) {
            return Some(DrainReason::Upgrade);
        }
        let group = exchange.group()?;
        let current = self.current.load();
        // Only a reload in the meantime can have removed its route.
        match Arc::ptr_eq(&current, &exchange.generation) {
            true => {
                let Identity {
                    upstream, server, ..
                } = &live.identity;
                let gone = group.why_gone(*server)?;
                Some(DrainReason::of_server(gone, upstream.clone(), *server))
            }
            false => current.why_gone_late(&live.identity, group),
        }
    }
}
