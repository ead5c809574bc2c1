//! Whose sessions they are: in the log, for operators, and in limits for each user.

use std::fs;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Error;

use crate::support;
use crate::support::events::{EventClient, EventServer, StreamEnd};
use crate::support::{
    Answer, Authority, Client, Config, Ended, Origin, Outcome, Prusik, RawSession, Session,
    certificates, check, eventually, handshake, status_of,
};

const TOP: &str = "admin: { listen: \"127.0.0.1:0\" }\n\
                   server: { drain: { window: 0s, deadline: 20s } }";

const USER: &str = "user: $arg_user";

fn config(origin: &Origin, websocket: &str) -> Config {
    let websocket = format!("websocket: {{ {websocket} }}");
    Config::to(&[origin])
        .top(TOP)
        .route("name: chat")
        .route(USER)
        .route(websocket)
}

async fn open(prusik: &Prusik, user: &str) -> Session {
    Session::open(prusik.public(), &format!("/?user={user}")).await
}

/// The status of a handshake that is refused.
async fn refused(prusik: &Prusik, path: &str) -> u16 {
    match Session::try_open(prusik.public(), path).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "a session")),
    }
}

/// How many sessions of the user are listed.
pub async fn listed(prusik: &Prusik, user: &str) -> usize {
    let said = prusik.order(&["sessions", "--json", "--user", user]).await;
    let said: Value = serde_json::from_str(&said).expect("it is JSON");
    let sessions = said["sessions"].as_array().expect("a list").clone();
    assert!(sessions.iter().all(|one| one["user"] == user), "{said}");
    sessions.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stands_in_the_log_and_in_the_list_and_is_logged_out_everywhere() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(config(&origin, "")).await;
    let mut of_alice = [open(&prusik, "alice").await, open(&prusik, "alice").await];
    let (mut of_bob, mut nobodys) = (open(&prusik, "bob").await, open(&prusik, "").await);
    assert_eq!(status_of(prusik.public(), "/page?user=carol").await, 200);
    for (kind, user) in [("session_open", "alice"), ("request", "carol")] {
        let is_it = |entry: &Value| entry["kind"] == kind && entry["user"] == user;
        prusik.wait_log(kind, is_it).await;
    }
    let is_nobodys = |entry: &Value| entry["kind"] == "session_open" && entry["user"].is_null();
    prusik.wait_log("nobody's session", is_nobodys).await;
    assert_eq!(listed(&prusik, "alice").await, 2);
    assert_eq!(listed(&prusik, "carol").await, 0);
    let table = prusik.order(&["sessions"]).await;
    assert!(table.contains("USER") && table.contains("bob"), "{table}");

    // Of nobody, none.
    let empty = tokio::task::block_in_place(|| prusik.operate(&["close", "--user", ""]));
    assert_eq!(empty.status.code(), Some(2));
    for query in ["", "?user=", "?user=&code=4001"] {
        let (mut client, admin) = (Client::connect(prusik.admin()).await, prusik.admin());
        let request = format!("DELETE /api/v1/sessions{query} HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        let answer = client.ask(request).await;
        assert_eq!(answer.status(), 400, "{query}: {}", answer.text());
    }
    let said = prusik.order(&["close", "--user", "dora"]).await;
    assert_eq!(said, "closed 0 sessions of dora\n");
    assert_eq!(prusik.status().await["sessions"], 4);

    let said = prusik
        .order(&["close", "--user", "alice", "--code", "4401"])
        .await;
    assert_eq!(said, "closed 2 sessions of alice\n");
    for session in &mut of_alice {
        assert_eq!(session.ended().await, Ended::Close(4401));
    }
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["user"], &close["closed_by"]),
        (&"alice".into(), &"operator".into())
    );
    let is_it = |entry: &Value| entry["kind"] == "operation" && entry["of"] == "user alice";
    let operation = prusik.wait_log("the operation", is_it).await;
    assert_eq!(operation["outcome"], "2 sessions are told to go");
    assert!(of_bob.is_alive().await && nobodys.is_alive().await);
    assert_eq!(listed(&prusik, "alice").await, 0);
}

#[tokio::test]
async fn in_the_combined_format_a_user_is_one_word() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("access.log");
    let config = config(&origin, "").top(format!(
        "access_log: {{ path: {}, format: combined }}",
        log.display()
    ));
    let prusik = Prusik::start(config).await;
    status_of(prusik.public(), "/?user=alice").await;
    status_of(prusik.public(), "/").await;
    let text = || fs::read_to_string(&log).unwrap_or_default();
    eventually("both lines", async || text().lines().count() == 2).await;
    assert!(text().starts_with("127.0.0.1 - alice ["), "{}", text());
    assert!(text().contains("127.0.0.1 - - ["), "{}", text());
}

