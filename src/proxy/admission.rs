//! Before a server hears of it: which route serves, and whether a handshake may go on.

use std::sync::Arc;

use http::{StatusCode, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::exchange::{Exchange, Handshake};
use super::handshake::{self, Refusal, Upgrade};
use crate::config::Route;
use crate::route::RequestKey;
use crate::session::traffic::Traffic;

pub fn find_route(session: &Session, exchange: &Exchange) -> Option<usize> {
    let request = session.req_header();
    let host = request
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    exchange.generation.find_route(&RequestKey {
        listener: exchange.listener(),
        host: host.or_else(|| request.uri.host()).unwrap_or_default(),
        path: request.uri.path(),
        method: &request.method,
        headers: &request.headers,
    })
}

/// Lets a plain request pass; makes a handshake one that the server may see, or refuses it.
pub fn admit(session: &mut Session, exchange: &mut Exchange, route: &Route) -> Result<(), Refusal> {
    let request = session.req_header();
    if handshake::upgrade_of(&request.headers) != Upgrade::WebSocket {
        return Ok(());
    }
    let (method, version) = (request.method.clone(), request.version);
    let has_body = !session.is_body_empty();
    let headers = &session.req_header().headers;
    let expected_accept = handshake::expected_accept(&method, version, headers, has_body)?;
    let Some(websocket) = &route.websocket else {
        let reason = "this route takes no websockets";
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason,
        });
    };
    handshake::check_origin(websocket, headers)?;
    // Pingora forwards an upgrade only when the field is exactly this.
    let upgrade = session
        .req_header_mut()
        .insert_header(header::UPGRADE, "websocket");
    debug_assert!(upgrade.is_ok(), "a plain token is a valid value");
    exchange.handshake = Some(Handshake {
        expected_accept,
        traffic: Arc::new(Traffic::default()),
        server_end: Arc::default(),
        extended: false,
    });
    Ok(())
}

/// A server that answers 101 must have understood what it was asked (RFC 6455 section 4.1).
pub fn verify_accept(response: &ResponseHeader, exchange: &Exchange) -> Result<()> {
    let failure = match &exchange.handshake {
        None => "the server answered 101 to a request without an upgrade",
        Some(handshake) => {
            let mut accepts = response
                .headers
                .get_all(header::SEC_WEBSOCKET_ACCEPT)
                .iter();
            match (accepts.next(), accepts.next()) {
                (Some(accept), None) if *accept == *handshake.expected_accept => return Ok(()),
                _ => "the server's Sec-WebSocket-Accept is not the answer to the client's key",
            }
        }
    };
    exchange.record_server_failure();
    Error::e_explain(ErrorType::HTTPStatus(502), failure)
}
