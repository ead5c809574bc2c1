use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, connect_async};

use super::*;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn start(room: &Arc<Room>) -> ChatServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ChatServer::start(listener, room.clone()).unwrap()
}

async fn connect(server: &ChatServer, path: &str) -> Client {
    let url = format!("ws://{}/IMS_SVR/websocket{path}", server.address());
    connect_async(url).await.unwrap().0
}

/// A client in the chat, past its welcome.
async fn join(server: &ChatServer) -> Client {
    let mut client = connect(server, "/chat?userId=7").await;
    let welcome = hear(&mut client).await;
    assert_eq!(welcome["type"], "welcome");
    assert_eq!(welcome["server"], server.address().to_string());
    client
}

async fn next(client: &mut Client) -> Option<Result<Frame, Error>> {
    timeout(Duration::from_secs(5), client.next())
        .await
        .expect("a frame within 5 s")
}

async fn hear(client: &mut Client) -> Value {
    let frame = next(client).await.unwrap().unwrap();
    serde_json::from_str(frame.to_text().unwrap()).unwrap()
}

async fn tell(client: &mut Client, word: Value) {
    client.send(Frame::text(word.to_string())).await.unwrap();
}

#[tokio::test]
async fn what_is_said_on_one_server_is_heard_on_the_other() {
    let room = Arc::default();
    let (one, two) = (start(&room).await, start(&room).await);
    let (mut ann, mut bob) = (join(&one).await, join(&two).await);
    let text = "ä".repeat(3584);
    tell(
        &mut ann,
        json!({"type": "say", "id": "x", "name": "Ann", "text": text}),
    )
    .await;
    for client in [&mut ann, &mut bob] {
        let expected = json!({
            "type": "message", "seq": 1, "server": one.address().to_string(),
            "id": "x", "name": "Ann", "text": text,
        });
        assert_eq!(hear(client).await, expected);
    }
}

#[tokio::test]
async fn the_heartbeat_comes_back_as_it_went() {
    let server = start(&Arc::default()).await;
    let mut client = join(&server).await;
    tell(&mut client, json!({"type": "ping", "t": 12.5})).await;
    assert_eq!(hear(&mut client).await, json!({"type": "pong", "t": 12.5}));
}

#[tokio::test]
async fn nonsense_is_answered_and_the_session_lives() {
    let server = start(&Arc::default()).await;
    let mut client = join(&server).await;
    for nonsense in ["{", "[]", r#"{"type":"shout"}"#] {
        client.send(Frame::text(nonsense)).await.unwrap();
        assert_eq!(hear(&mut client).await["type"], "error");
    }
    tell(&mut client, json!({"type": "ping", "t": 1})).await;
    assert_eq!(hear(&mut client).await["type"], "pong");
}

#[tokio::test]
async fn after_a_kill_a_client_catches_up_on_the_other_server() {
    let room = Arc::default();
    let (one, two) = (start(&room).await, start(&room).await);
    let (mut ann, mut bob) = (join(&one).await, join(&two).await);
    assert_eq!(one.sessions().open(), 1);
    one.kill().await;
    assert!(
        matches!(next(&mut ann).await, None | Some(Err(_))),
        "a killed server says nothing"
    );
    tell(&mut bob, json!({"type": "say", "name": "Bob", "text": "?"})).await;
    hear(&mut bob).await;
    let mut ann = join(&two).await;
    tell(&mut ann, json!({"type": "catch_up", "since": 0})).await;
    assert_eq!(hear(&mut ann).await["text"], "?");
    assert_eq!(hear(&mut ann).await["type"], "caught_up");
}

#[tokio::test]
async fn a_killed_server_starts_again_on_its_address() {
    let room = Arc::default();
    let server = start(&room).await;
    let _client = join(&server).await;
    let address = server.address();
    server.kill().await;
    let listener = TcpListener::bind(address).await.unwrap();
    join(&ChatServer::start(listener, room).unwrap()).await;
}

#[tokio::test]
async fn echo_returns_text_and_binary_and_ends_with_the_close_code() {
    let server = start(&Arc::default()).await;
    let mut client = connect(&server, "/echo").await;
    for frame in [Frame::text("é"), Frame::binary(vec![0; 70_000])] {
        client.send(frame.clone()).await.unwrap();
        assert_eq!(next(&mut client).await.unwrap().unwrap(), frame);
    }
    client.close(None).await.unwrap();
    assert!(matches!(next(&mut client).await, Some(Ok(Frame::Close(_)))));
}

#[tokio::test]
async fn sessions_are_counted_while_they_live() {
    let server = start(&Arc::default()).await;
    let mut client = join(&server).await;
    assert_eq!(server.sessions().open(), 1);
    client.close(None).await.unwrap();
    timeout(Duration::from_secs(5), async {
        while server.sessions().open() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn other_paths_and_broken_handshakes_are_refused() {
    let server = start(&Arc::default()).await;
    let status = async |path: &str, version: &'static str| {
        let url = format!("ws://{}{path}", server.address());
        let mut request = url.into_client_request().unwrap();
        let version = HeaderValue::from_static(version);
        request.headers_mut().insert(SEC_WEBSOCKET_VERSION, version);
        match connect_async(request).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status("/IMS_SVR/websocketeer", "13").await, 404);
    assert_eq!(status("/", "13").await, 404);
    assert_eq!(status("/healthz", "13").await, 200);
    assert_eq!(status("/IMS_SVR/websocket/chat", "12").await, 426);
}
