//! Who may call the API. The API has no users, only an address and perhaps a token. It must be
//! protected from the operator's own browser when that shows a hostile page.
//!
//! 1. `Host` must be an IP address or `localhost`. An attacker's name could be pointed to this
//!    address after its page was loaded (DNS rebinding), and the browser would treat page and API
//!    as one site. The rule holds on a unix socket too: browsers cannot reach it, but a forwarder
//!    in front of it may.
//! 2. A call that changes something must not come from a foreign page. Browsers add `Origin` to
//!    it, and tools do not. Our own page has the address to which the call is sent, and adds a
//!    field that no other page can add without asking first.
//! 3. With a token file, every call except the page and the two probes needs the token. If the
//!    file cannot be used, the API is closed, so that a deployment mistake does not open it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, Version};
use itertools::Itertools;
use log::{error, info};

use super::answer::Problem;
use crate::config::token::{Token, TokenError};

/// The token that calls need. Clones share it.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None`: no token is needed.
    token_file: ArcSwapOption<PathBuf>,
    /// Whether the file could not be used at the last call. Only changes of this are logged.
    is_broken: AtomicBool,
}

/// The field that our own page adds. A form cannot add it, and a script of another origin must ask
/// first, which is never granted (CORS).
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

impl Access {
    pub fn new(token_file: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            token_file: ArcSwapOption::from_pointee(token_file),
            is_broken: AtomicBool::new(false),
        }))
    }

    /// Called at a reload. Takes effect with the next call.
    pub fn set_token_file(&self, token_file: Option<PathBuf>) {
        self.0.token_file.store(token_file.map(Arc::new));
    }

    /// Checks the three rules above in their order. Returns whether the call has the token.
    pub fn check(&self, call: &Parts) -> Result<bool, Problem> {
        check_host(call)?;
        check_site(call)?;
        if is_open(call.uri.path()) {
            return Ok(false);
        }
        match self.token()? {
            Some(token) => check_token(&call.headers, &token).map(|()| true),
            None => Ok(false),
        }
    }

    /// The file is read at every call: it is small, and so a changed token works at once, without
    /// relying on file times.
    fn token(&self) -> Result<Option<Token>, Problem> {
        let Some(path) = self.0.token_file.load_full() else {
            return Ok(None);
        };
        match Token::read(&path) {
            Ok(token) => {
                if self.0.is_broken.swap(false, Ordering::Relaxed) {
                    info!("admin: the token file {} can be used again", path.display());
                }
                Ok(Some(token))
            }
            Err(error) => Err(self.shut(&error)),
        }
    }

    fn shut(&self, cause: &TokenError) -> Problem {
        if !self.0.is_broken.swap(true, Ordering::Relaxed) {
            error!("admin: every call is refused: {cause}");
        }
        unauthorized(
            "no call is served: prusik cannot use its token file",
            "see prusik's log for the reason",
        )
    }
}

/// The two probes, which have no token and are told a single bit, and the page, which shows nothing
/// before it gets the token.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/healthz" | "/readyz")
}

fn check_host(call: &Parts) -> Result<(), Problem> {
    let is_safe = match call.headers.get_all(HOST).iter().at_most_one() {
        Ok(Some(host)) => host.to_str().is_ok_and(is_safe_host),
        // Old probes such as HAProxy's send no `Host`. Browsers do not speak HTTP/1.0.
        Ok(None) => call.version < Version::HTTP_11,
        Err(_) => false,
    };
    let target_is_safe = match call.uri.authority() {
        Some(authority) => is_safe_host(authority.as_str()),
        None => true,
    };
    if is_safe && target_is_safe {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "the call's Host is neither an IP address nor localhost",
        "call prusik by its address, such as http://127.0.0.1:9900, or on a unix socket http://localhost",
    ))
}

/// The port does not matter.
fn is_safe_host(host: &str) -> bool {
    let (is_safe, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
            let is_address = name.parse::<Ipv4Addr>().is_ok();
            (is_address || name.eq_ignore_ascii_case("localhost"), port)
        }
    };
    let port_is_sound = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_safe && port_is_sound
}

