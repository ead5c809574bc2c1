//! The main job, on the shipped files: two tiers of prusik between browsers and chat servers.
//! Only the addresses are replaced.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::{
    Ended, Origin, Prusik, RawSession, Session, eventually, get, handshake, status_of,
};

/// What `interval` is in the shipped files, and a loaded machine's share.
const INTERVAL: Duration = Duration::from_secs(2 + 3);

const CHAT: &str = "/IMS_SVR/websocket?userId=7";

struct Tiers {
    chat: [Origin; 2],
    pages: [Origin; 2],
    server_lb: Prusik,
    client_lb: Prusik,
}

impl Tiers {
    async fn start() -> Self {
        let chat = [Origin::chat().await, Origin::chat().await];
        let pages = [Origin::chat().await, Origin::chat().await];
        let server_lb = Prusik::start(shipped(
            "server-lb.yaml",
            &[
                (9091, "127.0.0.1:0".to_owned()),
                (9080, chat[0].address().to_string()),
                (9081, chat[1].address().to_string()),
            ],
        ))
        .await;
        let client_lb = Prusik::start(shipped(
            "client-lb.yaml",
            &[
                (9090, "127.0.0.1:0".to_owned()),
                (9091, server_lb.address("127.0.0.1:0").to_string()),
                (7080, pages[0].address().to_string()),
                (8080, pages[1].address().to_string()),
            ],
        ))
        .await;
        Self {
            chat,
            pages,
            server_lb,
            client_lb,
        }
    }

    fn public(&self) -> std::net::SocketAddr {
        self.client_lb.address("127.0.0.1:0")
    }

    async fn session(&self) -> Session {
        Session::open(self.public(), CHAT).await
    }

    /// Opens that many sessions, and says how many each chat server got.
    async fn share_of(&self, number: usize) -> [usize; 2] {
        let mut share = [0, 0];
        for _ in 0..number {
            let server = self.session().await.server().await;
            share[usize::from(server == self.chat[1].address())] += 1;
        }
        share
    }
}

