//! What went wrong: Pingora's error in the form that [`retry`](super::retry) takes, and texts for
//! the client and the log.

use pingora::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

use super::exchange::Exchange;
use super::retry::{Failure, Fault, Side};
use crate::limits::Cut;
use crate::observe::in_short;
use crate::upstream::Shortage;

/// The text for a client that comes too late, or has waited until the end.
pub const STOPPING: &str = "this process is stopping";

/// For an attempt that failed before the request was sent.
pub fn while_connecting(error: &Error) -> Failure {
    if Cut::is_behind(error.root_cause()) {
        Failure::Cut
    } else if Shortage::of_connecting(error).is_some() {
        Failure::Shortage
    } else {
        Failure::By(side(error), fault(error))
    }
}

/// The cause of an error with which a server's answer of this status is left to another server.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}, and another one is asked")]
pub struct Discarded(pub u16);

/// Whether the request may be sent once more: its method is idempotent, its body is still here, and
/// the client has got nothing of an answer.
pub fn is_repeatable(session: &Session) -> bool {
    session.req_header().method.is_idempotent()
        && !session.as_ref().retry_buffer_truncated()
        && session.response_written().is_none()
}

/// For an exchange under way. If a deadline has struck, it is the cause of everything that fails
/// later.
pub fn in_exchange(error: &Error, exchange: &Exchange) -> Failure {
    if let Some(Discarded(status)) = error.root_cause().downcast_ref() {
        return Failure::Answered(*status);
    }
    match while_connecting(error) {
        Failure::Cut => Failure::Cut,
        _ if exchange.timed_out() => Failure::Deadline {
            server_stalled: exchange.server_has_stalled(),
        },
        failure => failure,
    }
}

fn side(error: &Error) -> Side {
    match error.esource() {
        ErrorSource::Upstream => Side::Server,
        ErrorSource::Downstream => Side::Client,
        ErrorSource::Internal | ErrorSource::Unset => Side::Proxy,
    }
}

fn fault(error: &Error) -> Fault {
    match error.etype() {
        ErrorType::HTTPStatus(status) => Fault::Status(*status),
        ErrorType::ConnectTimedout => Fault::ConnectTimedOut,
        ErrorType::ReadTimedout => Fault::ReadTimedOut,
        ErrorType::WriteTimedout => Fault::WriteTimedOut,
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => Fault::Lost,
        _ => Fault::Other,
    }
}

/// The text for the client.
pub fn reason_for(failure: Failure, status: u16) -> &'static str {
    match status {
        _ if failure == Failure::Cut => STOPPING,
        400 => "the request cannot be understood",
        408 => "the request did not arrive in time",
        502 => "no server gave a usable answer",
        503 => "no server can take this now, try again shortly",
        504 => "the server did not answer in time",
        _ => "the request cannot be served",
    }
}

/// The text for the operator.
pub fn words_for(error: &Error, failure: Failure, status: u16, client_stalled: bool) -> String {
    let words = match failure {
        Failure::Cut => Cut::WORDS,
        Failure::Deadline { .. } if client_stalled => {
            "the client took nothing of its answer for as long as it may"
        }
        Failure::Deadline {
            server_stalled: true,
        } => "the server took nothing of the request for as long as it may",
        Failure::Deadline { .. } if status == 408 => {
            "the request stalled for longer than the route's timeouts"
        }
        Failure::Deadline { .. } => {
            "the server's answer stalled for longer than the route's timeouts"
        }
        Failure::Shortage | Failure::Answered(_) | Failure::By(..) => return in_short(error),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::proxy::retry::{CLIENT_GONE, Stage, status};

    fn error(kind: ErrorType, source: ErrorSource) -> Box<Error> {
        let mut error = Error::new(kind);
        error.esource = source;
        error
    }

    #[test]
    fn each_of_pingoras_errors_has_its_status() {
        use ErrorSource::{Downstream, Internal, Unset, Upstream};
        use ErrorType::*;
        let status_of = |kind: ErrorType, source: &ErrorSource| {
            let failure = while_connecting(&error(kind, source.clone()));
            status(failure, Stage::default())
        };
        for (kind, upstream, downstream) in [
            (ConnectionClosed, 502, CLIENT_GONE),
            (ReadError, 502, CLIENT_GONE),
            (WriteError, 502, CLIENT_GONE),
            (WriteTimedout, 504, CLIENT_GONE),
            (ReadTimedout, 504, 408),
            (ConnectTimedout, 504, 400),
            (ConnectRefused, 502, 400),
            (InvalidHTTPHeader, 502, 400),
            (HTTPStatus(503), 503, 503),
        ] {
            assert_eq!(status_of(kind.clone(), &Upstream), upstream, "{kind:?}");
            assert_eq!(status_of(kind.clone(), &Downstream), downstream, "{kind:?}");
            let own = if kind == HTTPStatus(503) { 503 } else { 500 };
            assert_eq!(status_of(kind.clone(), &Internal), own, "{kind:?}");
            assert_eq!(status_of(kind.clone(), &Unset), own, "{kind:?}");
        }
    }

    #[test]
    fn a_process_that_stops_is_told_of_and_not_taken_for_a_server_that_failed() {
        let cause = std::io::Error::other(Cut);
        let cut = Error::because(ErrorType::ReadError, "reading", cause).into_up();
        assert_eq!(while_connecting(&cut), Failure::Cut);
        assert_eq!(reason_for(Failure::Cut, 504), STOPPING);
        assert_eq!(words_for(&cut, Failure::Cut, 504, true), Cut::WORDS);
    }

    #[test]
    fn the_words_say_whose_move_was_awaited() {
        let error = Error::new(ErrorType::Custom("unused")).into_up();
        let words = |server_stalled, status, client_stalled| {
            let failure = Failure::Deadline { server_stalled };
            words_for(&error, failure, status, client_stalled)
        };
        let all = BTreeSet::from([
            words(false, 504, true),
            words(true, 504, false),
            words(false, 408, false),
            words(false, 504, false),
        ]);
        assert_eq!(all.len(), 4);
        assert_eq!(words(true, 504, true), words(false, 504, true));
    }
}