fn check_site(call: &Parts) -> Result<(), Problem> {
    if matches!(call.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let is_cross_site = call
        .headers
        .get_all("sec-fetch-site")
        .iter()
        .any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"));
    if (call.headers.contains_key(ORIGIN) && !is_own_page(call)) || is_cross_site {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a web page must not change anything",
            "use the prusik command, or a tool that sends no Origin, such as curl",
        ));
    }
    Ok(())
}

/// Only we can serve a page from this address or from `localhost`. A page of a name could be
/// anybody's, also on a unix socket behind somebody's TCP port.
fn is_own_page(call: &Parts) -> bool {
    let only = |name| {
        let value = call.headers.get_all(name).iter().exactly_one().ok()?;
        value.to_str().ok()
    };
    let origin = only(ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
    origin.is_some_and(is_safe_host)
        && origin == only(HOST)
        && only(X_REQUESTED_WITH).is_some_and(|by| by == "prusik")
}

fn check_token(headers: &HeaderMap, token: &Token) -> Result<(), Problem> {
    let field = headers.get_all(AUTHORIZATION).iter().exactly_one().ok();
    let offered = field.and_then(|field| bearer(field.as_bytes()));
    match offered {
        Some(offered) if token.matches(offered) => Ok(()),
        Some(_) => Err(unauthorized(
            "the token is wrong",
            "give the token of admin.token_file; on the command line: --token-file FILE",
        )),
        None => Err(unauthorized(
            "the call carries no token",
            "send Authorization: Bearer TOKEN; on the command line: --token-file FILE",
        )),
    }
}

/// The name of the scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field.split_at_checked("bearer".len())?;
    let token = rest.strip_prefix(b" ")?.trim_ascii_start();
    scheme.eq_ignore_ascii_case(b"bearer").then_some(token)
}

