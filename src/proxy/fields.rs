//! Applies the forwarding rules to Pingora's own header types.
//!
//! Pingora stores the original case of header names beside its map, so every change must use its
//! methods. [`crate::forward`] does not know Pingora; the two meet here.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::Result as PingoraResult;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::exchange::{Attempts, Exchange};
use crate::config::{Action, PathChange, Route};
use crate::forward::template::{RequestVariables, Template};
use crate::forward::{self, Fields, ForwardingOptions, redirect};
use crate::http1::Rejection;
use crate::observe::trace::{TRACEPARENT, TraceContext};
use crate::route::{Rewrite, Slashes, Traversal};
use crate::tls::Security;

/// The request as it arrived, for templates and forwarding headers.
pub fn variables<'a>(session: &'a Session, exchange: &'a Exchange) -> RequestVariables<'a> {
    let request = session.req_header();
    let connection = exchange.connection();
    let security = connection.map_or(&Security::Plain, |connection| connection.security());
    RequestVariables {
        headers: &request.headers,
        method: &request.method,
        target: request.raw_path(),
        path: exchange.routing.uri(),
        authority: request.uri.authority().map(|authority| authority.as_str()),
        scheme: match security {
            Security::Plain => "http",
            Security::Tls { .. } => "https",
        },
        client_subject: security.client().map(|client| &*client.subject),
        local: connection.and_then(|connection| connection.local()),
        peer: connection.and_then(|connection| connection.peer()),
        client: exchange.client(),
        server: exchange.attempts.as_ref().and_then(Attempts::server),
        caller: exchange.caller.as_deref(),
        request_id: exchange.names.request_id(),
    }
}

pub fn render(template: &Template, session: &Session, exchange: &Exchange) -> Vec<u8> {
    let mut rendered = Vec::new();
    template.render(&variables(session, exchange), &mut rendered);
    rendered
}

/// The target of a redirection.
pub fn location(
    to: &Template,
    prefix: Option<&str>,
    session: &Session,
    exchange: &mut Exchange,
) -> Vec<u8> {
    let target = session.req_header().raw_path();
    let sent = &target[..path_length(target)];
    let path = exchange.routing.path().map_or(sent, str::as_bytes);
    let rest = prefix.and_then(|prefix| without_prefix(path, prefix));
    let rest = rest.and_then(|rest| String::from_utf8(rest).ok());
    exchange.routing.redirect_to(rest);
    let rendered = render(to, session, exchange);
    redirect::location(&rendered, to.as_str())
}

/// Changes the request into the one that the server gets.
pub fn for_server(
    session: &Session,
    request: &mut RequestHeader,
    exchange: &Exchange,
) -> PingoraResult<()> {
    let Some(route) = exchange.route() else {
        return Ok(());
    };
    // A server that is to have its token too gets it back here.
    let withdrawn = exchange.withdrawn.as_deref();
    if let Some(kept) = withdrawn.and_then(|withdrawn| withdrawn.target.as_ref()) {
        request.set_raw_path(kept)?;
    }
    if let Some(target) = server_target(request, exchange, route) {
        request.set_raw_path(&target)?;
    }
    if let Some(traceparent) = exchange.names.trace().and_then(TraceContext::to_header) {
        request.insert_header(TRACEPARENT, traceparent)?;
    }
    forward::request_headers(
        &mut RequestFields(request),
        &variables(session, exchange),
        &route.request_headers,
        ForwardingOptions {
            forwarded: route.forwarded,
            trust: exchange.trust(),
            field: exchange.generation.config.client_address,
            answered: answered(route),
        },
    );
    if exchange.handshake.is_some() {
        // Pingora has written the name in lower case.
        request.insert_header("Upgrade", "websocket")?;
    }
    if !request.headers.contains_key(header::HOST) {
        // HTTP/1.0 does not require this field; HTTP/1.1, which we send, does (RFC 9110 section
        // 7.2).
        request.insert_header("Host", "")?;
    }
    Ok(())
}

