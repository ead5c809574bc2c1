//! The rules for headers: names and values that can be sent, and names that the operator must not
//! change.

use std::collections::HashMap;

use http::header::{self, HeaderName, HeaderValue};

use super::Errors;
use super::header_name::bad_name;
use super::upstream::{any_template, template};
use crate::config::HeaderRules;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Ordered;
use crate::forward::template::Template;

/// Headers of one connection or one handshake (RFC 9110, section 7.6.1; RFC 6455, section 4.1), and
/// headers that frame the message, which would break if they were changed.
const RESERVED: [HeaderName; 11] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_ACCEPT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

impl Side {
    pub fn key(self) -> &'static str {
        match self {
            Side::Request => "request",
            Side::Response => "response",
        }
    }
}

pub fn rules(
    raw: raw::HeaderRules,
    side: Side,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<HeaderRules> {
    let set = fields(raw.set, side, at.key("set"), errors);
    if let Some(fields) = &set {
        report_set_twice(fields, at.key("set"), errors);
    }
    let add = fields(raw.add, side, at.key("add"), errors);
    let remove = names(raw.remove.unwrap_or_default(), at.key("remove"), errors);
    if side == Side::Request {
        let added = add
            .iter()
            .flatten()
            .find(|(name, ..)| *name == header::HOST);
        if let Some((_, written, _)) = added {
            errors.push(
                at.key("add")
                    .key(written)
                    .key_error("a request has one Host, none can be added")
                    .hint("move it from add to set"),
            );
        }
        let removed = remove
            .iter()
            .flatten()
            .position(|name| *name == header::HOST);
        if let Some(i) = removed {
            errors.push(
                at.key("remove")
                    .index(i)
                    .error("a request has one Host, it cannot be removed")
                    .hint("set it to what the server expects"),
            );
        }
    }
    Some(HeaderRules {
        set: set?,
        add: add?,
        remove: remove?,
    })
}

fn fields(
    raw: Option<Ordered<String>>,
    side: Side,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<(HeaderName, String, Template)>> {
    let Ordered(raw) = raw.unwrap_or(Ordered(Vec::new()));
    let mut fields = Vec::new();
    for (position, (written, value)) in raw.into_iter().enumerate() {
        let at = at.entry(position, &written);
        let name = name(&written, at, errors);
        let value = self::value(&written, &value, side, at, errors);
        fields.push(name.zip(value).map(|(name, value)| (name, written, value)));
    }
    fields.into_iter().collect()
}

fn value(
    name: &str,
    text: &str,
    side: Side,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Template> {
    // Variables are filled in later. The literal text must be valid in a header.
    if HeaderValue::from_bytes(text.as_bytes()).is_err() {
        errors.push(
            at.error(format!("header \"{name}\" cannot have this value"))
                .hint("a value has no line breaks and control characters"),
        );
        return None;
    }
    let what = format!("header \"{name}\"");
    match side {
        Side::Request => template(text, &what, at, errors),
        Side::Response => any_template(text, &what, at, errors),
    }
}

fn names(raw: Vec<String>, at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<HeaderName>> {
    let names: Vec<Option<HeaderName>> = raw
        .iter()
        .enumerate()
        .map(|(i, written)| name(written, at.index(i), errors))
        .collect();
    names.into_iter().collect()
}

fn name(written: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(written.as_bytes()) else {
        errors.push(bad_name(written, at));
        return None;
    };
    if is_reserved(&name) {
        errors.push(
            at.key_error(format!("header \"{written}\" cannot be changed"))
                .hint("prusik sets it as the connection or the handshake needs it"),
        );
        return None;
    }
    Some(name)
}

pub fn is_reserved(name: &HeaderName) -> bool {
    RESERVED.contains(name)
}

/// YAML keys that differ only in case are the same header name.
fn report_set_twice(
    fields: &[(HeaderName, String, Template)],
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    let mut first: HashMap<&HeaderName, usize> = HashMap::new();
    for (position, (name, written, _)) in fields.iter().enumerate() {
        let at = at.entry(position, written);
        if let Some(line) = first.get(name) {
            errors.push(
                at.key_error(format!("header \"{written}\" is set twice"))
                    .hint(format!(
                        "first set on line {line}; the case of names does not count"
                    )),
            );
        } else {
            first.insert(name, at.line());
        }
    }
}
