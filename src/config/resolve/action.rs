//! What a route does: proxy to an upstream, redirect, or respond.

use super::scope::Scope;
use super::upstream::template;
use super::{Errors, matching, rewrite};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Section;
use crate::config::{Action, PathChange, UpstreamId};
use crate::forward::template::Template;
use crate::route::{Matcher, PathMatch, Slashes};

const ACTIONS: [&str; 3] = ["upstream", "redirect", "respond"];
const REDIRECT_STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
const REDIRECT_STATUS: u16 = 308;

/// `matcher` is `None` if a part of it is not valid.
pub fn action(
    raw: raw::Route,
    matcher: Option<&Matcher>,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<Action> {
    let at = scope.at;
    let written: Vec<&str> = ACTIONS.into_iter().filter(|key| at.has(key)).collect();
    match written[..] {
        [] => {
            if ACTIONS.iter().all(|key| at.lacks(key)) {
                errors.push(
                    at.key_error(format!("{} has nothing to do", scope.label))
                        .hint("write one of upstream, redirect and respond"),
                );
            }
        }
        [_] => {}
        [first, second, ..] => errors.push(
            at.key(second)
                .key_error(format!(
                    "{} has both \"{first}\" and \"{second}\"",
                    scope.label
                ))
                .hint("a route does one of upstream, redirect and respond"),
        ),
    }
    if !written.is_empty() && at.lacks("upstream") {
        report_without_effect(scope, errors);
    }
    let strip_prefix = match &raw.strip_prefix {
        Some(prefix) => strip_prefix(prefix, matcher, scope, errors).map(Some),
        None => Some(None),
    };
    let rewrite = rewrite::rewrite(raw.rewrite, scope, errors);
    let upstream = raw.upstream.map(|name| {
        let upstream = upstream(&name, scope, errors);
        let path = match (strip_prefix.clone()?, rewrite?) {
            (_, Some(rewrite)) => PathChange::Rewrite(rewrite),
            (Some(prefix), None) => PathChange::Strip(prefix),
            (None, None) => PathChange::None,
        };
        Some(Action::Proxy {
            upstream: upstream?,
            path,
        })
    });
    let redirect = raw.redirect.map(|Section(raw)| {
        let (to, status) = redirect(raw, scope.label, at.key("redirect"), errors)?;
        Some(Action::Redirect {
            to,
            status,
            strip_prefix: strip_prefix?,
        })
    });
    let respond = raw
        .respond
        .map(|Section(raw)| respond(raw, scope.label, at.key("respond"), errors));
    upstream.or(redirect).or(respond).flatten()
}

/// Reports keys that only matter for a route to an upstream.
fn report_without_effect(scope: Scope<'_>, errors: &mut Errors) {
    let at = scope.at;
    let keys = [
        "strip_prefix",
        "rewrite",
        "forwarded",
        "timeouts",
        "websocket",
        "stream",
    ];
    let is_used = |key: &str| key == "strip_prefix" && at.has("redirect");
    let keys = keys.into_iter().filter(|key| !is_used(key));
    let keys = keys.map(|key| (at.key(key), key, at.has(key)));
    let headers = at.key("headers");
    let request = (
        headers.key("request"),
        "headers.request",
        headers.has("request"),
    );
    for (at, key, written) in keys.chain([request]) {
        if written {
            errors.push(
                at.key_error(format!(
                    "\"{key}\" has no effect in {}: it has no upstream",
                    scope.label
                ))
                .hint("remove it"),
            );
        }
    }
}

fn upstream(name: &str, scope: Scope<'_>, errors: &mut Errors) -> Option<UpstreamId> {
    let known = &scope.names.upstreams;
    if known.lacks(name) {
        let at = scope.at.key("upstream");
        let error = at.error(format!("{} names unknown upstream \"{name}\"", scope.label));
        let is_address = name.contains("://") || name.parse::<std::net::SocketAddr>().is_ok();
        errors.push(match is_address {
            true => error
                .hint("write the address in upstreams: { NAME: { servers: […] } }, and NAME here"),
            false => error.hint_among(name, "known upstreams", known.names()),
        });
    }
    known.position(name).map(UpstreamId::new)
}

/// The prefix without a final slash. Each path that the route matches must begin with it.
fn strip_prefix(
    prefix: &str,
    matcher: Option<&Matcher>,
    scope: Scope<'_>,
    errors: &mut Errors,
) -> Option<String> {
    let at = scope.at.key("strip_prefix");
    let slashes = matcher.map_or(Slashes::Merged, |matcher| matcher.slashes);
    if !matching::plain_path(prefix, slashes, at, errors) {
        return None;
    }
    let stripped = prefix.trim_end_matches('/');
    if stripped.is_empty() {
        errors.push(
            at.error("strip_prefix \"/\" takes nothing off")
                .hint("remove it, or name the first segments of the path"),
        );
        return None;
    }
    let matched = match &matcher?.path {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.as_str(),
        PathMatch::Any | PathMatch::Regex(_) => "",
    };
    let begins = matched
        .strip_prefix(stripped)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !begins {
        errors.push(
            at.error(format!(
                "{} also matches paths that do not begin with \"{stripped}\"",
                scope.label
            ))
            .hint(format!("match by path_prefix: {stripped}")),
        );
        return None;
    }
    Some(stripped.to_owned())
}

fn redirect(
    raw: raw::Redirect,
    label: &str,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<(Template, u16)> {
    let written = raw.status.unwrap_or(REDIRECT_STATUS.into());
    let status = REDIRECT_STATUSES
        .into_iter()
        .find(|status| u64::from(*status) == written);
    if status.is_none() {
        errors.push(
            at.key("status")
                .error(format!("{label} cannot redirect with status {written}"))
                .hint("choose 301, 302, 303, 307 or 308"),
        );
    }
    let Some(to) = raw.to else {
        if at.lacks("to") {
            errors.push(
                at.key_error(format!("the redirect of {label} has no \"to\""))
                    .hint("write where to, such as to: https://$host$request_uri"),
            );
        }
        return None;
    };
    if to.chars().any(char::is_control) {
        errors.push(
            at.key("to")
                .error(format!("{label} cannot redirect to {to:?}"))
                .hint("a target has no line breaks and control characters"),
        );
        return None;
    }
    let to = template(&to, "to", at.key("to"), errors);
    to.zip(status)
}

fn respond(raw: raw::Respond, label: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Action> {
    let Some(status) = raw.status else {
        if at.lacks("status") {
            errors.push(
                at.key_error(format!("the response of {label} has no \"status\""))
                    .hint("write one, such as status: 404"),
            );
        }
        return None;
    };
    let body = raw.body.unwrap_or_default();
    let Some(status) = u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status))
    else {
        errors.push(
            at.key("status")
                .error(format!("{label} cannot respond with status {status}"))
                .hint("choose one from 200 to 599"),
        );
        return None;
    };
    // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
    if matches!(status, 204 | 205 | 304) && !body.is_empty() {
        errors.push(
            at.key("body")
                .key_error(format!("a response with status {status} has no body"))
                .hint("remove it, or choose another status"),
        );
    }
    Some(Action::Respond { status, body })
}
