//! `auth.jwt` of a route. A file of keys is read here, so that `check`, a start and a reload report
//! the same errors with positions.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use serde_json::Value;

use super::super::Errors;
use super::super::tls::{SystemAuthorities, connector_of_url};
use crate::auth::Jwt;
use crate::auth::endpoint::{Endpoint, is_askable};
use crate::auth::jwt::claims::{Required, Rules};
use crate::auth::jwt::finder::{Finder, Finders};
use crate::auth::jwt::keys::{KeySet, Secrets};
use crate::auth::jwt::source::{self, KeySource};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::raw::RequiredValue;
use crate::config::schema::units::{OptionalPeriod, Ordered, Period, Texts};

const REFRESH: Duration = Duration::from_secs(5 * 60);
const REFRESH_LEAST: Duration = Duration::from_secs(1);

/// `at`: the section.
pub fn jwt(
    raw: raw::Jwt,
    label: &str,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Jwt> {
    let refresh = refresh(raw.refresh, at, errors);
    let source = match raw.keys {
        Some(keys) => {
            let place = (label, at);
            let source = source_of(&keys, raw.ca, refresh.flatten(), (system, place), errors);
            refresh.and(source)
        }
        None => {
            if at.lacks("keys") {
                let error = at.key_error(format!("the jwt of {label} has no keys"));
                errors.push(error.hint("name a file or an https URL: keys: jwks.json"));
            }
            None
        }
    };
    let finders = finders(raw.from, at, errors);
    let keeps_arguments = raw.keep_token.unwrap_or(false);
    if let Some(finders) = &finders
        && keeps_arguments
        && finders.arguments().next().is_none()
    {
        let error = at
            .key("keep_token")
            .key_error("\"keep_token\" has no effect: no token is looked for in the query");
        errors.push(error.hint("leave it out, or add \"query:access_token\" to from"));
    }
    let issuers = texts(raw.issuer, at, "issuer", errors);
    let audiences = texts(raw.audience, at, "audience", errors);
    let require = require(raw.require, at, errors);
    if at.key("keep_token").damaged() || at.key("leeway").damaged() {
        return None;
    }
    let leeway = raw.leeway.and_then(|OptionalPeriod(leeway)| leeway);
    Some(Jwt {
        source: source?,
        finders: finders?,
        keeps_arguments,
        rules: Rules {
            issuers: issuers?,
            audiences: audiences?,
            leeway: leeway.unwrap_or_default(),
            require: require?,
        },
    })
}

fn refresh(raw: Option<Period>, at: Cursor<'_>, errors: &mut Errors) -> Option<Option<Duration>> {
    match raw {
        Some(Period(refresh)) if refresh < REFRESH_LEAST => {
            let error = at.key("refresh").error(format!(
                "refresh must be at least {REFRESH_LEAST:?}, not {refresh:?}"
            ));
            errors.push(error.hint("leave it out for 5m"));
            None
        }
        Some(Period(refresh)) => Some(Some(refresh)),
        None => (!at.key("refresh").damaged()).then_some(None),
    }
}

type Place<'a> = (&'a str, Cursor<'a>);

fn source_of(
    keys: &str,
    ca: Option<String>,
    refresh: Option<Duration>,
    (system, (label, at)): (&SystemAuthorities, Place<'_>),
    errors: &mut Errors,
) -> Option<KeySource> {
    if keys.contains("://") {
        let uri = url(keys, at, errors);
        if at.key("ca").damaged() {
            return None;
        }
        return Some(KeySource::Url {
            endpoint: endpoint(uri?, ca, (system, (label, at)), errors)?,
            refresh: refresh.unwrap_or(REFRESH),
        });
    }
    if ca.is_some() {
        let error = at
            .key("ca")
            .key_error("\"ca\" has no effect: the keys are in a file");
        errors.push(error.hint("leave it out, or name an https URL in keys"));
    }
    let path = PathBuf::from(keys);
    let keys = read(&path, at.key("keys"), errors)?;
    Some(KeySource::File {
        path,
        keys: Arc::new(keys),
        refresh,
    })
}

fn read(path: &Path, at: Cursor<'_>, errors: &mut Errors) -> Option<KeySet> {
    let file = path.display();
    let content = match source::read(path) {
        Ok(content) => content,
        Err(cause) => {
            let error = at.error(format!("cannot read {file}: {cause}"));
            errors.push(match cause.kind() {
                io::ErrorKind::NotFound => {
                    error.hint("paths are relative to the directory that prusik was started in")
                }
                io::ErrorKind::PermissionDenied => {
                    error.hint("the user that prusik runs as must be able to read it")
                }
                _ => error.hint("name a file that can be read"),
            });
            return None;
        }
    };
    match KeySet::parse(&content, Secrets::Taken) {
        Ok(keys) => Some(keys),
        Err(cause) => {
            let error = at.error(format!("{file} {cause}"));
            errors.push(error.hint(cause.remedy()));
            None
        }
    }
}

/// A URL whose answer nobody on the way can replace.
fn url(keys: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Uri> {
    let at = at.key("keys");
    let uri = keys.parse::<Uri>().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let is_whole = uri.as_ref().is_some_and(is_askable) && !keys.contains('#');
    let error = match uri.as_ref().and_then(Uri::scheme_str) {
        Some("https") if is_whole => return uri,
        Some("http") if is_whole && is_loopback(host) => return uri,
        Some("http") if is_whole => at
            .error(format!(
                "who is on the way to {host} could put keys of its own there"
            ))
            .hint("write https://, with ca if its authority is a private one"),
        _ => at
            .error(format!("\"{keys}\" is not the URL of keys"))
            .hint("write one such as https://id.example.com/.well-known/jwks.json"),
    };
    errors.push(error);
    None
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn endpoint(
    uri: Uri,
    ca: Option<String>,
    (system, (label, at)): (&SystemAuthorities, Place<'_>),
    errors: &mut Errors,
) -> Option<Endpoint> {
    if uri.scheme_str() == Some("https") {
        let host = uri.host().unwrap_or_default();
        let tls = connector_of_url((label, "keys"), host, ca, system, at, errors)?;
        return Some(Endpoint {
            uri,
            tls: Some(tls),
        });
    }
    if ca.is_some() {
        let error = at
            .key("ca")
            .key_error("\"ca\" has no effect: the keys are fetched by plain http");
        errors.push(error.hint("leave it out, or name an https URL in keys"));
    }
    Some(Endpoint { uri, tls: None })
}

fn finders(raw: Option<Vec<String>>, at: Cursor<'_>, errors: &mut Errors) -> Option<Finders> {
    let at = at.key("from");
    let Some(raw) = raw else {
        return (!at.damaged()).then(|| Finders(vec![Finder::Bearer]));
    };
    if raw.is_empty() && !at.damaged() {
        let error = at.error("\"from\" is empty: no token could be found");
        errors.push(error.hint("write [bearer], or leave it out"));
    }
    let mut found: Vec<Finder> = Vec::new();
    let mut is_whole = !raw.is_empty() && !at.damaged();
    for (i, text) in raw.iter().enumerate() {
        let at = at.index(i);
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let finder = match (kind, name.trim()) {
            ("bearer", "") => Finder::Bearer,
            ("subprotocol", "") => Finder::Subprotocol,
            ("cookie", name) if is_name(name) => Finder::Cookie(name.to_owned()),
            ("query", name) if is_name(name) => Finder::Query(name.to_owned()),
            ("cookie" | "query", _) => {
                let error = at.error(format!("\"{text}\" does not say which {kind}"));
                errors.push(error.hint(format!("write \"{kind}:NAME\"")));
                is_whole = false;
                continue;
            }
            _ => {
                let error = at.error(format!("\"{text}\" is no place for a token"));
                let known = ["bearer", "cookie:NAME", "query:NAME", "subprotocol"];
                errors.push(error.hint_one_of(text, "there are", known));
                is_whole = false;
                continue;
            }
        };
        if found.contains(&finder) {
            let error = at.error(format!("\"{text}\" is there twice"));
            errors.push(error.hint("remove one of them"));
            is_whole = false;
        }
        found.push(finder);
    }
    is_whole.then_some(Finders(found))
}

/// Of a cookie (RFC 6265 section 4.1.1), and of an argument.
fn is_name(name: &str) -> bool {
    let is_in_name =
        |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}&%+".contains(&byte);
    !name.is_empty() && name.bytes().all(is_in_name)
}

/// Empty if the key is not there.
fn texts(
    raw: Option<Texts>,
    at: Cursor<'_>,
    key: &str,
    errors: &mut Errors,
) -> Option<Vec<String>> {
    let Some(Texts(texts)) = raw else {
        return (!at.key(key).damaged()).then(Vec::new);
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        if !at.key(key).damaged() {
            let error = at.key(key).error(format!("\"{key}\" is empty"));
            errors.push(error.hint("name one or several, or leave the key out for any"));
        }
        return None;
    }
    Some(texts)
}

fn require(
    raw: Option<Ordered<RequiredValue>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<(String, Required)>> {
    let at = at.key("require");
    let Some(Ordered(claims)) = raw else {
        return (!at.damaged()).then(Vec::new);
    };
    let claims = claims.into_iter().map(|(name, RequiredValue(value))| {
        if let Some((what, remedy)) = never_met(&name, &value) {
            errors.push(at.key(&name).error(what).hint(remedy));
            return None;
        }
        let required = required(value);
        if required.is_none() {
            let error = at
                .key(&name)
                .error(format!("the claim \"{name}\" can have no such value"));
            errors.push(error.hint("write a text, a number, true, false, or a list of them"));
        }
        Some((name, required?))
    });
    // Collected in two steps, because a short-circuit would hide the errors after the first.
    let claims: Vec<_> = claims.collect();
    claims.into_iter().collect()
}

/// What no token could have, in words, and what to write instead.
fn never_met(name: &str, value: &Value) -> Option<(String, &'static str)> {
    let has_blank = |value: &Value| value.as_str().is_some_and(|text| text.contains(' '));
    let is_of_words = |value: &Value| match value {
        Value::Array(values) => values.iter().any(has_blank),
        alone => has_blank(alone),
    };
    match name {
        "scope" if is_of_words(value) => Some((
            "a scope is one word, and this has several".to_owned(),
            "write a list of which one suffices: scope: [read, write]",
        )),
        "exp" | "nbf" | "iat" if value != &Value::Bool(true) => Some((
            format!("\"{name}\" is a time, and none is the same in two tokens"),
            "write true, which means that it must be there, or leave it out",
        )),
        _ => None,
    }
}

fn required(value: Value) -> Option<Required> {
    let is_plain =
        |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
    match value {
        Value::Bool(true) => Some(Required::Given),
        Value::Array(values) if !values.is_empty() && values.iter().all(is_plain) => {
            Some(Required::OneOf(values))
        }
        value if is_plain(&value) => Some(Required::OneOf(vec![value])),
        _ => None,
    }
}
