//! The conditions that a request must meet for a route.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue, Method};

use super::Errors;
use super::header_name::bad_name;
use super::scope::Scope;
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{Ordered, Texts};
use crate::route::{
    HostPattern, ListenerId, METHODS, Matcher, PathMatch, PathRegex, Slashes, normalise_with,
};

pub fn matcher(
    raw: raw::Match,
    slashes: Slashes,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<Matcher> {
    let at = scope.at.key("match");
    let listener = match &raw.listener {
        Some(name) => listener(name, scope, at.key("listener"), errors).map(Some),
        None => Some(None),
    };
    let hosts = match &raw.host {
        Some(Texts(hosts)) => self::hosts(hosts, at.key("host"), errors),
        None => Some(Vec::new()),
    };
    let path = path(&raw, slashes, scope, errors);
    let headers = headers(raw.headers, at.key("headers"), errors);
    let methods = methods(raw.methods, at.key("methods"), errors);
    Some(Matcher {
        listener: listener?,
        hosts: hosts?,
        path: path?,
        slashes,
        headers: headers?,
        methods: methods?,
    })
}

fn listener(
    name: &str,
    scope: Scope<'_>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<ListenerId> {
    let known = &scope.names.listeners;
    if known.lacks(name) {
        errors.push(
            at.error(format!("{} names unknown listener \"{name}\"", scope.label))
                .hint_among(name, "known listeners", known.names()),
        );
    }
    known.position(name).map(ListenerId::new)
}

fn hosts(texts: &[String], at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<HostPattern>> {
    if texts.is_empty() && !at.damaged() {
        errors.push(
            at.error("\"host\" is empty: no request could match")
                .hint("list some names, or leave the key out for any host"),
        );
    }
    if texts.is_empty() {
        return None;
    }
    let mut known = HashSet::new();
    let mut hosts = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let at = at.index(i);
        let host = HostPattern::parse(text).map_err(|wrong| {
            let hint = "write chat.example.com or *.example.com, without a port";
            errors.push(at.error(wrong).hint(hint));
        });
        if let Ok(host) = &host
            && !known.insert(host.clone())
        {
            let again = at.error(format!("host \"{text}\" is in the list already"));
            errors.push(again.hint("take it out"));
        }
        hosts.push(host.ok());
    }
    hosts.into_iter().collect()
}

fn path(
    raw: &raw::Match,
    slashes: Slashes,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<PathMatch> {
    let at = scope.at.key("match");
    let keys = ["path_prefix", "path", "path_regex"];
    let written: Vec<&str> = keys.into_iter().filter(|key| at.has(key)).collect();
    if let [first, second, ..] = written[..] {
        errors.push(
            at.key(second)
                .key_error(format!(
                    "{} matches by both \"{first}\" and \"{second}\"",
                    scope.label
                ))
                .hint("choose one of path_prefix, path and path_regex"),
        );
    }
    let prefix = raw.path_prefix.as_ref().map(|prefix| {
        let at = at.key("path_prefix");
        plain_path(prefix, slashes, at, errors).then(|| PathMatch::Prefix(prefix.clone()))
    });
    let exact = raw.path.as_ref().map(|path| {
        plain_path(path, slashes, at.key("path"), errors).then(|| PathMatch::Exact(path.clone()))
    });
    let regex = raw
        .path_regex
        .as_ref()
        .map(|text| match PathRegex::parse(text) {
            Ok(regex) => Some(PathMatch::Regex(regex)),
            Err(error) => {
                let at = at.key("path_regex");
                errors.push(bad_regex("path_regex", text, &error, at));
                None
            }
        });
    prefix.or(exact).or(regex).unwrap_or(Some(PathMatch::Any))
}

/// `key`: that of the expression.
pub fn bad_regex(key: &str, text: &str, error: &regex::Error, at: Cursor<'_>) -> ConfigError {
    // The regex crate shows the expression with a mark at the error. The last line has the reason.
    let shown = error.to_string();
    let last = shown.lines().last().unwrap_or_default();
    let reason = last.strip_prefix("error: ").unwrap_or(last);
    at.error(format!("bad {key} \"{text}\": {reason}"))
        .hint("the syntax is that of docs.rs/regex; a backslash takes a sign as it is: \\.")
}

/// Whether a request can have this `path`.
pub fn plain_path(path: &str, slashes: Slashes, at: Cursor<'_>, errors: &mut Errors) -> bool {
    let wrong = wrong_path(path, slashes);
    let is_plain = wrong.is_none();
    errors.extend(wrong.map(|(what, hint)| at.error(format!("path \"{path}\" {what}")).hint(hint)));
    is_plain
}

/// What is wrong with `path`, and a hint.
fn wrong_path(path: &str, slashes: Slashes) -> Option<(String, String)> {
    const NO_SLASH: &str = "does not begin with /";
    if let Some(pattern) = path.strip_prefix(['~', '^']) {
        let pattern = pattern.trim_start_matches(['*', '~', '^', ' ']);
        let hint = format!("a regular expression goes into path_regex: ^{pattern}");
        return Some((NO_SLASH.into(), hint));
    }
    if let Some(exact) = path.strip_prefix("= ") {
        return Some((NO_SLASH.into(), format!("an exact path is path: {exact}")));
    }
    if let Some(prefix) = path.strip_suffix("/*") {
        let hint = format!("a path_prefix needs none: write \"{prefix}/\"");
        return Some(("matches only a * itself".into(), hint));
    }
    if !path.starts_with('/') {
        return Some((NO_SLASH.into(), format!("write \"/{path}\"")));
    }
    let stray = path
        .chars()
        .find(|c| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control());
    if let Some(stray) = stray {
        let hint = "write the path alone, without a query, and blanks as %20";
        return Some((format!("can never match: it has a {stray:?}"), hint.into()));
    }
    if !path.is_ascii() {
        let hint = "write it as browsers send it, with %C3%A9 for é";
        return Some(("can never match: it is not ASCII".into(), hint.into()));
    }
    let normal = normalise_with(path, slashes);
    (normal != path).then(|| {
        let what = "can never match: requests are compared in normal form";
        (what.into(), format!("write \"{normal}\""))
    })
}

fn headers(
    raw: Option<Ordered<String>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<(HeaderName, String)>> {
    let Ordered(raw) = raw.unwrap_or(Ordered(Vec::new()));
    let mut headers = Vec::new();
    for (position, (name, value)) in raw.into_iter().enumerate() {
        let at = at.entry(position, &name);
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| errors.push(bad_name(&name, at)))
            .ok();
        let fits = HeaderValue::from_str(&value).is_ok() && value.trim() == value;
        if !fits {
            errors.push(
                at.error(format!("header \"{name}\" can never have this value"))
                    .hint("values are printable and have no blanks at their ends"),
            );
        }
        headers.push(parsed.filter(|_| fits).map(|name| (name, value)));
    }
    headers.into_iter().collect()
}

fn methods(raw: Option<Vec<String>>, at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<Method>> {
    let Some(raw) = raw else {
        return Some(Vec::new());
    };
    if raw.is_empty() && !at.damaged() {
        errors.push(
            at.error("\"methods\" is empty: no request could match")
                .hint("list some, or leave the key out for any method"),
        );
    }
    let mut methods = Vec::new();
    for (i, name) in raw.iter().enumerate() {
        let method = Method::from_bytes(name.as_bytes())
            .ok()
            .filter(|_| METHODS.contains(&name.as_str()));
        if matches!(name.as_str(), "CONNECT" | "TRACE" | "TRACK") {
            errors.push(
                at.index(i)
                    .error(format!(
                        "no request with method {name} comes as far as a route"
                    ))
                    .hint("prusik itself answers it with 405: take it out"),
            );
        } else if method.is_none() {
            errors.push(
                at.index(i)
                    .error(format!("unknown method \"{name}\""))
                    .hint_one_of(name, "known methods", METHODS),
            );
        }
        methods.push(method);
    }
    methods.into_iter().collect()
}
