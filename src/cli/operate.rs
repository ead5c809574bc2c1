//! The commands that talk to a running process: what each asks, and how it shows the answer.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroI32;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::arguments::{
    ChangeArgs, CloseArgs, DrainArgs, EnableArgs, ReloadArgs, SessionsArgs, StatusArgs,
};
use super::client::{Call, Client, ClientError};
use super::layout::Screen;
use super::progress::Progress;
use super::reach::{Reach, WrongFile};
use super::table;
use crate::admin::ServerName;
use crate::admin::view::{
    DrainStarted, ReloadReport, Server, ServerState, SessionPage, Status, UpgradeReport, UserClosed,
};
use crate::observe::terminal;

/// How often a running drain is looked at.
const FOLLOW: Duration = Duration::from_millis(250);
/// For answers that the process has in memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// For a new process that must start and take over thousands of sessions.
const LONG_PATIENCE: Duration = Duration::from_secs(180);

/// Each command returns the text for stdout.
pub async fn reload(args: ReloadArgs) -> Result<String, ClientError> {
    let asked = reload_by_api(&args.change).await;
    match (asked, args.or_signal) {
        (Err(error), Some(pid)) if error.is_about_the_way() => {
            reload_by_signal(&args.change.reach, pid, &error)
        }
        (asked, _) => asked,
    }
}

/// A signal brings no result, but it needs nothing from the file: an operator who has removed
/// `admin` from the file must still be able to reload.
fn reload_by_signal(
    reach: &Reach,
    pid: NonZeroI32,
    why: &ClientError,
) -> Result<String, ClientError> {
    reach.check_file()?;
    let pid = Pid::from_raw(pid.get()).filter(|pid| !pid.is_init());
    let pid = pid.ok_or(ClientError::NoProcess)?;
    kill_process(pid, Signal::HUP).map_err(|_| ClientError::NoProcess)?;
    Ok(format!(
        "{why}\ntold by signal HUP to read its file again; its log says what came of it\n"
    ))
}

async fn reload_by_api(args: &ChangeArgs) -> Result<String, ClientError> {
    // The running process must refuse a wrong file, with every error in it.
    let client = args.reach.client(WrongFile::Judged)?;
    let body = client.call(post("/api/v1/reload", LONG_PATIENCE)).await?;
    if args.json {
        return as_json(&client, &body);
    }
    let report: ReloadReport = client.read(&body)?;
    if report.changes.is_empty() {
        return Ok("nothing changed\n".to_owned());
    }
    Ok(report.changes.join("\n") + "\n")
}

pub async fn upgrade(args: ChangeArgs) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Judged)?;
    let body = client.call(post("/api/v1/upgrade", LONG_PATIENCE)).await?;
    if args.json {
        return as_json(&client, &body);
    }
    let report: UpgradeReport = client.read(&body)?;
    Ok(format!(
        "upgraded: pid {}, version {}: {} moved, {} told to go\n",
        report.pid,
        report.version,
        table::count(report.moved, "session"),
        report.left
    ))
}

pub async fn status(args: StatusArgs) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Fatal)?;
    let body = client.call(get("/api/v1/status".to_owned())).await?;
    if args.json {
        return as_json(&client, &body);
    }
    let status: Status = client.read(&body)?;
    Ok(table::status(&status, Screen::of_stdout()))
}

pub async fn sessions(args: SessionsArgs) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Fatal)?;
    let mut all = Pages::default();
    loop {
        let path = format!("/api/v1/sessions?{}", args.query(all.next.as_deref()));
        let body = client.call(get(path)).await?;
        if !all.add(&client, &body)? {
            break;
        }
    }
    let all = json!({ "sessions": all.sessions, "next": null });
    if args.json {
        return Ok(line_of(&all));
    }
    let page: SessionPage = client.read(&Bytes::from(all.to_string()))?;
    Ok(table::sessions(&page.sessions, Screen::of_stdout()))
}

/// `watched`: whether a person looks on.
pub async fn drain(args: DrainArgs, watched: bool) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Fatal)?;
    let mut order = serde_json::Map::new();
    if let Some(window) = args.window {
        let window = humantime::format_duration(window).to_string();
        order.insert("window".to_owned(), window.into());
    }
    if let Some(code) = args.code {
        order.insert("code".to_owned(), code.into());
    }
    let call = Call {
        body: Value::from(order).to_string(),
        ..post(&path_of(&args.server, "drain"), PATIENCE)
    };
    let body = client.call(call).await?;
    let started: DrainStarted = client.read(&body)?;
    let begun = match args.json {
        true => as_json(&client, &body)?,
        false => begun(&args.server, &started),
    };
    let follows = args.wait || watched && !args.json;
    if started.sessions == 0 || !follows {
        return Ok(begun);
    }
    // The rest may take minutes. If stdout is closed, the command still waits.
    let _ = io::stdout().write_all(begun.as_bytes());
    let ended = tokio::select! {
        ended = follow(&client, &args.server, &started) => ended?,
        Ok(()) = tokio::signal::ctrl_c() => {
            let server = args.server;
            return Err(ClientError::Interrupted { server });
        }
    };
    Ok(if args.json { String::new() } else { ended })
}

