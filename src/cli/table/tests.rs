use super::*;
use crate::admin::view::{Listener, Route};

fn session() -> Session {
    Session {
        id: "0190aaaa-0000-7000-8000-000000000001".to_owned(),
        kind: "websocket".to_owned(),
        listener: "public".to_owned(),
        route: "chat".to_owned(),
        upstream: "ims_svr".to_owned(),
        server: "127.0.0.1:9080".to_owned(),
        client: "192.0.2.7".to_owned(),
        host: "chat.example".to_owned(),
        path: "/".to_owned(),
        user_agent: None,
        user: None,
        age_ms: 3_600_000 * 3 + 60_000 * 12 + 5_000,
        bytes_in: 512,
        bytes_out: 1536,
        messages_in: 1,
        messages_out: 2,
    }
}

fn process() -> Status {
    Status {
        version: "0.2.0".to_owned(),
        pid: 42,
        uptime_ms: 90_000,
        state: State::Serving,
        config: "/etc/prusik/prusik.yaml".to_owned(),
        listeners: vec![Listener {
            name: "public".to_owned(),
            listen: "0.0.0.0:9090".to_owned(),
            connections: 4501,
        }],
        routes: vec![Route {
            name: "gone".to_owned(),
            upstream: None,
            sessions: 0,
        }],
        upstreams: vec![Upstream {
            name: "chat".to_owned(),
            balance: "round_robin".to_owned(),
            waiting: 0,
            waiting_ms: 0,
            servers: vec![Server {
                address: "127.0.0.1:9080".to_owned(),
                state: ServerState::Draining,
                weight: 2,
                backup: true,
                sessions: 4500,
                requests: 0,
                handshakes: 0,
                handshakes_under_way: 0,
                handshakes_at_once: 20,
                messages: 0,
                history: vec![],
                usable: false,
                limit: None,
                connect_errors: 0,
                last_check: None,
            }],
        }],
        sessions: 4500,
        connections: 1,
        drains: vec![],
        operations: vec![],
        counts: Default::default(),
        bytes: 0,
        ended: Default::default(),
    }
}

#[test]
fn figures_are_easy_to_read() {
    assert_eq!(count(0, "session"), "0 sessions");
    assert_eq!(count(1, "session"), "1 session");
    assert_eq!(count(999, "session"), "999 sessions");
    assert_eq!(count(1_234_567, "session"), "1,234,567 sessions");
    for (milliseconds, expected) in [
        (0, "0ms"),
        (999, "999ms"),
        (59_999, "59s"),
        (60_000, "1m"),
        (61_000, "1m 1s"),
        (3_599_000, "59m 59s"),
        (3_600_000, "1h"),
        (3_605_000, "1h"),
        (11_520_000, "3h 12m"),
        (90_000_000, "1d 1h"),
    ] {
        assert_eq!(age(milliseconds), expected);
    }
}

#[test]
fn the_status_is_a_table_for_each_kind_of_thing() {
    let expected = "\
prusik 0.2.0, pid 42, up for 1m 30s: serving
4,500 sessions and 1 other connection, by /etc/prusik/prusik.yaml

LISTENER  ADDRESS
public    0.0.0.0:9090

ROUTE  UPSTREAM  SESSIONS
gone   -                0

UPSTREAM  BALANCE      SERVER          STATE             WEIGHT  SESSIONS  REQUESTS
chat      round_robin  127.0.0.1:9080  draining, backup       2     4,500         0
";
    assert_eq!(status(&process(), Screen::default()), expected);
}

#[test]
fn handshakes_that_wait_are_shown_while_there_are_some() {
    let mut process = process();
    process.upstreams[0].waiting = 9_876;
    process.upstreams[0].waiting_ms = 1_234;
    let status = status(&process, Screen::default());
    let expected = "\
HANDSHAKES OF  WAITING  LONGEST
chat             9,876       1s
";
    assert!(status.ends_with(expected), "{status}");
}

#[test]
fn drains_are_shown_while_there_are_some() {
    let drain = Drain {
        what: "chat/127.0.0.1:9080".to_owned(),
        code: 1012,
        age_ms: 4_000,
        window_ms: 90_000,
        total: 4500,
        told: 3500,
        left: 1200,
    };
    let status = status(
        &Status {
            drains: vec![drain],
            ..process()
        },
        Screen::default(),
    );
    let expected = "\
DRAIN                CODE  AGE  WINDOW  TOLD   LEFT
chat/127.0.0.1:9080  1012   4s  1m 30s  3,500  1,200
";
    assert!(status.ends_with(expected), "{status}");
}

#[test]
fn the_last_reloads_and_upgrades_are_shown_with_their_outcome() {
    let refused = Done {
        time: "2026-11-23T03:00:00.000Z".to_owned(),
        operation: crate::observe::entry::Operation::Reload,
        by: "signal HUP".to_owned(),
        of: None,
        succeeded: false,
        outcome: "prusik.yaml:3:1: no\nprusik.yaml:4:1: no".to_owned(),
    };
    let operations = vec![refused; OPERATIONS + 1];
    let status = status(
        &Status {
            operations,
            ..process()
        },
        Screen::default(),
    );
    let row = "reload     2026-11-23T03:00:00.000Z  signal HUP  refused: prusik.yaml:3:1: no \
               (and 1 more line)\n";
    assert!(status.ends_with(&row.repeat(OPERATIONS)), "{status}");
    assert!(status.contains("\n\nOPERATION  TIME "), "{status}");
}

#[test]
fn sessions_show_what_the_commands_take() {
    let expected = "\
ID                                    CLIENT     KIND       ROUTE  SERVER                  AGE     IN     OUT
0190aaaa-0000-7000-8000-000000000001  192.0.2.7  websocket  chat   ims_svr/127.0.0.1:9080  3h 12m  512 B  1.5 KiB
1 session
";
    assert_eq!(sessions(&[session()], Screen::default()), expected);
    assert_eq!(sessions(&[], Screen::default()), "no sessions\n");
}

#[test]
fn a_table_fits_the_terminal_and_leaves_ids_whole() {
    let narrow = Screen {
        width: Some(80),
        coloured: false,
    };
    let table = sessions(&[session()], narrow);
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{table}");
    }
    assert!(table.contains(&session().id), "{table}");
    assert!(table.contains("ims_svr/127.0.0.1:9080"), "{table}");
    let table = status(&process(), narrow);
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{table}");
    }
    assert!(table.contains("127.0.0.1:9080"), "{table}");
}

#[test]
fn the_terminal_gets_no_orders_from_clients() {
    let session = Session {
        client: "\u{1b}[2J\u{9b}31m\r\n".to_owned(),
        ..session()
    };
    let table = sessions(&[session], Screen::default());
    assert!(!table.contains(['\u{1b}', '\u{9b}', '\r']), "{table:?}");
    assert_eq!(table.lines().count(), 3);
}
