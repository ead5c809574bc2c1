//! What went wrong, as a status for the client and as words for the log.

use pingora::{Error, ErrorSource, ErrorType};

use super::exchange::Exchange;
use crate::limits::Cut;
use crate::observe::in_short;

/// In the log only: nobody is there to be told.
pub const CLIENT_GONE: u16 = 499;

/// Whether it was under way for longer than a process that goes waits.
pub fn is_cut(error: &Error) -> bool {
    Cut::is_behind(error.root_cause())
}

pub fn status_for(error: &Error, exchange: &Exchange) -> u16 {
    if exchange.is_cut {
        // Only what the server has not had in full may be asked again without a thought.
        return match exchange.stage.request_sent {
            true => 504,
            false => 503,
        };
    }
    if exchange.timed_out() {
        // Whose move was awaited?
        return if exchange.awaited_server() || exchange.stage.answer_begun {
            504
        } else {
            408
        };
    }
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(status), _) => *status,
        (
            ErrorType::ReadTimedout | ErrorType::WriteTimedout | ErrorType::ConnectTimedout,
            ErrorSource::Upstream,
        ) => 504,
        (_, ErrorSource::Upstream) => 502,
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => 408,
        (
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::WriteTimedout
            | ErrorType::ConnectionClosed,
            ErrorSource::Downstream,
        ) => CLIENT_GONE,
        (_, ErrorSource::Downstream) => 400,
        (_, ErrorSource::Internal | ErrorSource::Unset) => 500,
    }
}

/// What the client is told.
pub fn reason_for(status: u16) -> &'static str {
    match status {
        400 => "the request cannot be understood",
        408 => "the request did not arrive in time",
        502 => "no server gave a usable answer",
        503 => "no server can take this now, try again shortly",
        504 => "the server did not answer in time",
        _ => "the request cannot be served",
    }
}

/// What the operator is told.
pub fn words_for(error: &Error, exchange: &Exchange) -> String {
    if exchange.is_cut {
        return Cut::WORDS.to_owned();
    }
    if exchange.timed_out() && exchange.client_has_stalled() {
        return "the client took nothing of its answer for as long as it may".to_owned();
    }
    if exchange.timed_out() && exchange.server_has_stalled() {
        return "the server took nothing of the request for as long as it may".to_owned();
    }
    if exchange.timed_out() && status_for(error, exchange) == 408 {
        return "the request stalled for longer than the route's timeouts".to_owned();
    }
    if exchange.timed_out() {
        return "the server's answer stalled for longer than the route's timeouts".to_owned();
    }
    in_short(error)
}