/// What is taken off the front of the path.
fn stripped(action: &Action) -> Option<&str> {
    match action {
        Action::Proxy {
            path: PathChange::Strip(prefix),
            ..
        } => Some(prefix),
        Action::Proxy { .. } | Action::Redirect { .. } | Action::Respond { .. } => None,
    }
}

/// Rewrites the path if the route does so. The result is what the server gets.
pub fn rewrite(
    session: &Session,
    exchange: &mut Exchange,
    rewrite: &Rewrite,
    slashes: Slashes,
) -> Result<(), Rejection> {
    let target = session.req_header().raw_path();
    let sent = str::from_utf8(&target[..path_length(target)]).ok();
    let path = exchange.routing.path().or(sent);
    // `OPTIONS *` has no path.
    let Some(path) = path.filter(|path| path.starts_with('/')) else {
        return Ok(());
    };
    match rewrite.apply(path, slashes) {
        Ok(Some(path)) => exchange.routing.rewrite_to(path),
        Ok(None) => {}
        Err(Traversal) => return Err(Rejection::bad("the rewritten path leads upwards")),
    }
    Ok(())
}

/// The fields that the server has from the route's auth server alone.
fn answered(route: &Route) -> &[(HeaderName, String)] {
    let auth = route.auth.as_deref();
    let forward = auth.and_then(|auth| auth.forward.as_deref());
    forward.map_or(&[], |forward| &forward.settings().response_headers)
}

struct RequestFields<'a>(pub &'a mut RequestHeader);

pub struct ResponseFields<'a>(pub &'a mut ResponseHeader);

macro_rules! edit_through_pingora {
    ($fields:ident) => {
        impl Fields for $fields<'_> {
            fn map(&self) -> &HeaderMap {
                &self.0.headers
            }

            fn set(&mut self, name: &HeaderName, display: Bytes, value: HeaderValue) {
                let set = self.0.insert_header(display, value);
                debug_assert!(
                    set.is_ok(),
                    "{name} was parsed before and cannot be invalid"
                );
            }

            fn append(&mut self, name: &HeaderName, display: Bytes, value: HeaderValue) {
                let appended = self.0.append_header(display, value);
                debug_assert!(
                    appended.is_ok(),
                    "{name} was parsed before and cannot be invalid"
                );
            }

            fn remove(&mut self, name: &HeaderName) {
                self.0.remove_header(name);
            }
        }
    };
}

edit_through_pingora!(RequestFields);
edit_through_pingora!(ResponseFields);

/// Path and query as the route's server gets them: the path is the one by which the route was
/// found, rewritten or without the route's `strip_prefix`. It begins with `/`. `None`: as they
/// arrived.
pub fn server_target(
    arrived: &RequestHeader,
    exchange: &Exchange,
    route: &Route,
) -> Option<Vec<u8>> {
    let (normal, prefix) = match exchange.routing.rewritten() {
        Some(rewritten) => (Some(rewritten), None),
        None => (exchange.routing.path(), stripped(&route.action)),
    };
    let target = arrived.raw_path();
    let (path, query) = target.split_at(path_length(target));
    let path = normal.map_or(path, str::as_bytes);
    let stripped = prefix.and_then(|prefix| without_prefix(path, prefix));
    if normal.is_none() && stripped.is_none() {
        return None;
    }
    let mut out = stripped.unwrap_or_else(|| path.to_vec());
    out.extend_from_slice(query);
    Some(out)
}

/// The rest of a path after `prefix`, beginning with `/`. `None`: the path has another prefix.
fn without_prefix(path: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/').as_bytes())?;
    let slash: &[u8] = if rest.starts_with(b"/") { b"" } else { b"/" };
    Some([slash, rest].concat())
}

/// Where the query of a target begins: the length of the target without a query.
pub fn path_length(target: &[u8]) -> usize {
    memchr::memchr(b'?', target).unwrap_or(target.len())
}
