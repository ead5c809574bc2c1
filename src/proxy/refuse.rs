//! Ends an exchange that has failed: the client gets a status and a reason, the operator a line in
//! the log.

use std::io;

use http::StatusCode;
use pingora::{Error, ErrorType};
use pingora_proxy::{FailToProxy, Session};

use super::answer::Answer;
use super::exchange::{Attempts, Exchange};
use super::failure::{in_exchange, reason_for, words_for};
use super::refusal;
use super::retry::{CLIENT_GONE, Failure, status};
use crate::http1::Rejection;
use crate::observe::repeated::{self, Kind};

/// Refuses a request before it goes to a server.
pub fn refuse(exchange: &mut Exchange, rejection: Rejection) -> Answer {
    exchange.outcome.refuse(rejection.reason);
    Answer::error(rejection.status, rejection.reason)
}

/// Answers if the client can still get an answer.
pub async fn end(session: &mut Session, error: &Error, exchange: &mut Exchange) -> FailToProxy {
    if exchange.has_left_with_stream() {
        return FailToProxy {
            error_code: 200,
            can_reuse_downstream: false,
        };
    }
    let failure = in_exchange(error, exchange);
    let is_cut = failure == Failure::Cut;
    let connection = exchange.connection();
    // The request was accepted before its body broke, or before its answer was a stream too many.
    let refused = connection.and_then(|connection| connection.take_refused());
    let refused = refused.map(|refused| refused.rejection);
    let handshake = exchange.handshake.as_ref();
    let turned_away = handshake.and_then(|handshake| handshake.turned_away());
    let refused = refused
        .or(exchange.refused_stream)
        .or(turned_away.map(|away| away.rejection));
    let (status, reason, words) = match refused {
        Some(Rejection { status, reason }) => (status.as_u16(), reason, reason.to_owned()),
        None => {
            let status = status(failure, exchange.stage());
            let client_stalled = exchange.client_has_stalled();
            let words = words_for(error, failure, status, client_stalled);
            (status, reason_for(failure, status), words)
        }
    };
    let was_upgraded = session.was_upgraded();
    if let Ok(code) = StatusCode::from_u16(status)
        && status != CLIENT_GONE
        && !has_answer(session)
        && !was_upgraded
    {
        session.set_keepalive(None);
        exchange.free_permit();
        exchange.clear_deadline();
        exchange.begin_own_answer();
        let mut answer = Answer::error(code, reason);
        if let Some(after) = turned_away.and_then(|away| away.retry_after) {
            answer = answer.retry_after(after);
        }
        if let Err(failed) = refusal::send(answer, session, exchange).await {
            log::debug!("the client is gone before it could be told {status}: {failed}");
        }
    }
    let is_refusal = exchange.refused_stream.is_some() || exchange.outcome.is_too_late();
    if status >= 500 && !was_upgraded && !is_cut && !is_refusal {
        warn(session, exchange, status, &words);
    }
    exchange.outcome.fail(words, is_cut, is_broken(error));
    FailToProxy {
        error_code: status,
        can_reuse_downstream: false,
    }
}

/// Whether the client has got the head of a final answer.
fn has_answer(session: &Session) -> bool {
    let written = session.response_written();
    written.is_some_and(|response| !response.status.is_informational())
}

/// Whether the failure was not the client's wish: a reset is, a stall or a lost client is not.
fn is_broken(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    *error.etype() == ErrorType::WriteTimedout
        || cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// A broken server fails each request, so its failures share one line in the log.
fn warn(session: &Session, exchange: &Exchange, status: u16, words: &str) {
    let attempts = exchange.attempts.as_ref();
    let upstream = attempts.map(|attempts| attempts.group().name().to_owned());
    let server = attempts.and_then(Attempts::server);
    let server = server.map(|server| server.to_string());
    let prefix = match (&upstream, &server) {
        (Some(upstream), Some(server)) => format!("upstream {upstream:?}, server {server}: "),
        (Some(upstream), None) => format!("upstream {upstream:?}: "),
        (None, _) => String::new(),
    };
    let request = session.request_summary();
    let id = exchange.names.id();
    let line = format!("{prefix}{status}: {words} ({id} {request})");
    let what = status.to_string();
    let kind = Kind {
        what,
        upstream,
        server,
    };
    repeated::warn(kind, line);
}
