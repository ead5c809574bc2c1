//! Handles a request that has arrived: corrects what Pingora assumes, and finds out who asks.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Version, header};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_proxy::Session;

use super::exchange::{Arrival, Exchange};
use super::shared::Gateway;
use crate::forward::{Trust, request_id};
use crate::http1::target;
use crate::listener::{ClientStream, Connection, Reading};
use crate::websocket::handshake::{self, Upgrade};

/// How long the rest of an unwanted request body is read, so that the connection can be used again.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

impl Gateway {
    pub(super) fn take_in(&self, session: &mut Session, exchange: &mut Exchange) -> Result<()> {
        let connection = connection_of(session)?;
        connection.clear_deadline();
        // For an answer of our own that the client does not take.
        connection.set_deadline(connection.stall());
        connection.set_server_apart();
        let upgrade = self.set_up_session(session, &connection);
        exchange.refused = connection.take_refused().map(Box::new);
        let has_body = !session.is_body_empty();
        simplify(session.req_header_mut(), has_body)?;
        connection.set_reading(match upgrade {
            _ if has_body => Reading::Body,
            Upgrade::WebSocket => Reading::Held,
            Upgrade::None | Upgrade::Other => Reading::Answered,
        });
        let headers = &session.req_header().headers;
        let (trust, client) = exchange.generation.who_asks(&connection, headers);
        let is_trusted = trust == Trust::Trusted;
        let theirs = request_id::taken_over(headers).filter(|_| is_trusted);
        let trace = self.log.trace(headers, trust);
        exchange.names.settle(theirs, trace);
        exchange.arrival = Some(Arrival::new(connection, (trust, client)));
        Ok(())
    }

    /// Sets whether the connection stays open, and returns which upgrade the request asks for.
    fn set_up_session(&self, session: &mut Session, connection: &Connection) -> Upgrade {
        // Pingora does not see `keep-alive` among several options. HTTP/1.0 has to ask for it.
        let request = session.req_header();
        let asks_to_stay = request.version == Version::HTTP_10
            && handshake::has_token(&request.headers, &header::CONNECTION, "keep-alive");
        if session.get_keepalive().is_some() || asks_to_stay {
            // Without a limit: the connection's own deadline ends the wait.
            session.set_keepalive(Some(0));
        }
        if self.is_stopping() || connection.is_to_end() {
            session.set_keepalive(None);
        }
        session.set_pipelining_enabled(true);
        session.set_total_drain_timeout(Some(DRAIN_LIMIT));
        let request = session.req_header();
        let upgrade = handshake::asked_upgrade(request.version, &request.headers);
        // Pingora looks only at the first field of this name, and not at a value beyond ASCII.
        if handshake::has_token(&request.headers, &header::CONNECTION, "close") {
            session.set_keepalive(None);
        }
        if upgrade == Upgrade::Other {
            session.req_header_mut().remove_header(&header::UPGRADE);
        }
        upgrade
    }
}

/// What [`crate::listener`] knows of the connection of this request.
fn connection_of(session: &Session) -> Result<Arc<Connection>> {
    session
        .as_http1()
        .and_then(|http1| http1.stream().as_any().downcast_ref::<ClientStream>())
        .map(|stream| stream.connection().clone())
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "not a connection of ours"))
}

/// Turns the absolute form of a request into the origin form (RFC 9112 section 3.2.2), and removes
/// an expectation that no server would meet (RFC 9110 section 10.1.1).
fn simplify(request: &mut RequestHeader, has_body: bool) -> Result<()> {
    if request.headers.contains_key(header::EXPECT)
        && (!has_body || request.version == Version::HTTP_10)
    {
        request.remove_header(&header::EXPECT);
    }
    let method = request.method.as_str().as_bytes();
    let Ok(Some(authority)) = target::authority_of(method, request.raw_path()) else {
        return Ok(());
    };
    let target = request.raw_path().to_vec();
    if !request.headers.contains_key(header::HOST) {
        let host = HeaderValue::from_bytes(&target[authority.clone()]);
        let host = host.or_err(
            ErrorType::InvalidHTTPHeader,
            "a host that is no field's value",
        )?;
        request.insert_header(header::HOST, host)?;
    }
    let origin_form = match &target[authority.end..] {
        [] if request.method == Method::OPTIONS => b"*".to_vec(),
        path_and_query @ [b'/', ..] => path_and_query.to_vec(),
        query => [b"/", query].concat(),
    };
    request.set_raw_path(&origin_form)
}
