//! Tokens that must not let anybody in, as data: each is sent with a request, with a WebSocket
//! handshake and by HTTP/2, and the server behind sees none of them.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Request;
use serde_json::{Value, json};

use crate::support::http2::{Http2Client, Http2Site, NAME};
use crate::support::issuer::{Issuer, base64url, jwks};
use crate::support::{Config, Origin, handshake_with};

/// A request's credentials: fields, and what is behind the `?`.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    fields: Vec<(&'static str, String)>,
    query: String,
}

struct Provider {
    rsa: Issuer,
    p256: Issuer,
    secret: Issuer,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is after 1970").as_secs()
}

fn claims() -> Value {
    json!({ "iss": "https://id.test", "aud": "chat", "sub": "alice", "exp": now() + 600 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn header(value: Value) -> String {
    value.to_string()
}

/// With the token as a bearer's.
fn case(name: impl Into<String>, token: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        fields: vec![("authorization", format!("Bearer {}", token.into()))],
        query: String::new(),
    }
}

/// No signature at all, or one by what everybody knows.
fn forged(provider: &Provider) -> Vec<Case> {
    let mut cases = Vec::new();
    let payload = base64url(claims().to_string());
    for none in ["none", "None", "NONE", "nOnE", "", "null"] {
        let head = base64url(header(json!({ "alg": none, "kid": "r" })));
        cases.push(case(format!("alg {none:?}"), format!("{head}.{payload}.")));
        let signature = base64url("signature");
        cases.push(case(
            format!("alg {none:?}, signed"),
            format!("{head}.{payload}.{signature}"),
        ));
    }
    for alg in [json!(null), json!(7), json!(["none"]), json!({})] {
        let token = provider
            .rsa
            .sign_with(&header(json!({ "alg": alg })), &claims().to_string());
        cases.push(case(format!("alg {alg}"), token));
    }
    let token = provider.rsa.sign_with("{}", &claims().to_string());
    cases.push(case("no alg", token));
    // ECDSA's signature of nothing (CVE-2022-21449).
    let message = format!(
        "{}.{payload}",
        base64url(header(json!({ "alg": "ES256", "kid": "p" })))
    );
    cases.push(case(
        "a signature of zeros",
        format!("{message}.{}", base64url([0; 64])),
    ));
    cases.push(case("no signature", format!("{message}.")));
    let stranger = Issuer::p256("p");
    cases.push(case(
        "a stranger with our kid",
        stranger.sign("ES256", &claims()),
    ));
    let anonymous = header(json!({ "alg": "ES256" }));
    let anonymous = stranger.sign_with(&anonymous, &claims().to_string());
    cases.push(case("a stranger without kid", anonymous));
    cases
}

/// A key that is used as one of another kind.
fn confused(provider: &Provider) -> Vec<Case> {
    let mut cases = Vec::new();
    // The public key of RSA as the secret of an HMAC, in each form in which an attacker has it.
    let jwk = provider.rsa.jwk();
    let modulus = jwk["n"].as_str().expect("a modulus").to_owned();
    let pem = provider.rsa.pem();
    for (form, secret) in [
        ("PEM", pem.clone().into_bytes()),
        ("PEM without line end", pem.trim_end().as_bytes().to_vec()),
        ("DER", provider.rsa.der()),
        ("PKCS #1", provider.rsa.bytes()),
        ("modulus", modulus.into_bytes()),
        ("JWK", jwk.to_string().into_bytes()),
        ("nothing", Vec::new()),
    ] {
        let forger = Issuer::with_secret("r", &secret);
        for alg in ["HS256", "HS384", "HS512"] {
            let token = forger.sign(alg, &claims());
            cases.push(case(format!("{alg} by the RSA key as {form}"), token));
            let anonymous = header(json!({ "alg": alg }));
            let token = forger.sign_with(&anonymous, &claims().to_string());
            cases.push(case(
                format!("{alg} by the RSA key as {form}, no kid"),
                token,
            ));
        }
    }
    for says in ["PS256", "ES256", "RS512"] {
        let head = header(json!({ "alg": says, "kid": "r" }));
        let message = format!("{}.{}", base64url(head), base64url(claims().to_string()));
        let signature = base64url(provider.rsa.signature("RS256", message.as_bytes()));
        let token = format!("{message}.{signature}");
        cases.push(case(format!("RS256 as {says}"), token));
    }
    cases
}

/// A key id, or another part of the header, that is meant to do something.
fn injected(provider: &Provider, attacker: &str) -> Vec<Case> {
    let stranger = Issuer::p256("own");
    let jwk = stranger.jwk();
    let mut cases = Vec::new();
    for kid in [
        "../../../../../../dev/null",
        "/dev/null",
        "/proc/sys/kernel/randomize_va_space",
        "' UNION SELECT 'secret' -- ",
        "'; DROP TABLE keys; --",
        attacker,
        "| sleep 10",
        "$(sleep 10)",
        "%00",
        "r\u{0}",
        "R",
        "r ",
        "",
        "\u{1F511}",
    ] {
        let head = header(json!({ "alg": "ES256", "kid": kid }));
        let token = stranger.sign_with(&head, &claims().to_string());
        cases.push(case(format!("kid {kid:?}"), token));
        // By a secret that a file which is named could have.
        let head = header(json!({ "alg": "HS256", "kid": kid }));
        let token = Issuer::with_secret("", b"").sign_with(&head, &claims().to_string());
        cases.push(case(format!("kid {kid:?}, HMAC"), token));
    }
    for kid in [json!(7), json!(["r"]), json!({ "kid": "r" })] {
        let head = header(json!({ "alg": "RS256", "kid": kid }));
        let token = provider.rsa.sign_with(&head, &claims().to_string());
        cases.push(case(format!("kid {kid}"), token));
    }
    for (name, value) in [
        ("jku", json!(attacker)),
        ("x5u", json!(attacker)),
        ("jwk", jwk),
        ("x5c", json!([base64url(stranger.der())])),
    ] {
        for kid in ["own", "p"] {
            let mut head = json!({ "alg": "ES256", "kid": kid });
            head[name] = value.clone();
            let token = stranger.sign_with(&header(head), &claims().to_string());
            cases.push(case(format!("{name} of the attacker's, kid {kid}"), token));
        }
    }
    cases
}

/// Headers that want something that is not done here.
fn demanding(provider: &Provider) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, head) in [
        (
            "crit",
            json!({ "alg": "RS256", "kid": "r", "crit": ["x"], "x": 1 }),
        ),
        (
            "empty crit",
            json!({ "alg": "RS256", "kid": "r", "crit": [] }),
        ),
        (
            "b64",
            json!({ "alg": "RS256", "kid": "r", "crit": ["b64"], "b64": false }),
        ),
    ] {
        let token = provider.rsa.sign_with(&header(head), &claims().to_string());
        cases.push(case(name, token));
    }
    let twice = r#"{"alg":"none","alg":"RS256","kid":"r"}"#;
    cases.push(case(
        "alg twice",
        provider.rsa.sign_with(twice, &claims().to_string()),
    ));
    cases
}

