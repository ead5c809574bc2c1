//! What headers a server gets, and what headers a client gets back.

use crate::support;
use crate::support::{Answer, Client, Config, Origin, Prusik, Received, Response, check};

/// Sends one request with these fields through this configuration.
async fn pass(config: Config, origin: &Origin, fields: &[&str]) -> (Received, Response, u16) {
    let prusik = Prusik::start(config).await;
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET /path?userId=7&b= HTTP/1.1\r\nHost: chat.test:81\r\n{fields}\r\n");
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    (origin.only_request(), answer, prusik.public().port())
}

async fn plain_origin() -> Origin {
    Origin::start(|_| Answer::text("hello")).await
}

fn assert_lines(request: &Received, lines: &[&str]) {
    for line in lines {
        assert!(request.has_line(line), "no {line} in {}", request.head);
    }
}

fn assert_absent(request: &Received, names: &[&str]) {
    for name in names {
        assert!(
            request.fields(name).is_empty(),
            "{name} in {}",
            request.head
        );
    }
}

#[tokio::test]
async fn by_default_a_server_learns_who_asked_for_what() {
    let origin = plain_origin().await;
    let fields = ["User-Agent: test/1", "Accept: */*"];
    let (request, _, port) = pass(Config::to(&[&origin]), &origin, &fields).await;
    assert_eq!(request.first_line(), "GET /path?userId=7&b= HTTP/1.1");
    assert_lines(
        &request,
        &[
            "Host: chat.test:81",
            "User-Agent: test/1",
            "Accept: */*",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: chat.test:81",
            &format!("X-Forwarded-Port: {port}"),
            "X-Real-IP: 127.0.0.1",
        ],
    );
    assert_absent(&request, &["forwarded", "via", "connection"]);
}

#[tokio::test]
async fn set_lines_as_nginx_has_them_work() {
    let origin = plain_origin().await;
    let set = "headers: { request: { set: { Host: \"$host:$server_port\", \
               Remote_Addr: $remote_addr, X-Real-IP: $remote_addr, \
               X-Forwarded-For: $proxy_add_x_forwarded_for } } }";
    let config = Config::to(&[&origin]).route(set);
    let (request, _, port) = pass(config, &origin, &["X-Forwarded-For: 6.6.6.6"]).await;
    assert_lines(
        &request,
        &[
            &format!("Host: chat.test:{port}"),
            "Remote_Addr: 127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "X-Forwarded-For: 6.6.6.6, 127.0.0.1",
        ],
    );
    assert_eq!(request.fields("host").len(), 1);
}

#[tokio::test]
async fn an_answer_can_say_which_server_it_is_of() {
    let origin = plain_origin().await;
    let set =
        "headers: { response: { set: { X-Server: \"at $upstream_addr\", X-Of: $upstream_addr } } }";
    let own = format!("{{ match: {{ path: /own }}, respond: {{ status: 204 }}, {set} }}");
    let config = Config::to(&[&origin]).route(set).first(own);
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    let address = origin.address().to_string();
    let answer = client.get("/").await;
    assert_eq!(answer.field("x-of"), Some(&*address));
    assert_eq!(answer.field("x-server"), Some(&*format!("at {address}")));
    let own = client.get("/own").await;
    assert_eq!(
        (own.field("x-of"), own.field("x-server")),
        (None, Some("at"))
    );
    let request = "routes: [{ respond: { status: 204 }, headers: { request: { set: { A: $upstream_addr } } } }]";
    let file = format!("listeners: [{{ listen: 127.0.0.1:0 }}]\n{request}\n");
    let output = check(&file);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("$upstream_addr is not known yet"), "{said}");
}

#[tokio::test]
async fn templates_know_the_request() {
    let origin = plain_origin().await;
    let set = "headers: { request: { set: { \
               A: \"$request_method $scheme $uri $args\", B: \"$arg_userId|$arg_none|$query_string\", \
               C: $request_uri, D: $cookie_sid, E: \"${http_x_tag}!\", F: $http_host, \
               G: $server_addr, H: $request_id, I: $arg_none } } }";
    let config = Config::to(&[&origin]).route(set);
    let fields = ["Cookie: a=1; sid=s3cr3t; b=2", "X-Tag: blue", "I: goes"];
    let (request, _, _) = pass(config, &origin, &fields).await;
    assert_lines(
        &request,
        &[
            "A: GET http /path userId=7&b=",
            "B: 7||userId=7&b=",
            "C: /path?userId=7&b=",
            "D: s3cr3t",
            "E: blue!",
            "F: chat.test:81",
            "G: 127.0.0.1",
        ],
    );
    assert!(request.field("h").is_some_and(|id| id.len() >= 16));
    // As in nginx: an empty value takes the field away.
    assert_absent(&request, &["i"]);
}

