//! The client application of the demo: serves the page, shows what it got of a request, and kills
//! chat servers on demand.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /IMS/` | the page |
//! | `GET /IMS/whoami` | which instance answers, and the forwarding headers that it saw |
//! | `GET /IMS/demo/servers` | each chat server: up with its sessions, or down and until when |
//! | `POST /IMS/demo/kill` | `{"server":"127.0.0.1:9080"}` dies and comes back |
//! | anything else | 404 |

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::chat_servers::{ChatServers, Health, KillError};
use super::server::{self, Request, Response, Server, serve_http};

const PAGE: &str = include_str!("page.html");
/// The page is a single file, and talks only to the address that it came from.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self'; frame-ancestors 'none'";
/// The headers in which the proxy tells who the client is.
const SHOWN_HEADERS: [&str; 6] = [
    "host",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "remote_addr",
];
/// Large enough for a server's name in JSON.
const BODY_SIZE: usize = 1024;

/// One running instance. Dropping it closes all its sockets.
#[derive(Debug)]
pub struct ClientApp {
    server: Server,
}

impl ClientApp {
    pub fn start(listener: TcpListener, chat_servers: Arc<ChatServers>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let server = Server::start(listener, move |stream| {
            let chat_servers = chat_servers.clone();
            async move {
                serve_http(stream, |request| answer(request, address, &chat_servers)).await;
            }
        })?;
        Ok(Self { server })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

async fn answer(request: Request, own: SocketAddr, chat_servers: &ChatServers) -> Response {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET | &Method::HEAD, path) => match path {
            "/IMS" => moved("/IMS/"),
            "/IMS/" => page(),
            "/IMS/whoami" => server::json(StatusCode::OK, &whoami(own, &head.headers)),
            "/IMS/demo/servers" => server::json(StatusCode::OK, &list(chat_servers)),
            _ => not_found(),
        },
        (&Method::POST, "/IMS/demo/kill") => kill(&head.headers, body, chat_servers).await,
        _ => not_found(),
    }
}

fn page() -> Response {
    let mut page = server::response(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    page.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    page
}

fn moved(to: &'static str) -> Response {
    let mut moved = server::text(StatusCode::PERMANENT_REDIRECT, "");
    moved
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static(to));
    moved
}

fn not_found() -> Response {
    failure(
        StatusCode::NOT_FOUND,
        "nothing is here",
        "the page is at /IMS/",
    )
}

fn failure(status: StatusCode, error: &str, hint: &str) -> Response {
    server::json(status, &json!({"error": error, "hint": hint}))
}

fn whoami(own: SocketAddr, headers: &HeaderMap) -> Value {
    let seen = SHOWN_HEADERS.map(|name| {
        // Several fields of one name would be a fault of the proxy, so all are shown.
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
            .collect();
        let value = (!values.is_empty()).then(|| values.join(", "));
        (name.to_owned(), json!(value))
    });
    json!({"server": own.to_string(), "headers": Value::Object(seen.into_iter().collect())})
}

fn list(chat_servers: &ChatServers) -> Value {
    let servers: Vec<Value> = chat_servers
        .list()
        .map(|(address, health)| match health {
            Health::Up { sessions } => json!({
                "server": address.to_string(), "up": true, "sessions": sessions, "back_in_ms": null,
            }),
            Health::Down { back_in } => json!({
                "server": address.to_string(), "up": false, "sessions": 0,
                "back_in_ms": millis(back_in),
            }),
        })
        .collect();
    json!({ "servers": servers })
}