/// Signed by the provider, and not for here and now.
fn misused(provider: &Provider) -> Vec<Case> {
    let sign = |claims: &Value| provider.p256.sign("ES256", claims);
    let mut cases = vec![
        case("expired", sign(&with("exp", (now() - 60).into()))),
        case("expires now", sign(&with("exp", now().into()))),
        case("future nbf", sign(&with("nbf", (now() + 600).into()))),
        case("no aud", sign(&with("aud", Value::Null))),
        case("no iss", sign(&with("iss", Value::Null))),
    ];
    for aud in [
        json!("mail"),
        json!(""),
        json!([]),
        json!(["mail"]),
        json!("Chat"),
        json!(7),
    ] {
        cases.push(case(format!("aud {aud}"), sign(&with("aud", aud))));
    }
    for iss in [
        json!("https://evil.test"),
        json!("https://id.test/"),
        json!(["https://id.test"]),
    ] {
        cases.push(case(format!("iss {iss}"), sign(&with("iss", iss))));
    }
    let later = now() + 600;
    for exp in [
        json!(later.to_string()),
        json!(-1),
        json!(-(later as i64)),
        json!(1e300),
        json!(u64::MAX),
        json!(true),
        json!([later]),
        json!(null),
        json!(0.5),
    ] {
        cases.push(case(format!("exp {exp}"), sign(&with("exp", exp))));
    }
    cases
}

