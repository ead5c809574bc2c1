use super::*;

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "Chat.Example.com:9090"),
        ("x-tag", "one"),
        ("x-tag", "two"),
        ("cookie", "a=1; session=abc; session=later"),
        ("x-forwarded-for", "203.0.113.9"),
        ("upgrade", "websocket"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    headers
}

fn render(template: &str) -> String {
    let headers = headers();
    let peer = Some("192.0.2.7:41000".parse().unwrap());
    let request = RequestVariables {
        client: ClientAddress::of_peer(peer),
        headers: &headers,
        method: &Method::GET,
        target: b"/IMS_SVR/ws?userId=42&x=y&userid=43",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: Some("127.0.0.1:9090".parse().unwrap()),
        peer,
        server: None,
        caller: None,
        request_id: &HeaderValue::from_static("7"),
    };
    let mut out = Vec::new();
    Template::parse(template)
        .unwrap()
        .render(&request, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_variable_of_the_contract_renders_as_in_nginx() {
    for (template, value) in [
        ("$host:$server_port", "chat.example.com:9090"),
        ("$http_host", "Chat.Example.com:9090"),
        ("$server_addr", "127.0.0.1"),
        ("$scheme", "http"),
        ("$remote_addr", "192.0.2.7"),
        ("$remote_port", "41000"),
        ("$request_uri", "/IMS_SVR/ws?userId=42&x=y&userid=43"),
        ("$uri", "/IMS_SVR/ws"),
        ("$query_string", "userId=42&x=y&userid=43"),
        ("$args", "userId=42&x=y&userid=43"),
        ("$uri$is_args$args", "/IMS_SVR/ws?userId=42&x=y&userid=43"),
        ("$arg_userId", "42"),
        ("$arg_absent", ""),
        ("$http_x_tag", "one, two"),
        ("$http_upgrade", "websocket"),
        ("$cookie_session", "abc"),
        ("$request_id", "7"),
        ("$request_method", "GET"),
        ("$proxy_add_x_forwarded_for", "203.0.113.9, 192.0.2.7"),
    ] {
        assert_eq!(render(template), value, "{template}");
    }
}

#[test]
fn braces_end_a_name_and_a_lone_dollar_is_itself() {
    assert_eq!(render("${host}s"), "chat.example.coms");
    assert_eq!(render("costs 5$ or $-"), "costs 5$ or $-");
    assert_eq!(render("plain"), "plain");
}

#[test]
fn details_are_as_in_nginx() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "Chat.Example.com.:80"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    let peer: SocketAddr = "192.0.2.7:41000".parse().unwrap();
    let mut request = RequestVariables {
        client: ClientAddress::Ip(peer.ip()),
        headers: &headers,
        method: &Method::GET,
        target: b"/",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: None,
        peer: Some(peer),
        server: None,
        caller: None,
        request_id: &HeaderValue::from_static("7"),
    };
    let template = Template::parse("$host $http_cookie $remote_port").unwrap();
    let mut out = Vec::new();
    template.render(&request, &mut out);
    assert_eq!(out, b"chat.example.com a=1; b=2 41000");
    // The port of the proxy between is no port of the client's.
    request.client = ClientAddress::Ip("203.0.113.9".parse().unwrap());
    out.clear();
    template.render(&request, &mut out);
    assert_eq!(out, b"chat.example.com a=1; b=2 ");
}

#[test]
fn an_unknown_variable_is_an_error_that_names_the_nearest() {
    let error = Template::parse("$remote_adr").unwrap_err();
    assert_eq!(error.to_string(), "unknown variable \"$remote_adr\"");
    assert_eq!(error.hint(), "did you mean \"$remote_addr\"?");
    assert!(Template::parse("${host").is_err());
    assert!(Template::parse("$arg_").is_err());
}
