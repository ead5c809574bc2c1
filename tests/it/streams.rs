//! Event streams are sessions: what passes, and how they end.

use serde_json::Value;

use crate::support::events::{EventClient, EventServer, STREAM, StreamEnd, chunk, event};
use crate::support::{Client, Config, Prusik};

async fn start(change: impl FnOnce(Config) -> Config) -> (EventServer, Prusik) {
    let server = EventServer::start();
    let config = change(Config::to_addresses(&[server.address()]));
    let prusik = Prusik::start(config).await;
    (server, prusik)
}

fn is(kind: &str) -> impl Fn(&Value) -> bool {
    move |line| line["kind"] == kind
}

#[tokio::test]
async fn each_event_passes_at_once_and_the_stream_is_a_session() {
    let (mut server, prusik) = start(|config| config).await;
    let opening = tokio::spawn(EventClient::open(prusik.public(), "/events?room=1"));
    let mut asked = server.stream().await;
    let mut client = opening.await.unwrap();
    assert_eq!(client.head.status(), 200);
    assert!(client.head.has_line("Connection: close"), "{}", client.head);
    for number in 1..=20 {
        asked.event(number).await;
        client.expect(number).await;
    }
    let open = prusik.wait_log("the opening", is("session_open")).await;
    assert_eq!((&open["status"], &open["path"]), (&200.into(), &"/events?room=1".into()));
    asked.end().await;
    assert_eq!(client.ended().await, StreamEnd::InOrder);
    let close = prusik.session_close().await;
    assert_eq!(close["closed_by"], "server");
    assert_eq!(close["events_out"], 20);
    let length: usize = (1..=20).map(|number| event(number).len()).sum();
    assert_eq!(close["bytes_out"], length);
    asked.closed().await;
}
