//! The conditions of a route.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::{HeaderMap, HeaderName, Method};
use regex::{Captures, Regex};

use super::path::Slashes;

/// The methods of RFC 9110, RFC 5789 and RFC 4918, except those that never reach a route.
pub const METHODS: [&str; 14] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "COPY",
    "LOCK",
    "MKCOL",
    "MOVE",
    "PROPFIND",
    "PROPPATCH",
    "UNLOCK",
];

/// A listener of a configuration: its position among the listeners of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(usize);

impl ListenerId {
    pub fn new(index: usize) -> Self {
        Self(index)
    }

    /// For lists in the order of the file's listeners.
    pub fn index(self) -> usize {
        self.0
    }
}

/// All conditions must hold. Empty ones always hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Matcher {
    pub listener: Option<ListenerId>,
    /// One of them must match.
    pub hosts: Vec<HostPattern>,
    pub path: PathMatch,
    /// Which normal form of a path is compared.
    pub slashes: Slashes,
    /// One field of the name must have exactly this value.
    pub headers: Vec<(HeaderName, String)>,
    pub methods: Vec<Method>,
}

/// A host name, or `*.` and a suffix for any number of labels before it. Lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// The suffix without `*.`.
    Wildcard(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    Any,
    Exact(String),
    /// Whole segments: `/IMS` is a prefix of `/IMS/x`, not of `/IMSX`. `/` is one of any path.
    Prefix(String),
    Regex(PathRegex),
}

/// Equal if the patterns are equal.
#[derive(Debug, Clone)]
pub struct PathRegex(Regex);

/// The parts of a request by which routes are found.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> {
    pub listener: ListenerId,
    /// With or without a port.
    pub host: &'a str,
    /// Without the query, in [normal form](super::normalise).
    pub path: &'a str,
    /// The form of the path. `None`: both forms are the same.
    pub slashes: Option<Slashes>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(address) = bracketed.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
            // In the only notation that browsers send.
            return Ok(Self::Exact(format!("[{address}]")));
        }
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (text, false),
        };
        let is_name = !name.is_empty()
            && name.split('.').all(|label| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if !is_name {
            return Err(format!("{text:?} is no host name"));
        }
        let name = name.to_ascii_lowercase();
        Ok(if wildcard {
            Self::Wildcard(name)
        } else {
            Self::Exact(name)
        })
    }

    /// `host`: as [`plain_host`] returns it.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|before| before.len() > 1 && before.ends_with('.')),
        }
    }
}

impl PathMatch {
    /// `path`: as [`super::path::normalise`] returns it.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) if prefix == "/" => true,
            Self::Prefix(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(|rest| {
                prefix.ends_with('/') || matches!(rest.as_bytes(), [] | [b'/', ..])
            }),
            Self::Regex(regex) => regex.0.is_match(path),
        }
    }
}

impl PathRegex {
    /// Not anchored, as in nginx, unless the pattern has `^` and `$`.
    pub fn parse(pattern: &str) -> Result<Self, regex::Error> {
        Regex::new(pattern).map(Self)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(super) fn is_match(&self, path: &str) -> bool {
        self.0.is_match(path)
    }

    pub(super) fn captures<'p>(&self, path: &'p str) -> Option<Captures<'p>> {
        self.0.captures(path)
    }

    /// Whether there is a group of this number or name.
    pub(super) fn has_group(&self, group: &str) -> bool {
        match group.parse::<usize>() {
            Ok(number) => number < self.0.captures_len(),
            Err(_) => self.0.capture_names().flatten().any(|name| name == group),
        }
    }
}

impl PartialEq for PathRegex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Matcher {
    /// `host`: in its plain form.
    #[cfg(test)]
    pub(super) fn matches(&self, request: &RequestKey<'_>, host: &str) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host)))
            && self.matches_beside_host(request)
    }

    /// Whether the conditions other than the host hold.
    pub(super) fn matches_beside_host(&self, request: &RequestKey<'_>) -> bool {
        self.listener
            .is_none_or(|listener| listener == request.listener)
            && request.slashes.is_none_or(|form| form == self.slashes)
            && self.path.matches(request.path)
            && (self.methods.is_empty() || self.methods.contains(request.method))
            && self.headers.iter().all(|(name, value)| {
                request
                    .headers
                    .get_all(name)
                    .iter()
                    .any(|found| found == value.as_str())
            })
    }

    /// Whether there are conditions other than listener, host and path.
    pub(super) fn has_other_conditions(&self) -> bool {
        !self.headers.is_empty() || !self.methods.is_empty()
    }
}

/// Only the name: without port and trailing dot, in lower case.
pub(super) fn plain_host(host: &str) -> Cow<'_, str> {
    let name = match host.find(']') {
        Some(end) => &host[..=end],
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_whole_segments() {
        let ims = PathMatch::Prefix("/IMS".to_owned());
        for (path, matches) in [
            ("/IMS", true),
            ("/IMS/", true),
            ("/IMS/x", true),
            ("/IMSX", false),
            ("/ims", false),
        ] {
            assert_eq!(ims.matches(path), matches, "{path}");
        }
        let below = PathMatch::Prefix("/IMS/".to_owned());
        assert!(below.matches("/IMS/") && below.matches("/IMS/x") && !below.matches("/IMS"));
        let root = PathMatch::Prefix("/".to_owned());
        assert!(root.matches("/anything") && root.matches("*"));
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let any = HostPattern::parse("*.Example.com").unwrap();
        assert!(any.matches("a.example.com") && any.matches("a.b.example.com"));
        assert!(!any.matches("example.com") && !any.matches("badexample.com"));
        assert!(!any.matches(".example.com"));
    }

    #[test]
    fn hosts_are_compared_without_port_case_and_final_dot() {
        assert_eq!(plain_host("Chat.Example.COM.:9090"), "chat.example.com");
        assert_eq!(plain_host("[::1]:9090"), "[::1]");
        assert_eq!(plain_host("127.0.0.1"), "127.0.0.1");
        assert_eq!(
            HostPattern::parse("[0:0::1]"),
            Ok(HostPattern::Exact("[::1]".to_owned()))
        );
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in [
            "", "*.", "a..b", "a b", "http://a", "a:80", "a.*.b", "[a b]", "*.[::1]", "[::1]:80",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
