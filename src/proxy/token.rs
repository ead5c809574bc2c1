//! The token of a request: taken out of it before anything can show it, and then judged.

use std::mem::take;

use http::{HeaderValue, header};
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::exchange::{Exchange, Withdrawn};
use crate::auth::jwt::query::target_without;
use crate::auth::jwt::refused::Refused;
use crate::auth::jwt::subprotocol::Offer;
use crate::auth::jwt::verify::Verified;
use crate::auth::{Denied, Jwt};

/// Called as soon as the route is known, whatever becomes of the request: logs, templates, the
/// registry and the server see what is left.
pub fn withdraw(session: &mut Session, exchange: &mut Exchange) {
    clean_referers(session.req_header_mut(), exchange);
    if exchange.route_id().is_none() {
        return withdraw_unrouted(session.req_header_mut(), exchange);
    }
    let Some(jwt) = jwt_of(exchange) else {
        return;
    };
    let request = session.req_header_mut();
    let presented = jwt.finders.find(&request.headers, request.raw_path());
    let target = without_arguments(request, jwt.finders.arguments());
    let target = target.filter(|_| jwt.keeps_arguments);
    let subprotocol = jwt
        .finders
        .reads_subprotocols()
        .then(|| without_offer(request));
    exchange.withdrawn = Some(Box::new(Withdrawn {
        presented,
        target,
        subprotocol: subprotocol.flatten(),
    }));
}

fn jwt_of(exchange: &Exchange) -> Option<&Jwt> {
    exchange.route()?.auth.as_ref()?.jwt.as_ref()
}

/// A page that had a token in its own URL names it to what it loads, by whatever route.
fn clean_referers(request: &mut RequestHeader, exchange: &Exchange) {
    let names = exchange.generation.states.token_arguments();
    if names.is_empty() {
        return;
    }
    let names = names.iter().map(String::as_str);
    let without = |referer: &HeaderValue| target_without(referer.as_bytes(), names.clone());
    let referers = || request.headers.get_all(header::REFERER).iter();
    if referers().all(|referer| without(referer).is_none()) {
        return;
    }
    let cleaned = referers().map(|referer| match without(referer) {
        None => referer.clone(),
        Some(rest) => HeaderValue::from_bytes(&rest).unwrap_or(HeaderValue::from_static("")),
    });
    let cleaned: Vec<HeaderValue> = cleaned.collect();
    request.remove_header(&header::REFERER);
    for referer in cleaned {
        let replaced = request.append_header("Referer", referer);
        debug_assert!(replaced.is_ok(), "a part of a value is one");
    }
}

/// No route says where the token is, so it may be where any route has one.
fn withdraw_unrouted(request: &mut RequestHeader, exchange: &mut Exchange) {
    let names = exchange.generation.states.token_arguments();
    if names.is_empty() {
        return;
    }
    let names = names.iter().map(String::as_str);
    let unsound = exchange.refused.as_mut();
    if let Some(unsound) = unsound.and_then(|refused| refused.unsound.as_mut())
        && let Some(rest) = target_without(unsound.target.as_bytes(), names.clone())
    {
        unsound.target = String::from_utf8_lossy(&rest).into_owned();
    }
    without_arguments(request, names);
}

/// Returns the target as it was, if there was anything to take out.
fn without_arguments<'n>(
    request: &mut RequestHeader,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<Vec<u8>> {
    let rest = target_without(request.raw_path(), names)?;
    let target = request.raw_path().to_vec();
    let replaced = request.set_raw_path(&rest);
    debug_assert!(replaced.is_ok(), "a part of a target is one");
    Some(target)
}

/// Leaves what is meant for the server, and returns the word before the token.
fn without_offer(request: &mut RequestHeader) -> Option<HeaderValue> {
    let offer = Offer::read(&request.headers);
    let bearer = HeaderValue::from_bytes(offer.bearer?).ok()?;
    match offer.field() {
        Some(rest) => {
            let replaced = request.insert_header("Sec-WebSocket-Protocol", rest);
            debug_assert!(replaced.is_ok(), "a part of a value is one");
        }
        None => {
            request.remove_header(&header::SEC_WEBSOCKET_PROTOCOL);
        }
    }
    Some(bearer)
}

/// Lets a request in that has a token which counts, and returns what that says of its caller.
pub async fn check(exchange: &mut Exchange, jwt: &Jwt) -> Result<Verified, Denied> {
    let store = exchange.route_id();
    let store = store.and_then(|id| exchange.generation.states.key_store(id).cloned());
    let withdrawn = exchange.withdrawn.as_mut();
    let presented = withdrawn.map(|withdrawn| take(&mut withdrawn.presented));
    let (Some(store), Some(presented)) = (store, presented) else {
        debug_assert!(false, "a route with jwt has keys, and withdraws tokens");
        return Err(Refused::NoKeys.into());
    };
    jwt.admit(&presented, &store).await
}