/// Signed by the provider, and no claims.
fn garbled(provider: &Provider) -> Vec<Case> {
    let mut cases = Vec::new();
    let text = claims().to_string();
    let inner = text.trim_start_matches('{');
    let es256 = header(json!({ "alg": "ES256", "kid": "p" }));
    for (name, payload) in [
        ("exp twice", format!("{{\"exp\":1,{inner}")),
        ("sub twice", format!("{{\"sub\":\"mallory\",{inner}")),
        (
            "sub twice, escaped",
            format!("{{\"s\\u0075b\":\"mallory\",{inner}"),
        ),
        ("no JSON", "sub=alice".to_owned()),
        ("half of it", text[..text.len() / 2].to_owned()),
        ("more behind it", format!("{text}{text}")),
        ("a list", format!("[{text}]")),
        ("a text", "\"alice\"".to_owned()),
        ("nothing", String::new()),
        (
            "deep",
            format!(
                "{}{}",
                "{\"a\":".repeat(200),
                "1".to_owned() + &"}".repeat(200)
            ),
        ),
        ("half a surrogate", format!("{{\"x\":\"\\ud83d\",{inner}")),
    ] {
        cases.push(case(name, provider.p256.sign_with(&es256, &payload)));
    }
    cases
}

/// Not the bytes of a token.
fn malformed(provider: &Provider) -> Vec<Case> {
    let good = provider.p256.sign("ES256", &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let mut cases: Vec<Case> = [1, 10, good.len() / 2, good.len() - 1]
        .into_iter()
        .map(|length| case(format!("cut at {length}"), &good[..length]))
        .collect();
    for (name, token) in [
        ("no dots", good.replace('.', "")),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.{}", parts[2])),
        ("empty parts", "..".to_owned()),
        ("only dots", ".".repeat(5000)),
        ("padding", format!("{good}==")),
        ("another alphabet", good.replacen('e', "+", 1)),
        ("a space inside", good.replacen('.', " .", 1)),
        ("two tokens", format!("{good},{good}")),
        ("two schemes", format!("Bearer {good}")),
        ("of 17 KiB", format!("{good}{}", "A".repeat(17 * 1024))),
        ("of 64 KiB", format!("{good}{}", "A".repeat(64 * 1024))),
        (
            "parts swapped",
            format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        ),
        ("percent-encoded", good.replace('.', "%2E")),
    ] {
        cases.push(case(name, token));
    }
    let mut unicode = case("unicode", "");
    unicode.fields[0].1 = format!("Bearer {}.é.\u{1F511}", parts[0]);
    cases.push(unicode);
    cases
}

/// A good token, and another one where a server could look.
fn several(provider: &Provider) -> Vec<Case> {
    let good = provider.p256.sign("ES256", &claims());
    let other = provider.p256.sign("ES256", &with("sub", "bob".into()));
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let case = |name: &str, fields: Vec<(&'static str, String)>, query: String| Case {
        name: name.to_owned(),
        fields,
        query,
    };
    let both = format!("session={good}; session={other}");
    vec![
        case(
            "two Authorization",
            vec![bearer(&good), bearer(&other)],
            String::new(),
        ),
        case(
            "the same twice",
            vec![bearer(&good), bearer(&good)],
            String::new(),
        ),
        case(
            "Basic beside Bearer",
            vec![("authorization", "Basic YTpi".to_owned()), bearer(&good)],
            String::new(),
        ),
        case("two cookies", vec![("cookie", both)], String::new()),
        case(
            "two arguments",
            vec![],
            format!("access_token={good}&access_token={other}"),
        ),
        case(
            "two arguments, one encoded",
            vec![],
            format!("access_token={good}&access%5Ftoken={other}"),
        ),
        case(
            "a bad one where it decides",
            vec![bearer("x.y.z"), ("cookie", format!("session={good}"))],
            format!("access_token={good}"),
        ),
        case(
            "two offers",
            vec![(
                "sec-websocket-protocol",
                format!("bearer, {good}, bearer, {other}"),
            )],
            String::new(),
        ),
    ]
}

struct Site {
    site: Http2Site,
    client: Http2Client,
}

impl Site {
    /// The statuses of a request, of a handshake, and of the same by HTTP/2.
    async fn statuses(&mut self, case: &Case) -> [u16; 4] {
        let target = match case.query.is_empty() {
            true => "/".to_owned(),
            false => format!("/?{}", case.query),
        };
        let lines: Vec<String> = case
            .fields
            .iter()
            .map(|(n, v)| format!("{n}: {v}"))
            .collect();
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let plain = format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\n{text}\r\n");
        let changes: Vec<&str> = lines.iter().map(String::as_str).collect();
        let handshake = handshake_with(&target, &changes);
        let mut statuses = [0; 4];
        let (tls, address) = (self.site.authority.client(), self.site.prusik.public());
        for (status, request) in statuses.iter_mut().zip([plain, handshake]) {
            let mut client = tls.connect(address, NAME).await;
            client.send(request).await;
            *status = client.head().await.status();
        }
        let with_fields = |mut request: http::request::Builder| {
            for (name, value) in &case.fields {
                let value = http::HeaderValue::from_bytes(value.as_bytes());
                request = request.header(*name, value.expect("a value"));
            }
            request
        };
        let url = format!("https://{NAME}{target}");
        let get = with_fields(Request::get(&url))
            .body(())
            .expect("a sound request");
        statuses[2] = self.client.ask(get).await.0.status().as_u16();
        let connect = Request::connect(&url).header("sec-websocket-version", "13");
        let connect = with_fields(connect).body(()).expect("a sound request");
        statuses[3] = self.client.open(connect).await.status().as_u16();
        statuses
    }
}

#[tokio::test]
async fn no_hostile_token_lets_anybody_in() {
    let provider = Provider {
        rsa: Issuer::rsa("r"),
        p256: Issuer::p256("p"),
        secret: Issuer::secret("s"),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("jwks.json");
    let set = jwks(&[&provider.rsa, &provider.p256, &provider.secret]);
    fs::write(&file, set).expect("it is ours");
    let route = format!(
        "auth: {{ jwt: {{ keys: \"{}\", issuer: \"https://id.test\", audience: chat, from: [bearer, \
         \"cookie:session\", \"query:access_token\", subprotocol] }} }}",
        file.display()
    );
    // Whoever fetches what a token names comes here.
    let attacker = Origin::chat().await;
    let url = format!("http://{}/jwks.json", attacker.address());
    let site = Http2Site::start(Origin::chat().await, |config: Config| {
        config
            .route(route)
            .listener("limits: { header_size: 256KiB }")
    })
    .await;
    let client = site.client().await;
    let mut site = Site { site, client };

    let good = case("a good one", provider.rsa.sign("RS256", &claims()));
    assert_eq!(
        site.statuses(&good).await,
        [200, 101, 200, 200],
        "a good one"
    );
    let good = case("by the secret", provider.secret.sign("HS512", &claims()));
    assert_eq!(
        site.statuses(&good).await,
        [200, 101, 200, 200],
        "by the secret"
    );
    let came = site.site.origin.received().len();

    let mut cases = forged(&provider);
    cases.extend(confused(&provider));
    cases.extend(injected(&provider, &url));
    cases.extend(demanding(&provider));
    cases.extend(misused(&provider));
    cases.extend(garbled(&provider));
    cases.extend(malformed(&provider));
    cases.extend(several(&provider));
    assert!(cases.len() > 150, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let statuses = site.statuses(case).await;
        if statuses != [401; 4] {
            wrong.push(format!("{}: {statuses:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        site.site.origin.received().len(),
        came,
        "the server sees none"
    );
    assert_eq!(
        attacker.connections(),
        0,
        "nobody fetches what a token names"
    );
}
