//! `prusik demo`: one command, both tiers, a page and a session that survives its server.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support;
use crate::support::{Client, Session, eventually, get, is_free, within};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

struct Demo {
    child: Child,
    client_lb: SocketAddr,
    _alone: MutexGuard<'static, ()>,
}

/// Ports are looked for and taken by one test at a time.
static ONE: Mutex<()> = Mutex::const_new(());

impl Demo {
    async fn start() -> Self {
        let alone = ONE.lock().await;
        let client_lb = free_ports();
        let child = Command::new(env!("CARGO_BIN_EXE_prusik"))
            .args(["demo", "--port", &client_lb.port().to_string()])
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        eventually("the demo listens", async || {
            tokio::net::TcpStream::connect(client_lb).await.is_ok()
        })
        .await;
        Self {
            child,
            client_lb,
            _alone: alone,
        }
    }

    /// What the admin API at this offset says of its tier.
    async fn status(&self, offset: u16) -> Value {
        let admin = SocketAddr::new(self.client_lb.ip(), self.client_lb.port() + offset);
        let request = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = Client::connect(admin).await.ask(request).await;
        serde_json::from_str(&answer.text()).expect("JSON")
    }

    async fn servers(&self) -> Vec<Value> {
        let answer = get(self.client_lb, "/IMS/demo/servers").await;
        let list: Value = serde_json::from_str(&answer.text()).expect("a list in JSON");
        list["servers"]
            .as_array()
            .or(list.as_array())
            .expect("a list")
            .clone()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From the client LB's port: the server LB, and the admin APIs of server LB and client LB.
const OTHERS: [u16; 3] = [1, 810, 811];

/// A port that is free with the others, below those that the kernel gives to connections: there
/// nobody takes one meanwhile.
fn free_ports() -> SocketAddr {
    loop {
        let first: u16 = rand::random_range(10_000..31_000);
        let at = |offset: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, first + offset));
        if [0].iter().chain(&OTHERS).map(at).all(is_free) {
            return (Ipv4Addr::LOCALHOST, first).into();
        }
    }
}

/// The server that welcomes a new session.
async fn welcome(session: &mut Session) -> String {
    let hello: Value = serde_json::from_str(&session.hear().await).expect("JSON");
    assert_eq!(hello["type"], "welcome");
    hello["server"].as_str().expect("an address").to_owned()
}

#[tokio::test]
async fn the_page_is_served_and_a_session_moves_on_when_its_server_is_killed() {
    let demo = Demo::start().await;
    let page = get(demo.client_lb, "/IMS/").await;
    assert_eq!(page.head.status(), 200);
    for id in [
        "server",
        "state",
        "reconnects",
        "kill",
        "message",
        "messages",
        "send7k",
    ] {
        assert!(page.text().contains(&format!("id=\"{id}\"")), "#{id}");
    }
    assert_eq!(demo.servers().await.len(), 2);

    let chat = "/IMS_SVR/websocket/chat?userId=test";
    let mut session = Session::open(demo.client_lb, chat).await;
    let first = welcome(&mut session).await;
    let body = json!({ "server": first }).to_string();
    let mut client = Client::connect(demo.client_lb).await;
    let killed = client
        .ask(format!(
            "POST /IMS/demo/kill HTTP/1.1\r\nHost: demo\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(killed.head.status(), 200, "{}", killed.text());
    within("the session ends with its server", session.ended()).await;

    let since = Instant::now();
    let mut again = Session::try_open(demo.client_lb, chat)
        .await
        .expect("the first try succeeds");
    assert_ne!(welcome(&mut again).await, first);
    println!("back after {:?}", since.elapsed());
    eventually("the killed server is back", async || {
        demo.servers()
            .await
            .iter()
            .all(|server| server["up"] == json!(true))
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_says_what_to_do() {
    let _alone = ONE.lock().await;
    let address = free_ports();
    let _taken = std::net::TcpListener::bind(address).expect("it was free");
    let port = address.port().to_string();
    let output = support::prusik(&["demo", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&port) && said.contains("--port"), "{said}");
}

#[tokio::test]
async fn each_tier_has_its_admin_api() {
    let demo = Demo::start().await;
    let mut session = Session::open(demo.client_lb, "/IMS_SVR/websocket/chat?userId=test").await;
    welcome(&mut session).await;
    let [_, server_lb, client_lb] = OTHERS;
    for (admin, offset) in [(server_lb, 1), (client_lb, 0)] {
        let status = demo.status(admin).await;
        let listen = format!("127.0.0.1:{}", demo.client_lb.port() + offset);
        assert_eq!(status["listeners"][0]["listen"], listen);
        assert_eq!(status["sessions"], 1);
    }
}
