//! `affinity` of an upstream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use zeroize::Zeroizing;

use super::Errors;
use super::header_name::bad_name;
use crate::affinity::cookie::{Cookie, SameSite, Secure};
use crate::affinity::{AffinityKey, SECRET_MIN};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, OptionalPeriod, Period, Section};
use crate::config::{Affinity, Config, HeaderAffinity};
use crate::tls;

const IDLE: Duration = Duration::from_secs(60 * 60);
const MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");

/// Names that browsers take only from cookies with `Secure`.
const SECURE_PREFIXES: [&str; 2] = ["__host-", "__secure-"];

/// The keys that belong to a cookie.
const OF_COOKIE: [&str; 4] = ["max_age", "same_site", "secure", "key_file"];

/// `Some(None)`: there is none. `at`: the upstream.
pub fn affinity(
    upstream: &str,
    raw: Option<OffOr<raw::Affinity>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Option<Affinity>> {
    let Some(OffOr::On(raw)) = raw else {
        return (!at.key("affinity").damaged()).then_some(None);
    };
    let label = format!("\"affinity\" of upstream \"{upstream}\"");
    let at = at.key("affinity");
    match (at.has("cookie"), at.has("header")) {
        (true, true) => {
            let error = at
                .key("header")
                .key_error(format!("{label} has both \"cookie\" and \"header\""));
            errors.push(error.hint("remove one of them"));
            None
        }
        (false, false) => {
            if at.lacks("cookie") && at.lacks("header") {
                let error = at.key_error(format!("{label} has no \"cookie\" and no \"header\""));
                errors.push(
                    error.hint("write cookie: prusik, or header: { response: Mcp-Session-Id }"),
                );
            }
            None
        }
        (true, false) => by_cookie(&label, raw, at, errors).map(Some),
        (false, true) => {
            for key in OF_COOKIE.into_iter().filter(|key| at.has(key)) {
                let error = at.key(key).key_error(format!(
                    "\"{key}\" has no effect in {label}: there is no cookie"
                ));
                errors.push(error.hint("remove the key, or write cookie in place of header"));
            }
            let Section(raw) = raw.header?;
            by_header(&label, raw, at.key("header"), errors).map(Some)
        }
    }
}

fn by_cookie(
    label: &str,
    raw: raw::Affinity,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Affinity> {
    let key = match raw.key_file {
        Some(file) => key(label, &file, at.key("key_file"), errors).map(Some),
        None => (!at.key("key_file").damaged()).then_some(None),
    };
    let same_site = match raw.same_site {
        Some(raw::SameSite::Strict) => SameSite::Strict,
        Some(raw::SameSite::Lax) | None => SameSite::Lax,
        Some(raw::SameSite::None) => SameSite::None,
    };
    let secure = match raw.secure {
        Some(raw::Secure::Auto) | None => Secure::Auto,
        Some(raw::Secure::Always) => Secure::Always,
        Some(raw::Secure::Never) => Secure::Never,
    };
    if same_site == SameSite::None && secure != Secure::Always && !at.key("secure").damaged() {
        let error = at.key("same_site").error(format!(
            "{label}: browsers take a cookie with same_site: none only if it is secure"
        ));
        errors.push(error.hint("add secure: true"));
    }
    let max_age = match raw.max_age {
        Some(OptionalPeriod(max_age)) => max_age,
        None => None,
    };
    if max_age.is_some_and(|max_age| max_age.subsec_nanos() > 0) {
        let error = at
            .key("max_age")
            .error(format!("{label}: a cookie's age is whole seconds"));
        errors.push(error.hint("write a number of seconds, minutes, hours or days, such as 8h"));
    }
    let name = raw.cookie?;
    if !is_token(&name) {
        let error = at
            .key("cookie")
            .error(format!("\"{name}\" cannot be the name of a cookie"));
        errors.push(error.hint("names have letters, digits and dashes, such as prusik"));
    }
    let lower = name.to_ascii_lowercase();
    if SECURE_PREFIXES
        .iter()
        .any(|prefix| lower.starts_with(prefix))
        && secure != Secure::Always
    {
        let error = at.key("cookie").error(format!(
            "{label}: browsers take a cookie named \"{name}\" only if it is secure"
        ));
        errors.push(error.hint("add secure: true"));
    }
    Some(Affinity::Cookie {
        cookie: Cookie {
            name,
            max_age,
            same_site,
            secure,
        },
        key: key?,
    })
}

/// RFC 6265 section 4.1.1: a token of HTTP.
fn is_token(name: &str) -> bool {
    let is_in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_in_token)
}

/// Every byte of the file counts.
fn key(label: &str, file: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Arc<AffinityKey>> {
    let secret = match tls::read_file(Path::new(file)) {
        Ok(secret) => Zeroizing::new(secret),
        Err(wrong) => {
            let error = at.error(format!("{label}: {wrong}"));
            errors.push(match wrong.remedy() {
                Some(remedy) => error.hint(remedy),
                None => error,
            });
            return None;
        }
    };
    let length = secret.len();
    let key = AffinityKey::new(secret).map(Arc::new);
    if key.is_none() {
        let error = at.error(format!(
            "{label}: {file} holds {length} bytes, and a key has at least {SECRET_MIN}"
        ));
        errors
            .push(error.hint("make one of random bytes, for all nodes: openssl rand -out FILE 32"));
    }
    key
}

fn by_header(
    label: &str,
    raw: raw::AffinityHeader,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Affinity> {
    if at.lacks("response") {
        let error = at.key_error(format!("\"header\" in {label} has no \"response\""));
        errors
            .push(error.hint("name the header that servers set, such as response: Mcp-Session-Id"));
    }
    let mut name = |key: &str, name: String| match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Some(name),
        Err(_) => {
            errors.push(bad_name(&name, at.key(key)));
            None
        }
    };
    let request = raw.request.map(|request| name("request", request));
    let response = name("response", raw.response?)?;
    Some(Affinity::Header(HeaderAffinity {
        request: request.unwrap_or_else(|| Some(response.clone()))?,
        response,
        idle: raw.idle.map_or(IDLE, |Period(idle)| idle),
        max: raw.max.unwrap_or(MAX),
    }))
}

/// Cookies of one name, of which a browser keeps one for each host.
pub fn shared_cookies(config: &Config) -> Vec<String> {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    let mut warnings = Vec::new();
    for upstream in &config.upstreams {
        let Some(Affinity::Cookie { cookie, .. }) = &upstream.affinity else {
            continue;
        };
        match seen.entry(&cookie.name) {
            Entry::Vacant(free) => {
                free.insert(&upstream.name);
            }
            Entry::Occupied(other) => warnings.push(format!(
                "upstreams {:?} and {:?} both set the cookie {:?}: where they serve the same host, \
                 each replaces that of the other; give one of them another name",
                other.get(),
                upstream.name,
                cookie.name
            )),
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_upstreams_with_one_cookie_are_warned_of() {
        let text = "listeners: [{ listen: 127.0.0.1:1 }]\nupstreams:\n  a: &a { servers: \
                    [127.0.0.1:9080], affinity: { cookie: one } }\n  b: *a\n  c: { servers: \
                    [127.0.0.1:9080], affinity: { cookie: two } }\nroutes: [{ upstream: a }]\n";
        let config = crate::config::parse("test", text).unwrap();
        let warnings = config.warnings();
        let of_cookies: Vec<_> = warnings.iter().filter(|w| w.contains("cookie")).collect();
        assert_eq!(of_cookies.len(), 1, "{warnings:?}");
        assert!(of_cookies[0].starts_with("upstreams \"a\" and \"b\" both set the cookie \"one\""));
    }
}
