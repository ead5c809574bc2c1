//! Which server gets a request or a session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{
    Client, Config, Origin, Outcome, Prusik, Session, eventually, free_address, get, handshake,
};

async fn chats<const N: usize>() -> [Origin; N] {
    let mut origins = Vec::new();
    for _ in 0..N {
        origins.push(Origin::chat().await);
    }
    origins.try_into().unwrap_or_else(|_| unreachable!())
}

/// Which server answered.
async fn server_of(prusik: &Prusik, target: &str) -> SocketAddr {
    let page = get(prusik.public(), target).await;
    page.text()
        .parse()
        .unwrap_or_else(|_| panic!("{}", page.text()))
}

/// Opens that many sessions, and waits until the servers have them.
async fn open_sessions(prusik: &Prusik, number: usize) -> Vec<(SocketAddr, Session)> {
    let mut sessions = Vec::new();
    for _ in 0..number {
        let mut session = Session::open(prusik.public(), "/").await;
        sessions.push((session.server().await, session));
    }
    sessions
}

fn share_of(origin: &Origin, sessions: &[(SocketAddr, Session)]) -> usize {
    sessions
        .iter()
        .filter(|(server, _)| *server == origin.address())
        .count()
}

#[tokio::test]
async fn round_robin_is_smooth_by_weight() {
    let [a, b] = chats().await;
    let config = Config::default()
        .server(format!("{{ address: \"{}\", weight: 2 }}", a.address()))
        .server(b.address());
    let prusik = Prusik::start(config).await;
    let mut order = String::new();
    for _ in 0..9 {
        let server = server_of(&prusik, "/").await;
        order.push(if server == a.address() { 'a' } else { 'b' });
    }
    assert_eq!(order, "abaabaaba");
}

#[tokio::test]
async fn least_sessions_fills_up_the_emptier_server() {
    let [a, b] = chats().await;
    let config = Config::to(&[&a, &b]).upstream("balance: least_sessions");
    let prusik = Prusik::start(config).await;
    let mut sessions = open_sessions(&prusik, 8).await;
    assert_eq!((share_of(&a, &sessions), share_of(&b, &sessions)), (4, 4));

    sessions.retain(|(server, _)| *server == b.address());
    eventually("prusik has noticed that they left", async || {
        let log = prusik.access_log();
        let closed = log.iter().filter(|entry| entry["kind"] == "session_close");
        closed.count() == 4
    })
    .await;
    let more = open_sessions(&prusik, 4).await;
    assert_eq!(share_of(&a, &more), 4);
}

#[tokio::test]
async fn least_sessions_counts_by_weight() {
    let [a, b] = chats().await;
    let config = Config::default()
        .server(format!("{{ address: \"{}\", weight: 3 }}", a.address()))
        .server(b.address())
        .upstream("balance: least_sessions");
    let prusik = Prusik::start(config).await;
    let sessions = open_sessions(&prusik, 12).await;
    assert_eq!((share_of(&a, &sessions), share_of(&b, &sessions)), (9, 3));
}

#[tokio::test]
async fn two_choices_spreads_well() {
    let origins = chats::<4>().await;
    let all = origins.each_ref();
    let config = Config::to(&all).upstream("balance: two_choices");
    let prusik = Prusik::start(config).await;
    let sessions = open_sessions(&prusik, 80).await;
    for origin in &origins {
        let share = share_of(origin, &sessions);
        assert!((14..=26).contains(&share), "{share} of 80 on one of four");
    }
}

async fn servers_by_key(prusik: &Prusik) -> BTreeMap<u32, SocketAddr> {
    let mut servers = BTreeMap::new();
    for key in 0..100 {
        let target = format!("/chat?room=1&userId={key}");
        servers.insert(key, server_of(prusik, &target).await);
    }
    servers
}

#[tokio::test]
async fn a_hash_key_stays_with_its_server_when_others_go_and_come() {
    let [a, b, c] = chats().await;
    let by_user = |config: Config| {
        config
            .upstream("balance: consistent_hash")
            .upstream("hash_key: $arg_userId")
    };
    let prusik = Prusik::start(by_user(Config::to(&[&a, &b, &c]))).await;
    let before = servers_by_key(&prusik).await;
    for origin in [&a, &b, &c] {
        let keys = before
            .values()
            .filter(|server| **server == origin.address());
        assert!(keys.count() > 10, "every server has keys");
    }
    assert_eq!(servers_by_key(&prusik).await, before, "a key sticks");
    // A session's key, the same server.
    let mut session = Session::open(prusik.public(), "/?userId=17").await;
    assert_eq!(session.server().await, before[&17]);

    let without_c = by_user(Config::to(&[&a, &b]));
    assert_eq!(prusik.reload_with(without_c).await, Outcome::Done);
    for (key, server) in servers_by_key(&prusik).await {
        if before[&key] == c.address() {
            assert_ne!(server, c.address());
        } else {
            assert_eq!(server, before[&key], "key {key} had no reason to move");
        }
    }
    // The order of the file says nothing.
    let all = by_user(Config::to(&[&c, &a, &b]));
    assert_eq!(prusik.reload_with(all).await, Outcome::Done);
    assert_eq!(servers_by_key(&prusik).await, before);
}