fn begun(server: &ServerName, started: &DrainStarted) -> String {
    if started.sessions == 0 {
        return format!("draining {server}: it has no sessions\n");
    }
    let verb = if started.sessions == 1 { "is" } else { "are" };
    let when = match started.window_ms {
        0 => "at once".to_owned(),
        window => format!("within {}", table::period(window)),
    };
    format!(
        "draining {server}: {} {verb} told to go {when}, with code {}\n",
        table::count(started.sessions, "session"),
        started.code
    )
}

/// Shows the progress of a drain until the server has no sessions, including those whose handshake
/// was under way when the drain began.
async fn follow(
    client: &Client,
    name: &ServerName,
    started: &DrainStarted,
) -> Result<String, ClientError> {
    let progress = Progress::new(started.sessions);
    loop {
        let body = client.call(get("/api/v1/status".to_owned())).await?;
        let status: Status = client.read(&body)?;
        let (sessions, state) = match find(name, &status) {
            Some(server) => (server.sessions, server.state),
            // The server is not in the file any more, and has no sessions.
            None => (0, ServerState::Removed),
        };
        if sessions == 0 {
            return Ok(format!("drained {name}: it has no sessions any more\n"));
        }
        let goes = [
            ServerState::Draining,
            ServerState::Drained,
            ServerState::Removed,
        ];
        if !goes.contains(&state) {
            return Err(ClientError::CalledOff {
                server: name.clone(),
                sessions,
            });
        }
        progress.show(sessions);
        tokio::time::sleep(FOLLOW).await;
    }
}

fn find<'s>(name: &ServerName, status: &'s Status) -> Option<&'s Server> {
    let wanted: SocketAddr = name.address.parse().ok()?;
    let mut upstreams = status.upstreams.iter();
    let upstream = upstreams.find(|upstream| upstream.name == name.upstream)?;
    let mut servers = upstream.servers.iter();
    servers.find(|server| server.address.parse() == Ok(wanted))
}

/// The API's JSON on one line.
fn as_json(client: &Client, body: &Bytes) -> Result<String, ClientError> {
    let value: Value = client.read(body)?;
    Ok(line_of(&value))
}

/// Parts of it come from clients, so control characters must not reach the terminal.
fn line_of(value: &Value) -> String {
    let mut line = Vec::new();
    match terminal::write_json(&mut line, value) {
        Ok(()) => format!("{}\n", String::from_utf8_lossy(&line)),
        // This fails only by a bug, because the value is plain data in memory.
        Err(error) => format!("{{\"error\": \"{error}\"}}\n"),
    }
}

pub async fn enable(args: EnableArgs) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Fatal)?;
    let path = path_of(&args.server, "enable");
    let body = client.call(post(&path, PATIENCE)).await?;
    if args.json {
        return as_json(&client, &body);
    }
    Ok(format!("enabled {}\n", args.server))
}

pub async fn close(args: CloseArgs) -> Result<String, ClientError> {
    let client = args.reach.client(WrongFile::Fatal)?;
    let call = Call {
        method: Method::DELETE,
        path: args.target(),
        body: String::new(),
        patience: PATIENCE,
    };
    let body = client.call(call).await?;
    if args.json {
        return as_json(&client, &body);
    }
    if let Some(id) = args.id {
        return Ok(format!("closed {id}\n"));
    }
    let UserClosed { user, closed } = client.read(&body)?;
    let sessions = table::count(closed, "session");
    Ok(format!("closed {sessions} of {}\n", table::plain(&user)))
}

/// The list of sessions, page by page. Kept as JSON, so that fields of a newer process are not
/// lost.
#[derive(Debug, Default)]
struct Pages {
    sessions: Vec<Value>,
    next: Option<String>,
}

impl Pages {
    /// Returns whether there is another page.
    fn add(&mut self, client: &Client, body: &Bytes) -> Result<bool, ClientError> {
        #[derive(serde::Deserialize)]
        struct Page {
            sessions: Vec<Value>,
            next: Option<String>,
        }

        let page: Page = client.read(body)?;
        // A page without progress would be read again for ever.
        let goes_on = page.next.is_some() && page.next != self.next && !page.sessions.is_empty();
        self.sessions.extend(page.sessions);
        self.next = page.next;
        Ok(goes_on)
    }
}

fn get(path: String) -> Call {
    Call {
        method: Method::GET,
        path,
        body: String::new(),
        patience: PATIENCE,
    }
}

fn post(path: &str, patience: Duration) -> Call {
    Call {
        method: Method::POST,
        path: path.to_owned(),
        body: String::new(),
        patience,
    }
}

fn path_of(server: &ServerName, what: &str) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    format!(
        "/api/v1/upstreams/{}/servers/{}/{what}",
        encoded(&server.upstream),
        encoded(&server.address)
    )
}

#[cfg(test)]
mod tests;
