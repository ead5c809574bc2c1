//! Every way in which a session can end, as the log tells it: all fields, each time.

use crate::support::{Config, Origin, Prusik, RawSession, client_frame, handshake_with};
use serde_json::{Value, json};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// A session that has said one word, and got it back.
struct Talk {
    origin: Origin,
    prusik: Prusik,
    session: RawSession,
}

impl Talk {
    async fn begin(change: impl FnOnce(Config) -> Config) -> Self {
        let origin = Origin::chat().await;
        let config = Config::to(&[&origin]).top(ADMIN).route("name: chat");
        let prusik = Prusik::start(change(config)).await;
        let request = handshake_with("/room?userId=7", &["User-Agent: a test/1"]);
        let mut session = RawSession::open(prusik.public(), request).await;
        session.send(client_frame(1, b"word")).await;
        assert_eq!(session.frame().await.payload, b"word");
        Self {
            origin,
            prusik,
            session,
        }
    }

    /// The line of the end, with what is the same for all of them looked at.
    async fn close(&self) -> Value {
        let open = self.prusik.wait_log("session_open", |_| true).await;
        let close = self.prusik.session_close().await;
        for line in [&open, &close] {
            for (field, value) in [
                ("listener", json!("public")),
                ("route", json!("chat")),
                ("upstream", json!("backend")),
                ("server", json!(self.origin.address().to_string())),
                ("client", json!("127.0.0.1")),
                ("method", json!("GET")),
                ("host", json!("test")),
                ("path", json!("/room?userId=7")),
                ("status", json!(101)),
                ("user", json!(null)),
                ("attempts", json!(1)),
                ("user_agent", json!("a test/1")),
            ] {
                assert_eq!(line[field], value, "{field} in {line}");
            }
            let time = line["time"].as_str().expect("a time");
            time.parse::<jiff::Timestamp>().expect("RFC 3339");
            assert!(line["handshake_ms"].as_f64() > Some(0.0), "{line}");
        }
        assert_eq!(close["id"], open["id"]);
        assert_eq!(close["handshake_ms"], open["handshake_ms"]);
        assert!(close["duration_ms"].as_f64() > Some(0.0), "{close}");
        assert_eq!(close["messages_in"], 1, "{close}");
        assert_eq!(close["messages_out"], 1, "{close}");
        close
    }

    /// `goodbye`: the bytes of what the two said of it, to the server and to the client. What
    /// prusik says is not theirs.
    async fn expect(&self, closed_by: &str, close_code: Option<u16>, goodbye: (u64, u64)) {
        let close = self.close().await;
        // A word in a frame with a header of 2 bytes, and a mask of 4 from the client.
        assert_eq!(close["bytes_in"], 10 + goodbye.0, "{close}");
        assert_eq!(close["bytes_out"], 6 + goodbye.1, "{close}");
        assert_eq!(close["closed_by"], closed_by, "{close}");
        assert_eq!(close["close_code"], json!(close_code), "{close}");
    }
}

/// A code in a frame with a header of 2 bytes, masked from the client.
const BOTH_CLOSE: (u64, u64) = (8, 4);

/// It answers what prusik says to it.
const SERVER_CLOSES: (u64, u64) = (0, 4);

fn close_frame(code: u16) -> Vec<u8> {
    client_frame(8, &code.to_be_bytes())
}

#[tokio::test]
async fn client_by_a_close_frame() {
    let mut talk = Talk::begin(|config| config).await;
    talk.session.send(close_frame(4001)).await;
    talk.expect("client", Some(4001), BOTH_CLOSE).await;
}

#[tokio::test]
async fn client_without_a_word() {
    let mut talk = Talk::begin(|config| config).await;
    talk.session
        .client
        .wire
        .finish()
        .await
        .expect("the client ends its side");
    talk.expect("client", None, (0, 0)).await;
}

#[tokio::test]
async fn server() {
    let talk = Talk::begin(|config| config).await;
    talk.origin.kill().await;
    talk.expect("server", None, (0, 0)).await;
}

#[tokio::test]
async fn idle() {
    let talk = Talk::begin(|config| config.route("websocket: { idle: 1s }")).await;
    talk.expect("idle", Some(1001), (0, 0)).await;
}

#[tokio::test]
async fn max_session() {
    let talk = Talk::begin(|config| config.route("websocket: { max_session: 1s }")).await;
    talk.expect("max_session", Some(1001), (0, 0)).await;
}

#[tokio::test]
async fn drain() {
    let talk = Talk::begin(|config| {
        config.top("server: { drain: { window: 0s, code: 4123, deadline: 5s } }")
    })
    .await;
    talk.prusik.signal("TERM");
    talk.expect("drain", Some(4123), (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator() {
    let talk = Talk::begin(|config| config).await;
    let open = talk.prusik.wait_log("session_open", |_| true).await;
    let id = open["id"].as_str().expect("an id");
    talk.prusik.order(&["close", id, "--code", "4444"]).await;
    talk.expect("operator", Some(4444), (0, 0)).await;
}

#[tokio::test]
async fn error() {
    let mut talk = Talk::begin(|config| config).await;
    // Not masked (RFC 6455 section 5.1).
    talk.session.send([0x81, 0x01, b'x']).await;
    talk.expect("error", Some(1002), SERVER_CLOSES).await;
}

#[tokio::test]
async fn limit() {
    let mut talk = Talk::begin(|config| config.route("websocket: { max_message: 1KiB }")).await;
    talk.session.send(client_frame(1, &[b'x'; 2048])).await;
    talk.expect("limit", Some(1009), SERVER_CLOSES).await;
}
