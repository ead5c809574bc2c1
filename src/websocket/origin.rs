//! From which pages a session may be opened (RFC 6455 section 10.2).

use http::{HeaderMap, StatusCode, header};
use itertools::Itertools;

use crate::http1::Rejection;

/// A rule for the `Origin` of those who may open a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// In lower case, as browsers send it: `scheme://host[:port]`, `null`, `file://`.
    Exact(String),
    /// `https://*.example.com:8443`: all subdomains, with the same port.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com:8443`
        suffix: String,
    },
    /// A request without `Origin`, which no browser sends.
    Absent,
}

impl OriginPattern {
    /// `origin`: in lower case.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == origin,
            Self::Below { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_suffix(suffix.as_str()))
                .is_some_and(is_labels),
            Self::Absent => false,
        }
    }
}

/// Whether the text is one or more labels of a host name.
fn is_labels(text: &str) -> bool {
    text.split('.').all(|label| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(is_plain)
    })
}

/// Whether the route's list of origins allows this request (RFC 6455 section 10.2).
pub fn check_origin(admitted: &[OriginPattern], headers: &HeaderMap) -> Result<(), Rejection> {
    if admitted.is_empty() {
        return Ok(());
    }
    let is_admitted = match headers.get_all(header::ORIGIN).iter().at_most_one() {
        Ok(None) => admitted.contains(&OriginPattern::Absent),
        Ok(Some(origin)) => {
            let sent = origin.as_bytes().to_ascii_lowercase();
            let sent = str::from_utf8(&sent).unwrap_or_default();
            admitted.iter().any(|pattern| pattern.matches(sent))
        }
        Err(_) => false,
    };
    if is_admitted {
        return Ok(());
    }
    Err(Rejection::new(
        StatusCode::FORBIDDEN,
        "this Origin is not admitted",
    ))
}
