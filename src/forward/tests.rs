mod answered;
use http::Method;

use super::client_address::{ClientAddress, TrustedProxies};
use super::*;
use crate::forward::template::Template;

#[test]
fn other_names_of_forwarding_headers_are_known_and_an_applications_own_are_not() {
    for (name, is_forwarding, names_a_target) in [
        ("x-original-uri", true, true),
        ("x_original_method", true, true),
        ("x-original-host", true, true),
        ("x-rewrite-url", true, true),
        ("x-envoy-original-path", true, true),
        ("x-original-forwarded-for", true, false),
        ("x-forwarded-anything", true, false),
        ("x-url-scheme", true, false),
        ("x-original-filename", false, false),
        ("x-original-", false, false),
        ("x-own", false, false),
        ("cookie", false, false),
    ] {
        let field = HeaderName::from_static(name);
        assert_eq!(forwarded::is_forwarding(&field), is_forwarding, "{name}");
        assert_eq!(forwarded::names_a_target(&field), names_a_target, "{name}");
    }
}

/// The fields that leave, as `name: value` lines, for a request with these from this peer.
fn leave(
    fields: &[(&'static str, &str)],
    rules: &HeaderRules,
    mode: Forwarded,
    peer: impl Into<Option<&'static str>>,
) -> Vec<String> {
    leave_by(ClientField::Either, fields, rules, mode, peer)
}

/// As [`leave`], where only this field counts.
fn leave_by(
    field: ClientField,
    fields: &[(&'static str, &str)],
    rules: &HeaderRules,
    mode: Forwarded,
    peer: impl Into<Option<&'static str>>,
) -> Vec<String> {
    let mut arrived = HeaderMap::new();
    arrived.insert("host", HeaderValue::from_static("chat.example.com:9090"));
    for (name, value) in fields {
        if *name == "host" {
            arrived.remove("host");
        }
        arrived.append(*name, value.parse().unwrap());
    }
    let trusted = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
    let peer = peer.into().map(|peer| peer.parse().unwrap());
    let trust = if trusted.trusts_peer(peer) {
        Trust::Trusted
    } else {
        Trust::Untrusted
    };
    let request = RequestVariables {
        client: ClientAddress::find(peer, &arrived, &trusted, field),
        headers: &arrived,
        method: &Method::GET,
        target: b"/",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: Some("127.0.0.1:9090".parse().unwrap()),
        peer,
        server: None,
        caller: None,
        request_id: &REQUEST,
    };
    let mut out = arrived.clone();
    let options = ForwardingOptions {
        forwarded: mode,
        trust,
        field,
        answered: &[],
    };
    request_headers(&mut out, &request, rules, options);
    let mut lines: Vec<_> = out
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let name = lines.iter().position(|line| line == "x-request-id: 7");
    lines.remove(name.expect("a request has its name"));
    lines
}

static REQUEST: HeaderValue = HeaderValue::from_static("7");

const CLIENT: &str = "192.0.2.7:41000";
const PROXY: &str = "10.0.0.2:41000";

#[test]
fn the_defaults_say_who_asked_for_what() {
    let lines = leave(&[], &HeaderRules::default(), Forwarded::XForwarded, CLIENT);
    assert_eq!(
        lines,
        [
            "host: chat.example.com:9090",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: chat.example.com:9090",
            "x-forwarded-port: 9090",
            "x-forwarded-proto: http",
            "x-real-ip: 192.0.2.7",
        ]
    );
}

#[test]
fn what_an_untrusted_client_says_of_itself_does_not_pass() {
    let lies = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "admin"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
    ];
    let honest = leave(&[], &HeaderRules::default(), Forwarded::XForwarded, CLIENT);
    assert_eq!(
        leave(
            &lies,
            &HeaderRules::default(),
            Forwarded::XForwarded,
            CLIENT
        ),
        honest
    );
    let off = leave(&lies, &HeaderRules::default(), Forwarded::Off, CLIENT);
    assert_eq!(off, ["host: chat.example.com:9090"]);
}

#[test]
fn a_trusted_proxy_is_carried_on() {
    let said = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example.com"),
    ];
    let lines = leave(&said, &HeaderRules::default(), Forwarded::XForwarded, PROXY);
    assert_eq!(
        lines,
        [
            "host: chat.example.com:9090",
            "x-forwarded-for: 203.0.113.9, 10.0.0.2",
            "x-forwarded-host: shop.example.com",
            "x-forwarded-port: 9090",
            "x-forwarded-proto: https",
            "x-real-ip: 203.0.113.9",
        ]
    );
}

/// The values of the fields of this name that leave.
fn values(
    name: &str,
    fields: &[(&'static str, &str)],
    mode: Forwarded,
    peer: impl Into<Option<&'static str>>,
) -> Vec<String> {
    leave(fields, &HeaderRules::default(), mode, peer)
        .iter()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_whole_family_is_closed_to_the_untrusted_in_either_spelling() {
    let lies = [
        ("x_forwarded_for", "127.0.0.1"),
        ("x_real_ip", "127.0.0.1"),
        ("x-forwarded-prefix", "/admin"),
        ("x-forwarded-ssl", "on"),
        ("x-forward", "is another"),
    ];
    let lines = leave(&lies, &HeaderRules::default(), Forwarded::Off, CLIENT);
    assert_eq!(
        lines,
        ["host: chat.example.com:9090", "x-forward: is another"]
    );
}

#[test]
fn a_peer_on_a_unix_socket_adds_nothing_to_a_list_that_is_there() {
    let said = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.99"),
    ];
    let list = values("x-forwarded-for", &said, Forwarded::XForwarded, None);
    assert_eq!(list, ["203.0.113.9", "203.0.113.99"]);
    let said = [("forwarded", "for=203.0.113.9")];
    assert_eq!(
        values("forwarded", &said, Forwarded::Rfc7239, None),
        ["for=203.0.113.9"]
    );
    assert!(values("x-forwarded-for", &[], Forwarded::XForwarded, None).is_empty());
    let own = values("forwarded", &[], Forwarded::Rfc7239, None);
    assert_eq!(
        own,
        ["for=unknown;proto=http;host=\"chat.example.com:9090\""]
    );
}

#[test]
fn the_client_is_not_lost_between_the_two_forms() {
    let said = [("forwarded", "for=203.0.113.9")];
    let list = values("x-forwarded-for", &said, Forwarded::XForwarded, PROXY);
    assert_eq!(list, ["203.0.113.9, 10.0.0.2"]);
    let said = [("x-forwarded-for", "203.0.113.9")];
    let list = values("forwarded", &said, Forwarded::Rfc7239, PROXY);
    assert_eq!(
        list,
        ["for=203.0.113.9, for=10.0.0.2;proto=http;host=\"chat.example.com:9090\""]
    );
}

#[test]
fn a_host_that_is_none_writes_no_element() {
    let list = values(
        "forwarded",
        &[("host", "x, for=8.8.8.8")],
        Forwarded::Rfc7239,
        CLIENT,
    );
    assert!(
        list[0].starts_with("for=192.0.2.7;proto=http") && !list[0].contains("8.8"),
        "{list:?}"
    );
}

#[test]
fn a_client_behind_a_trusted_proxy_cannot_nominate_what_the_proxy_said() {
    let said = [
        ("connection", "X-Forwarded-Proto, X-Forwarded-For"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.9"),
    ];
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.9, 10.0.0.2"),
    ] {
        assert_eq!(values(name, &said, Forwarded::XForwarded, PROXY), [value]);
    }
}

#[test]
fn rfc_7239_gets_an_element_for_this_hop() {
    let said = [("forwarded", "for=203.0.113.9;proto=https")];
    let lines = leave(&said, &HeaderRules::default(), Forwarded::Rfc7239, PROXY);
    assert_eq!(
        lines,
        [
            "forwarded: for=10.0.0.2;proto=http;host=\"chat.example.com:9090\"",
            "forwarded: for=203.0.113.9;proto=https",
            "host: chat.example.com:9090",
        ]
    );
    let v6 = leave(
        &[],
        &HeaderRules::default(),
        Forwarded::Rfc7239,
        "[2001:db8::1]:5",
    );
    assert!(
        v6[0].starts_with("forwarded: for=\"[2001:db8::1]\";"),
        "{v6:?}"
    );
}

#[test]
fn a_connection_field_takes_away_the_clients_own_fields_but_none_of_ours() {
    let nominating = [
        (
            "connection",
            "keep-alive, X-Forwarded-For, X-Real-IP, Host, X-Secret",
        ),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("x-secret", "1"),
        ("x-kept", "1"),
    ];
    let lines = leave(
        &nominating,
        &HeaderRules::default(),
        Forwarded::XForwarded,
        CLIENT,
    );
    for wanted in [
        "host: chat.example.com:9090",
        "x-forwarded-for: 192.0.2.7",
        "x-real-ip: 192.0.2.7",
        "x-kept: 1",
    ] {
        assert!(
            lines.iter().any(|line| line == wanted),
            "{wanted} in {lines:?}"
        );
    }
    for gone in ["keep-alive", "te:", "x-secret"] {
        assert!(
            !lines.iter().any(|line| line.starts_with(gone)),
            "{gone} in {lines:?}"
        );
    }
}

#[test]
fn a_route_removes_sets_and_adds_in_this_order() {
    let template = |text| Template::parse(text).unwrap();
    let named = |name: &'static str, text| {
        (
            HeaderName::from_static(name),
            name.to_owned(),
            template(text),
        )
    };
    let rules = HeaderRules {
        set: vec![
            named("host", "$host:$server_port"),
            named("remote_addr", "$remote_addr"),
            named("x-forwarded-for", "$proxy_add_x_forwarded_for"),
            named("x-empty", "$arg_absent"),
        ],
        add: vec![named("x-tag", "two")],
        remove: vec![HeaderName::from_static("x-debug")],
    };
    let fields = [
        ("x-forwarded-for", "198.51.100.1"),
        ("x-debug", "1"),
        ("x-empty", "was here"),
        ("x-tag", "one"),
    ];
    let lines = leave(&fields, &rules, Forwarded::Off, CLIENT);
    assert_eq!(
        lines,
        [
            "host: chat.example.com:9090",
            "remote_addr: 192.0.2.7",
            "x-forwarded-for: 198.51.100.1, 192.0.2.7",
            "x-tag: one",
            "x-tag: two",
        ]
    );
}

#[test]
fn the_field_that_does_not_count_does_not_pass() {
    let fields = [
        ("x-forwarded-for", "198.51.100.7"),
        ("forwarded", "for=203.0.113.9"),
    ];
    let rules = HeaderRules::default();
    let lines = |field, mode| {
        let lines = leave_by(field, &fields, &rules, mode, PROXY);
        let lists = lines.into_iter().filter(|line| line.contains("for"));
        lists
            .filter(|line| !line.contains("-p"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        lines(ClientField::Forwarded, Forwarded::XForwarded),
        [
            "forwarded: for=203.0.113.9",
            "x-forwarded-for: 203.0.113.9, 10.0.0.2",
            "x-forwarded-host: chat.example.com:9090",
        ]
    );
    assert_eq!(
        lines(ClientField::XForwardedFor, Forwarded::Off),
        ["x-forwarded-for: 198.51.100.7"]
    );
}

#[test]
fn a_response_loses_what_was_meant_for_one_connection() {
    let mut response = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2,h2c"),
        ("server", "t"),
    ] {
        response.insert(name, HeaderValue::from_static(value));
    }
    let arrived = HeaderMap::new();
    let request = RequestVariables {
        client: ClientAddress::Unix,
        headers: &arrived,
        method: &Method::GET,
        target: b"/",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: None,
        peer: None,
        server: None,
        caller: None,
        request_id: &REQUEST,
    };
    let rules = HeaderRules::default();
    let mut ok = response.clone();
    response_headers(&mut ok, StatusCode::OK, &request, &rules);
    assert!(!ok.contains_key("x-hop") && !ok.contains_key("keep-alive"));
    assert!(!ok.contains_key("upgrade") && ok.contains_key("server"));
    let mut switching = response;
    response_headers(
        &mut switching,
        StatusCode::SWITCHING_PROTOCOLS,
        &request,
        &rules,
    );
    assert!(switching.contains_key("upgrade") && switching.contains_key("connection"));
}