#[tokio::test]
async fn a_name_is_bounded_and_a_certificate_can_give_it() {
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let shown = authority.issue_with("client", &["client.test"], |params| {
        let name = rcgen::DnType::CommonName;
        params.distinguished_name.push(name, "alice b");
    });
    let origin = Origin::chat().await;
    let ca = authority.file();
    let tls = format!(
        "{}, client_ca: \"{}\"",
        certificates(&[&pair]),
        ca.display()
    );
    let by_name = "{ match: { path_prefix: /name }, upstream: backend, user: $arg_user }";
    let config = Config::to(&[&origin]).tls(tls).first(by_name);
    let prusik = Prusik::start(config.route("user: $ssl_client_s_dn")).await;
    let client = authority.client().with(&shown);
    let mut client = client.connect(prusik.public(), "chat.test").await;
    assert_eq!(client.get("/").await.status(), 200);
    let is_it = |entry: &Value| {
        let user = entry["user"].as_str().unwrap_or_default();
        user.contains("CN=alice b")
    };
    prusik.wait_log("the subject", is_it).await;
    let longest = "x".repeat(512);
    let answer = client.get(&format!("/name?user={longest}")).await;
    assert_eq!(answer.status(), 200);
    prusik
        .wait_log("the longest", |entry| entry["user"] == longest)
        .await;
    let answer = client.get(&format!("/name?user={longest}x")).await;
    assert_eq!(answer.status(), 400);
    let is_refused = |entry: &Value| entry["status"] == 400 && entry["user"].is_null();
    prusik.wait_log("the refusal", is_refused).await;
}

#[tokio::test]
async fn a_user_over_the_limit_gets_429_and_nobody_has_no_limit() {
    let origin = Origin::chat().await;
    let limited = |most: usize| config(&origin, &format!("max_sessions_per_user: {most}"));
    let prusik = Prusik::start(limited(2)).await;
    let first = open(&prusik, "alice").await;
    let _second = open(&prusik, "alice").await;
    assert_eq!(refused(&prusik, "/?user=alice").await, 429);
    let is_it = |entry: &Value| {
        let error = entry["error"].as_str().unwrap_or_default();
        entry["status"] == 429 && entry["user"] == "alice" && error.contains("this user")
    };
    prusik.wait_log("the reason", is_it).await;
    let _bobs = open(&prusik, "bob").await;
    let _nobodys = join_all((0..5).map(|_| open(&prusik, ""))).await;
    // Plain requests are not counted.
    assert_eq!(status_of(prusik.public(), "/?user=alice").await, 200);
    // The counts outlive a reload.
    assert_eq!(prusik.reload_with(limited(3)).await, Outcome::Done);
    let _third = open(&prusik, "alice").await;
    assert_eq!(refused(&prusik, "/?user=alice").await, 429);
    first.close(1000).await;
    eventually("room is made", async || {
        let opened = Session::try_open(prusik.public(), "/?user=alice").await;
        opened.is_ok()
    })
    .await;
}

#[tokio::test]
async fn where_the_newest_wins_the_oldest_is_told_when_the_newest_has_begun() {
    let origin = Origin::start(|request| match request.target() {
        target if target.starts_with("/no") => Answer::status(403, &[], "no"),
        _ => Answer::upgrade(request),
    })
    .await;
    let limit = "max_sessions_per_user: 2, newest_wins: true";
    let prusik = Prusik::start(config(&origin, limit)).await;
    let request = handshake("/?user=alice");
    let mut oldest = RawSession::open(prusik.public(), &request).await;
    let mut second = open(&prusik, "alice").await;
    let mut of_bob = open(&prusik, "bob").await;
    // Handshakes that fail at the server cost nobody a session.
    for _ in 0..3 {
        assert_eq!(refused(&prusik, "/no?user=alice").await, 403);
    }
    let mut third = open(&prusik, "alice").await;
    let close = oldest.frame().await;
    assert_eq!(
        (close.opcode, &close.payload[..2]),
        (8, &4409_u16.to_be_bytes()[..])
    );
    let reason = String::from_utf8_lossy(&close.payload[2..]).into_owned();
    assert_eq!(reason, "replaced by a newer session of the same user");
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["closed_by"], &close["close_code"]),
        (&"limit".into(), &4409.into())
    );
    for session in [&mut second, &mut third, &mut of_bob] {
        assert!(session.is_alive().await);
    }
}

