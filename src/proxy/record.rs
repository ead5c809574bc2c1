//! Writes what remains of an exchange: its line in the access log, and its part of the metrics.

use std::sync::Arc;
use std::time::SystemTime;

use http::{Version, header};
use pingora_proxy::Session;

use super::exchange::{Attempts, Exchange};
use super::retry::CLIENT_GONE;
use crate::listener::Connection;
use crate::observe::access_log::AccessLog;
use crate::observe::entry::{Entry, Kind};
use crate::observe::metrics::HandshakeFailure;
use crate::session::live::Identity;
use crate::session::log::{millis, session_close};
use crate::session::traffic::{ClosedBy, Traffic};
use crate::websocket::handshake::{self, Upgrade};

/// The exchange has ended, or the session that it became in Pingora's tunnel.
pub fn ended(log: &AccessLog, session: &Session, exchange: &Exchange) {
    let is_probe = |connection: &Arc<Connection>| connection.is_probe();
    if exchange.connection().is_some_and(is_probe) {
        return;
    }
    match &exchange.live {
        Some(live) if session.was_upgraded() || exchange.stream.is_some() => {
            if let Some(by) = closed_by(exchange, &live.traffic) {
                live.traffic.close(by, None);
            }
            session_close(log, live, exchange.outcome.reason());
        }
        _ => {
            count(session, exchange);
            if log.is_on() {
                log.write(&entry(session, exchange));
            }
        }
    }
}

fn count(session: &Session, exchange: &Exchange) {
    let metrics = exchange.generation.metrics_of(exchange.route_id());
    let status = status(session, exchange);
    metrics.count_request(status, exchange.started.elapsed());
    let is_handshake = exchange.refused.is_none()
        && handshake::upgrade_of(&session.req_header().headers) == Upgrade::WebSocket;
    if is_handshake {
        metrics.count_refused(refused(status, exchange));
    }
}

fn status(session: &Session, exchange: &Exchange) -> u16 {
    let written = || {
        session
            .response_written()
            .map(|response| response.status.as_u16())
    };
    let closed = exchange.outcome.closed().map(|(status, _)| status);
    closed.or_else(written).unwrap_or(CLIENT_GONE)
}

/// Why a handshake has not become a session.
fn refused(status: u16, exchange: &Exchange) -> HandshakeFailure {
    let attempts = exchange.attempts.as_ref().map_or(0, Attempts::count);
    let is_ours = exchange.outcome.reason().is_some();
    match status {
        _ if exchange.outcome.is_cut() || exchange.outcome.is_too_late() => {
            HandshakeFailure::Stopping
        }
        _ if was_turned_away(exchange) => HandshakeFailure::Queue,
        _ if exchange.outcome.is_denied() => HandshakeFailure::Auth,
        CLIENT_GONE => HandshakeFailure::ClientGone,
        504 if is_ours => HandshakeFailure::Timeout,
        _ if attempts > 0 => match is_ours {
            true => HandshakeFailure::ServerFailed,
            false => HandshakeFailure::Declined,
        },
        _ if exchange
            .route()
            .is_none_or(|route| route.websocket.is_none()) =>
        {
            HandshakeFailure::Route
        }
        403 => HandshakeFailure::Origin,
        // No server was picked yet.
        429 | 503 if exchange.attempts.is_none() => HandshakeFailure::Limit,
        503 => HandshakeFailure::NoServer,
        _ => HandshakeFailure::Invalid,
    }
}

/// Whether it has waited for a server in vain, or would have.
fn was_turned_away(exchange: &Exchange) -> bool {
    let handshake = exchange.handshake.as_ref();
    handshake.is_some_and(|handshake| handshake.turned_away().is_some())
}

/// If no side and no order has given a cause, the client or the connection to it broke off.
fn closed_by(exchange: &Exchange, traffic: &Traffic) -> Option<ClosedBy> {
    if exchange.outcome.is_cut() {
        return Some(ClosedBy::Drain);
    }
    let age = traffic.established().map(|since| since.elapsed());
    let websocket = exchange.route().and_then(|route| route.websocket.as_ref());
    let limit = websocket.and_then(|websocket| websocket.max_session);
    match (exchange.timed_out(), exchange.outcome.is_broken()) {
        (true, _) if has_expired(exchange) => Some(ClosedBy::Expiry),
        (true, _) if limit.is_some() && age >= limit => Some(ClosedBy::MaxSession),
        (true, _) => Some(ClosedBy::Idle),
        (false, true) => Some(ClosedBy::Error),
        (false, false) => None,
    }
}

