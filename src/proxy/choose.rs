//! Decides who answers: prusik itself, or which server of the route's upstream.

use std::sync::Arc;

use http::{Method, StatusCode, header};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::admission::{NO_WEBSOCKETS, admit, settle_route};
use super::answer::Answer;
use super::authenticate::authenticate;
use super::body_size::limit_body;
use super::exchange::{Attempts, ByClose, Exchange};
use super::failure::STOPPING;
use super::fields::{self, location, render};
use super::identify::identify;
use super::peer;
use super::refuse::refuse;
use super::request_rate::refuse_over_rate;
use super::shared::Gateway;
use super::token;
use super::turn::{Admitted, no_server, take_turn};
use crate::config::{Action, Balance, PathChange, Tunnel, UpstreamId};
use crate::forward::proxy_protocol::PreambleClient;
use crate::generation::Generation;
use crate::http1::Rejection;
use crate::upstream::{Dialer, Lease, Repeatable, RequestBody};

const NO_ROUTE: Rejection = Rejection::new(StatusCode::NOT_FOUND, "no route matches");

/// A client of HTTP/2 takes an answer with success for an open session (RFC 8441 section 5).
const NO_SESSION: Rejection = Rejection::new(StatusCode::FORBIDDEN, NO_WEBSOCKETS);

