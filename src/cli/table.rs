//! Tables and numbers for people. Programs get JSON.

use std::time::Duration;

use bytesize::ByteSize;
use comfy_table::Color;

use super::layout::{Field, Screen, number, table, whole, words};
use crate::admin::view::{Drain, Server, ServerState, Session, State, Status, Upstream};
use crate::observe::entry::Done;
use crate::observe::terminal;

/// How many of the last operations are shown.
const OPERATIONS: usize = 5;

pub fn status(status: &Status, screen: Screen) -> String {
    let listeners = status
        .listeners
        .iter()
        .map(|listener| vec![text(&listener.name), text(&listener.listen)]);
    let routes = status.routes.iter().map(|route| {
        let upstream = route.upstream.as_deref().unwrap_or("-");
        vec![text(&route.name), text(upstream), figure(route.sessions)]
    });
    let servers = status.upstreams.iter().flat_map(|upstream| {
        let row = |server| server_row(upstream, server);
        upstream.servers.iter().map(row)
    });
    let drains = status.drains.iter().map(drain_row);
    let operations = status.operations.iter().take(OPERATIONS).map(operation_row);
    let parts = [
        summary(status),
        table(
            &[words("LISTENER"), whole("ADDRESS")],
            listeners.collect(),
            screen,
        ),
        table(
            &[words("ROUTE"), words("UPSTREAM"), number("SESSIONS")],
            routes.collect(),
            screen,
        ),
        table(
            &[
                words("UPSTREAM"),
                whole("BALANCE"),
                whole("SERVER"),
                whole("STATE"),
                number("WEIGHT"),
                number("SESSIONS"),
                number("REQUESTS"),
            ],
            servers.collect(),
            screen,
        ),
        table(
            &[
                words("DRAIN"),
                number("CODE"),
                number("AGE"),
                number("WINDOW"),
                number("TOLD"),
                number("LEFT"),
            ],
            drains.collect(),
            screen,
        ),
        table(
            &[
                whole("OPERATION"),
                whole("TIME"),
                words("BY"),
                words("OUTCOME"),
            ],
            operations.collect(),
            screen,
        ),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn summary(status: &Status) -> String {
    let state = match status.state {
        State::Serving => "serving",
        State::Upgrading => "serving, about to be upgraded",
        State::Draining => "draining",
    };
    // The demo has no file.
    let by = match plain(&status.config) {
        file if file.is_empty() => String::new(),
        file => format!(", by {file}"),
    };
    format!(
        "prusik {}, pid {}, up for {}: {state}\n{} and {}{by}\n",
        status.version,
        status.pid,
        age(status.uptime_ms),
        count(status.sessions, "session"),
        count(status.connections, "other connection"),
    )
}

/// Sorted by id, and so the oldest first, with the total number.
pub fn sessions(sessions: &[Session], screen: Screen) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let rows = sessions.iter().map(|session| {
        vec![
            text(&session.id),
            text(&session.client),
            text(&session.route),
            text(&format!("{}/{}", session.upstream, session.server)),
            age(session.age_ms).into(),
            bytes(session.bytes_in).into(),
            bytes(session.bytes_out).into(),
        ]
    });
    let table = table(
        &[
            whole("ID"),
            whole("CLIENT"),
            words("ROUTE"),
            whole("SERVER"),
            number("AGE"),
            number("IN"),
            number("OUT"),
        ],
        rows.collect(),
        screen,
    );
    format!("{table}{}\n", count(sessions.len(), "session"))
}

/// `1 session`, `4,500 sessions`.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// The two largest units, such as `3h 12m`.
pub fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let Some(largest) = units.iter().position(|(_, length)| seconds >= *length) else {
        return format!("{milliseconds}ms");
    };
    let (unit, length) = units[largest];
    let mut text = format!("{}{unit}", seconds / length);
    if let Some((unit, smaller)) = units.get(largest + 1)
        && seconds % length >= *smaller
    {
        text.push_str(&format!(" {}{unit}", seconds % length / smaller));
    }
    text
}

/// The exact time that was ordered, such as `30s` or `1m 30s`.
pub fn period(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_millis(milliseconds)).to_string()
}

fn server_row(upstream: &Upstream, server: &Server) -> Vec<Field> {
    let (state, colour) = match server.state {
        ServerState::Up => ("up", Some(Color::Green)),
        ServerState::Down => ("down", Some(Color::Red)),
        ServerState::Unchecked => ("unchecked", None),
        ServerState::Ejected => ("ejected", Some(Color::Red)),
        ServerState::Drained => ("drained", Some(Color::Yellow)),
        ServerState::Draining => ("draining", Some(Color::Yellow)),
        ServerState::Removed => ("removed", Some(Color::Yellow)),
    };
    let mut state = state.to_owned();
    if server.backup {
        state.push_str(", backup");
    }
    vec![
        text(&upstream.name),
        text(&upstream.balance),
        text(&server.address),
        coloured(text(&state), colour),
        server.weight.to_string().into(),
        figure(server.sessions),
        figure(server.requests),
    ]
}

fn drain_row(drain: &Drain) -> Vec<Field> {
    vec![
        text(&drain.what),
        drain.code.to_string().into(),
        age(drain.age_ms).into(),
        period(drain.window_ms).into(),
        figure(drain.told),
        figure(drain.left),
    ]
}

fn operation_row(done: &Done) -> Vec<Field> {
    let mut lines = done.outcome.lines();
    let mut outcome = lines.next().unwrap_or_default().to_owned();
    match lines.count() {
        0 => {}
        more => outcome.push_str(&format!(" (and {})", count(more, "more line"))),
    }
    let colour = match done.succeeded {
        true => None,
        false => Some(Color::Red),
    };
    if !done.succeeded {
        outcome.insert_str(0, "refused: ");
    }
    if let Some(of) = &done.of {
        outcome.insert_str(0, &format!("{of}: "));
    }
    let by = match done.by.as_str() {
        "" => "-",
        by => by,
    };
    vec![
        text(done.operation.name()),
        text(&done.time),
        text(by),
        coloured(text(&outcome), colour),
    ]
}

fn coloured(field: Field, colour: Option<Color>) -> Field {
    Field { colour, ..field }
}

fn text(text: &str) -> Field {
    plain(text).into()
}

/// Parts of it come from clients, so control characters must not reach the terminal.
fn plain(text: &str) -> String {
    text.replace(terminal::is_unsafe, "\u{fffd}")
}

fn figure(number: usize) -> Field {
    grouped(number).into()
}

fn bytes(number: u64) -> String {
    ByteSize::b(number).display().iec().to_string()
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{Listener, Route};

    fn session() -> Session {
        Session {
            id: "0190aaaa-0000-7000-8000-000000000001".to_owned(),
            listener: "public".to_owned(),
            route: "chat".to_owned(),
            upstream: "ims_svr".to_owned(),
            server: "127.0.0.1:9080".to_owned(),
            client: "192.0.2.7".to_owned(),
            host: "chat.example".to_owned(),
            path: "/".to_owned(),
            user_agent: None,
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
                servers: vec![Server {
                    address: "127.0.0.1:9080".to_owned(),
                    state: ServerState::Draining,
                    weight: 2,
                    backup: true,
                    sessions: 4500,
                    requests: 0,
                    handshakes: 0,
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
ID                                    CLIENT     ROUTE  SERVER                  AGE     IN     OUT
0190aaaa-0000-7000-8000-000000000001  192.0.2.7  chat   ims_svr/127.0.0.1:9080  3h 12m  512 B  1.5 KiB
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
}
