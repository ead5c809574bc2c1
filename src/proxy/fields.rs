//! The forwarding rules at work on Pingora's own header types.
//!
//! Pingora keeps the case in which a name was written beside its map, so every change must go
//! through its methods: this is where [`crate::forward`], which knows nothing of it, meets it.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::forward::Fields;
use crate::forward::template::{RequestVariables, Template};
use crate::route::normalise;
use crate::session::transport::Security;

/// The request as it arrived, for templates and forwarding headers.
pub fn variables<'a>(session: &'a Session, exchange: &'a Exchange) -> RequestVariables<'a> {
    let request = session.req_header();
    let connection = exchange.connection.as_ref();
    let security = connection.map_or(&Security::Plain, |connection| &connection.security);
    RequestVariables {
        headers: &request.headers,
        method: &request.method,
        target: request.raw_path(),
        authority: request.uri.authority().map(|authority| authority.as_str()),
        scheme: match security {
            Security::Plain => "http",
            Security::Tls { .. } => "https",
        },
        client_subject: match security {
            Security::Tls { client } => client.as_deref(),
            Security::Plain => None,
        },
        local: connection.and_then(|connection| connection.local),
        peer: connection.and_then(|connection| connection.peer),
        client: exchange.client,
        request_id: exchange.id,
    }
}

pub fn render(template: &Template, session: &Session, exchange: &Exchange) -> Vec<u8> {
    let mut rendered = Vec::new();
    template.render(&variables(session, exchange), &mut rendered);
    rendered
}

pub struct RequestFields<'a>(pub &'a mut RequestHeader);

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

/// Takes a route's `strip_prefix` off the target; what is left begins with `/`.
pub fn strip_prefix(request: &mut RequestHeader, prefix: &str) -> Result<()> {
    // Taken off the spelling that matched: `//IMS/x` and `/%49MS/x` begin with `/IMS` as well.
    let target = match normalise(request.uri.path()) {
        Cow::Borrowed(_) => Cow::Borrowed(request.raw_path()),
        Cow::Owned(mut target) => {
            if let Some(query) = request.uri.query() {
                target.push('?');
                target.push_str(query);
            }
            Cow::Owned(target.into_bytes())
        }
    };
    let Some(rest) = target.strip_prefix(prefix.trim_end_matches('/').as_bytes()) else {
        return Ok(());
    };
    let mut stripped = Vec::with_capacity(rest.len() + 1);
    if !rest.starts_with(b"/") {
        stripped.push(b'/');
    }
    stripped.extend_from_slice(rest);
    request.set_raw_path(&stripped)
}