/// What a server is told of the client behind a trusted proxy that sends these fields.
async fn client_behind(prusik: &Prusik, origin: &Origin, fields: &[&str]) -> Received {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: chat.test\r\n{fields}\r\n");
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    origin.received().pop().expect("the server was asked")
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_hides_by_no_quote_and_no_comma() {
    let origin = plain_origin().await;
    let config = Config::to(&[&origin]).top("trusted_proxies: [\"::ffff:127.0.0.0/104\"]");
    let prusik = Prusik::start(config).await;
    for evil in [
        "\"",
        "\"8.8.8.8",
        "a\"b",
        "\\\"",
        "\"\\",
        "\"x, \"y\", \"",
        ",,",
    ] {
        for field in [
            format!("X-Forwarded-For: {evil}, 203.0.113.9"),
            format!("X-Forwarded-For: {evil}, 203.0.113.9, ,"),
            format!("Forwarded: {evil}, for=\"203.0.113.9:1\""),
        ] {
            let request = client_behind(&prusik, &origin, &[&field]).await;
            assert_eq!(request.field("x-real-ip"), Some("203.0.113.9"), "{field}");
        }
    }
}

#[tokio::test]
async fn the_field_that_the_file_names_says_who_the_client_is() {
    let origin = plain_origin().await;
    let config = Config::to(&[&origin])
        .top("trusted_proxies: [127.0.0.1]")
        .top("client_address: forwarded");
    let prusik = Prusik::start(config).await;
    let fields = [
        "X-Forwarded-For: 198.51.100.1",
        "Forwarded: for=203.0.113.9",
    ];
    let request = client_behind(&prusik, &origin, &fields).await;
    assert_lines(
        &request,
        &[
            "X-Real-IP: 203.0.113.9",
            "X-Forwarded-For: 203.0.113.9, 127.0.0.1",
        ],
    );
    let request = client_behind(&prusik, &origin, &fields[..1]).await;
    assert_eq!(request.field("x-real-ip"), Some("127.0.0.1"));
}

const CLAIMS: [&str; 7] = [
    "X-Forwarded-For: 6.6.6.6",
    "x-forwarded-proto: https",
    "X-FORWARDED-HOST: evil.test",
    "X-Forwarded-Port: 1",
    "X-Real-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
    "X-Mine: 1",
];

#[tokio::test]
async fn what_an_untrusted_client_claims_does_not_pass() {
    let origin = plain_origin().await;
    let (request, _, port) = pass(Config::to(&[&origin]), &origin, &CLAIMS).await;
    assert_lines(
        &request,
        &[
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: chat.test:81",
            &format!("X-Forwarded-Port: {port}"),
            "X-Real-IP: 127.0.0.1",
            "X-Mine: 1",
        ],
    );
    assert_absent(&request, &["forwarded"]);
    let head = request.head.to_string();
    assert!(
        !head.contains("6.6.6.6") && !head.contains("evil"),
        "{head}"
    );
}

#[tokio::test]
async fn with_forwarded_off_claims_go_and_nothing_comes() {
    let origin = plain_origin().await;
    let config = Config::to(&[&origin]).route("forwarded: off");
    let (request, _, _) = pass(config, &origin, &CLAIMS).await;
    let names = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "forwarded",
    ];
    assert_absent(&request, &names);
}

#[tokio::test]
async fn a_trusted_proxys_word_is_carried_on() {
    let origin = plain_origin().await;
    let config = Config::to(&[&origin]).top("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]");
    let fields = [
        "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.test",
        "X-Forwarded-Port: 443",
    ];
    let (request, _, _) = pass(config, &origin, &fields).await;
    assert_lines(
        &request,
        &[
            "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3, 127.0.0.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: public.test",
            "X-Forwarded-Port: 443",
            // The rightmost that is no proxy of ours: what stands left of it anybody may have
            // written.
            "X-Real-IP: 203.0.113.9",
        ],
    );
}

#[tokio::test]
async fn rfc_7239_names_the_client_in_one_element_a_hop() {
    let origin = plain_origin().await;
    let config = Config::to(&[&origin]).route("forwarded: rfc7239");
    let (request, _, _) = pass(config, &origin, &CLAIMS).await;
    assert_lines(
        &request,
        &["Forwarded: for=127.0.0.1;proto=http;host=\"chat.test:81\""],
    );
    assert_absent(&request, &["x-forwarded-for", "x-real-ip"]);

    let origin = plain_origin().await;
    let config = Config::to(&[&origin])
        .route("forwarded: both")
        .top("trusted_proxies: [127.0.0.1]");
    let fields = ["Forwarded: for=\"[2001:db8::1]\""];
    let (request, _, _) = pass(config, &origin, &fields).await;
    assert_eq!(
        request.fields("forwarded").join(", "),
        "for=\"[2001:db8::1]\", for=127.0.0.1;proto=http;host=\"chat.test:81\""
    );
    assert!(request.field("x-forwarded-for").is_some());
}

