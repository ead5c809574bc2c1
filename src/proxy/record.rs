//! An exchange's lines in the access log.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::header;
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::observe::access_log::{AccessLog, Entry, Kind};
use crate::session::traffic::{ClosedBy, Traffic};

/// The client left before it got anything: nginx's name for it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The 101 is about to go out.
pub fn session_open(log: &AccessLog, session: &Session, exchange: &Exchange) {
    if !log.is_on() {
        return;
    }
    let elapsed = exchange.started.elapsed();
    log.write(&Entry {
        kind: Kind::SessionOpen,
        status: 101,
        handshake_ms: Some(millis(elapsed)),
        ..entry(session, exchange, elapsed)
    });
}

/// The exchange, or the session that came of it, has ended.
pub fn ended(log: &AccessLog, session: &Session, exchange: &Exchange) {
    if !log.is_on() {
        return;
    }
    let traffic = exchange
        .handshake
        .as_ref()
        .map(|handshake| &*handshake.traffic);
    match traffic.and_then(|traffic| traffic.established().map(|since| (traffic, since))) {
        Some((traffic, since)) if session.was_upgraded() => {
            session_close(log, session, exchange, traffic, since);
        }
        _ => {
            let status = session
                .response_written()
                .map_or(CLIENT_CLOSED_REQUEST, |response| response.status.as_u16());
            log.write(&Entry {
                status,
                ..entry(session, exchange, exchange.started.elapsed())
            });
        }
    }
}

fn session_close(
    log: &AccessLog,
    session: &Session,
    exchange: &Exchange,
    traffic: &Traffic,
    since: Instant,
) {
    log.write(&Entry {
        kind: Kind::SessionClose,
        status: 101,
        handshake_ms: Some(millis(since - exchange.started)),
        bytes_in: traffic.bytes_in.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        messages_in: Some(traffic.messages_in.load(Relaxed)),
        messages_out: Some(traffic.messages_out.load(Relaxed)),
        close_code: traffic.close_code(),
        closed_by: Some(closed_by(exchange, traffic).name()),
        ..entry(session, exchange, since.elapsed())
    });
}

/// Neither side nor prusik has said why: the client broke off, or the connection to it did.
fn closed_by(exchange: &Exchange, traffic: &Traffic) -> ClosedBy {
    traffic.closed_by().unwrap_or_else(|| {
        let age = traffic.established().map(|since| since.elapsed());
        let websocket = exchange.route().and_then(|route| route.websocket.as_ref());
        let limit = websocket.and_then(|websocket| websocket.max_session);
        match (exchange.timed_out(), exchange.broke) {
            (true, _) if limit.is_some() && age >= limit => ClosedBy::MaxSession,
            (true, _) => ClosedBy::Idle,
            (false, true) => ClosedBy::Error,
            (false, false) => ClosedBy::Client,
        }
    })
}

fn entry<'a>(session: &'a Session, exchange: &'a Exchange, duration: Duration) -> Entry<'a> {
    let request = session.req_header();
    let text = |name: header::HeaderName| {
        request
            .headers
            .get(name)
            .and_then(|value| str::from_utf8(value.as_bytes()).ok())
    };
    Entry {
        kind: Kind::Request,
        id: &exchange.id,
        listener: &exchange.generation.config.listeners[exchange.listener()].name,
        route: exchange.route().map(|route| route.name.as_str()),
        upstream: exchange.group.as_ref().map(|group| group.name()),
        server: exchange.tried.last().map(ToString::to_string),
        client: exchange.client.to_string(),
        method: request.method.as_str(),
        host: text(header::HOST).or_else(|| request.uri.host()),
        path: request
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str()),
        status: 0,
        duration_ms: millis(duration),
        handshake_ms: None,
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        messages_in: None,
        messages_out: None,
        close_code: None,
        closed_by: None,
        attempts: exchange.tried.len(),
        user_agent: text(header::USER_AGENT),
        error: exchange.error.as_deref(),
    }
}

/// To a microsecond: finer is noise.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
