//! Routes: each one as a whole, and what concerns all: unique names, and that each can match.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::scope::{Names, Scope};
use super::{
    Errors, access, action, auth, headers, matching, pages, rate, stream, tls, user, websocket,
};
use crate::auth::Auth;
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OptionalSize, Ordered, Period, Section, Texts};
use crate::config::{BodySize, Forwarded, HeaderRules, RateKey, RequestRate, Route, Timeouts};
use crate::forward::template::Template;
use crate::limits::Bounds;
use crate::route::{Coverage, Matcher, Slashes};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub fn routes(
    raw: Vec<Section<raw::Route>>,
    at: Cursor<'_>,
    names: &Names,
    errors: &mut Errors,
) -> Option<Vec<Route>> {
    let route_names = route_names(&raw, at, errors);
    let system = tls::SystemAuthorities::default();
    let mut coverage = Coverage::default();
    // The line of each route in the index.
    let mut lines: Vec<usize> = Vec::new();
    let mut routes = Vec::new();
    for (i, (Section(mut raw), name)) in raw.into_iter().zip(route_names).enumerate() {
        let label = match &raw.name {
            Some(name) => format!("route \"{name}\""),
            None => "this route".to_owned(),
        };
        let scope = Scope {
            at: at.index(i),
            label: &label,
            names,
        };
        let Section(matching) = raw
            .matching
            .take()
            .unwrap_or(Section(raw::Match::default()));
        // An incomplete match cannot be compared with others.
        let slashes = match raw.merge_slashes {
            Some(false) => Slashes::Kept,
            Some(true) | None => Slashes::Merged,
        };
        let matcher = matching::matcher(matching, slashes, scope, errors)
            .filter(|_| !scope.at.key("match").damaged())
            .filter(|_| scope.at.has("match") || scope.at.lacks("match"));
        if let Some(matcher) = &matcher {
            if let Some(cover) = coverage.first_cover(matcher) {
                errors.push(covered(scope, lines[cover], matcher));
            }
            coverage.add(matcher);
            lines.push(scope.at.line());
        }
        routes.push(route(name, raw, matcher, (scope, &system), errors));
    }
    routes.into_iter().collect()
}

fn covered(scope: Scope<'_>, line: usize, matcher: &Matcher) -> ConfigError {
    let takes = match &matcher.hosts[..] {
        [] | [_] => format!("the one on line {line} takes"),
        [_, _, ..] => format!("those up to line {line} take"),
    };
    let message = format!("{} can never match: {takes} all its requests", scope.label);
    scope
        .at
        .key("match")
        .key_error(message)
        .hint(match &matcher.hosts[..] {
            [] | [_] => "put it before that one, or remove it",
            [_, _, ..] => "put it before those, or remove it",
        })
}

