use http::{HeaderMap, Method};

use super::*;
use crate::forward::client_address::{ClientAddress, ClientField};
use crate::forward::{Forwarded, Trust};

fn asked(
    fields: &[(&'static str, &'static str)],
    listed: Option<&[HeaderName]>,
    trust: Trust,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let peer = "192.0.2.7:1234".parse().unwrap();
    let request_id = HeaderValue::from_static("7");
    let arrived = RequestVariables {
        headers: &headers,
        method: &Method::DELETE,
        target: b"/app/x?a=b",
        path: None,
        authority: None,
        scheme: "https",
        client_subject: None,
        local: Some("192.0.2.1:443".parse().unwrap()),
        peer: Some(peer),
        client: ClientAddress::Ip(peer.ip()),
        server: None,
        caller: None,
        request_id: &request_id,
    };
    let endpoint = Endpoint {
        uri: "http://auth.internal:4181/verify?kind=chat"
            .parse()
            .unwrap(),
        tls: None,
    };
    let options = ForwardingOptions {
        forwarded: Forwarded::XForwarded,
        trust,
        field: ClientField::Either,
        answered: &[],
    };
    let request = question(&endpoint, listed, &arrived, b"/x?a=b", options).unwrap();
    assert_eq!(request.method(), Method::GET);
    assert_eq!(request.uri(), "/verify?kind=chat");
    request.headers().clone()
}

fn text(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    values
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

const HANDSHAKE: [(&str, &str); 15] = [
    ("host", "chat.test:81"),
    ("connection", "Upgrade, X-Hop"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "k"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-protocol", "bearer, t"),
    ("origin", "https://a.test"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("authorization", "Bearer t"),
    ("x-hop", "1"),
    ("content-length", "7"),
    ("if-none-match", "x"),
    ("x-forwarded-uri", "/admin"),
    ("x_forwarded_method", "GET"),
];

#[test]
fn the_auth_server_learns_what_is_asked_for_and_by_whom() {
    let out = asked(&HANDSHAKE, None, Trust::Untrusted);
    for (name, value) in [
        ("host", "auth.internal:4181"),
        ("x-forwarded-method", "DELETE"),
        ("x-forwarded-uri", "/x?a=b"),
        ("x-forwarded-host", "chat.test:81"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-port", "443"),
        ("x-request-id", "7"),
        ("sec-websocket-protocol", "bearer, t"),
        ("origin", "https://a.test"),
        ("authorization", "Bearer t"),
    ] {
        assert_eq!(text(&out, name), [value], "{name}");
    }
    assert_eq!(text(&out, "cookie"), ["a=1", "b=2"]);
    for name in [
        "connection",
        "upgrade",
        "sec-websocket-key",
        "x-hop",
        "content-length",
        "if-none-match",
        "x_forwarded_method",
    ] {
        assert!(!out.contains_key(name), "{name}");
    }
}

#[test]
fn only_listed_fields_go_if_there_is_a_list() {
    let listed = [header::COOKIE];
    let out = asked(&HANDSHAKE, Some(&listed), Trust::Untrusted);
    assert_eq!(text(&out, "cookie"), ["a=1", "b=2"]);
    assert_eq!(text(&out, "x-forwarded-uri"), ["/x?a=b"]);
    assert!(!out.contains_key(header::AUTHORIZATION));
    assert!(!out.contains_key(header::ORIGIN));
}

#[test]
fn a_trusted_proxy_says_who_the_client_is_and_not_what_is_asked_for() {
    let fields = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-uri", "/public"),
        ("x_forwarded_uri", "/public"),
    ];
    let listed = [header::COOKIE];
    let out = asked(&fields, Some(&listed), Trust::Trusted);
    assert_eq!(text(&out, "x-forwarded-for"), ["203.0.113.9, 192.0.2.7"]);
    assert_eq!(text(&out, "x-forwarded-proto"), ["http"]);
    assert_eq!(text(&out, "x-forwarded-method"), ["DELETE"]);
    assert_eq!(text(&out, "x-forwarded-uri"), ["/x?a=b"]);
    assert!(!out.contains_key("x_forwarded_uri"));
}

#[test]
fn what_frames_a_question_cannot_be_listed() {
    assert!(may_be_listed(&header::COOKIE));
    for name in [header::HOST, header::CONTENT_LENGTH, header::UPGRADE] {
        assert!(!may_be_listed(&name), "{name}");
    }
}
