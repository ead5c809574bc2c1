//! The forwarding rules at work on Pingora's own header types.
//!
//! Pingora keeps the case in which a name was written beside its map, so every change must go
//! through its methods: this is where [`crate::forward`], which knows nothing of it, meets it.

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::forward::Fields;
use crate::forward::template::{RequestVariables, Template};

/// The request as it arrived, for templates and forwarding headers.
pub fn variables<'a>(session: &'a Session, exchange: &'a Exchange) -> RequestVariables<'a> {
    let request = session.req_header();
    let connection = exchange.connection.as_ref();
    RequestVariables {
        headers: &request.headers,
        method: &request.method,
        target: request.raw_path(),
        authority: request.uri.authority().map(|authority| authority.as_str()),
        scheme: "http",
        local: connection.and_then(|connection| connection.local),
        peer: connection.and_then(|connection| connection.peer),
        client: exchange.client,
        request_id: &exchange.id,
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

            fn set(&mut self, name: &HeaderName, display: &str, value: HeaderValue) {
                self.0.remove_header(name);
                self.append(name, display, value);
            }

            fn append(&mut self, name: &HeaderName, display: &str, value: HeaderValue) {
                let appended = self.0.append_header(display.to_owned(), value);
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