fn route(
    name: String,
    mut raw: raw::Route,
    matcher: Option<Matcher>,
    (scope, system): (Scope<'_>, &tls::SystemAuthorities),
    errors: &mut Errors,
) -> Option<Route> {
    let Section(rules) = raw
        .headers
        .take()
        .unwrap_or(Section(raw::Headers::default()));
    let at = scope.at.key("headers");
    let request_headers = header_rules(rules.request, headers::Side::Request, at, errors);
    let response_headers = header_rules(rules.response, headers::Side::Response, at, errors);
    let websocket = websocket::websocket(raw.websocket.take(), scope.at.key("websocket"), errors);
    let on_expiry = websocket
        .as_ref()
        .and_then(|websocket| websocket.as_ref()?.on_expiry);
    let stream = stream::stream(raw.stream.take(), on_expiry, scope.at.key("stream"), errors);
    let user = user::user(raw.user.take(), scope.at, errors);
    let timeouts = timeouts(raw.timeouts.take());
    let forwarded = match raw.forwarded {
        None | Some(raw::Forwarded::XHeaders) => Forwarded::XForwarded,
        Some(raw::Forwarded::Rfc7239) => Forwarded::Rfc7239,
        Some(raw::Forwarded::Both) => Forwarded::Both,
        Some(raw::Forwarded::Off) => Forwarded::Off,
    };
    let access = access::access(raw.allow.take(), raw.deny.take(), scope.at, errors);
    let rate = rate::rate(raw.requests_per_second.take(), scope, errors);
    let body_size = raw.body_size.take();
    let body_size = body_size.map_or(BodySize::Inherited, |OptionalSize(own)| BodySize::Own(own));
    let error_pages = raw.errors.take();
    let auth = auth::auth(raw.auth.take(), scope.label, system, scope.at, errors);
    if let (Some(user), Some(auth)) = (&user, &auth) {
        let websocket = websocket.as_ref().and_then(Option::as_ref);
        let bounds = [
            ("websocket", websocket.map(|websocket| websocket.bounds)),
            ("stream", stream.as_ref().map(|stream| stream.bounds)),
        ];
        let rate = rate.as_ref().and_then(Option::as_deref);
        callers(
            (user.as_ref(), rate),
            &bounds,
            auth.as_deref(),
            scope.at,
            errors,
        );
    }
    let action = action::action(raw, matcher.as_ref(), scope, errors);
    let error_pages = pages::pages(error_pages, action.as_ref(), scope, errors);
    Some(Route {
        name,
        matcher: matcher?,
        action: action?,
        access: access?,
        auth: auth?,
        user: user?,
        request_headers: request_headers?,
        response_headers: response_headers?,
        forwarded,
        timeouts,
        websocket: websocket?,
        stream,
        errors: error_pages?,
        body_size,
        requests_per_second: rate?,
    })
}

/// What is said of callers whom the route does not know. `at`: the route.
fn callers(
    (user, rate): (Option<&Template>, Option<&RequestRate>),
    bounds: &[(&str, Option<Bounds>)],
    auth: Option<&Auth>,
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    if let Some(user) = user {
        user::nameless(user, auth, at.key("user"), errors);
    }
    if let Some(RateKey::Caller(key)) = rate.map(|rate| &rate.key) {
        let at = at.key("requests_per_second").key("key");
        user::nameless(key, auth, at, errors);
    }
    if user.is_none() && !auth.is_some_and(Auth::names_users) {
        if rate.is_some_and(|rate| rate.key.reads_user()) {
            user::uncounted(at, errors);
        }
        user::unknown(bounds, at, errors);
    }
}

fn timeouts(raw: Option<Section<raw::Timeouts>>) -> Timeouts {
    let Section(raw) = raw.unwrap_or(Section(raw::Timeouts::default()));
    let or = |given: Option<Period>, default| given.map_or(default, |Period(given)| given);
    Timeouts {
        connect: or(raw.connect, CONNECT_TIMEOUT),
        response: or(raw.response, RESPONSE_TIMEOUT),
        idle: or(raw.idle, IDLE_TIMEOUT),
    }
}

fn header_rules(
    raw: Option<Section<raw::HeaderRules>>,
    side: headers::Side,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<HeaderRules> {
    match raw {
        Some(Section(raw)) => headers::rules(raw, side, at.key(side.key()), errors),
        None => Some(HeaderRules::default()),
    }
}

/// The name of each route: the written one, or its match in words. Equal words get a number.
fn route_names(raw: &[Section<raw::Route>], at: Cursor<'_>, errors: &mut Errors) -> Vec<String> {
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (i, Section(route)) in raw.iter().enumerate() {
        let Some(name) = &route.name else { continue };
        let at = at.index(i).key("name");
        if name.is_empty() {
            let error = at.error("the route's name is empty");
            errors.push(error.hint("write one, or leave the key out"));
        } else if let Some(line) = lines.get(name.as_str()) {
            errors.push(
                at.error(format!("duplicate route \"{name}\""))
                    .hint(format!(
                        "the first is on line {line}; give this one another name"
                    )),
            );
        } else {
            lines.insert(name, at.line());
        }
    }
    let mut taken: HashSet<String> = lines.into_keys().map(str::to_owned).collect();
    // The next number to try for these words.
    let mut next: HashMap<String, usize> = HashMap::new();
    raw.iter()
        .map(|Section(route)| match &route.name {
            Some(name) => name.clone(),
            None => {
                let words = words(route.matching.as_ref().map(|Section(matching)| matching));
                let mut name = words.clone();
                let number = next.entry(words.clone()).or_insert(2);
                while !taken.insert(name.clone()) {
                    name = format!("{words} #{number}");
                    *number += 1;
                }
                name
            }
        })
        .collect()
}

/// Writes the match in words: `chat.example.com/IMS_SVR/websocket`, `path = /x`, `any`.
fn words(matching: Option<&raw::Match>) -> String {
    let Some(matching) = matching else {
        return "any".to_owned();
    };
    let mut words: Vec<String> = Vec::new();
    let Texts(hosts) = matching.host.clone().unwrap_or_default();
    let host = hosts.join("|");
    let prefix = matching.path_prefix.clone().unwrap_or_default();
    if !host.is_empty() || !prefix.is_empty() {
        words.push(host + &prefix);
    }
    if let Some(path) = &matching.path {
        words.push(format!("path = {path}"));
    }
    if let Some(regex) = &matching.path_regex {
        words.push(format!("path ~ {regex}"));
    }
    if let Some(methods) = &matching.methods {
        words.push(methods.join("|"));
    }
    if let Some(Ordered(headers)) = &matching.headers {
        words.extend(
            headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}")),
        );
    }
    if let Some(listener) = &matching.listener {
        words.push(format!("on {listener}"));
    }
    if words.is_empty() {
        words.push("any".to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_has_words() {
        let matching = |change: fn(&mut raw::Match)| {
            let mut matching = raw::Match::default();
            change(&mut matching);
            words(Some(&matching))
        };
        assert_eq!(words(None), "any");
        assert_eq!(matching(|_| ()), "any");
        assert_eq!(matching(|m| m.path = Some("/x".into())), "path = /x");
        assert_eq!(
            matching(|m| m.path_regex = Some("^/x".into())),
            "path ~ ^/x"
        );
        assert_eq!(
            matching(|m| {
                m.host = Some(Texts(vec!["chat.example.com".into()]));
                m.path_prefix = Some("/IMS_SVR/websocket".into());
            }),
            "chat.example.com/IMS_SVR/websocket"
        );
        assert_eq!(
            matching(|m| {
                m.host = Some(Texts(vec!["a.test".into(), "*.b.test".into()]));
                m.path_prefix = Some("/x".into());
            }),
            "a.test|*.b.test/x"
        );
        assert_eq!(
            matching(|m| {
                m.methods = Some(vec!["GET".into(), "HEAD".into()]);
                m.listener = Some("public".into());
            }),
            "GET|HEAD on public"
        );
    }
}
