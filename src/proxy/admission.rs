//! Before a server hears of it: which route serves, and whether a handshake may go on.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Version, header};
use itertools::Itertools;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_proxy::Session;

use super::exchange::{Exchange, Handshake};
use super::fields::path_length;
use crate::config::{Route, RouteId};
use crate::forward::client_address::ClientAddress;
use crate::http1::Rejection;
use crate::http1::response;
use crate::http1::target;
use crate::limits::{Bounds, ClientKey, Full, Permit};
use crate::listener::OUTDATED;
use crate::route::{NormalPaths, RequestKey, Slashes, lenient};
use crate::session::traffic::Traffic;
use crate::websocket::handshake::{self, Upgrade};
use crate::websocket::origin;

pub const NO_WEBSOCKETS: &str = "this route takes no websockets";

/// Makes a request in absolute form one in origin form (RFC 9112 section 3.2.2), and takes off an
/// expectation that nobody would meet (RFC 9110 section 10.1.1).
pub fn simplify(request: &mut RequestHeader, has_body: bool) -> Result<()> {
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

/// Finds the exchange's route, whose rules for responses hold for every answer from then on. A request
/// that goes no further has one too, if its head was sound. `Some`: it goes no further.
pub fn settle_route(session: &Session, exchange: &mut Exchange) -> Option<Rejection> {
    let rejection = match &exchange.refused {
        Some(refused) if refused.unsound.is_some() => return Some(refused.rejection),
        Some(refused) => Some(refused.rejection),
        // A reload came between its head and this: its connection goes with the one before.
        None => exchange.is_outdated().then_some(OUTDATED),
    };
    match find_route(session, exchange) {
        Ok(route) => {
            exchange.route = route;
            rejection
        }
        Err(other) => Some(other),
    }
}

/// Finds the route by the path in normal form, which becomes the exchange's: the server gets what
/// was checked here.
fn find_route(session: &Session, exchange: &mut Exchange) -> Result<Option<RouteId>, Rejection> {
    let request = session.req_header();
    let target = request.raw_path();
    let sent = &target[..path_length(target)];
    let paths = NormalPaths::of(sent);
    let host = request.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (generation, listener) = (&exchange.generation, exchange.listener());
    let find = |path: &str, slashes| {
        generation.find_route(&RequestKey {
            listener,
            host,
            path,
            slashes,
            method: &request.method,
            headers: &request.headers,
        })
    };
    let route = paths.first(find);
    let slashes = route.map(|id| generation.route(id).matcher.slashes);
    if slashes == Some(Slashes::Kept) && paths.is_ambiguous() {
        return Err(Rejection::bad(
            "the path leads upwards over an empty segment",
        ));
    }
    let path = paths.take(slashes.unwrap_or(Slashes::Merged));
    let Ok(read) = lenient(&path) else {
        return Err(Rejection::bad(
            "the path leads upwards by encoded separators",
        ));
    };
    if let Some(read) = read
        && NormalPaths::of(&read).first(find) != route
    {
        return Err(Rejection::bad(
            "servers could read the path as one of another route",
        ));
    }
    exchange.path = match path {
        Cow::Owned(path) if path.as_bytes() != sent => Some(path),
        _ => None,
    };
    Ok(route)
}

/// Lets a plain request pass; makes a handshake one that the server may see, or refuses it.
pub fn admit(
    session: &mut Session,
    exchange: &mut Exchange,
    route: &Route,
) -> Result<(), Rejection> {
    let request = session.req_header();
    if handshake::upgrade_of(&request.headers) != Upgrade::WebSocket {
        return Ok(());
    }
    let method = request.method.clone();
    let has_body = !session.is_body_empty();
    let headers = &session.req_header().headers;
    let expected_accept = handshake::expected_accept(&method, headers, has_body)?;
    let Some(websocket) = &route.websocket else {
        return Err(Rejection::new(StatusCode::FORBIDDEN, NO_WEBSOCKETS));
    };
    origin::check_origin(&websocket.origins, headers)?;
    exchange.permit = enter(exchange, &websocket.bounds)?;
    // Pingora forwards an upgrade only when the field is exactly this.
    let upgrade = session
        .req_header_mut()
        .insert_header("Upgrade", "websocket");
    debug_assert!(upgrade.is_ok(), "a plain token is a valid value");
    exchange.handshake = Some(Handshake {
        expected_accept,
        traffic: Arc::new(Traffic::default()),
        server_end: Arc::default(),
        extended: false,
    });
    Ok(())
}

/// Counts the session that may come of it, if the route has room for it.
fn enter(exchange: &Exchange, bounds: &Bounds) -> Result<Option<Permit>, Rejection> {
    let Some(route) = exchange.route else {
        return Ok(None);
    };
    let client = match exchange.client {
        ClientAddress::Ip(address) => Some(ClientKey::of(address)),
        ClientAddress::Unix => None,
    };
    let entered = exchange.generation.limiter(route).enter(client, bounds);
    entered.map(Some).map_err(|full| match full {
        Full::All => Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this route has as many sessions as it may",
        ),
        Full::Client => Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "this client has as many sessions as it may",
        ),
        Full::Rate => Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "this route takes no more handshakes in this second",
        ),
    })
}

/// No answer passes that could be read in two ways, nor interim ones without end.
pub fn verify(response: &ResponseHeader, exchange: &mut Exchange) -> Result<()> {
    if exchange.is_extended_connect() && response.status.is_success() {
        // Browsers would take it for an open session (RFC 8441 section 5). It is no failure of the
        // server's: it may say so to whoever asks for a page in this way.
        let failure = "the server answered an extended CONNECT with success and without a switch";
        return Error::e_explain(ErrorType::HTTPStatus(502), failure);
    }
    let mut failure = response::check(response.status, response.version, &response.headers).err();
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        failure = failure.or_else(|| verify_switch(response, exchange).err());
    } else if response.status.is_informational() {
        exchange.interim += 1;
        if exchange.interim > response::INTERIM_MAX {
            failure = Some("the server sends interim answers without end");
        }
    }
    match failure {
        None => Ok(()),
        Some(failure) => {
            exchange.record_server_failure();
            Error::e_explain(ErrorType::HTTPStatus(502), failure)
        }
    }
}

/// A server that answers 101 must have understood what it was asked (RFC 6455 section 4.1).
fn verify_switch(response: &ResponseHeader, exchange: &Exchange) -> Result<(), &'static str> {
    let Some(handshake) = &exchange.handshake else {
        return Err("the server answered 101 to a request without an upgrade");
    };
    let headers = &response.headers;
    if !handshake::has_token(headers, &header::CONNECTION, "upgrade")
        || handshake::upgrade_of(headers) != Upgrade::WebSocket
    {
        return Err("the server answered 101 without saying that it speaks websocket now");
    }
    let accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT);
    match accepts.iter().exactly_one() {
        Ok(accept) if *accept == *handshake.expected_accept => Ok(()),
        _ => Err("the server's Sec-WebSocket-Accept is not the answer to the client's key"),
    }
}

/// Interim answers pass when the client asked for them (a 100, Pingora sees to it) or can use them
/// (early hints), and when the server has sent no others: Pingora decides for several at once.
pub fn may_pass(response: &ResponseHeader, request: &RequestHeader) -> bool {
    match response.status {
        StatusCode::EARLY_HINTS => request.version == Version::HTTP_11,
        StatusCode::CONTINUE => request.headers.contains_key(header::EXPECT),
        _ => false,
    }
}