#[tokio::test]
async fn a_client_cannot_take_our_fields_away_by_connection() {
    let origin = plain_origin().await;
    let set = "headers: { request: { set: { X-Ours: here } } }";
    let fields = [
        "Connection: X-Forwarded-For, X-Real-IP, Host, X-Ours, X-Drop, close",
        "X-Drop: 1",
    ];
    let config = Config::to(&[&origin]).route(set);
    let (request, _, _) = pass(config, &origin, &fields).await;
    assert_lines(
        &request,
        &[
            "X-Forwarded-For: 127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "X-Ours: here",
        ],
    );
    assert_eq!(request.field("host"), Some("chat.test:81"));
    assert_absent(&request, &["x-drop"]);
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = Origin::start(|_| {
        let fields = [
            "Connection: keep-alive, X-Hop",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Upgrade: h2c",
            "X-Hop: 1",
            "X-End: 1",
        ];
        Answer::status(200, &fields, "hello")
    })
    .await;
    let fields = [
        "Connection: keep-alive, X-Hop",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers, gzip",
        "X-Hop: 1",
        "X-End: 1",
    ];
    let (request, answer, _) = pass(Config::to(&[&origin]), &origin, &fields).await;
    let gone = ["keep-alive", "proxy-connection", "te", "x-hop", "upgrade"];
    assert_absent(&request, &gone);
    assert_lines(&request, &["X-End: 1"]);
    for name in gone {
        assert!(answer.fields(name).is_empty(), "{name} in {}", answer.head);
    }
    assert!(answer.has_line("X-End: 1"), "{}", answer.head);
}

#[tokio::test]
async fn names_keep_the_case_in_which_they_were_written() {
    let origin =
        Origin::start(|_| Answer::status(200, &["X-ODD-case: 1", "etag: \"x\""], "hello")).await;
    let fields = ["x-lower: 1", "X-UPPER: 2", "X-cAmEl: 3", "SOAPAction: 4"];
    let (request, answer, _) = pass(Config::to(&[&origin]), &origin, &fields).await;
    assert_lines(&request, &fields);
    assert!(answer.has_line("X-ODD-case: 1"), "{}", answer.head);
    assert!(answer.has_line("etag: \"x\""), "{}", answer.head);
}

#[tokio::test]
async fn fields_of_one_name_keep_their_order() {
    let cookies = ["Set-Cookie: c=3", "Set-Cookie: a=1", "set-cookie: b=2"];
    let origin = Origin::start(move |_| Answer::status(200, &cookies, "hello")).await;
    let fields = ["X-Tag: c", "X-Other: 1", "x-tag: a", "X-Tag: b"];
    let (request, answer, _) = pass(Config::to(&[&origin]), &origin, &fields).await;
    assert_eq!(request.fields("x-tag"), ["c", "a", "b"]);
    assert_eq!(answer.fields("set-cookie"), ["c=3", "a=1", "b=2"]);
}

#[tokio::test]
async fn rules_set_add_and_remove_in_both_directions() {
    let origin = Origin::start(|_| {
        let fields = ["Server: Tomcat/9", "X-Powered-By: luck", "Vary: Accept"];
        Answer::status(200, &fields, "hello")
    })
    .await;
    let config = Config::to(&[&origin])
        .route("headers:")
        .route("  request: { set: { X-Set: new }, add: { X-Tag: more }, remove: [X-Debug] }")
        .route("  response:")
        .route("    set: { X-Powered-By: prusik, X-Request: $request_id }")
        .route("    add: { Vary: Origin }")
        .route("    remove: [Server]");
    let fields = ["X-Set: old", "x-set: older", "X-Tag: one", "x-debug: 1"];
    let (request, answer, _) = pass(config, &origin, &fields).await;
    assert_eq!(request.fields("x-set"), ["new"]);
    assert_eq!(request.fields("x-tag"), ["one", "more"]);
    assert_absent(&request, &["x-debug"]);
    assert_eq!(answer.fields("vary"), ["Accept", "Origin"]);
    assert_eq!(answer.fields("x-powered-by"), ["prusik"]);
    assert!(answer.fields("server").is_empty(), "{}", answer.head);
    assert!(answer.field("x-request").is_some_and(|id| !id.is_empty()));
}

#[tokio::test]
async fn a_handshake_gets_the_same_headers_as_a_request() {
    let origin = Origin::chat().await;
    let set = "headers: { request: { set: { X-Set: new } }, response: { set: { X-Back: here } } }";
    let prusik = Prusik::start(Config::to(&[&origin]).route(set)).await;
    let fields = [
        "X-Forwarded-For: 6.6.6.6",
        "Connection: Upgrade, X-Drop",
        "X-Drop: 1",
    ];
    let handshake = support::handshake_with("/", &fields);
    let session = support::RawSession::open(prusik.public(), handshake).await;
    assert_eq!(session.head.field("x-back"), Some("here"));
    let request = origin.only_request();
    assert_lines(
        &request,
        &["X-Forwarded-For: 127.0.0.1", "X-Set: new", "Host: test"],
    );
    assert_absent(&request, &["x-drop"]);
}