/// Twenty handshakes of one user at once.
async fn storm(prusik: &Prusik) -> Vec<Result<Session, Error>> {
    let address = prusik.public();
    let handshakes = (0..20).map(|_| Session::try_open(address, "/?user=alice"));
    join_all(handshakes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_at_once_do_not_exceed_the_limit() {
    let origin = Origin::chat().await;
    let prusik = Prusik::start(config(&origin, "max_sessions_per_user: 3")).await;
    let opened = storm(&prusik).await;
    let mut sessions: Vec<Session> = opened.into_iter().filter_map(Result::ok).collect();
    assert_eq!(sessions.len(), 3);
    for session in &mut sessions {
        assert!(session.is_alive().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_handshakes_at_once_the_newest_win_and_no_more_are_closed_than_needed() {
    let origin = Origin::chat().await;
    let limit = "max_sessions_per_user: 3, newest_wins: true";
    let prusik = Prusik::start(config(&origin, limit)).await;
    let opened = storm(&prusik).await;
    let sessions = opened.into_iter().map(|opened| opened.expect("all get in"));
    let mut sessions: Vec<Session> = sessions.collect();
    eventually("the rest are told", async || {
        listed(&prusik, "alice").await == 3
    })
    .await;
    let mut alive = 0;
    for session in &mut sessions {
        match session.is_alive().await {
            true => alive += 1,
            false => assert_eq!(
                session.ended().await,
                Ended::Cut,
                "its Close frame was read"
            ),
        }
    }
    assert_eq!(alive, 3);
    let closed = prusik
        .access_log()
        .into_iter()
        .filter(|entry| entry["kind"] == "session_close" && entry["closed_by"] == "limit");
    assert_eq!(closed.count(), 17);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_their_counts_move_to_the_next_process() {
    let origin = Origin::chat().await;
    let limit = "max_sessions_per_user: 2";
    let mut prusik = Prusik::start(config(&origin, limit)).await;
    let mut oldest = open(&prusik, "alice").await;
    let mut second = open(&prusik, "alice").await;
    let mut of_bob = open(&prusik, "bob").await;
    for _ in 0..2 {
        let said = prusik.upgrade().await;
        assert!(said.contains("3 sessions moved, 0 told to go"), "{said}");
        assert_eq!(refused(&prusik, "/?user=alice").await, 429);
        assert_eq!(listed(&prusik, "alice").await, 2);
    }
    // By age, whatever the order in which they have come.
    let wins = config(&origin, &format!("{limit}, newest_wins: true"));
    assert_eq!(prusik.reload_with(wins).await, Outcome::Done);
    let mut third = open(&prusik, "alice").await;
    assert_eq!(oldest.ended().await, Ended::Close(4409));
    prusik.upgrade().await;
    let mut fourth = open(&prusik, "alice").await;
    assert_eq!(second.ended().await, Ended::Close(4409));
    for session in [&mut third, &mut fourth, &mut of_bob] {
        assert!(session.is_alive().await);
    }
    let said = prusik.order(&["close", "--user", "alice"]).await;
    assert_eq!(said, "closed 2 sessions of alice\n");
    assert_eq!(third.ended().await, Ended::Close(1012));
    assert_eq!(fourth.ended().await, Ended::Close(1012));
    assert!(of_bob.is_alive().await);
}

/// A bound counts what is still in the old process.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_limit_holds_while_sessions_move() {
    const LIMIT: usize = 150;
    let origin = Origin::chat().await;
    let limit = format!("max_sessions_per_user: {LIMIT}");
    let mut prusik = Prusik::start(config(&origin, &limit)).await;
    let mut sessions = join_all((0..LIMIT).map(|_| open(&prusik, "alice"))).await;
    let address = prusik.public();
    let knocking = tokio::spawn(async move {
        for _ in 0..300 {
            if Session::try_open(address, "/?user=alice").await.is_ok() {
                return false;
            }
        }
        true
    });
    for _ in 0..2 {
        prusik.upgrade().await;
    }
    assert!(knocking.await.expect("no panic"), "one was let in");
    for session in &mut sessions {
        assert!(session.is_alive().await);
    }
}

/// Its last session has ended in the old process, and counts in the new one no more.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_to_go_by_an_upgrade_is_let_in_at_once() {
    let origin = Origin::chat().await;
    let config = |tunnel| {
        let server = format!("server: {{ tunnel: {tunnel}, drain: {{ window: 2s }} }}");
        config(
            &origin,
            "max_sessions_per_user: 1, max_sessions_per_client: 20",
        )
        .to_string()
        .replace("server: { drain: { window: 0s, deadline: 20s } }", &server)
    };
    // Sessions in Pingora's tunnel cannot move.
    let prusik = Prusik::start(config("pingora")).await;
    let users: Vec<_> = (0..20).map(|number| format!("user-{number}")).collect();
    let sessions = join_all(users.iter().map(|user| open(&prusik, user))).await;
    prusik.order(&["upgrade"]).await;
    let back = users.iter().zip(sessions).map(async |(user, mut session)| {
        assert_eq!(session.ended().await, Ended::Close(1012));
        let path = format!("/?user={user}");
        let mut refused = 0;
        while Session::try_open(prusik.public(), &path).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            refused += 1;
        }
        refused
    });
    // In a second there would be some hundred.
    let most = join_all(back).await.into_iter().max();
    assert!(most < Some(30), "{most:?}");
}

/// Wherever each session is at that moment: in the old process, on its way, or in the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_logged_out_while_sessions_move() {
    let origin = Origin::chat().await;
    let mut prusik = Prusik::start(config(&origin, "")).await;
    let mut of_bob = open(&prusik, "bob").await;
    for round in 0..6 {
        let mut sessions = join_all((0..100).map(|_| open(&prusik, "alice"))).await;
        let admin = prusik.admin().to_string();
        let log_out = tokio::task::spawn_blocking(move || {
            // So that it comes at another moment of the upgrade each time.
            thread::sleep(Duration::from_millis(round * 60));
            support::prusik(&["close", "--user", "alice", "--admin", &admin])
        });
        prusik.upgrade().await;
        let said = log_out.await.expect("no panic");
        assert!(said.status.success(), "{said:?}");
        for session in &mut sessions {
            assert_eq!(
                session.ended().await,
                Ended::Close(1012),
                "in round {round}"
            );
        }
        assert_eq!(listed(&prusik, "alice").await, 0);
    }
    assert!(of_bob.is_alive().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_streams_have_a_limit_of_their_own() {
    let mut server = EventServer::start();
    let stream = "stream: { max_sessions_per_user: 1, newest_wins: true }";
    let config = Config::to_addresses(&[server.address()]).top(TOP);
    let prusik = Prusik::start(config.route(USER).route(stream)).await;
    let address = prusik.public();
    let opening = EventClient::open(address, "/?user=alice");
    let (mut asked, mut oldest) = tokio::join!(server.stream(), opening);
    asked.event(1).await;
    oldest.expect(1).await;
    asked.chunk("id: 2\ndata: ").await;
    assert_eq!(oldest.content(12).await, b"id: 2\ndata: ");
    let opening = EventClient::open(address, "/?user=alice");
    let (mut newest, mut client) = tokio::join!(server.stream(), opening);
    // Between two events, and in order.
    asked.chunk("2\n\nid: 3\n").await;
    assert_eq!(oldest.rest().await, (StreamEnd::InOrder, b"2\n\n".to_vec()));
    let close = prusik.session_close().await;
    assert_eq!(
        (&close["user"], &close["closed_by"]),
        (&"alice".into(), &"limit".into())
    );
    newest.event(1).await;
    client.expect(1).await;
    assert_eq!(listed(&prusik, "alice").await, 1);
}

#[test]
fn keys_that_would_have_no_effect_are_errors() {
    let says = |route: &str, errors: &[&str]| {
        let yaml = format!(
            "listeners: [{{ listen: \"127.0.0.1:0\" }}]\nupstreams: {{ a: {{ servers: \
             [\"127.0.0.1:1\"] }} }}\nroutes:\n  - {{ upstream: a, {route} }}\n"
        );
        let output = check(&yaml);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.success(),
            errors.is_empty(),
            "{route}: {said}"
        );
        for error in errors {
            assert!(said.contains(error), "{route}: {said}");
        }
    };
    says(
        "user: $arg_user, websocket: { max_sessions_per_user: 1 }",
        &[],
    );
    says(
        "user: $arg_user, stream: { max_sessions_per_user: 1, newest_wins: true }",
        &[],
    );
    says(
        "websocket: { max_sessions_per_user: 0, newest_wins: off }",
        &[],
    );
    says(
        "websocket: { max_sessions_per_user: 1 }",
        &["this route knows no users"],
    );
    says(
        "stream: { max_sessions_per_user: 1 }",
        &["this route knows no users"],
    );
    says(
        "user: $arg_user, websocket: { newest_wins: true }",
        &["has no effect without"],
    );
    says("user: $jwt_sub", &["which has no auth.jwt"]);
    says("user: a$auth_x", &["which has no auth.forward"]);
    says(
        "user: $jwt_sub, auth: { forward: { url: \"http://127.0.0.1:1/\" } }",
        &["which has no auth.jwt"],
    );
    says("user: x$user", &["reads itself"]);
    says("user: \"\"", &["names nobody"]);
    says("user: $usr", &["did you mean"]);
    says(
        "websocket: { on_expiry: 4401 }",
        &["nothing that lets clients in here expires"],
    );
    says("websocket: { on_expiry: off }", &[]);
    says(
        "websocket: { on_expiry: 1006 }",
        &["a close code that may be sent"],
    );
}
