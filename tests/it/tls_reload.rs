//! A listener that asks more of its clients than before: who came in without it is served no more.

use std::time::Duration;

use crate::support::http2::{Http2Site, NAME, frame, whole};
use crate::support::{
    Answer, Authority, Client, Config, Frame, Origin, Outcome, Pair, Prusik, Session, certificates,
    client_frame, eventually, within,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

async fn origin() -> Origin {
    Origin::start(|request| match request.target() {
        "/slow" => Answer::text("slow").after(Duration::from_secs(2)),
        _ if request.field("upgrade").is_some() => Answer::upgrade(request),
        target => Answer::text(target),
    })
    .await
}

fn plain(origin: &Origin) -> Config {
    Config::to(&[origin]).top(ADMIN)
}

fn secured(origin: &Origin, pair: &Pair, more: &str) -> Config {
    plain(origin).tls(format!("{}{more}", certificates(&[pair])))
}

fn client_ca(authority: &Authority) -> String {
    format!(", client_ca: \"{}\"", authority.file().display())
}

async fn connections(prusik: &Prusik, wanted: u64) {
    eventually(format!("{wanted} connections are there"), async || {
        prusik.status().await["listeners"][0]["connections"] == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_connections_end_when_their_listener_gets_tls_and_sessions_stay() {
    let origin = origin().await;
    let prusik = Prusik::start(plain(&origin)).await;
    let address = prusik.public();
    let mut idle = Client::connect(address).await;
    assert_eq!(idle.get("/first").await.text(), "/first");
    let mut fresh = Client::connect(address).await;
    let mut half = Client::connect(address).await;
    half.send("GET /half HTTP/1.1\r\nHost: te").await;
    let mut busy = Client::connect(address).await;
    // What stands behind the request in flight is one that comes too late.
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    origin.has_got("/slow").await;
    let mut session = Session::open(address, "/").await;
    connections(&prusik, 5).await;

    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    let reloaded = prusik.reload_with(secured(&origin, &pair, "")).await;
    assert_eq!(reloaded, Outcome::Done);
    for client in [&mut idle, &mut fresh, &mut half] {
        client.expect_end().await;
    }
    let last = busy.response().await;
    assert_eq!(last.text(), "slow");
    assert_eq!(last.field("connection"), Some("close"));
    busy.expect_end().await;
    assert!(session.is_alive().await);
    let targets: Vec<String> = origin
        .received()
        .iter()
        .map(|r| r.target().into())
        .collect();
    assert!(
        !targets
            .iter()
            .any(|target| target == "/late" || target == "/half"),
        "{targets:?}"
    );
    let mut client = authority.client().connect(address, "chat.test").await;
    assert_eq!(client.get("/new").await.text(), "/new");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_certificate_end_when_their_listener_asks_for_one() {
    let (origin, authority) = (origin().await, Authority::new());
    let pair = authority.issue("chat", &["chat.test"]);
    let prusik = Prusik::start(secured(&origin, &pair, "")).await;
    let client = authority.client();
    let mut idle = client.connect(prusik.public(), "chat.test").await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut busy = client.connect(prusik.public(), "chat.test").await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.has_got("/slow").await;
    let stream = client.try_connect(prusik.public(), "chat.test").await;
    let mut session = Session::over(stream.unwrap(), "/").await.unwrap();
    // Its handshake comes when the reload is over, by the rules that held when it was accepted.
    let halfway = TcpStream::connect(prusik.public()).await.unwrap();
    connections(&prusik, 4).await;

    let asks = secured(&origin, &pair, &client_ca(&authority));
    assert_eq!(prusik.reload_with(&asks).await, Outcome::Done);
    idle.expect_end().await;
    let last = busy.response().await;
    assert_eq!(
        (last.text().as_str(), last.field("connection")),
        ("slow", Some("close"))
    );
    busy.expect_end().await;
    assert!(session.is_alive().await);
    let connector = TlsConnector::from(client.config());
    let name = ServerName::try_from("chat.test").unwrap();
    let before = origin.received().len();
    if let Ok(mut stream) = within("a handshake", connector.connect(name, halfway)).await {
        let request = b"GET /halfway HTTP/1.1\r\nHost: a\r\n\r\n";
        // It may be closed by now.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert_eq!(String::from_utf8_lossy(&answer), "");
    }
    assert_eq!(origin.received().len(), before);

    // Whoever shows one is let in, and stays when the same authorities are asked for again.
    let theirs = authority.issue("client", &["client.test"]);
    let known = authority.client().with(&theirs);
    let mut known = known.connect(prusik.public(), "chat.test").await;
    assert_eq!(known.get("/").await.status(), 200);
    let again = asks.route("timeouts: { connect: 7s }");
    assert_eq!(prusik.reload_with(again).await, Outcome::Done);
    assert_eq!(known.get("/").await.status(), 200);
    // Those of another authority have shown nothing that counts any more.
    let stranger = Authority::new();
    let other = secured(&origin, &pair, &client_ca(&stranger));
    assert_eq!(prusik.reload_with(other).await, Outcome::Done);
    known.expect_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_ends_no_connection() {
    let site = Http2Site::start(origin().await, |config| config).await;
    let mut by_http_2 = site.client().await;
    assert_eq!(by_http_2.get("/").await.0.status(), 200);
    let client = site.authority.client();
    let mut kept = client.connect(site.prusik.public(), NAME).await;
    assert_eq!(kept.get("/").await.status(), 200);
    site.authority.issue("chat", &[NAME]);
    assert_eq!(site.prusik.reload().await, Outcome::Done);
    site.prusik.wait_stderr("tls changed").await;
    assert_eq!(kept.get("/").await.status(), 200);
    assert_eq!(by_http_2.get("/").await.0.status(), 200);
    assert!(!by_http_2.connection.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_connection_takes_no_more_streams_and_ends_with_its_last() {
    let site = Http2Site::start(origin().await, |config| config).await;
    let mut busy = site.client().await;
    let slow = http::Request::get(format!("https://{NAME}/slow"));
    let (slow, _) = busy.begin(slow.body(()).unwrap(), true).await;
    site.origin.has_got("/slow").await;
    let mut talking = site.client().await;
    let (response, mut receive, mut send) = talking.connect("/chat").await;
    assert_eq!(response.status(), 200);
    let mut idle = site.client().await;
    assert_eq!(idle.get("/").await.0.status(), 200);

    let pair = site.authority.issue("chat", &[NAME]);
    let more = format!(", http2: true{}", client_ca(&site.authority));
    let reloaded = site.prusik.reload_with(secured(&site.origin, &pair, &more));
    assert_eq!(reloaded.await, Outcome::Done);
    within("an idle connection ends", idle.connection)
        .await
        .unwrap()
        .unwrap();
    let (response, body) = whole(slow).await;
    assert_eq!((response.status().as_u16(), &body[..]), (200, &b"slow"[..]));
    within("it ends with its last answer", busy.connection)
        .await
        .unwrap()
        .unwrap();

    let before = site.origin.received().len();
    let request = http::Request::get(format!("https://{NAME}/late"))
        .body(())
        .unwrap();
    let late = within("the connection's word", talking.send.clone().ready()).await;
    if let Ok(mut late) = late
        && let Ok((response, _)) = late.send_request(request, true)
        && let Ok(response) = within("an answer or a reset", response).await
    {
        assert_eq!(response.status(), 421);
    }
    assert_eq!(site.origin.received().len(), before);
    send.send_data(client_frame(1, b"still here").into(), false)
        .unwrap();
    assert_eq!(
        frame(&mut receive, &mut Vec::new()).await,
        Frame::text("still here")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_connection_does_not_move_to_a_process_whose_listener_has_tls() {
    let origin = origin().await;
    let mut prusik = Prusik::start(plain(&origin)).await;
    let mut idle = Client::connect(prusik.public()).await;
    assert_eq!(idle.get("/").await.status(), 200);
    let mut session = Session::open(prusik.public(), "/").await;
    let authority = Authority::new();
    let pair = authority.issue("chat", &["chat.test"]);
    prusik.write_config(secured(&origin, &pair, ""));
    prusik.upgrade().await;
    idle.expect_end().await;
    assert!(session.is_alive().await);
}
