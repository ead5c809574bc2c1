//! Affinity by a cookie: who comes back finds the same server, and who cannot gets another cookie.
//! `affinity_header.rs` has the sessions that servers name themselves.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::support::events::STREAM;
use crate::support::http2::{Http2Site, NAME};
use crate::support::{
    Answer, Authority, Client, Config, Frame, Head, Origin, Outcome, Prusik, RawSession,
    ServiceManager, certificates, client_frame, eventually, handshake_with,
};
use http::{Request, Version};
use tempfile::TempDir;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";
const COOKIE: &str = "affinity: { cookie: prusik }";

/// A client that keeps the cookie that it was given.
#[derive(Debug, Clone, Default)]
struct Browser {
    cookie: Option<String>,
}

impl Browser {
    fn with(cookie: &str) -> Self {
        Self {
            cookie: Some(cookie.to_owned()),
        }
    }

    fn field(&self) -> String {
        match &self.cookie {
            Some(cookie) => format!("Cookie: {cookie}"),
            None => "X-Without: a cookie".to_owned(),
        }
    }

    /// Returns whether one was set.
    fn keep(&mut self, head: &Head) -> bool {
        let set = head.fields("set-cookie");
        assert!(set.len() <= 1, "{head}");
        let pair = set.first().and_then(|set| set.split(';').next());
        self.cookie = pair.map(str::to_owned).or(self.cookie.take());
        pair.is_some()
    }

    /// A request: which chat server has answered, and whether it set a cookie.
    async fn get(&mut self, node: SocketAddr) -> (String, bool) {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n\r\n", self.field());
        let answer = Client::connect(node).await.ask(request).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        (answer.text(), self.keep(&answer.head))
    }

    /// The same for a session, which lasts as long as what is returned.
    async fn open(&mut self, node: SocketAddr) -> (String, bool, RawSession) {
        let bytes = handshake_with("/", &[&self.field()]);
        let mut session = RawSession::open(node, bytes).await;
        session.send(client_frame(1, b"whoami")).await;
        let Frame { payload, .. } = session.frame().await;
        let server = String::from_utf8(payload).expect("an address");
        (server, self.keep(&session.head), session)
    }

    /// Stays with its server over some requests and sessions, without another cookie.
    async fn assert_stays(&mut self, node: SocketAddr, server: &str) {
        for _ in 0..3 {
            assert_eq!(self.get(node).await, (server.to_owned(), false));
            let (opened, is_set, _session) = self.open(node).await;
            assert_eq!((opened.as_str(), is_set), (server, false));
        }
    }
}

async fn chats() -> [Origin; 3] {
    [
        Origin::chat().await,
        Origin::chat().await,
        Origin::chat().await,
    ]
}