#[tokio::test]
async fn a_hash_key_without_a_value_is_spread_in_turn() {
    let [a, b] = chats().await;
    let config = Config::to(&[&a, &b])
        .upstream("balance: consistent_hash")
        .upstream("hash_key: $arg_userId");
    let prusik = Prusik::start(config).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(server_of(&prusik, "/?userId=").await);
    }
    let of_a = seen.iter().filter(|server| **server == a.address());
    assert_eq!(of_a.count(), 3);
}

#[tokio::test]
async fn a_hash_key_whose_server_is_dead_is_served_by_another() {
    let [a, b, c] = chats().await;
    let config = Config::to(&[&a, &b, &c])
        .upstream("balance: consistent_hash")
        .upstream("hash_key: $arg_userId");
    let prusik = Prusik::start(config).await;
    let home = server_of(&prusik, "/?userId=7").await;
    let origins = [a, b, c];
    let dead = origins.iter().find(|origin| origin.address() == home);
    let dead = dead.expect("one of the three");
    dead.kill().await;
    let refuge = server_of(&prusik, "/?userId=7").await;
    assert_ne!(refuge, home);
    assert_eq!(server_of(&prusik, "/?userId=7").await, refuge);
    dead.restart().await;
    assert_eq!(server_of(&prusik, "/?userId=7").await, home);
}

fn by_user(origins: &[&Origin]) -> Config {
    Config::to(origins)
        .upstream("balance: consistent_hash")
        .upstream("hash_key: $arg_userId")
}

fn page_of(user: &str) -> String {
    format!("/?userId={user}")
}

/// So many users whose keys belong to this one of the servers. Found out with another prusik: this
/// one would take it for use of the keys.
async fn users_of(server: &Origin, all: &[&Origin], number: usize) -> Vec<String> {
    let prusik = Prusik::start(by_user(all)).await;
    let mut users = Vec::new();
    for user in 0.. {
        let user = format!("user-{user}");
        if server_of(&prusik, &page_of(&user)).await == server.address() {
            users.push(user);
        }
        if users.len() == number {
            break;
        }
    }
    users
}

async fn open_session_of(prusik: &Prusik, user: &str) -> (SocketAddr, Session) {
    let mut session = Session::open(prusik.public(), &page_of(user)).await;
    (session.server().await, session)
}