fn unauthorized(error: &str, hint: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, error, hint).with(WWW_AUTHENTICATE, "Bearer")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use http::Request;

    use super::*;

    fn call(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(access: &Access, call: &Parts) -> u16 {
        match access.check(call) {
            Ok(_) => 200,
            Err(problem) => problem.status.as_u16(),
        }
    }

    fn status_of(method: &str, fields: &[(&str, &str)]) -> u16 {
        status(&Access::new(None), &call(method, "/api/v1/status", fields))
    }

    #[test]
    fn host_is_an_address_or_localhost_with_any_port() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "10.1.2.3:80",
            "localhost",
            "LocalHost:9900",
            "[::1]",
            "[fe80::1]:9900",
        ] {
            assert_eq!(status_of("GET", &[("host", host)]), 200, "{host}");
        }
    }

    #[test]
    fn any_other_host_is_refused() {
        for host in [
            "",
            "evil.example",
            "evil.example:9900",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil@localhost",
            "localhost:80@evil.example",
            "::1",
            "[::1].evil.example",
            "[evil.example]",
            "[::1",
            "127.1",
            "0x7f000001",
            "localhost:http",
            "localhost, evil.example",
        ] {
            assert_eq!(status_of("GET", &[("host", host)]), 403, "{host}");
        }
    }

    #[test]
    fn a_host_is_named_once_and_everywhere_safely() {
        assert_eq!(status_of("GET", &[]), 403);
        let twice = [("host", "127.0.0.1"), ("host", "127.0.0.1")];
        assert_eq!(status_of("GET", &twice), 403);
        let access = Access::new(None);
        let target = call("GET", "http://evil.example/", &[("host", "127.0.0.1")]);
        assert_eq!(status(&access, &target), 403);
        let mut old = call("GET", "/readyz", &[]);
        old.version = Version::HTTP_10;
        assert_eq!(status(&access, &old), 200);
    }

    #[test]
    fn what_changes_something_must_not_come_from_a_page() {
        let host = ("host", "127.0.0.1:9900");
        for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
            assert_eq!(status_of(method, &[host]), 200, "{method}");
            for field in [
                ("origin", "https://evil.example"),
                ("origin", "null"),
                ("origin", "http://127.0.0.1:9900"),
                ("sec-fetch-site", "cross-site"),
            ] {
                assert_eq!(status_of(method, &[host, field]), 403, "{method} {field:?}");
            }
        }
        let fields = [host, ("origin", "https://evil.example")];
        assert_eq!(status_of("GET", &fields), 200);
        assert_eq!(status_of("HEAD", &fields), 200);
    }

    #[test]
    fn our_own_page_may_and_no_other_that_says_it_is() {
        let host = ("host", "127.0.0.1:9900");
        let page = ("x-requested-with", "prusik");
        let post = |origin: &'static str| status_of("POST", &[host, page, ("origin", origin)]);
        assert_eq!(post("http://127.0.0.1:9900"), 200);
        for origin in [
            "http://127.0.0.1:9901",
            "https://127.0.0.1:9900",
            "http://localhost:9900",
            "http://127.0.0.1",
            "null",
        ] {
            assert_eq!(post(origin), 403, "{origin}");
        }
        let own = ("origin", "http://127.0.0.1:9900");
        assert_eq!(
            status_of("POST", &[host, own, ("x-requested-with", "x")]),
            403
        );
        assert_eq!(status_of("POST", &[host, page, own, own]), 403);
        let site = ("sec-fetch-site", "cross-site");
        assert_eq!(status_of("POST", &[host, page, own, site]), 403);
        // Through a port that leads to the socket, after DNS rebinding.
        let fields = [
            ("host", "evil.test:9900"),
            page,
            ("origin", "http://evil.test:9900"),
        ];
        let rebound = call("POST", "/api/v1/reload", &fields);
        assert_eq!(status(&Access::new(None), &rebound), 403);
    }

    #[test]
    fn with_a_token_file_all_but_the_page_and_the_probes_needs_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "s3cret\n").unwrap();
        let access = Access::new(Some(path.clone()));
        let try_with = |uri, fields: &[_]| {
            let fields = [&[("host", "localhost")], fields].concat();
            match access.check(&call("GET", uri, &fields)) {
                Ok(_) => 200,
                Err(problem) => {
                    let (name, value) = problem.field.unwrap();
                    assert_eq!((name, value), (WWW_AUTHENTICATE, "Bearer"));
                    problem.status.as_u16()
                }
            }
        };
        for probe in ["/", "/healthz", "/readyz"] {
            assert_eq!(try_with(probe, &[]), 200);
        }
        let api = "/api/v1/status";
        for good in ["Bearer s3cret", "bearer   s3cret"] {
            assert_eq!(try_with(api, &[("authorization", good)]), 200, "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearers3cret",
            "Basic s3cret",
        ] {
            assert_eq!(try_with(api, &[("authorization", bad)]), 401, "{bad}");
        }
        let good = ("authorization", "Bearer s3cret");
        for fields in [&[][..], &[good, good]] {
            assert_eq!(try_with(api, fields), 401);
        }
        for elsewhere in ["//", "/metrics", "/healthz/", "/api/v1/upstreams"] {
            assert_eq!(try_with(elsewhere, &[]), 401, "{elsewhere}");
        }

        fs::write(&path, "s4cret\n").unwrap();
        assert_eq!(try_with(api, &[good]), 401);
        assert_eq!(try_with(api, &[("authorization", "Bearer s4cret")]), 200);

        fs::write(&path, "\n").unwrap();
        assert_eq!(try_with(api, &[("authorization", "Bearer ")]), 401);
        fs::remove_file(&path).unwrap();
        assert_eq!(try_with(api, &[good]), 401);
        assert_eq!(try_with("/readyz", &[]), 200);

        access.set_token_file(None);
        assert_eq!(try_with(api, &[]), 200);
    }
}
