//! Health checks: which keys each type has, and which statuses pass.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Errors;
use http::uri::{Authority, PathAndQuery};

use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Period;
use crate::config::{HealthCheck, HealthCheckKind, Start};

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
const RISE: u32 = 2;
const FALL: u32 = 3;
const EXPECT: RangeInclusive<u16> = 200..=399;

pub fn check(
    upstream: &str,
    raw: raw::HealthCheck,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<HealthCheck> {
    let kind = raw.kind.unwrap_or(raw::HealthCheckKind::Tcp);
    without_effect(kind, upstream, at, errors);
    let path = raw.path.unwrap_or_else(|| "/".to_owned());
    asked_for(&path, raw.host.as_ref(), at, errors);
    let expect = match raw.expect {
        Some(list) => statuses(list, at.key("expect"), errors),
        None => Some(vec![EXPECT]),
    };
    let port = match raw.port {
        Some(number) => port(number.get(), at.key("port"), errors).map(Some),
        None => Some(None),
    };
    let kind = match kind {
        raw::HealthCheckKind::Tcp => HealthCheckKind::Tcp,
        raw::HealthCheckKind::Http => HealthCheckKind::Http {
            path,
            host: raw.host,
            expect: expect?,
        },
        raw::HealthCheckKind::Websocket => HealthCheckKind::WebSocket {
            path,
            host: raw.host,
        },
    };
    Some(HealthCheck {
        kind,
        port: port?,
        start: match raw.start {
            Some(raw::Start::Down) => Start::Down,
            Some(raw::Start::Up) | None => Start::Up,
        },
        interval: raw.interval.map_or(INTERVAL, |Period(interval)| interval),
        timeout: raw.timeout.map_or(TIMEOUT, |Period(timeout)| timeout),
        rise: raw.rise.map_or(RISE, |rise| rise.get()),
        fall: raw.fall.map_or(FALL, |fall| fall.get()),
    })
}

/// Reports keys that this type of check does not use.
fn without_effect(kind: raw::HealthCheckKind, upstream: &str, at: Cursor<'_>, errors: &mut Errors) {
    let (type_name, unused, remedy): (_, &[&str], _) = match kind {
        raw::HealthCheckKind::Tcp => ("tcp", &["path", "host", "expect"], "http"),
        raw::HealthCheckKind::Http => ("http", &[], ""),
        // The answer is always 101.
        raw::HealthCheckKind::Websocket => ("websocket", &["expect"], "http"),
    };
    if !at.key("type").damaged() {
        for key in unused.iter().filter(|key| at.has(key)) {
            errors.push(
                at.key(key)
                    .key_error(format!(
                        "\"{key}\" has no effect in health_check of upstream \"{upstream}\": \
                         its type is {type_name}"
                    ))
                    .hint(format!("write type: {remedy}, or remove the key")),
            );
        }
    }
}

/// Whether path and host are valid in a request.
fn asked_for(path: &str, host: Option<&String>, at: Cursor<'_>, errors: &mut Errors) {
    let is_path = path.starts_with('/')
        && !path.contains('#')
        && path.is_ascii()
        && path.parse::<PathAndQuery>().is_ok();
    if !is_path {
        errors.push(
            at.key("path")
                .error(format!("\"{path}\" is not a path that can be asked for"))
                .hint(
                    "a path begins with /; blanks and other special characters are written as %20",
                ),
        );
    }
    let host_is_bad = |host: &&String| {
        let authority = host.parse::<Authority>();
        authority.is_err() || host.contains('@')
    };
    if let Some(host) = host.filter(|host| host_is_bad(host)) {
        let error = at.key("host").error(format!("\"{host}\" is not a host"));
        errors.push(error.hint("write a name, with a port if the server wants one: chat.internal"));
    }
}

fn port(number: u32, at: Cursor<'_>, errors: &mut Errors) -> Option<u16> {
    let port = u16::try_from(number).ok();
    if port.is_none() {
        errors.push(
            at.error(format!("{number} is not a port"))
                .hint("ports are numbers from 1 to 65535"),
        );
    }
    port
}

fn statuses(
    list: Vec<raw::Statuses>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<RangeInclusive<u16>>> {
    if list.is_empty() && !at.damaged() {
        errors.push(
            at.error("\"expect\" is empty: no answer could pass")
                .hint("write the statuses that pass, such as [200-399]"),
        );
    }
    let mut ranges = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let range = match entry {
            raw::Statuses::One(status) => range(&status.to_string(), &status.to_string()),
            raw::Statuses::Range(text) => text
                .split_once('-')
                .and_then(|(first, last)| range(first.trim(), last.trim()))
                .or_else(|| range(text, text)),
        };
        if range.is_none() {
            let written = match entry {
                raw::Statuses::One(status) => status.to_string(),
                raw::Statuses::Range(text) => format!("\"{text}\""),
            };
            errors.push(
                at.index(i)
                    .error(format!("{written} is neither a status nor a range of them"))
                    .hint("write a status from 100 to 599, or a range such as 200-399"),
            );
        }
        ranges.push(range);
    }
    let ranges: Vec<RangeInclusive<u16>> = ranges.into_iter().collect::<Option<_>>()?;
    // RFC 9110 section 15.2: interim statuses come before the answer. Only 101 is an answer itself.
    let is_interim = |status: u16| (100..200).contains(&status) && status != 101;
    if !ranges.is_empty() && ranges.iter().cloned().flatten().all(is_interim) {
        errors.push(
            at.error("\"expect\" has only statuses of interim answers: no answer could pass")
                .hint("write the statuses that pass, such as [200-399]"),
        );
    }
    Some(ranges)
}

fn range(first: &str, last: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| {
        let status: u16 = text.parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    };
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}
