//! Turns the fields of a stream into the head of an HTTP/1.1 request.
//!
//! This code does not check what the check of heads checks: a wrong value is written as it is, and
//! refused there with an answer and a line in the log.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, BytesMut};
use h2::ext::Protocol;
use http::{HeaderName, HeaderValue, Method, Request, header};

use crate::http1::authority::is_same;

/// How the stream's bytes follow the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// No bytes.
    None,
    /// This many bytes, unchanged.
    Length(u64),
    /// In chunks, because the length is not known.
    Chunked,
    /// Unchanged in both directions, because this is a session.
    Raw,
}

/// The stream asks for something that HTTP/1.1 cannot express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotInHttp1 {
    /// The `:protocol` is not `websocket`.
    Protocol,
    /// The `:scheme` is neither `http` nor `https`.
    Scheme,
}

/// What h2 has kept of the `:path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Whole,
    /// It was cut at a `#`.
    Cut,
}

const HOST: HeaderName = header::HOST;

/// Returns the head, and how the body follows. `is_whole`: the stream has ended with its fields.
pub fn head_of<T>(
    request: &Request<T>,
    is_whole: bool,
    completeness: Target,
) -> Result<(BytesMut, Body), NotInHttp1> {
    let uri = request.uri();
    let is_session = match request.extensions().get::<Protocol>() {
        None => false,
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => true,
        Some(_) => return Err(NotInHttp1::Protocol),
    };
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(NotInHttp1::Scheme);
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let is_connect = request.method() == Method::CONNECT && !is_session;
    let target = match uri.path_and_query() {
        Some(target) if !is_connect => target.as_str(),
        _ => authority,
    };
    let method = match is_session {
        true => "GET",
        false => request.method().as_str(),
    };

    let mut head = BytesMut::with_capacity(512);
    // The `#` is written so that the request is refused, as in HTTP/1.1.
    let hash = match completeness {
        Target::Whole => "",
        Target::Cut => "#",
    };
    for part in [method, " ", target, hash, " HTTP/1.1\r\n"] {
        head.put_slice(part.as_bytes());
    }
    put_fields(request, authority, is_session, &mut head);
    let length = request.headers().get(header::CONTENT_LENGTH);
    let body = if is_session {
        let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
        field(&mut head, "Sec-WebSocket-Key", key.as_bytes());
        field(&mut head, "Upgrade", b"websocket");
        field(&mut head, "Connection", b"Upgrade");
        Body::Raw
    } else {
        field(&mut head, "Connection", b"close");
        match length {
            Some(length) => {
                let length = length.to_str().ok().and_then(|length| length.parse().ok());
                Body::Length(length.unwrap_or(0))
            }
            None if is_whole => Body::None,
            None => {
                field(&mut head, "Transfer-Encoding", b"chunked");
                Body::Chunked
            }
        }
    };
    head.put_slice(b"\r\n");
    Ok((head, body))
}

/// Writes the client's own fields, with one `Host` and one `Cookie`.
fn put_fields<T>(request: &Request<T>, authority: &str, is_session: bool, head: &mut BytesMut) {
    // A `Host` equal to the authority is written once. Else both are written, and refused.
    let hosts = || request.headers().get_all(HOST).iter();
    if !authority.is_empty() {
        field(head, "Host", authority.as_bytes());
    }
    let port = if request.uri().scheme_str() == Some("http") {
        80
    } else {
        443
    };
    let is_other = |host: &&HeaderValue| !is_same(host.as_bytes(), authority.as_bytes(), port);
    for host in hosts().filter(is_other) {
        field(head, "Host", host.as_bytes());
    }
    let mut cookies = request.headers().get_all(header::COOKIE).iter();
    if let Some(first) = cookies.next() {
        // RFC 9113 section 8.2.3: the parts of a cookie become one field again.
        head.put_slice(b"Cookie: ");
        head.put_slice(first.as_bytes());
        for crumb in cookies {
            head.put_slice(b"; ");
            head.put_slice(crumb.as_bytes());
        }
        head.put_slice(b"\r\n");
    }
    for (name, value) in request.headers() {
        let is_written = name == HOST
            || name == header::COOKIE
            || name == header::TE
            || is_session && name == header::SEC_WEBSOCKET_KEY;
        if !is_written {
            field(head, &in_letters(name.as_str()), value.as_bytes());
        }
    }
}