fn shipped(file: &str, addresses: &[(u16, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(file);
    let mut text = fs::read_to_string(path).expect("the file is shipped");
    for (port, address) in addresses {
        let shipped = format!("127.0.0.1:{port}");
        assert!(text.contains(&shipped), "{file} has no {shipped}");
        text = text.replace(&shipped, address);
    }
    text
}

#[tokio::test]
async fn pages_come_from_both_page_servers_in_turn() {
    let tiers = Tiers::start().await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let page = get(tiers.public(), "/IMS/index.html").await;
        assert_eq!(page.status(), 200);
        seen.push(page.text());
    }
    let [first, second] = &tiers.pages;
    let count = |origin: &Origin| {
        let address = origin.address().to_string();
        seen.iter().filter(|page| **page == address).count()
    };
    assert_eq!((count(first), count(second)), (2, 2));
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn unknown_paths_are_404() {
    let tiers = Tiers::start().await;
    for path in ["/", "/other", "/IMSX", "/IMS_SVR", "/IMS_SVR/websocketX"] {
        assert_eq!(status_of(tiers.public(), path).await, 404, "{path}");
    }
}

#[tokio::test]
async fn sessions_spread_over_both_servers_and_stay() {
    let tiers = Tiers::start().await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(tiers.session().await);
    }
    for session in &mut sessions {
        let server = session.server().await;
        for round in 0..5 {
            let text = format!("round {round}");
            assert_eq!(session.ask(&text).await, text);
            assert_eq!(session.server().await, server);
        }
    }
    assert_eq!(tiers.chat.each_ref().map(Origin::sessions), [5, 5]);
}

#[tokio::test]
async fn messages_of_7_kib_pass_both_ways_unchanged() {
    let tiers = Tiers::start().await;
    let mut session = tiers.session().await;
    for round in 0..20 {
        let text = format!("{round:02}").repeat(7 * 512);
        assert_eq!(session.ask(&text).await, text);
    }
}

#[tokio::test]
async fn a_chat_server_learns_of_the_client_through_both_tiers() {
    let tiers = Tiers::start().await;
    RawSession::open(tiers.public(), handshake(CHAT)).await;
    let port = tiers.server_lb.address("127.0.0.1:0").port();
    let request = tiers.chat[0].only_request();
    assert_eq!(request.target(), CHAT);
    for line in [
        format!("Host: test:{port}"),
        "Remote_Addr: 127.0.0.1".to_owned(),
        "X-Real-IP: 127.0.0.1".to_owned(),
        "X-Forwarded-For: 127.0.0.1, 127.0.0.1".to_owned(),
    ] {
        assert!(request.has_line(&line), "no {line} in {}", request.head);
    }
}

#[tokio::test]
async fn a_killed_chat_server_costs_its_sessions_one_reconnect_and_nobody_else_anything() {
    let tiers = Tiers::start().await;
    let [dead, left] = &tiers.chat;
    let (mut of_the_dead, mut of_the_other) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let mut session = tiers.session().await;
        match session.server().await == dead.address() {
            true => of_the_dead.push(session),
            false => of_the_other.push(session),
        }
    }
    assert_eq!((of_the_dead.len(), of_the_other.len()), (4, 4));

    let killed = Instant::now();
    dead.kill().await;
    for mut session in of_the_dead {
        assert_eq!(session.ended().await, Ended::Cut);
        // The first try succeeds, whether the health check has noticed or not.
        let mut again = tiers.session().await;
        assert_eq!(again.server().await, left.address());
    }
    let out = format!("{} is down", dead.address());
    eventually("the dead server is out", async || {
        let mut session = tiers.session().await;
        assert_eq!(session.server().await, left.address());
        tiers.server_lb.stderr().contains(&out)
    })
    .await;
    assert!(killed.elapsed() < INTERVAL, "{:?}", killed.elapsed());
    for session in &mut of_the_other {
        assert!(session.is_alive().await);
    }

    // Out means that nobody tries it any more.
    const AFTER: &str = "/IMS_SVR/websocket?after";
    for _ in 0..6 {
        Session::open(tiers.public(), AFTER).await.close(1000).await;
    }
    eventually("six sessions are in the log", async || {
        let log = tiers.server_lb.access_log();
        let closed: Vec<_> = log
            .iter()
            .filter(|entry| entry["kind"] == "session_close" && entry["path"] == AFTER)
            .collect();
        for entry in &closed {
            assert_eq!(entry["attempts"], 1, "{entry}");
        }
        closed.len() == 6
    })
    .await;

    let restarted = Instant::now();
    dead.restart().await;
    eventually("the server has its share again", async || {
        tiers.share_of(4).await == [2, 2]
    })
    .await;
    assert!(restarted.elapsed() < INTERVAL, "{:?}", restarted.elapsed());
}

#[tokio::test]
async fn a_killed_page_server_is_not_noticed_by_anyone() {
    let tiers = Tiers::start().await;
    let out = format!("{} is down", tiers.pages[0].address());
    tiers.pages[0].kill().await;
    eventually("the dead server is out", async || {
        let page = get(tiers.public(), "/IMS/").await;
        assert_eq!(page.status(), 200);
        assert_eq!(page.text(), tiers.pages[1].address().to_string());
        tiers.client_lb.stderr().contains(&out)
    })
    .await;
}

#[tokio::test]
async fn without_a_server_clients_are_told_to_come_back() {
    let tiers = Tiers::start().await;
    for origin in tiers.pages.iter().chain(&tiers.chat) {
        origin.kill().await;
    }
    eventually("pages are 503", async || {
        let page = get(tiers.public(), "/IMS/").await;
        assert!(matches!(page.status(), 502 | 503), "{}", page.head);
        page.status() == 503 && page.field("retry-after").is_some()
    })
    .await;
    eventually("handshakes are 503", async || {
        let mut client = support::Client::connect(tiers.public()).await;
        let answer = client.ask(handshake(CHAT)).await;
        assert!(matches!(answer.status(), 502 | 503), "{}", answer.head);
        answer.status() == 503 && answer.field("retry-after").is_some()
    })
    .await;
    for origin in &tiers.chat {
        origin.restart().await;
    }
    eventually("sessions open again", async || {
        Session::try_open(tiers.public(), CHAT).await.is_ok()
    })
    .await;
}

#[tokio::test]
#[ignore = "takes 65 s"]
async fn a_session_idle_for_65_seconds_lives() {
    let tiers = Tiers::start().await;
    let mut session = tiers.session().await;
    let server = session.server().await;
    // Longer than any timeout that a proxy has by default: the silence is what is tested.
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(session.server().await, server);
}
