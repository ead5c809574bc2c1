//! `auth.forward`: where the auth server is, and which fields go there and come back.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri, header};

use crate::auth::endpoint::{Endpoint, is_askable};
use crate::auth::forward::{Settings, may_be_listed};
use crate::config::file::cursor::Cursor;
use crate::config::resolve::Errors;
use crate::config::resolve::header_name::bad_name;
use crate::config::resolve::headers::is_reserved;
use crate::config::resolve::tls::{SystemAuthorities, connector_of_url};
use crate::config::schema::raw;
use crate::config::schema::units::Period;
use crate::tls::Connector;

const TIMEOUT: Duration = Duration::from_secs(2);

const EXAMPLE: &str = "write one such as http://127.0.0.1:4181/verify";

pub fn forward(
    raw: raw::Forward,
    label: &str,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Settings> {
    let uri = match raw.url {
        Some(url) => uri(&url, at.key("url"), errors),
        None => {
            if at.lacks("url") {
                let error = at.key_error(format!("\"forward\" of {label} has no \"url\""));
                errors.push(error.hint(EXAMPLE));
            }
            None
        }
    };
    let tls = uri.as_ref().and_then(|uri| {
        let is_secure = uri.scheme_str() == Some("https");
        tls(uri, is_secure, raw.ca, label, system, at, errors)
    });
    let request_headers = match raw.request_headers {
        Some(list) => asked(&list, at.key("request_headers"), errors).map(Some),
        None => at.lacks("request_headers").then_some(None),
    };
    let response_headers = match raw.response_headers {
        Some(list) => answered(list, at.key("response_headers"), errors),
        None => at.lacks("response_headers").then(Vec::new),
    };
    Some(Settings {
        endpoint: Endpoint {
            uri: uri?,
            tls: tls?,
        },
        timeout: raw.timeout.map_or(TIMEOUT, |Period(timeout)| timeout),
        request_headers: request_headers?,
        response_headers: response_headers?,
    })
}

fn uri(url: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Uri> {
    let uri = url.parse::<Uri>().ok().filter(|uri| {
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        is_http && is_askable(uri) && !url.contains(['#', '$'])
    });
    if uri.is_none() {
        let error = at.error(format!("\"{url}\" is not where a server can be asked"));
        errors.push(error.hint(match url.contains('$') {
            true => "write it without variables: X-Forwarded-Uri says what is asked for",
            false => EXAMPLE,
        }));
    }
    uri
}

/// The inner `None`: plain text.
fn tls(
    uri: &Uri,
    is_secure: bool,
    ca: Option<String>,
    label: &str,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Option<Arc<Connector>>> {
    if is_secure {
        let host = uri.host().unwrap_or_default();
        return connector_of_url((label, "url"), host, ca, system, at, errors).map(Some);
    }
    if at.has("ca") {
        let error = at
            .key("ca")
            .key_error("\"ca\" has no effect: the url is http");
        errors.push(error.hint("remove it, or write https in url"));
        return None;
    }
    at.lacks("ca").then_some(None)
}

fn name(written: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<HeaderName> {
    // A sign that a name may have, but that nobody means as one.
    if written.contains('*') {
        let error = at.error(format!("\"{written}\" names no header"));
        errors.push(error.hint("name each of them: there are no patterns here"));
        return None;
    }
    let name = HeaderName::from_bytes(written.as_bytes()).ok();
    if name.is_none() {
        errors.push(bad_name(written, at));
    }
    name
}

/// The fields of the client that the auth server gets.
fn asked(list: &[String], at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<HeaderName>> {
    let names = list.iter().enumerate().map(|(i, written)| {
        let name = name(written, at.index(i), errors)?;
        if !may_be_listed(&name) {
            let error = at
                .index(i)
                .error(format!("\"{written}\" cannot be a header of a question"));
            errors.push(error.hint("remove it: prusik sets what the auth server needs of this"));
            return None;
        }
        Some(name)
    });
    // Collected in two steps, because a short-circuit would hide the errors after the first.
    let names: Vec<Option<HeaderName>> = names.collect();
    names.into_iter().collect()
}

/// The fields that the server gets from the auth server.
fn answered(
    list: Vec<String>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<(HeaderName, String)>> {
    let mut names: Vec<Option<(HeaderName, String)>> = Vec::new();
    for (i, written) in list.into_iter().enumerate() {
        let at = at.index(i);
        let name = name(&written, at, errors);
        let wrong = name.as_ref().and_then(|name| {
            if names.iter().flatten().any(|(other, _)| other == name) {
                return Some(("is there twice", "remove one of the two"));
            }
            if *name == header::SET_COOKIE {
                return Some(("is the client's", "remove it: it goes to the client anyway"));
            }
            let is_framing = is_reserved(name) || *name == header::HOST;
            is_framing.then_some((
                "cannot be given to a server",
                "prusik sets it as the connection or the handshake needs it",
            ))
        });
        if let Some((what, remedy)) = wrong {
            errors.push(at.error(format!("\"{written}\" {what}")).hint(remedy));
        }
        let name = name.filter(|_| wrong.is_none());
        names.push(name.map(|name| (name, written)));
    }
    names.into_iter().collect()
}