/// Words with unusual capital letters, in the notation of the RFCs that define them.
const WORDS: [(&str, &str); 16] = [
    ("ch", "CH"),
    ("dnt", "DNT"),
    ("dpr", "DPR"),
    ("ect", "ECT"),
    ("etag", "ETag"),
    ("gpc", "GPC"),
    ("http2", "HTTP2"),
    ("id", "ID"),
    ("ip", "IP"),
    ("md5", "MD5"),
    ("rtt", "RTT"),
    ("te", "TE"),
    ("ua", "UA"),
    ("websocket", "WebSocket"),
    ("www", "WWW"),
    ("xss", "XSS"),
];

/// The name of a field in the usual letters of HTTP/1.1: `Sec-WebSocket-Key`. Case has no meaning,
/// but some servers and devices know only these letters.
pub fn in_letters(name: &str) -> String {
    let mut written = String::with_capacity(name.len());
    for (number, word) in name.split('-').enumerate() {
        if number > 0 {
            written.push('-');
        }
        match WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, letters)) => written.push_str(letters),
            None => {
                let mut letters = word.chars();
                written.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                written.push_str(letters.as_str());
            }
        }
    }
    written
}

fn field(head: &mut BytesMut, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.put_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::HeadCheck;

    fn of(request: http::request::Builder, is_whole: bool) -> (String, Body) {
        let (head, body) = head_of(&request.body(()).unwrap(), is_whole, Target::Whole).unwrap();
        (String::from_utf8(head.to_vec()).unwrap(), body)
    }

    #[test]
    fn fields_become_a_head() {
        let request = Request::get("https://a.test:8443/x?y=1")
            .header("cookie", "a=1")
            .header("x-one", "1")
            .header("cookie", "b=2")
            .header("host", "A.test:8443")
            .header("te", "trailers");
        let (head, body) = of(request, true);
        assert_eq!(
            head,
            "GET /x?y=1 HTTP/1.1\r\nHost: a.test:8443\r\nCookie: a=1; b=2\r\nX-One: 1\r\n\
             Connection: close\r\n\r\n"
        );
        assert_eq!(body, Body::None);
    }

    #[test]
    fn a_target_that_was_cut_is_one_that_is_refused() {
        let request = Request::get("https://a/x#y").body(()).unwrap();
        let (head, _) = head_of(&request, true, Target::Cut).unwrap();
        assert!(head.starts_with(b"GET /x# HTTP/1.1\r\n"));
        let refused = HeadCheck::default().feed(&head);
        assert_eq!(
            refused.err().map(|rejection| rejection.status.as_u16()),
            Some(400)
        );
    }

    #[test]
    fn a_body_is_framed_by_its_length_or_in_chunks() {
        let (head, body) = of(Request::post("https://a/"), false);
        assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
        assert_eq!(body, Body::Chunked);
        let request = Request::post("https://a/").header("content-length", "3");
        let (head, body) = of(request, false);
        assert!(!head.contains("Transfer-Encoding"), "{head}");
        assert_eq!(body, Body::Length(3));
    }

    #[test]
    fn names_are_written_in_the_letters_of_http_1() {
        for name in [
            "Sec-WebSocket-Protocol",
            "Content-Type",
            "ETag",
            "Sec-CH-UA-Mobile",
            "X-Real-IP",
            "X",
            "X-",
        ] {
            assert_eq!(in_letters(&name.to_ascii_lowercase()), name);
        }
    }

    #[test]
    fn one_authority_in_two_spellings_is_one_host() {
        for host in ["A", "a:443", "a:"] {
            let (head, _) = of(Request::get("https://a/").header("host", host), true);
            assert_eq!(head.matches("Host: ").count(), 1, "{head}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_written_as_it_is() {
        let request = Request::get("https://a/").header("host", "b");
        assert!(of(request, true).0.contains("Host: a\r\nHost: b\r\n"));
        let (head, _) = of(Request::connect("a:443"), false);
        assert!(head.starts_with("CONNECT a:443 HTTP/1.1\r\n"), "{head}");
    }

    #[test]
    fn an_extended_connect_becomes_a_handshake() {
        let mut request = Request::connect("https://a/chat?x")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "theirs")
            .body(())
            .unwrap();
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (head, body) = head_of(&request, false, Target::Whole).unwrap();
        let head = String::from_utf8(head.to_vec()).unwrap();
        assert!(
            head.starts_with("GET /chat?x HTTP/1.1\r\nHost: a\r\n"),
            "{head}"
        );
        assert!(head.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"));
        assert!(!head.contains("theirs"));
        assert_eq!(body, Body::Raw);
        request
            .extensions_mut()
            .insert(Protocol::from_static("connect-udp"));
        assert_eq!(
            head_of(&request, false, Target::Whole).err(),
            Some(NotInHttp1::Protocol)
        );
    }
}
