//! `auth.forward` when the auth server cannot be asked: nobody is let in.

use crate::support::{
    Answer, Client, Config, Origin, Prusik, Response, eventually, free_address, handshake,
    metrics_of, status_of,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

fn auth(server: &Origin, timeout: &str) -> String {
    let address = server.address();
    format!("auth: {{ forward: {{ url: \"http://{address}/\", timeout: {timeout} }} }}")
}

async fn ask(prusik: &Prusik, request: String) -> Response {
    Client::connect(prusik.public()).await.ask(request).await
}

/// The route's answer when the auth server does this, and what the log says of it.
async fn unavailable(answer: Answer, timeout: &str, said: &str) {
    let server = Origin::chat().await;
    let keeper = Origin::start(move |_| answer.clone()).await;
    let address = keeper.address();
    let config = Config::to(&[&server])
        .route("name: app")
        .route(auth(&keeper, timeout))
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(),
        handshake("/"),
    ] {
        let answer = ask(&prusik, request).await;
        assert_eq!(answer.status(), 503, "{said}");
        assert!(answer.field("retry-after").is_some());
        let told = answer.text();
        assert!(!told.contains(&address.to_string()), "{told}");
    }
    assert!(server.received().is_empty(), "{said}");
    let line = "route \"app\": the auth server cannot be asked: ";
    prusik.wait_stderr(line).await;
    prusik.wait_stderr(said).await;
    let entry = prusik
        .wait_log("the 503", |entry| entry["status"] == 503)
        .await;
    let reason = entry["error"].as_str().unwrap_or_default();
    assert!(reason.contains(said), "{entry}");
    let metrics = metrics_of(&prusik).await;
    let refused = "prusik_auth_refused_total{route=\"app\",reason=\"unavailable\"} 2";
    assert!(metrics.contains(refused), "{metrics}");
}

#[tokio::test]
async fn an_auth_server_that_does_not_answer_lets_nobody_in() {
    unavailable(Answer::silence(), "200ms", "no answer within 200ms").await;
}

#[tokio::test]
async fn an_auth_server_that_is_slow_with_its_body_lets_nobody_in() {
    let begun = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").hang();
    unavailable(begun, "200ms", "no answer within 200ms").await;
}

#[tokio::test]
async fn an_auth_server_that_hangs_up_lets_nobody_in() {
    unavailable(Answer::nothing(), "5s", "no answer: ").await;
    let begun = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").close();
    unavailable(begun, "5s", "its answer breaks off").await;
}

#[tokio::test]
async fn an_auth_server_that_speaks_no_sound_http_lets_nobody_in() {
    for bytes in [
        "no HTTP at all\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent Length\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab",
        "HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        unavailable(Answer::raw(bytes).close(), "5s", "answer").await;
    }
}

#[tokio::test]
async fn an_answer_without_end_lets_nobody_in() {
    let large = Answer::raw("HTTP/1.1 401 No\r\nContent-Length: 300000\r\n\r\n").pattern(300_000);
    unavailable(large, "5s", "more than 256 KiB").await;
    let field = format!("X-Large: {}\r\n", "x".repeat(1000)).repeat(100);
    let head = Answer::raw(format!(
        "HTTP/1.1 200 OK\r\n{field}Content-Length: 0\r\n\r\n"
    ));
    unavailable(head, "5s", "no answer: ").await;
}

#[tokio::test]
async fn an_auth_server_that_is_not_there_lets_nobody_in_until_it_is() {
    let server = Origin::start(|_| Answer::text("hello")).await;
    let nobody = free_address();
    let url = format!("auth: {{ forward: {{ url: \"http://{nobody}/\" }} }}");
    let prusik = Prusik::start(Config::to(&[&server]).route(url)).await;
    assert_eq!(status_of(prusik.public(), "/").await, 503);
    prusik
        .wait_stderr(&format!("cannot connect to {nobody}"))
        .await;
    let _keeper = Origin::start_on(nobody, |_| Answer::text("in")).await;
    assert_eq!(status_of(prusik.public(), "/").await, 200);
}

#[tokio::test]
async fn more_clients_than_may_ask_at_once_are_let_in_neither() {
    let server = Origin::start(|_| Answer::text("hello")).await;
    let keeper = Origin::start(|_| Answer::silence()).await;
    let config = Config::to(&[&server]).route(auth(&keeper, "1s"));
    let prusik = Prusik::start(config).await;
    let address = prusik.public();
    let clients = (0..200).map(|_| tokio::spawn(async move { status_of(address, "/").await }));
    for client in clients.collect::<Vec<_>>() {
        assert_eq!(client.await.expect("it ends"), 503);
    }
    // All of them have left again.
    eventually("nobody asks any more", async || keeper.open() == 0).await;
}
