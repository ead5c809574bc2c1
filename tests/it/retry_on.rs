//! What an upstream tries at its next server: `retry_on`.

use std::time::Duration;

use crate::support::{
    Answer, Client, Config, Origin, Prusik, Response, Session, eventually, get, handshake,
};

/// Answers with this status, and says who it is.
async fn saying(status: u16) -> Origin {
    Origin::start(move |_| Answer::status(status, &["X-Who: first"], "not now")).await
}

async fn well() -> Origin {
    Origin::start(|request| match request.wants_upgrade() {
        true => Answer::upgrade(request),
        false => Answer::status(200, &["X-Who: second"], "well"),
    })
    .await
}

/// The first is always asked first: the other one is a backup.
fn in_order(first: &Origin, second: &Origin, retry_on: &str) -> Config {
    Config::to(&[first])
        .server(format!(
            "{{ address: \"{}\", backup: true }}",
            second.address()
        ))
        .upstream(format!("retry_on: {retry_on}"))
}

async fn post(prusik: &Prusik) -> Response {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    Client::connect(prusik.public()).await.ask(request).await
}

/// A server that sheds load is believed, whoever answers in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_answers_are_left_to_another_gets_fewer_handshakes_at_once() {
    let (first, second) = (saying(503).await, well().await);
    let config = in_order(&first, &second, "[connect, 503]");
    let prusik = Prusik::start(config.top("admin: { listen: \"127.0.0.1:0\" }")).await;
    let at_once = async || {
        let status = prusik.status().await;
        let servers = status["upstreams"][0]["servers"].as_array().cloned();
        let address = first.address().to_string();
        let mut servers = servers.unwrap_or_default().into_iter();
        let server = servers.find(|server| server["address"] == address);
        server.and_then(|server| server["handshakes_at_once"].as_u64())
    };
    let before = at_once().await.expect("a number");
    for _ in 0..10 {
        let mut client = Client::connect(prusik.public()).await;
        client.send(handshake("/")).await;
        assert_eq!(client.response().await.status(), 101);
    }
    assert_eq!(first.received().len(), 10);
    assert!(at_once().await.expect("a number") < before);
}

#[tokio::test]
async fn an_answer_with_such_a_status_is_left_to_the_next_server() {
    for status in [502, 503, 504] {
        let (first, second) = (saying(status).await, well().await);
        let retry_on = format!("[connect, {status}]");
        let prusik = Prusik::start(in_order(&first, &second, &retry_on)).await;
        let answer = get(prusik.public(), "/page?q").await;
        assert_eq!((answer.status(), answer.text()), (200, "well".to_owned()));
        assert_eq!(answer.field("x-who"), Some("second"));
        assert_eq!(second.only_request().target(), "/page?q");
        let entry = prusik.wait_log("the request", |_| true).await;
        assert_eq!(
            (&entry["attempts"], &entry["status"]),
            (&2.into(), &200.into())
        );
        // What is sent twice must be what a client may send twice.
        let answer = post(&prusik).await;
        assert_eq!(answer.status(), status);
        let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        let answer = Client::connect(prusik.public()).await.ask(put).await;
        assert_eq!(answer.text(), "well");
        assert_eq!(second.received()[1].body, b"body");
        assert_eq!(first.received().len(), 3);
    }
}

#[tokio::test]
async fn a_status_that_is_not_named_is_the_clients_answer() {
    let (first, second) = (saying(503).await, well().await);
    for retry_on in ["[connect]", "[502, 504, timeout]"] {
        let prusik = Prusik::start(in_order(&first, &second, retry_on)).await;
        let answer = get(prusik.public(), "/").await;
        assert_eq!(
            (answer.status(), answer.text()),
            (503, "not now".to_owned())
        );
    }
    assert!(second.received().is_empty());
}

#[tokio::test]
async fn the_last_servers_answer_is_the_clients_and_attempts_bound_it() {
    let servers = [saying(503).await, saying(503).await, saying(503).await];
    let all: Vec<&Origin> = servers.iter().collect();
    let config = Config::to(&all).upstream("retry_on: [503]");
    let prusik = Prusik::start(config.clone().upstream("attempts: 2")).await;
    let answer = get(prusik.public(), "/").await;
    assert_eq!(
        (answer.status(), answer.text()),
        (503, "not now".to_owned())
    );
    let asked = || {
        servers
            .iter()
            .map(|one| one.received().len())
            .sum::<usize>()
    };
    assert_eq!(asked(), 2);
    let prusik = Prusik::start(config).await;
    assert_eq!(get(prusik.public(), "/").await.text(), "not now");
    assert_eq!(asked(), 5);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_asked_for_elsewhere() {
    let first = Origin::start(|_| Answer::silence()).await;
    let second = well().await;
    let timeouts = "timeouts: { response: 200ms }";
    let config = in_order(&first, &second, "[timeout]").route(timeouts);
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "well");
    }
    assert_eq!(post(&prusik).await.status(), 504);
    let config = in_order(&first, &second, "[connect, 504]").route(timeouts);
    let prusik = Prusik::start(config).await;
    assert_eq!(get(prusik.public(), "/").await.status(), 504);
}

#[tokio::test]
async fn a_handshake_goes_to_the_next_server_as_any_get_does() {
    let silent = Origin::start(|_| Answer::silence()).await;
    for (first, tunnel) in [
        (&saying(503).await, "relay"),
        (&silent, "relay"),
        (&saying(503).await, "pingora"),
        (&silent, "pingora"),
    ] {
        let second = well().await;
        let config = in_order(first, &second, "[503, timeout]")
            .route("timeouts: { response: 200ms }")
            .route("websocket: { max_sessions: 1 }")
            .top(format!("server: {{ tunnel: {tunnel} }}"));
        let prusik = Prusik::start(config).await;
        let mut session = Session::open(prusik.public(), "/").await;
        assert_eq!(session.ask("hello").await, "hello", "{tunnel}");
        session.close(1000).await;
        let line = prusik.session_close().await;
        assert_eq!(
            (&line["attempts"], &line["closed_by"]),
            (&2.into(), &"client".into())
        );
        // The place of the attempt that failed is free again.
        eventually("there is room", async || {
            Session::try_open(prusik.public(), "/").await.is_ok()
        })
        .await;
    }
    let alone = saying(503).await;
    let config = Config::to(&[&alone]).upstream("retry_on: [503]");
    let prusik = Prusik::start(config).await;
    let mut client = Client::connect(prusik.public()).await;
    let answer = client.ask(handshake("/")).await;
    assert_eq!(
        (answer.status(), answer.text()),
        (503, "not now".to_owned())
    );
}

#[tokio::test]
async fn a_client_that_has_got_a_byte_gets_the_rest_from_the_same_server() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let last = "HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nnot now";
    // Later: what comes at once is one answer to Pingora.
    let pause = Duration::from_millis(300);
    let first = Origin::start(move |_| Answer::raw(hints).wait(pause).send(last)).await;
    let second = well().await;
    let prusik = Prusik::start(in_order(&first, &second, "[503]")).await;
    let mut client = Client::connect(prusik.public()).await;
    assert_eq!(client.get("/").await.status(), 103);
    let answer = client.response().await;
    assert_eq!(
        (answer.status(), answer.text()),
        (503, "not now".to_owned())
    );
    assert!(second.received().is_empty());
}
