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
        waiting(&status.upstreams, screen),
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

/// The handshakes that wait, of upstreams with some.
fn waiting(upstreams: &[Upstream], screen: Screen) -> String {
    let with_some = upstreams.iter().filter(|upstream| upstream.waiting > 0);
    let rows = with_some.map(|upstream| {
        vec![
            text(&upstream.name),
            figure(upstream.waiting),
            age(upstream.waiting_ms).into(),
        ]
    });
    let columns = [words("HANDSHAKES OF"), number("WAITING"), number("LONGEST")];
    table(&columns, rows.collect(), screen)
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
    let has_users = sessions.iter().any(|session| session.user.is_some());
    let rows = sessions.iter().map(|session| {
        let user = session.user.as_deref().unwrap_or("-");
        let mut row = vec![text(&session.id), text(&session.client)];
        row.extend(has_users.then(|| text(user)));
        row.extend([
            text(&session.kind),
            text(&session.route),
            text(&format!("{}/{}", session.upstream, session.server)),
            age(session.age_ms).into(),
            bytes(session.bytes_in).into(),
            bytes(session.bytes_out).into(),
        ]);
        row
    });
    let mut columns = vec![whole("ID"), whole("CLIENT")];
    columns.extend(has_users.then(|| words("USER")));
    columns.extend([
        whole("KIND"),
        words("ROUTE"),
        whole("SERVER"),
        number("AGE"),
        number("IN"),
        number("OUT"),
    ]);
    let table = table(&columns, rows.collect(), screen);
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
pub fn plain(text: &str) -> String {
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
mod tests;
