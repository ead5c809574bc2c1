//! The request by which the auth server is asked: a GET without a body, and the fields of the
//! client's request.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Empty;

use super::AskError;
use crate::auth::endpoint::Endpoint;
use crate::forward::template::RequestVariables;
use crate::forward::{self, ForwardingOptions, HeaderRules, forwarded, lookalikes};

const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Fields that say something of the client's connection, of its body, of its handshake, or of a
/// copy that it has of what it asks for. They mean nothing in a question.
const NOT_ASKED: [HeaderName; 19] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// `listed`: the client's fields that the auth server gets. `None`: all but those of
/// [`NOT_ASKED`]. `target`: path and query as the server gets them. What is said of the client goes
/// by the trust rules, as it does to servers.
pub fn question(
    endpoint: &Endpoint,
    listed: Option<&[HeaderName]>,
    arrived: &RequestVariables<'_>,
    target: &[u8],
    options: ForwardingOptions<'_>,
) -> Result<Request<Empty<Bytes>>, AskError> {
    let uri = HeaderValue::from_bytes(target).map_err(|_| AskError::Unspeakable)?;
    let method = HeaderValue::from_str(arrived.method.as_str());
    let method = method.map_err(|_| AskError::Unspeakable)?;
    let mut request = Request::new(Empty::new());
    if let Some(target) = endpoint.uri.path_and_query() {
        *request.uri_mut() = target.clone().into();
    }
    let out = request.headers_mut();
    out.reserve(arrived.headers.len());
    for (name, value) in arrived.headers {
        let is_listed = listed.is_some_and(|listed| listed.contains(name));
        // What a trusted proxy passes may be its client's, and would name another target than the
        // one that is asked about.
        let is_asked = is_listed
            || !forwarded::names_a_target(name)
                && (forwarded::is_forwarding(name)
                    || listed.is_none() && !NOT_ASKED.contains(name));
        if is_asked {
            out.append(name, value.clone());
        }
    }
    forward::request_headers(out, arrived, &HeaderRules::default(), options);
    out.insert(METHOD, method);
    out.insert(URI, uri);
    out.insert(header::HOST, endpoint.host());
    // A trusted proxy may have sent fields that pass for these three.
    lookalikes::remove(out, &HeaderRules::default());
    Ok(request)
}

/// Whether the list of fields may have this name: it would break the question.
pub fn may_be_listed(name: &HeaderName) -> bool {
    let breaks = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        METHOD,
        URI,
    ];
    !breaks.contains(name)
}

#[cfg(test)]
mod tests;