impl Gateway {
    /// `Some`: prusik answers, and no server is asked.
    pub(super) async fn answer_here(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Option<Answer> {
        let rejection = settle_route(session, exchange);
        token::withdraw(session, exchange);
        if let Some(rejection) = rejection {
            // Such a client may have more of this on the way.
            session.set_keepalive(None);
            return Some(refuse(exchange, rejection));
        }
        let generation = exchange.generation.clone();
        let Some(route) = exchange.route_id().map(|id| generation.route(id)) else {
            return Some(refuse(exchange, NO_ROUTE));
        };
        // The exchange's own deadline replaces both timeouts.
        session.set_read_timeout(None);
        session.set_write_timeout(None);
        if let Err(rejection) = limit_body(session, exchange, route) {
            return Some(refuse(exchange, rejection));
        }
        let bearer = exchange.withdrawn.as_ref();
        let bearer = bearer.and_then(|withdrawn| withdrawn.subprotocol.as_ref());
        exchange.by_close = ByClose::of(session, route, bearer);
        if let Action::Proxy {
            path: PathChange::Rewrite(rewrite),
            ..
        } = &route.action
            && let Err(rejection) =
                fields::rewrite(session, exchange, rewrite, route.matcher.slashes)
        {
            return Some(refuse(exchange, rejection));
        }
        if let Some(answer) = authenticate(session, exchange, route).await {
            return Some(answer);
        }
        if let Err(rejection) = identify(session, exchange, route) {
            return Some(refuse(exchange, rejection));
        }
        if let Some(answer) = refuse_over_rate(session, exchange, route, true) {
            return Some(answer);
        }
        if let Err(rejection) = admit(session, exchange, route) {
            return Some(refuse(exchange, rejection));
        }
        match &route.action {
            Action::Proxy { upstream, .. } => {
                self.go_to_upstream(&generation, *upstream, session, exchange)
            }
            Action::Redirect {
                to,
                status,
                strip_prefix,
            } => {
                let location = location(to, strip_prefix.as_deref(), session, exchange);
                Some(Answer::redirect(status_of(*status), &location))
            }
            Action::Respond { status, .. }
                if exchange.is_extended_connect() && (200..300).contains(status) =>
            {
                Some(refuse(exchange, NO_SESSION))
            }
            Action::Respond { status, body } => {
                Some(Answer::respond(status_of(*status), body.clone()))
            }
        }
    }

    /// `Some`: the request is a handshake, and it is too late for a new session.
    fn go_to_upstream(
        &self,
        generation: &Generation,
        upstream: UpstreamId,
        session: &Session,
        exchange: &mut Exchange,
    ) -> Option<Answer> {
        let group = generation.group(upstream).clone();
        let hash_key = match &group.config().balance {
            Balance::ConsistentHash { key, .. } => render(key, session, exchange),
            Balance::RoundRobin | Balance::LeastSessions | Balance::TwoChoices => Vec::new(),
        };
        let own = group.server_of(&session.req_header().headers);
        exchange.attempts = Some(Attempts::new(group, hash_key, own));
        if exchange.handshake.is_some() && self.is_stopping() {
            exchange.outcome.refuse_as_too_late(STOPPING);
            return Some(Answer::error(StatusCode::SERVICE_UNAVAILABLE, STOPPING));
        }
        // Connecting has its own time limit.
        exchange.clear_deadline();
        None
    }

    /// Picks the next server and decides how to connect to it. A handshake may have to wait.
    pub(super) async fn next_server(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        if exchange.handshake.is_some() {
            let present = |name: &str| self.current.load().find_group(name).cloned();
            let admitted = take_turn(&self.phase, present, session, exchange).await?;
            return connect_handshake(exchange, admitted);
        }
        let Some(attempts) = &mut exchange.attempts else {
            return Error::e_explain(ErrorType::InternalError, "no upstream was chosen");
        };
        match attempts.pick() {
            Some(lease) => connect_request(session, exchange, lease),
            None => Err(no_server(attempts)),
        }
    }
}

fn connect_handshake(exchange: &mut Exchange, (lease, slot): Admitted) -> Result<Box<HttpPeer>> {
    let tunnel = exchange.generation.config.server.tunnel;
    if tunnel == Tunnel::Pingora {
        let websocket = exchange.route().and_then(|route| route.websocket.as_ref());
        let expiry = exchange.expiry(websocket.and_then(|websocket| websocket.on_expiry));
        exchange
            .handshake
            .iter_mut()
            .for_each(|handshake| handshake.expire(expiry));
    }
    let (Some(attempts), Some(handshake), Some(route)) =
        (&exchange.attempts, &exchange.handshake, exchange.route())
    else {
        return Error::e_explain(ErrorType::InternalError, "no handshake was admitted");
    };
    let dialer = Dialer {
        drain_deadline: exchange.drain_deadline(),
        ..attempts.group().dialer(named_client(exchange, attempts))
    };
    let stall = attempts.upstream().stall;
    let address = lease.server().address;
    let peer = peer::for_handshake(address, (dialer, stall), route, handshake, tunnel);
    if let Some(attempts) = &mut exchange.attempts {
        attempts.begin_handshake(lease, slot);
    }
    Ok(peer)
}

fn connect_request(
    session: &mut Session,
    exchange: &mut Exchange,
    lease: Lease,
) -> Result<Box<HttpPeer>> {
    let (Some(attempts), Some(route)) = (&exchange.attempts, exchange.route()) else {
        return Error::e_explain(ErrorType::InternalError, "no upstream was chosen");
    };
    // A body may be too large to be sent again.
    let is_safe = session.req_header().method.is_idempotent() && session.is_body_empty();
    let repeatable = if is_safe {
        Repeatable::Yes
    } else {
        Repeatable::No
    };
    let client = named_client(exchange, attempts);
    let (deadline, flow) = (exchange.drain_deadline(), exchange.flow());
    let is_head = session.req_header().method == Method::HEAD;
    let may_stream = route.stream.is_some() && !is_head;
    let stream = may_stream.then(|| body_of(session));
    let connector = attempts
        .group()
        .connector(repeatable, client, deadline, flow, stream);
    let connector = Arc::new(connector);
    let address = lease.server().address;
    let peer = peer::for_request(connector.clone(), address, &route.timeouts);
    if let Some(attempts) = &mut exchange.attempts {
        attempts.begin(lease, connector);
    }
    Ok(peer)
}

/// What follows the head of the request, as Pingora sends it.
fn body_of(session: &mut Session) -> RequestBody {
    if session.is_body_empty() {
        return RequestBody::None;
    }
    let length = session.req_header().headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.map_or(RequestBody::Chunked, RequestBody::Length)
}

/// The client to name in a PROXY header, if the upstream has one.
fn named_client(exchange: &Exchange, attempts: &Attempts) -> PreambleClient {
    match attempts.upstream().proxy_protocol {
        Some(_) => exchange.preamble_client(),
        None => PreambleClient::Unknown,
    }
}

/// The configuration allows only valid codes.
fn status_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
