//! The headers of a request and its answer: client address, forwarding headers, hop-by-hop.
//!
//! Pure: works on any header type through [`Fields`]. The order is fixed, and each step may rely on
//! the steps before:
//!
//! 1. fields that are meant for only one connection are removed ([`hop_by_hop`]);
//! 2. forwarding headers of untrusted peers are removed, and ours are set ([`forwarded`]);
//! 3. the request gets its id ([`request_id`]);
//! 4. fields that only an auth server may give are replaced by those that it has given, and names
//!    that a server may confuse with others are removed ([`lookalikes`]);
//! 5. the route's own rules: remove, set, add. Templates use the request as it arrived.

mod caller;
pub mod client_address;
pub mod forwarded;
pub mod hop_by_hop;
pub mod lookalikes;
pub mod proxy_protocol;
pub mod redirect;
pub mod request_id;
mod rules;
pub mod template;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::http1::response;
use client_address::ClientField;
use request_id::REQUEST_ID;
use template::RequestVariables;

pub use caller::Caller;
pub use rules::{Forwarded, HeaderRules};

/// Header fields that can be changed. `display` is the name in the case in which it is sent.
pub trait Fields {
    fn map(&self) -> &HeaderMap;
    /// Replaces all fields of this name.
    fn set(&mut self, name: &HeaderName, display: Bytes, value: HeaderValue);
    fn append(&mut self, name: &HeaderName, display: Bytes, value: HeaderValue);
    /// Removes all fields of this name.
    fn remove(&mut self, name: &HeaderName);
}

impl Fields for HeaderMap {
    fn map(&self) -> &HeaderMap {
        self
    }

    fn set(&mut self, name: &HeaderName, _display: Bytes, value: HeaderValue) {
        self.insert(name, value);
    }

    fn append(&mut self, name: &HeaderName, _display: Bytes, value: HeaderValue) {
        HeaderMap::append(self, name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }
}

/// Whether the TCP peer is trusted in what it says of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Trusted,
    Untrusted,
}

/// How a server is told of the client.
#[derive(Debug, Clone, Copy)]
pub struct ForwardingOptions<'a> {
    /// In which fields.
    pub forwarded: Forwarded,
    pub trust: Trust,
    /// The field of a trusted peer that counts.
    pub field: ClientField,
    /// What only the auth server may say, each name also in the case in which it is sent.
    pub answered: &'a [(HeaderName, String)],
}

/// Turns the request that arrived into the one that a server gets.
pub fn request_headers(
    out: &mut impl Fields,
    arrived: &RequestVariables<'_>,
    rules: &HeaderRules,
    options: ForwardingOptions<'_>,
) {
    hop_by_hop::remove(out, arrived.headers);
    forwarded::apply(out, arrived, options);
    name_request(out, arrived);
    replace_answered(out, arrived, options.answered);
    lookalikes::remove(out, rules);
    apply(rules, out, arrived);
}

/// Turns the server's response into the one that the client gets.
pub fn response_headers(
    out: &mut impl Fields,
    status: StatusCode,
    arrived: &RequestVariables<'_>,
    rules: &HeaderRules,
) {
    if response::has_no_framing(status) {
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            if out.map().contains_key(&name) {
                out.remove(&name);
            }
        }
    }
    if status != StatusCode::SWITCHING_PROTOCOLS && out.map().contains_key(header::UPGRADE) {
        // The server offers this for its own connection only.
        out.remove(&header::UPGRADE);
    }
    if hop_by_hop::are_there(out.map()) {
        let received = out.map().clone();
        hop_by_hop::remove(out, &received);
    }
    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
        name_request(out, arrived);
        give_cookies(out, arrived);
    }
    apply(rules, out, arrived);
}

/// The same for an answer of our own, which has no hop-by-hop fields.
pub fn own_response_headers(
    out: &mut impl Fields,
    arrived: &RequestVariables<'_>,
    rules: &HeaderRules,
) {
    name_request(out, arrived);
    give_cookies(out, arrived);
    apply(rules, out, arrived);
}

/// What a client has sent under these names never passes, in whatever form.
fn replace_answered(
    out: &mut impl Fields,
    arrived: &RequestVariables<'_>,
    answered: &[(HeaderName, String)],
) {
    if answered.is_empty() {
        return;
    }
    lookalikes::remove_forms_of(out, answered.iter().map(|(name, _)| name));
    let Some(caller) = arrived.caller else {
        return;
    };
    for (name, display) in answered {
        for value in caller.answer.get_all(name) {
            let display = Bytes::copy_from_slice(display.as_bytes());
            out.append(name, display, value.clone());
        }
    }
}

/// The cookies of the auth server go to the client beside those of the answer.
fn give_cookies(out: &mut impl Fields, arrived: &RequestVariables<'_>) {
    for cookie in arrived.caller.iter().flat_map(|caller| &caller.cookies) {
        let display = Bytes::from_static(b"Set-Cookie");
        out.append(&header::SET_COOKIE, display, cookie.clone());
    }
}

fn name_request(out: &mut impl Fields, arrived: &RequestVariables<'_>) {
    let display = Bytes::from_static(b"X-Request-Id");
    out.set(&REQUEST_ID, display, arrived.request_id.clone());
}

fn apply(rules: &HeaderRules, out: &mut impl Fields, arrived: &RequestVariables<'_>) {
    for name in &rules.remove {
        out.remove(name);
    }
    let mut rendered = Vec::new();
    for (name, display, template) in &rules.set {
        rendered.clear();
        template.render(arrived, &mut rendered);
        match value(&rendered) {
            // As in nginx, an empty value removes the field.
            None => out.remove(name),
            Some(value) => out.set(name, Bytes::copy_from_slice(display.as_bytes()), value),
        }
    }
    for (name, display, template) in &rules.add {
        rendered.clear();
        template.render(arrived, &mut rendered);
        if let Some(value) = value(&rendered) {
            out.append(name, Bytes::copy_from_slice(display.as_bytes()), value);
        }
    }
}

/// `None` for an empty value, and for one that is not valid in a header (RFC 9110 section 5.5).
fn value(rendered: &[u8]) -> Option<HeaderValue> {
    if rendered.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(rendered).ok()
}

#[cfg(test)]
mod tests;
