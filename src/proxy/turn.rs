//! The wait of a handshake until a server has room for it.
//!
//! Pingora asks for the server and then waits for our answer alone, so whatever may end the wait
//! is watched here: the client, the stop of the process, and the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tokio::pin;
use tokio::time::sleep;

use super::exchange::{Attempts, Exchange, TurnedAway};
use super::failure::STOPPING;
use crate::http1::Rejection;
use crate::phase::{Phase, PhaseWatch};
use crate::upstream::pacing::Line;
use crate::upstream::{Group, Lease, QueueFull, Slot, Turn};

const QUEUE_FULL: Rejection = Rejection::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "as many handshakes wait for a server as may",
);
const TOO_LONG: Rejection = Rejection::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "no server had room for this handshake in the time that its route gives it",
);
const STOPS: Rejection = Rejection::new(StatusCode::SERVICE_UNAVAILABLE, STOPPING);

/// The server that a handshake may go to now.
pub type Admitted = (Lease, Option<Slot>);

/// Why the wait was in vain.
enum InVain {
    Full(QueueFull),
    TooLong,
    Stops,
    Nobody,
    /// The client has left.
    Alone(Box<Error>),
}

/// Returns when a server has room for the handshake, at once if one has. `present`: the upstream of
/// this name in the present configuration.
pub async fn take_turn(
    phase: &PhaseWatch,
    present: impl Fn(&str) -> Option<Arc<Group>>,
    session: &mut Session,
    exchange: &mut Exchange,
) -> Result<Admitted> {
    let limit = exchange.route().map(|route| route.timeouts.response);
    let (Some(limit), Some(attempts)) = (limit, &mut exchange.attempts) else {
        return Error::e_explain(ErrorType::InternalError, "no upstream was chosen");
    };
    let line = match attempts.take_turn(None) {
        Turn::Go(lease, slot) => return Ok((lease, slot)),
        Turn::Nobody => return Err(no_server(attempts)),
        Turn::Wait(line) => line,
    };
    // Boxed, because hardly any request has to wait.
    let waited = Box::pin(wait(phase, present, session, attempts, line, limit)).await;
    waited.map_err(|in_vain| refusal(in_vain, exchange))
}

async fn wait(
    phase: &PhaseWatch,
    present: impl Fn(&str) -> Option<Arc<Group>>,
    session: &mut Session,
    attempts: &mut Attempts,
    line: Line,
    limit: Duration,
) -> Result<Admitted, InVain> {
    let began = Instant::now();
    let mut phase = phase.clone();
    let stops = phase.until(Phase::is_draining);
    let too_long = sleep(limit);
    pin!(stops, too_long);
    let mut waiting = attempts.wait_in(line).map_err(InVain::Full)?;
    loop {
        tokio::select! {
            biased;
            () = &mut stops => return Err(InVain::Stops),
            left = leaves(session) => return Err(InVain::Alone(left)),
            () = waiting.called() => {}
            () = &mut too_long => return Err(InVain::TooLong),
        }
        if !waiting.is_first() {
            continue;
        }
        // Its servers may have been replaced since it came, and nobody behind it would get past it.
        let group = present(attempts.group().name()).ok_or(InVain::Nobody)?;
        attempts.go_on_with(group);
        match attempts.take_turn(Some(waiting.line())) {
            Turn::Go(lease, slot) => {
                attempts.group().note_wait(began.elapsed());
                return Ok((lease, slot));
            }
            Turn::Nobody => return Err(InVain::Nobody),
            // Its key belongs to another server now.
            Turn::Wait(line) if line != waiting.line() => {
                waiting = attempts.change_line(line).map_err(InVain::Full)?;
            }
            Turn::Wait(_) => {}
        }
    }
}

/// Returns when the client has left, or its connection is cut. Its stream notices that only while
/// it is polled.
async fn leaves(session: &mut Session) -> Box<Error> {
    match session.as_mut().read_body_or_idle(true).await {
        Err(left) => left.into_down(),
        // While reading is held, nothing but the end comes.
        Ok(_) => std::future::pending().await,
    }
}

fn refusal(in_vain: InVain, exchange: &mut Exchange) -> Box<Error> {
    let (rejection, retry_after) = match in_vain {
        InVain::Alone(left) => return left,
        InVain::Nobody => {
            let attempts = exchange.attempts.as_ref();
            return attempts.map_or_else(|| Error::new(ErrorType::InternalError), no_server);
        }
        InVain::Full(full) => (QUEUE_FULL, Some(full.retry_after)),
        InVain::TooLong => (TOO_LONG, None),
        InVain::Stops => {
            exchange.outcome.refuse_as_too_late(STOPPING);
            (STOPS, None)
        }
    };
    if let Some(handshake) = &mut exchange.handshake {
        handshake.turn_away(TurnedAway {
            rejection,
            retry_after,
        });
    }
    let status = ErrorType::HTTPStatus(rejection.status.as_u16());
    Error::explain(status, rejection.reason)
}

/// No server can take the request, or no other one.
pub fn no_server(attempts: &Attempts) -> Box<Error> {
    let name = attempts.group().name();
    let (status, words) = if attempts.count() == 0 {
        (503, format!("upstream {name:?} has no server to take it"))
    } else {
        (502, format!("upstream {name:?} has no other server left"))
    };
    Error::explain(ErrorType::HTTPStatus(status), words)
}
