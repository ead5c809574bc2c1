use super::*;

fn client(peer: &str, fields: &[(&'static str, &str)]) -> String {
    client_by(ClientField::Either, peer, fields)
}

fn client_by(field: ClientField, peer: &str, fields: &[(&'static str, &str)]) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            *name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let trusted = TrustedProxies(
        ["10.0.0.0/8", "::1/128"]
            .map(|net| net.parse().unwrap())
            .into_iter()
            .collect(),
    );
    let peer = (!peer.is_empty()).then(|| peer.parse().unwrap());
    ClientAddress::find(peer, &headers, &trusted, field).to_string()
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_says() {
    assert_eq!(
        client("192.0.2.1:5", &[("x-forwarded-for", "203.0.113.9")]),
        "192.0.2.1"
    );
}

#[test]
fn behind_trusted_proxies_the_rightmost_untrusted_address_is_the_client() {
    let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
    assert_eq!(xff("198.51.100.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
    assert_eq!(xff("10.0.0.3, 10.0.0.2"), "10.0.0.3");
    assert_eq!(xff("203.0.113.9:4711"), "203.0.113.9");
    assert_eq!(xff("[2001:db8::1]:4711"), "2001:db8::1");
    assert_eq!(xff("::ffff:203.0.113.9"), "203.0.113.9");
}

#[test]
fn several_fields_are_one_list() {
    let fields = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "10.0.0.2"),
    ];
    assert_eq!(client("10.0.0.1:5", &fields), "203.0.113.9");
}

#[test]
fn rubbish_ends_the_walk() {
    let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
    assert_eq!(xff("203.0.113.9, unknown, 10.0.0.2"), "10.0.0.2");
    assert_eq!(xff(""), "10.0.0.1");
    assert_eq!(xff("[2001:db8::1]x"), "10.0.0.1");
}

#[test]
fn an_empty_entry_is_none() {
    let xff = |value| client("10.0.0.1:5", &[("x-forwarded-for", value)]);
    for value in [
        "203.0.113.9,",
        "203.0.113.9 , \t,",
        ", 203.0.113.9",
        "203.0.113.9,, 10.0.0.2",
    ] {
        assert_eq!(xff(value), "203.0.113.9", "{value:?}");
    }
    let fields = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "")];
    assert_eq!(client("10.0.0.1:5", &fields), "203.0.113.9");
    let forwarded = client("10.0.0.1:5", &[("forwarded", "for=203.0.113.9;, ,")]);
    assert_eq!(forwarded, "203.0.113.9");
}

#[test]
fn nothing_that_a_client_wrote_hides_the_address_that_its_proxy_appended() {
    for evil in [
        "\"",
        "\"8.8.8.8",
        "a\"b",
        "\\\"",
        "\"\\",
        "\"x, \"y\", \"",
        "host=\"",
        "for=8.8.8.8;host=\"a",
        "\u{e9}\"",
    ] {
        for own in ["203.0.113.9", "203.0.113.9:41"] {
            let value = format!("{evil}, {own}");
            let found = client("10.0.0.1:5", &[("x-forwarded-for", &value)]);
            assert_eq!(found, "203.0.113.9", "{value}");
        }
        for own in [
            "for=203.0.113.9",
            "for=\"203.0.113.9:41\";host=\"a, b\\\"c\"",
        ] {
            let value = format!("{evil}, {own}");
            let found = client("10.0.0.1:5", &[("forwarded", &value)]);
            assert_eq!(found, "203.0.113.9", "{value}");
        }
    }
}

#[test]
fn the_file_says_which_field_counts() {
    let fields = [
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=198.51.100.7"),
    ];
    for (field, found) in [
        (ClientField::Either, "203.0.113.9"),
        (ClientField::XForwardedFor, "203.0.113.9"),
        (ClientField::Forwarded, "198.51.100.7"),
    ] {
        assert_eq!(client_by(field, "10.0.0.1:5", &fields), found);
        assert_eq!(client_by(field, "192.0.2.1:5", &fields), "192.0.2.1");
    }
    for (field, other) in [
        (ClientField::XForwardedFor, fields[1]),
        (ClientField::Forwarded, fields[0]),
    ] {
        assert_eq!(client_by(field, "10.0.0.1:5", &[other]), "10.0.0.1");
    }
}

#[test]
fn without_x_forwarded_for_rfc_7239_is_read() {
    let forwarded = |value| client("10.0.0.1:5", &[("forwarded", value)]);
    assert_eq!(
        forwarded("for=203.0.113.9;proto=https, for=10.0.0.2"),
        "203.0.113.9"
    );
    assert_eq!(forwarded("For=\"[2001:db8::17]:4711\""), "2001:db8::17");
    assert_eq!(forwarded("for=203.0.113.9, for=_hidden"), "10.0.0.1");
    assert_eq!(forwarded("for=203.0.113.9;for=8.8.8.8"), "10.0.0.1");
    assert_eq!(forwarded("203.0.113.9"), "10.0.0.1");
}

#[test]
fn what_stands_in_quotes_is_no_element() {
    let forwarded = |value: &str| client("10.0.0.1:5", &[("forwarded", value)]);
    for chosen in ["x, for=8.8.8.8", "x;for=8.8.8.8", r#"x\", for=8.8.8.8"#] {
        let value = format!("for=203.0.113.9;host=\"{chosen}\"");
        assert_eq!(forwarded(&value), "203.0.113.9", "{value}");
        let value = format!("host=\"{chosen}\";for=203.0.113.9");
        assert_eq!(forwarded(&value), "203.0.113.9", "{value}");
    }
    assert_eq!(forwarded("for=203.0.113.9, host=\"open"), "10.0.0.1");
}

#[test]
fn a_unix_socket_is_trusted() {
    assert_eq!(
        client("", &[("x-forwarded-for", "203.0.113.9")]),
        "203.0.113.9"
    );
    assert_eq!(client("", &[]), "unix:");
}

#[test]
fn an_ipv4_peer_on_an_ipv6_socket_is_seen_as_ipv4() {
    let fields = [("x-forwarded-for", "203.0.113.9")];
    assert_eq!(client("[::ffff:10.0.0.1]:5", &fields), "203.0.113.9");
}
