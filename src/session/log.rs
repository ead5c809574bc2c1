//! The two lines of a session in the access log, for the relay and for the tunnel.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Version;

use crate::observe::access_log::AccessLog;
use crate::observe::entry::{Entry, Kind};
use crate::session::live::{LiveSession, SessionKind};
use crate::session::registry::Registered;

/// Called when the 101, or the head of an event stream, is sent.
pub fn session_open(log: &AccessLog, live: &LiveSession) {
    if log.is_on() {
        let handshake = live.identity.handshake;
        log.write(&entry(live, handshake));
    }
}

/// `error`: what went wrong, if anything did.
pub fn session_close(log: &AccessLog, live: &Registered, error: Option<&str>) {
    live.count_end();
    if !log.is_on() {
        return;
    }
    let traffic = &live.traffic;
    let out = traffic.messages_out.load(Relaxed);
    let (messages_in, messages_out, events_out) = match live.kind {
        SessionKind::WebSocket => (Some(traffic.messages_in.load(Relaxed)), Some(out), None),
        SessionKind::Stream => (None, None, Some(out)),
    };
    log.write(&Entry {
        kind: Kind::SessionClose,
        bytes_in: traffic.bytes_in.load(Relaxed),
        bytes_out: traffic.bytes_out.load(Relaxed),
        messages_in,
        messages_out,
        events_out,
        close_code: traffic.close_code(),
        closed_by: Some(traffic.ended_by().name()),
        error,
        ..entry(live, live.age())
    });
}

fn entry(live: &LiveSession, duration: Duration) -> Entry<'_> {
    let identity = &live.identity;
    Entry {
        kind: Kind::SessionOpen,
        id: identity.id,
        request_id: identity.request_id.as_deref(),
        trace: identity.trace.as_deref().copied(),
        listener: &identity.listener,
        route: Some(&identity.route),
        upstream: Some(&identity.upstream),
        server: Some(identity.server.to_string()),
        client: identity.client.to_string(),
        method: &identity.method,
        version: Version::HTTP_11,
        referer: None,
        host: (!identity.host.is_empty()).then_some(&identity.host),
        path: &identity.path,
        status: match live.kind {
            SessionKind::WebSocket => 101,
            SessionKind::Stream => 200,
        },
        user: identity.user.as_deref(),
        duration_ms: millis(duration),
        handshake_ms: Some(millis(identity.handshake)),
        bytes_in: 0,
        bytes_out: 0,
        messages_in: None,
        messages_out: None,
        events_out: None,
        close_code: None,
        closed_by: None,
        attempts: identity.attempts,
        user_agent: identity.user_agent.as_deref(),
        error: None,
    }
}

/// Rounded to a microsecond, because finer digits are noise.
pub fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