fn config(origins: &[Origin]) -> Config {
    let origins: Vec<&Origin> = origins.iter().collect();
    Config::to(&origins).upstream(COOKIE).top(ADMIN)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_sets_a_cookie_and_the_client_stays() {
    for balance in ["round_robin", "least_sessions", "two_choices"] {
        let origins = chats().await;
        let config = config(&origins).upstream(format!("balance: {balance}"));
        let prusik = Prusik::start(config).await;
        let mut browsers = vec![Browser::default(); 6];
        for (number, browser) in browsers.iter_mut().enumerate() {
            // A page comes first, or a session.
            let (server, is_set) = match number % 2 {
                0 => browser.get(prusik.public()).await,
                _ => {
                    let (server, is_set, _session) = browser.open(prusik.public()).await;
                    (server, is_set)
                }
            };
            assert!(is_set);
            browser.assert_stays(prusik.public(), &server).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_before_a_hash_weights_and_backups() {
    let [a, b, backup] = chats().await;
    let servers = |backups: bool| {
        Config::default()
            .server(format!("{{ address: \"{}\", weight: 9 }}", a.address()))
            .server(b.address())
            .server(format!(
                "{{ address: \"{}\", backup: {backups} }}",
                backup.address()
            ))
            .upstream(COOKIE)
            .upstream("balance: consistent_hash")
            .upstream("hash_key: $request_uri")
    };
    let prusik = Prusik::start(servers(false)).await;
    let mut at_backup = Browser::default();
    // A hash gives all of this path to one server; the cookie of another comes from a path that
    // belongs to it.
    for number in 0.. {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n");
        let answer = Client::connect(prusik.public()).await.ask(request).await;
        if answer.text() == backup.address().to_string() {
            assert!(at_backup.keep(&answer.head));
            break;
        }
    }
    let server = backup.address().to_string();
    at_backup.assert_stays(prusik.public(), &server).await;
    assert_eq!(prusik.reload_with(servers(true)).await, Outcome::Done);
    at_backup.assert_stays(prusik.public(), &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_names_no_address_and_has_its_attributes() {
    let origin = Origin::start(|request| match request.target() {
        "/cached" => Answer::status(200, &["Cache-Control: max-age=60, public"], ""),
        "/shared" => {
            let first = "Cache-Control: no-cache=\"x, public\", s-maxage=600";
            Answer::status(200, &[first, "Cache-Control: Public, max-age=5"], "")
        }
        "/stored" => Answer::status(200, &["Cache-Control: no-store"], ""),
        "/own" => Answer::status(404, &["Set-Cookie: app=1"], ""),
        _ => Answer::text("hello"),
    })
    .await;
    let affinity = "affinity: { cookie: app-node, max_age: 90m, same_site: strict }";
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(affinity)).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.get("/").await;
    let set = answer.field("set-cookie").expect("it is set");
    let (pair, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(
        attributes,
        "Path=/; HttpOnly; SameSite=Strict; Max-Age=5400"
    );
    let (name, value) = pair.split_once('=').expect("a value");
    assert_eq!((name, value.len()), ("app-node", 22));
    assert_eq!(answer.fields("cache-control"), ["private"]);
    // Of what servers say only that is lost which lets shared caches store it.
    let cached = client.get("/cached").await;
    assert_eq!(cached.fields("cache-control"), ["max-age=60, private"]);
    let shared = client.get("/shared").await;
    assert_eq!(
        shared.fields("cache-control"),
        ["no-cache=\"x, public\", max-age=5, private"]
    );
    let stored = client.get("/stored").await;
    assert_eq!(stored.fields("cache-control"), ["no-store"]);
    let own = client.get("/own").await;
    assert_eq!(own.fields("set-cookie").len(), 2);
    // Who has it gets no other, and the server sees it.
    let request = format!("GET /cached HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n");
    let again = client.ask(request).await;
    assert!(again.fields("set-cookie").is_empty());
    assert_eq!(again.fields("cache-control"), ["max-age=60, public"]);
    let received = origin.received().pop().expect("it was asked");
    assert_eq!(received.fields("cookie"), [pair]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_what_servers_set_leave_it_alone_and_own_answers_have_none() {
    let origin = Origin::start(|_| Answer::status(200, &["Set-Cookie: app=1"], "")).await;
    let config = Config::to(&[&origin])
        .upstream(COOKIE)
        .route("headers: { response: { remove: [Set-Cookie] } }")
        .first("{ match: { path: /own }, respond: { status: 200, body: own } }");
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.get("/").await;
    assert_eq!(answer.fields("set-cookie").len(), 1, "{}", answer.head);
    assert!(
        answer
            .field("set-cookie")
            .expect("ours")
            .starts_with("prusik=")
    );
    assert!(client.get("/own").await.fields("set-cookie").is_empty());
    origin.kill().await;
    let failed = client.get("/").await;
    assert_eq!(failed.status(), 502);
    assert!(failed.fields("set-cookie").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_sets_it_too() {
    let origin = Origin::start(|_| Answer::raw(STREAM).hang()).await;
    let prusik = Prusik::start(Config::to(&[&origin]).upstream(COOKIE)).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert!(Browser::default().keep(&head), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_foreign_cookies_get_another() {
    let origins = chats().await;
    let prusik = Prusik::start(config(&origins)).await;
    let other = Prusik::start(config(&origins)).await;
    let mut foreign = Browser::default();
    foreign.get(other.public()).await;
    let mut forged = vec![
        "prusik=".to_owned(),
        "prusik".to_owned(),
        "prusik=127.0.0.1:9080".to_owned(),
        format!("prusik={}", "A".repeat(22)),
        format!("prusik={}", "é".repeat(11)),
        format!("prusik={}", "x".repeat(10_000)),
        format!("{}A", foreign.cookie.clone().expect("one was set")),
    ];
    forged.extend(foreign.cookie);
    for cookie in forged {
        let mut browser = Browser::with(&cookie);
        let (server, is_set) = browser.get(prusik.public()).await;
        assert!(is_set, "{cookie}");
        assert_ne!(browser.cookie.as_ref(), Some(&cookie));
        browser.assert_stays(prusik.public(), &server).await;
        // Among others it is found.
        let pair = browser.cookie.take().expect("it was set");
        let mut among = Browser::with(&format!("{cookie}; a=b; {pair}; prusik=x"));
        assert_eq!(among.get(prusik.public()).await, (server, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_loses_its_clients_to_others() {
    let origins = chats().await;
    let check = "health_check: { type: tcp, interval: 50ms, rise: 1, fall: 1 }";
    let prusik = Prusik::start(config(&origins).upstream(check)).await;
    let mut browser = Browser::default();
    let (first, _) = browser.get(prusik.public()).await;
    let old = browser.clone();
    let dead = origins
        .iter()
        .find(|origin| origin.address().to_string() == first)
        .expect("it is one of them");
    dead.kill().await;
    // By a failed connection, or by a failed check.
    let (second, is_set) = browser.get(prusik.public()).await;
    assert!(second != first && is_set);
    browser.assert_stays(prusik.public(), &second).await;
    eventually("it is down", async || {
        prusik.status().await.to_string().contains("\"down\"")
    })
    .await;
    let mut late = old.clone();
    let (third, is_set) = late.get(prusik.public()).await;
    assert!(third != first && is_set);
    // Back again, it finds who did not come meanwhile.
    dead.restart().await;
    eventually("it is back", async || {
        old.clone().get(prusik.public()).await.0 == first
    })
    .await;
    browser.assert_stays(prusik.public(), &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_keeps_requests_and_sends_sessions_away_with_another_cookie() {
    let [a, b, _] = chats().await;
    let limited = |origin: &Origin| {
        let address = origin.address();
        format!("{{ address: \"{address}\", max_sessions: 1 }}")
    };
    let config = Config::default()
        .server(limited(&a))
        .server(limited(&b))
        .upstream(COOKIE);
    let prusik = Prusik::start(config).await;
    let node = prusik.public();
    let mut browser = Browser::default();
    let (first, _, _session) = browser.open(node).await;
    assert_eq!(browser.get(node).await, (first.clone(), false));
    let (second, is_set, _other) = browser.open(node).await;
    assert!(second != first && is_set);
    assert_eq!(browser.get(node).await, (second, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_keeps_its_clients_requests_until_the_window_is_over() {
    let origins = chats().await;
    let mut prusik = Prusik::start_own(config(&origins)).await;
    let node = prusik.public();
    let (mut stays, mut goes) = (Browser::default(), Browser::default());
    let (server, _) = stays.get(node).await;
    goes.cookie.clone_from(&stays.cookie);
    let name = format!("backend/{server}");
    prusik.order(&["drain", &name, "--window", "10m"]).await;
    // Also by the process that takes over.
    for round in 0..2 {
        assert_eq!(stays.get(node).await, (server.clone(), false), "{round}");
        let mut newcomers = vec![Browser::default(); 4];
        for newcomer in &mut newcomers {
            assert_ne!(newcomer.get(node).await.0, server);
        }
        if round == 0 {
            prusik.upgrade().await;
        }
    }
    // A session would have to go at once.
    let (other, is_set, _session) = goes.open(node).await;
    assert!(other != server && is_set);
    assert_eq!(goes.get(node).await, (other, false));
    // The window is over at once.
    prusik.order(&["drain", &name, "--window", "0s"]).await;
    let late = stays.clone();
    let (other, is_set) = stays.get(node).await;
    assert!(other != server && is_set);
    prusik.order(&["enable", &name]).await;
    late.clone().assert_stays(node, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlasts_reloads_and_upgrades() {
    let origins = chats().await;
    let mut prusik = Prusik::start_own(config(&origins)).await;
    let node = prusik.public();
    let mut browsers = vec![Browser::default(); 5];
    let mut servers = Vec::new();
    for browser in &mut browsers {
        servers.push(browser.get(node).await.0);
    }
    for round in 0..3 {
        match round {
            0 => {
                // Another group, with its servers in another order, and one more.
                let origins = [&origins[2], &origins[0], &origins[1]];
                let config = Config::to(&origins)
                    .upstream(COOKIE)
                    .upstream("balance: two_choices")
                    .top(ADMIN);
                assert_eq!(prusik.reload_with(config).await, Outcome::Done);
            }
            _ => {
                prusik.upgrade().await;
            }
        }
        for (browser, server) in browsers.iter_mut().zip(&servers) {
            browser.assert_stays(node, server).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlasts_a_restart_that_keeps_sessions() {
    let origins = chats().await;
    let manager = ServiceManager::new();
    let origins: Vec<&Origin> = origins.iter().collect();
    let config = Config::to(&origins).upstream(COOKIE).top(format!(
        "admin: {{ listen: \"unix:{}/admin.sock\" }}",
        manager.folder().display()
    ));
    let mut prusik = manager.start(&config).await;
    let mut browser = Browser::default();
    let (server, _) = browser.get(prusik.public()).await;
    assert_eq!(manager.begin_restart(&prusik), "");
    assert_eq!(prusik.exit_code().await, Some(0), "{}", prusik.stderr());
    let prusik = manager.start(&config).await;
    browser.assert_stays(prusik.public(), &server).await;
}

/// A file for keys, which nodes share.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, byte: u8) -> PathBuf {
        let file = self.0.path().join(name);
        fs::write(&file, [byte; 32]).expect("it is written");
        file
    }

    fn config(origins: &[Origin], file: &Path) -> Config {
        let origins: Vec<&Origin> = origins.iter().collect();
        let file = file.display();
        Config::to(&origins).upstream(format!("affinity: {{ cookie: p, key_file: \"{file}\" }}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_the_same_key_file_know_each_others_cookies() {
    let (origins, keys) = (chats().await, Keys::new());
    let file = keys.write("a.key", 1);
    let nodes = [
        Prusik::start(Keys::config(&origins, &file)).await,
        Prusik::start(Keys::config(&origins, &file)).await,
    ];
    let stranger = Prusik::start(Keys::config(&origins, &keys.write("b.key", 2))).await;
    for _ in 0..4 {
        let mut browser = Browser::default();
        let (server, _) = browser.get(nodes[0].public()).await;
        for node in nodes.iter().rev() {
            browser.assert_stays(node.public(), &server).await;
        }
        assert!(browser.clone().get(stranger.public()).await.1);
    }
    // A reload reads the file again.
    let mut browser = Browser::default();
    browser.get(nodes[0].public()).await;
    keys.write("a.key", 2);
    let outcome = nodes[0].reload_with(Keys::config(&origins, &file)).await;
    assert_eq!(outcome, Outcome::Done);
    nodes[0]
        .wait_stderr("upstream \"backend\": affinity changed")
        .await;
    assert!(browser.get(nodes[0].public()).await.1);
    let (server, _) = browser.get(nodes[0].public()).await;
    browser.assert_stays(stranger.public(), &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_it_is_secure() {
    let origin = Origin::chat().await;
    let authority = Authority::new();
    let pair = authority.issue("chat", &[NAME]);
    let config = Config::to(&[&origin]).upstream(COOKIE);
    let prusik = Prusik::start(config.clone().tls(certificates(&[&pair]))).await;
    let mut client = authority.client().connect(prusik.public(), NAME).await;
    let answer = client.get("/").await;
    assert!(
        answer
            .field("set-cookie")
            .expect("one")
            .ends_with("; Secure")
    );

    let trusting = Prusik::start(config.top("trusted_proxies: [127.0.0.1]")).await;
    let suspicious = Prusik::start(Config::to(&[&origin]).upstream(COOKIE)).await;
    for (node, proto, expected) in [
        (&trusting, "https", true),
        (&trusting, "HTTPS, http", true),
        (&trusting, "http, https", false),
        (&suspicious, "https", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: {proto}\r\n\r\n");
        let answer = Client::connect(node.public()).await.ask(request).await;
        let set = answer.field("set-cookie").expect("one");
        assert_eq!(set.ends_with("; Secure"), expected, "{proto}: {set}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_set_and_read_by_http2() {
    let origin = Origin::chat().await;
    let other = Origin::chat().await;
    let more = other.address();
    let site = Http2Site::start(origin, |config| config.server(more).upstream(COOKIE)).await;
    let mut client = site.client().await;
    let (response, first) = client.get("/").await;
    let set = response.headers()["set-cookie"].to_str().expect("text");
    assert!(set.ends_with("; Secure"), "{set}");
    let pair = set.split(';').next().expect("a pair");
    for _ in 0..4 {
        let request = Request::get(format!("https://{NAME}/"))
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", pair)
            .body(())
            .expect("a request");
        let (response, server) = client.ask(request).await;
        assert_eq!(server, first);
        assert!(!response.headers().contains_key("set-cookie"));
    }
    let (response, _receive, _send) = client.connect("/").await;
    assert!(response.headers().contains_key("set-cookie"));
}
