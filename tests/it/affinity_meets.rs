//! Affinity beside what else decides on a server, on its path, and on an answer.

use std::fs;

use futures_util::future::join_all;

use crate::support::{
    Answer, Client, Config, Origin, Prusik, RawSession, Response, Session, eventually, get,
    handshake_with,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn ask(prusik: &Prusik, target: &str, fields: &[&str]) -> Response {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

/// A server that answers pages with its name, and handshakes never.
async fn hanging(name: &'static str) -> Origin {
    Origin::start(move |request| match request.wants_upgrade() {
        true => Answer::silence(),
        false => Answer::text(name),
    })
    .await
}

/// The cookie of the server that answers pages with this name.
async fn cookie_of(prusik: &Prusik, name: &str) -> String {
    for _ in 0..300 {
        let answer = get(prusik.public(), "/").await;
        if answer.text() == name {
            let set = answer.field("set-cookie").expect("a cookie");
            let pair = set.split(';').next().unwrap_or_default();
            return format!("Cookie: {pair}");
        }
    }
    panic!("{name} never answers");
}

/// Handshakes that are under way.
async fn knock(prusik: &Prusik, path: &str, cookie: &str, count: usize) -> Vec<Client> {
    let knocks = (0..count).map(|_| async {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake_with(path, &[cookie])).await;
        client
    });
    join_all(knocks).await
}

/// How many handshakes of this path the server has.
fn at(origin: &Origin, path: &str) -> usize {
    let received = origin.received();
    received.iter().filter(|one| one.target() == path).count()
}

/// How many handshakes a server gets at once that nothing is known of.
const AT_ONCE: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_cookie_waits_for_its_own_server() {
    let (hangs, chats) = (hanging("hangs").await, Origin::chat().await);
    let config = Config::to(&[&hangs, &chats])
        .top(ADMIN)
        .upstream("affinity: { cookie: prusik }");
    let prusik = Prusik::start(config).await;
    let cookie = cookie_of(&prusik, "hangs").await;
    let first = knock(&prusik, "/first", &cookie, AT_ONCE).await;
    let is_full = async || at(&hangs, "/first") == AT_ONCE;
    eventually("the server has as many as it gets", is_full).await;
    let _late = knock(&prusik, "/late", &cookie, 10).await;
    eventually("they wait", async || {
        let status = prusik.status().await;
        status["upstreams"][0]["waiting"].as_u64() >= Some(7)
    })
    .await;
    // Nobody else waits for that.
    let others = (0..10).map(|_| Session::open(prusik.public(), "/other"));
    let others = join_all(others).await;
    assert_eq!(at(&chats, "/other"), 10);
    drop(first);
    let are_there = async || at(&hangs, "/late") == 10;
    eventually("they are at their own", are_there).await;
    assert_eq!(at(&chats, "/late"), 0);
    for mut other in others {
        assert!(other.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_cookie_of_an_ejected_server_waits_for_no_particular_one() {
    let (hangs, chats) = (hanging("hangs").await, Origin::chat().await);
    let gone = hanging("gone").await;
    // In turn, nearly all would be for the one that hangs.
    let config = Config::to(&[&gone, &chats])
        .server(format!(
            "{{ address: \"{}\", weight: 100 }}",
            hangs.address()
        ))
        .top(ADMIN)
        .upstream("eject: { failures: 1, within: 60s, for: 60s }")
        .upstream("affinity: { cookie: prusik }");
    let prusik = Prusik::start(config).await;
    let cookies = [
        cookie_of(&prusik, "gone").await,
        cookie_of(&prusik, "hangs").await,
    ];
    let [of_gone, of_hanging] = &cookies;
    gone.kill().await;
    assert_eq!(ask(&prusik, "/", &[of_gone]).await.status(), 200);
    prusik.wait_stderr("is ejected for").await;
    let _full = knock(&prusik, "/full", of_hanging, AT_ONCE + 10).await;
    let is_full = async || at(&hangs, "/full") >= AT_ONCE;
    eventually("the server has as many as it gets", is_full).await;
    let handshake = handshake_with("/moved", &[of_gone]);
    let sessions = (0..10).map(|_| RawSession::open(prusik.public(), &handshake));
    for session in join_all(sessions).await {
        let set = session.head.field("set-cookie").expect("another cookie");
        assert!(set.starts_with("prusik="), "{set}");
    }
    assert_eq!(at(&chats, "/moved"), 10);
}

#[tokio::test]
async fn a_rewritten_path_a_cookie_and_a_page_do_not_disturb_each_other() {
    const SORRY: &str = "<p>Sorry</p>\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("sorry.html");
    fs::write(&page, SORRY).expect("it is ours");
    let origin = Origin::start(|request| match request.wants_upgrade() {
        true => Answer::upgrade(request),
        false => Answer::text(request.target()),
    })
    .await;
    let config = Config::to(&[&origin])
        .upstream("affinity: { cookie: prusik }")
        .route("rewrite: { regex: \"^/v1/(.*)$\", to: \"/api/$1\" }")
        .route(format!("errors: {{ 502: \"{}\" }}", page.display()));
    let prusik = Prusik::start(config).await;
    let answer = get(prusik.public(), "/v1/x?y=1").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "/api/x?y=1"));
    let set = answer.field("set-cookie").expect("a cookie").to_owned();
    let cookie = format!("Cookie: {}", set.split(';').next().unwrap_or_default());
    let answer = ask(&prusik, "/v1/z", &[&cookie]).await;
    assert_eq!(
        (&*answer.text(), answer.field("set-cookie")),
        ("/api/z", None)
    );
    let handshake = handshake_with("/v1/ws", &[&cookie]);
    let session = RawSession::open(prusik.public(), handshake).await;
    assert_eq!(session.head.field("set-cookie"), None);
    assert_eq!(at(&origin, "/api/ws"), 1);
    drop(session);
    origin.kill().await;
    for fields in [&[][..], &[&cookie[..]]] {
        let answer = ask(&prusik, "/v1/x", fields).await;
        assert_eq!((answer.status(), &*answer.text()), (502, SORRY));
        assert_eq!(answer.field("set-cookie"), None, "no server has answered");
    }
}

#[tokio::test]
async fn an_answer_may_have_cookies_of_the_server_the_auth_server_and_affinity() {
    let origin = Origin::start(|request| match request.wants_upgrade() {
        true => Answer::upgrade_with(request, &["Set-Cookie: own=1"], b""),
        false => Answer::status(200, &["Set-Cookie: own=1"], ""),
    })
    .await;
    let keeper = Origin::start(|_| Answer::status(200, &["Set-Cookie: seen=1"], "")).await;
    let address = keeper.address();
    let config = Config::to(&[&origin])
        .upstream("affinity: { cookie: prusik }")
        .route(format!(
            "auth: {{ forward: {{ url: \"http://{address}/\" }} }}"
        ));
    let prusik = Prusik::start(config).await;
    let page = get(prusik.public(), "/").await.head;
    let session = RawSession::open(prusik.public(), handshake_with("/ws", &[])).await;
    for head in [&page, &session.head] {
        let mut names: Vec<&str> = head.fields("set-cookie");
        names
            .iter_mut()
            .for_each(|set| *set = set.split('=').next().unwrap_or_default());
        names.sort_unstable();
        assert_eq!(names, ["own", "prusik", "seen"], "{head}");
    }
}
