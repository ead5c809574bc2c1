//! Decides, before a server is asked, which route serves and whether a handshake may go on.

use std::borrow::Cow;

use http::{StatusCode, header};
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::exchange::{Exchange, Handshake, Routing};
use super::fields::path_length;
use crate::config::{Route, RouteId};
use crate::forward::client_address::ClientAddress;
use crate::generation::Generation;
use crate::http1::Rejection;
use crate::limits::{Bounds, ClientKey, Full, Permit};
use crate::listener::OUTDATED;
use crate::route::{ListenerId, NormalPaths, RequestKey, Slashes, lenient};
use crate::websocket::handshake::{self, Upgrade};
use crate::websocket::origin;

pub const NO_WEBSOCKETS: &str = "this route takes no websockets";

/// Finds the exchange's route, whose rules for responses hold for every answer from then on. A
/// request that is refused has a route too, if its head was sound. `Some`: it is refused.
pub fn settle_route(session: &Session, exchange: &mut Exchange) -> Option<Rejection> {
    let rejection = match &exchange.refused {
        Some(refused) if refused.unsound.is_some() => return Some(refused.rejection),
        Some(refused) => Some(refused.rejection),
        // A reload came after the head was read, so the connection belongs to the configuration
        // before.
        None => exchange.is_outdated().then_some(OUTDATED),
    };
    let (generation, listener) = (&exchange.generation, exchange.listener());
    match find_route(generation, listener, session.req_header()) {
        Ok(routing) => {
            exchange.routing = routing;
            rejection
        }
        Err(other) => Some(other),
    }
}

/// Finds the route by the path in normal form. The exchange then uses this path, so that the server
/// gets the path that was checked here.
fn find_route(
    generation: &Generation,
    listener: ListenerId,
    request: &RequestHeader,
) -> Result<Routing, Rejection> {
    let target = request.raw_path();
    let sent = &target[..path_length(target)];
    let paths = NormalPaths::of(sent);
    let host = request.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
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
    let path = match path {
        Cow::Owned(path) if path.as_bytes() != sent => Some(path),
        _ => None,
    };
    Ok(Routing::new(route, path))
}

/// Lets a plain request pass. Prepares a handshake for the server, or refuses it.
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
    let permit = enter(exchange, &websocket.bounds)?;
    // Pingora forwards an upgrade only if the field has exactly this value.
    let upgrade = session
        .req_header_mut()
        .insert_header("Upgrade", "websocket");
    debug_assert!(upgrade.is_ok(), "a plain token is a valid value");
    exchange.handshake = Some(Handshake::new(expected_accept, permit));
    Ok(())
}

/// Counts the session that may follow, if the route has room for it.
fn enter(exchange: &Exchange, bounds: &Bounds) -> Result<Option<Permit>, Rejection> {
    let Some(route) = exchange.route_id() else {
        return Ok(None);
    };
    let limiter = exchange.generation.states.limiter(route);
    let entered = limiter.enter_as(client_key(exchange), exchange.user(), bounds);
    entered.map(Some).map_err(rejection_of)
}

/// Counts an event stream that has begun, if the route has room for it.
pub fn enter_stream(
    exchange: &Exchange,
    route: RouteId,
    bounds: &Bounds,
) -> Result<Permit, Rejection> {
    let limiter = exchange.generation.states.stream_limiter(route);
    let entered = limiter.enter_as(client_key(exchange), exchange.user(), bounds);
    entered.map_err(rejection_of)
}

/// `None`: the client is nobody in particular.
pub fn client_key(exchange: &Exchange) -> Option<ClientKey> {
    match exchange.client() {
        ClientAddress::Ip(address) => Some(ClientKey::of(address)),
        ClientAddress::Unix => None,
    }
}

fn rejection_of(full: Full) -> Rejection {
    match full {
        Full::All => Rejection::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this route has as many sessions as it may",
        ),
        Full::Client => Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "this client has as many sessions as it may",
        ),
        Full::User => Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "this user has as many sessions as it may",
        ),
        Full::Rate => Rejection::new(
            StatusCode::TOO_MANY_REQUESTS,
            "this route takes no more handshakes in this second",
        ),
    }
}

#[cfg(test)]
mod tests;