#[tokio::test]
async fn a_bounded_load_keeps_a_popular_server_from_getting_them_all() {
    let origins = chats::<4>().await;
    let all = origins.each_ref();
    let users = users_of(&origins[0], &all, 40).await;
    let prusik = Prusik::start(by_user(&all).upstream("load_bound: 1.25")).await;
    let mut sessions = Vec::new();
    for user in &users {
        sessions.push(open_session_of(&prusik, user).await);
    }
    for origin in &origins {
        let share = share_of(origin, &sessions);
        assert!(share <= 13, "{share} of 40: more than 1.25 of the mean");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_load_is_measured_by_the_servers_that_can_be_used() {
    let [a, b, c] = chats().await;
    let all = [&a, &b, &c];
    let crowd = users_of(&c, &all, 20).await;
    let users = users_of(&a, &all, 20).await;
    let config = by_user(&all)
        .upstream("load_bound: 3")
        .top("admin: { listen: \"127.0.0.1:0\" }");
    let prusik = Prusik::start(config).await;
    let mut on_c = Vec::new();
    for user in &crowd {
        on_c.push(open_session_of(&prusik, user).await);
    }
    // They are told to go within ten years; until then the drained server has them.
    let name = format!("backend/{}", c.address());
    prusik.order(&["drain", &name, "--window", "3650d"]).await;
    let narrow = by_user(&all)
        .upstream("load_bound: 1.25")
        .top("admin: { listen: \"127.0.0.1:0\" }");
    assert_eq!(prusik.reload_with(narrow).await, Outcome::Done);
    let mut sessions = Vec::new();
    for user in &users {
        sessions.push(open_session_of(&prusik, user).await);
    }
    // 20 sessions of two servers, not 40 of three.
    let shares = [share_of(&a, &sessions), share_of(&b, &sessions)];
    assert!(shares[0] <= 13 && shares[1] >= 7, "{shares:?}");
}

#[tokio::test]
async fn a_bounded_load_does_not_part_the_sessions_of_one_key() {
    let origins = chats::<4>().await;
    let config = by_user(&origins.each_ref()).upstream("load_bound: 1.25");
    let prusik = Prusik::start(config).await;
    let room = open_session_of(&prusik, "room").await;
    for _ in 0..20 {
        let (server, session) = open_session_of(&prusik, "room").await;
        assert_eq!(server, room.0);
        drop(session);
    }
    let sessions: Vec<_> = {
        let mut sessions = Vec::new();
        for _ in 0..20 {
            sessions.push(open_session_of(&prusik, "room").await);
        }
        sessions
    };
    assert!(sessions.iter().all(|(server, _)| *server == room.0));
    assert_eq!(server_of(&prusik, &page_of("room")).await, room.0);
}

/// As socket.io does before it has a WebSocket: each poll is a short request, between two of them
/// nothing of the client lives, and only one server knows it.
#[tokio::test]
async fn clients_that_poll_keep_their_server_while_the_load_passes_its_bound_and_falls() {
    let [a, b] = chats().await;
    let users = users_of(&a, &[&a, &b], 42).await;
    let (crowd, pollers) = users.split_at(10);
    let (early, late) = pollers.split_at(16);
    let config = |attempts| {
        by_user(&[&a, &b])
            .upstream("load_bound: 1.25")
            .upstream(format!("attempts: {attempts}"))
    };
    let prusik = Prusik::start(config(3)).await;
    let poll = async |users: &[String], server: &Origin| {
        for user in users {
            assert_eq!(
                server_of(&prusik, &page_of(user)).await,
                server.address(),
                "{user}"
            );
        }
    };
    poll(early, &a).await;
    let mut sessions = Vec::new();
    for user in crowd {
        sessions.push(open_session_of(&prusik, user).await);
    }
    // Those of the other leave: 7 of 7 are far above the bound.
    let closed = async |number: usize| {
        eventually(format!("{number} have left"), async || {
            let log = prusik.access_log();
            let closed = log.iter().filter(|entry| entry["kind"] == "session_close");
            closed.count() == number
        })
        .await;
    };
    sessions.retain(|(server, _)| *server == a.address());
    assert_eq!(sessions.len(), 7, "of 10 at most 1.25 * 5, rounded up");
    closed(3).await;
    for _ in 0..3 {
        poll(early, &a).await;
        // Who comes now goes to the other server, and stays there.
        poll(late, &b).await;
    }
    assert_eq!(prusik.reload_with(config(2)).await, Outcome::Done);
    poll(early, &a).await;
    poll(late, &b).await;
    drop(sessions);
    closed(10).await;
    for _ in 0..3 {
        poll(early, &a).await;
        poll(late, &b).await;
    }
}

#[tokio::test]
async fn large_weights_cost_neither_time_nor_memory() {
    let [a, b, c, d] = chats().await;
    let weights = [(&a, 65_535), (&b, 65_534), (&c, 65_533), (&d, 1)];
    let config = weights
        .iter()
        .fold(by_user(&[]), |config, (origin, weight)| {
            config.server(format!(
                "{{ address: \"{}\", weight: {weight} }}",
                origin.address()
            ))
        });
    let prusik = Prusik::start(config).await;
    for (_, server) in servers_by_key(&prusik).await {
        assert_ne!(server, d.address(), "one of 196,603");
    }
    // A process without servers takes some 20 MiB.
    let peak = prusik.peak_rss_kib();
    assert!(peak < 100 * 1024, "{peak} KiB");
    assert!(prusik.cpu() < Duration::from_secs(10), "{:?}", prusik.cpu());
}

#[tokio::test]
async fn a_503_costs_next_to_nothing_whatever_the_balancer_and_the_weights() {
    for balance in [
        "balance: consistent_hash, hash_key: $arg_userId",
        "balance: consistent_hash, hash_key: $arg_userId, load_bound: 1.25",
        "balance: round_robin",
        "balance: least_sessions",
        "balance: two_choices",
    ] {
        let mut config = Config::default().upstream("health_check: { interval: 1h }");
        for key in balance.split(", ") {
            config = config.upstream(key);
        }
        let dead: Vec<_> = (0..4).map(|_| free_address()).collect();
        for (number, address) in dead.iter().enumerate() {
            let weight = 1000 - number;
            config = config.server(format!("{{ address: \"{address}\", weight: {weight} }}"));
        }
        let prusik = Prusik::start(config).await;
        for address in dead {
            prusik.wait_stderr(&format!("{address} is down")).await;
        }
        let before = prusik.cpu();
        for user in 0..100 {
            let page = page_of(&user.to_string());
            assert_eq!(get(prusik.public(), &page).await.status(), 503);
        }
        let spent = prusik.cpu() - before;
        // A debug build spends one or two milliseconds on each; it was a second and more.
        assert!(
            spent < Duration::from_secs(2),
            "{balance}: {spent:?} for 100"
        );
    }
}

#[tokio::test]
async fn a_full_server_gets_no_more_sessions_and_all_full_is_503() {
    let [a, b] = chats().await;
    let limited =
        |origin: &Origin| format!("{{ address: \"{}\", max_sessions: 2 }}", origin.address());
    let config = Config::default().server(limited(&a)).server(limited(&b));
    let prusik = Prusik::start(config).await;
    let mut sessions = open_sessions(&prusik, 4).await;
    assert_eq!((share_of(&a, &sessions), share_of(&b, &sessions)), (2, 2));

    let mut client = Client::connect(prusik.public()).await;
    let refusal = client.ask(handshake("/")).await;
    assert_eq!(refusal.status(), 503);
    assert!(refusal.field("retry-after").is_some(), "{}", refusal.head);
    // Requests are no sessions.
    assert_eq!(get(prusik.public(), "/").await.status(), 200);

    let left = sessions.pop().expect("four were opened");
    drop(left.1);
    eventually("there is room for one again", async || {
        Session::try_open(prusik.public(), "/").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn backups_serve_only_while_the_others_cannot() {
    let [main, backup] = chats().await;
    let config = Config::to(&[&main])
        .server(format!(
            "{{ address: \"{}\", backup: true }}",
            backup.address()
        ))
        .upstream("health_check: { interval: 100ms, rise: 1, fall: 1 }");
    let prusik = Prusik::start(config).await;
    for _ in 0..10 {
        assert_eq!(server_of(&prusik, "/").await, main.address());
    }
    main.kill().await;
    for _ in 0..10 {
        assert_eq!(server_of(&prusik, "/").await, backup.address());
    }
    prusik
        .wait_stderr(&format!("{} is down", main.address()))
        .await;
    assert_eq!(server_of(&prusik, "/").await, backup.address());
    main.restart().await;
    prusik
        .wait_stderr(&format!("{} is up again", main.address()))
        .await;
    for _ in 0..10 {
        assert_eq!(server_of(&prusik, "/").await, main.address());
    }
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_left_alone_for_a_while() {
    let [living] = chats().await;
    let dead = free_address();
    let config = Config::to(&[&living])
        .server(dead)
        .upstream("eject: { failures: 3, within: 20s, for: 2s }");
    let prusik = Prusik::start(config).await;
    eventually("the dead server is ejected", async || {
        assert_eq!(server_of(&prusik, "/").await, living.address());
        prusik.stderr().contains(&format!("{dead} is ejected"))
    })
    .await;
    for _ in 0..6 {
        assert_eq!(server_of(&prusik, "/ejected").await, living.address());
    }
    let attempts = |path: &str| {
        let log = prusik.access_log();
        let entries = log.iter().filter(|entry| entry["path"] == path);
        entries
            .filter_map(|entry| entry["attempts"].as_u64())
            .collect::<Vec<_>>()
    };
    eventually("six requests are in the log", async || {
        attempts("/ejected").len() == 6
    })
    .await;
    assert_eq!(attempts("/ejected"), [1; 6]);
    eventually("it is tried again", async || {
        server_of(&prusik, "/later").await;
        attempts("/later").contains(&2)
    })
    .await;
}

#[tokio::test]
async fn with_every_server_ejected_they_are_tried_all_the_same() {
    let [origin] = chats().await;
    let config = Config::to(&[&origin]).upstream("eject: { failures: 1, within: 60s, for: 60s }");
    let prusik = Prusik::start(config).await;
    origin.kill().await;
    assert_eq!(get(prusik.public(), "/").await.status(), 502);
    prusik.wait_stderr("is ejected").await;
    origin.restart().await;
    assert_eq!(get(prusik.public(), "/").await.status(), 200);
}