async fn kill(headers: &HeaderMap, body: Incoming, chat_servers: &ChatServers) -> Response {
    #[derive(Deserialize)]
    struct Victim {
        server: String,
    }
    // A page of another site, open in the same browser, must not kill anything.
    if headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
    {
        return failure(
            StatusCode::FORBIDDEN,
            "the request came from another site",
            "use the button on the page at /IMS/",
        );
    }
    let wanted = match Limited::new(body, BODY_SIZE).collect().await {
        Ok(body) => serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let Victim { server } = match wanted {
        Ok(victim) => victim,
        Err(error) => {
            let error = format!("cannot read which server to kill: {error}");
            let hint = r#"send {"server":"ADDRESS"}"#;
            return failure(StatusCode::BAD_REQUEST, &error, hint);
        }
    };
    match chat_servers.kill(&server).await {
        Ok(back_in) => server::json(
            StatusCode::OK,
            &json!({"server": server, "back_in_ms": millis(back_in)}),
        ),
        Err(error) => {
            let (status, hint) = match error {
                KillError::Unknown(_) => (StatusCode::NOT_FOUND, "see /IMS/demo/servers"),
                KillError::Down(_) => (StatusCode::CONFLICT, "wait until it is back"),
            };
            failure(status, &error.to_string(), hint)
        }
    }
}

/// A time in JSON. No demo lives long enough for an overflow.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// An application with two chat servers that stay down for a minute once killed.
    async fn start() -> (ClientApp, Arc<ChatServers>) {
        let listener = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let chat = vec![listener().await, listener().await];
        let chat = Arc::new(ChatServers::start(chat, Duration::from_secs(60)).unwrap());
        let app = ClientApp::start(listener().await, chat.clone()).unwrap();
        (app, chat)
    }

    /// Status and body, or status and head when there is no body.
    async fn exchange(app: &ClientApp, start: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(app.address()).await.unwrap();
        let request = format!(
            "{start} HTTP/1.1\r\nhost: demo:9090\r\nconnection: close\r\n{headers}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer[9..12].parse().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let text = if body.is_empty() { head } else { body };
        (status, text.to_owned())
    }

    async fn json_of(app: &ClientApp, start: &str, headers: &str, body: &str) -> (u16, Value) {
        let (status, body) = exchange(app, start, headers, body).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn the_page_is_served_and_its_name_without_slash_leads_to_it() {
        let (app, _) = start().await;
        let (status, page) = exchange(&app, "GET /IMS/?a=b", "", "").await;
        assert_eq!((status, page.as_str()), (200, PAGE));
        let (status, head) = exchange(&app, "GET /IMS", "", "").await;
        assert_eq!(status, 308);
        assert!(head.contains("location: /IMS/"), "{head}");
    }

    #[tokio::test]
    async fn whoami_shows_the_forwarding_headers_as_they_came() {
        let (app, _) = start().await;
        let headers = "X-Real-IP: 192.0.2.1\r\nRemote_Addr: 192.0.2.1\r\n";
        let (status, seen) = json_of(&app, "GET /IMS/whoami", headers, "").await;
        assert_eq!(status, 200);
        assert_eq!(seen["server"], app.address().to_string());
        let expected = json!({
            "host": "demo:9090", "x-real-ip": "192.0.2.1", "x-forwarded-for": null,
            "x-forwarded-proto": null, "x-forwarded-host": null, "remote_addr": "192.0.2.1",
        });
        assert_eq!(seen["headers"], expected);
    }

    #[tokio::test]
    async fn kill_takes_the_server_down_and_the_list_says_until_when() {
        let (app, chat) = start().await;
        let one = chat.addresses().next().unwrap();
        let body = json!({"server": one.to_string()}).to_string();
        let (status, told) = json_of(&app, "POST /IMS/demo/kill", "", &body).await;
        assert_eq!((status, &told["back_in_ms"]), (200, &json!(60_000)));
        assert!(TcpStream::connect(one).await.is_err());
        let (_, list) = json_of(&app, "GET /IMS/demo/servers", "", "").await;
        assert_eq!(list["servers"][0]["up"], false);
        assert!(list["servers"][0]["back_in_ms"].as_u64() > Some(50_000));
        assert_eq!(list["servers"][1]["up"], true);
        let again = json_of(&app, "POST /IMS/demo/kill", "", &body).await;
        assert_eq!(again.0, 409);
    }

    #[tokio::test]
    async fn a_kill_that_cannot_be_meant_kills_nobody() {
        let (app, chat) = start().await;
        let one = chat.addresses().next().unwrap();
        let right = json!({"server": one.to_string()}).to_string();
        let large = " ".repeat(BODY_SIZE + 1);
        for (headers, body, expected) in [
            ("", "", 400),
            ("", "{}", 400),
            ("", large.as_str(), 400),
            ("", r#"{"server":"127.0.0.1:1"}"#, 404),
            ("Sec-Fetch-Site: cross-site\r\n", right.as_str(), 403),
        ] {
            let (status, told) = json_of(&app, "POST /IMS/demo/kill", headers, body).await;
            assert_eq!(status, expected, "{body}: {told}");
        }
        assert!(TcpStream::connect(one).await.is_ok());
    }

    #[tokio::test]
    async fn everything_else_is_404() {
        let (app, _) = start().await;
        for start in ["GET /", "GET /IMS/x", "GET /IMS/demo/kill", "POST /IMS/"] {
            assert_eq!(exchange(&app, start, "", "").await.0, 404, "{start}");
        }
    }
}