fn has_expired(exchange: &Exchange) -> bool {
    let handshake = exchange.handshake.as_ref();
    let expiry = handshake.and_then(|handshake| handshake.expiry());
    expiry.is_some_and(|expiry| expiry.remaining(SystemTime::now()).is_zero())
}

/// What is known of a handshake that becomes a session.
pub fn identity(session: &Session, exchange: &Exchange) -> Option<Identity> {
    let labels = &exchange.generation.labels;
    let attempts = exchange.attempts.as_ref()?;
    let request = session.req_header();
    Some(Identity {
        id: exchange.names.id(),
        request_id: exchange.names.foreign_id().map(Into::into),
        trace: exchange.names.trace().map(Box::new),
        listener: labels.listeners[exchange.listener().index()].clone(),
        route: exchange
            .generation
            .route_label(exchange.route_id()?)
            .clone(),
        upstream: attempts.group().label().clone(),
        server: attempts.server()?,
        client: exchange.client().to_string().into(),
        method: request.method.as_str().into(),
        host: host(session).unwrap_or_default().into(),
        path: path(session).into(),
        user_agent: text(session, header::USER_AGENT).map(Into::into),
        user: exchange
            .session_permit()
            .and_then(|permit| permit.user().cloned()),
        handshake: exchange.started.elapsed(),
        attempts: attempts.count(),
    })
}

fn entry<'a>(session: &'a Session, exchange: &'a Exchange) -> Entry<'a> {
    // Nothing else is known of a request that was refused before Pingora saw it.
    let refused = exchange.refused.as_ref();
    let attempts = exchange.attempts.as_ref();
    let unsound = refused.and_then(|refused| refused.unsound.as_ref());
    Entry {
        kind: Kind::Request,
        id: exchange.names.id(),
        request_id: exchange.names.foreign_id(),
        trace: exchange.names.trace(),
        listener: &exchange
            .generation
            .config
            .listener(exchange.listener())
            .name,
        route: exchange.route().map(|route| route.name.as_str()),
        upstream: exchange.group().map(|group| group.name()),
        server: attempts
            .and_then(Attempts::server)
            .map(|server| server.to_string()),
        client: exchange.client().to_string(),
        method: unsound.map_or(session.req_header().method.as_str(), |unsound| {
            &unsound.method
        }),
        version: version(session, exchange),
        referer: text(session, header::REFERER),
        host: host(session).filter(|_| unsound.is_none()),
        path: unsound.map_or_else(|| path(session), |unsound| &unsound.target),
        status: status(session, exchange),
        user: exchange.user(),
        duration_ms: millis(exchange.started.elapsed()),
        handshake_ms: None,
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        messages_in: None,
        messages_out: None,
        events_out: None,
        close_code: exchange.outcome.closed().map(|(_, code)| code.into()),
        closed_by: None,
        attempts: attempts.map_or(0, Attempts::count),
        user_agent: text(session, header::USER_AGENT),
        error: exchange.outcome.reason(),
    }
}

/// What the client speaks. Pingora reads the requests of HTTP/2 streams as HTTP/1.1.
fn version(session: &Session, exchange: &Exchange) -> Version {
    match exchange.connection() {
        Some(connection) if connection.is_stream() => Version::HTTP_2,
        _ => session.req_header().version,
    }
}

fn text(session: &Session, name: header::HeaderName) -> Option<&str> {
    let value = session.req_header().headers.get(name)?;
    str::from_utf8(value.as_bytes()).ok()
}

fn host(session: &Session) -> Option<&str> {
    text(session, header::HOST).or_else(|| session.req_header().uri.host())
}

fn path(session: &Session) -> &str {
    session
        .req_header()
        .uri
        .path_and_query()
        .map_or("", |path| path.as_str())
}
