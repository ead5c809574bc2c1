//! The commands that talk to a running process: what each asks, and what it says about the answer.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroI32;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use form_urlencoded::Serializer;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Call, Client, ClientError};
use super::layout::Screen;
use super::progress::Progress;
use super::reach::{Reach, WrongFile};
use super::table;
use crate::admin::view::{
    DrainStarted, ReloadReport, Server, ServerState, SessionPage, Status, UpgradeReport,
};
use crate::admin::{ServerName, params};
use crate::observe::terminal;

/// How often a drain is looked at.
const FOLLOW: Duration = Duration::from_millis(250);
/// What is answered out of memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// A new process must start, and take thousands of sessions over.
const LONG_PATIENCE: Duration = Duration::from_secs(180);

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Of what changes the process as a whole.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Where the admin API cannot be reached: check the file here, and send HUP to this process; its log says
    /// what came of it
    #[arg(long, value_name = "PID")]
    or_signal: Option<NonZeroI32>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Only those on this upstream
    #[arg(long, value_name = "U")]
    upstream: Option<String>,
    /// Only those on the server with this address
    #[arg(long, value_name = "A")]
    server: Option<SocketAddr>,
    /// Only those of this client
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// Only those of this route
    #[arg(long, value_name = "R")]
    route: Option<String>,
    /// Only those with this in their path, the query included
    #[arg(long, value_name = "P")]
    path: Option<String>,
    /// Only the one with this id, as the log names it
    #[arg(long, value_name = "ID")]
    id: Option<Uuid>,
    /// Only those that have lasted for longer, such as 12h
    #[arg(long, value_name = "D", value_parser = params::duration)]
    older_than: Option<Duration>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The server
    #[arg(value_name = "U/ADDR")]
    server: ServerName,
    /// Sessions are told to go at random moments within it [default: server.drain.window]
    #[arg(long, value_name = "D", value_parser = params::duration)]
    window: Option<Duration>,
    /// The Close frame's code [default: server.drain.code]
    #[arg(long, value_name = "N", value_parser = params::code)]
    code: Option<u16>,
    /// Return when the server has no sessions any more; on a terminal that is so without it
    #[arg(long)]
    wait: bool,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub struct EnableArgs {
    /// The server
    #[arg(value_name = "U/ADDR")]
    server: ServerName,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub struct CloseArgs {
    /// The session, as `prusik sessions` and the log name it
    id: Uuid,
    /// The Close frame's code [default: server.drain.code]
    #[arg(long, value_name = "N", value_parser = params::code)]
    code: Option<u16>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// What these yield is what goes to stdout.
pub async fn reload(args: ReloadArgs) -> Result<String, ClientError> {
    let asked = reload_by_api(&args.change).await;
    match (asked, args.or_signal) {
        (Err(error), Some(pid)) if error.is_about_the_way() => {
            reload_by_signal(&args.change.reach, pid, &error)
        }
        (asked, _) => asked,
    }
}

/// It cannot say what came of it, but it needs nothing of the file: an operator who has taken `admin` out
/// of it must still be able to reload.
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
    // It is the running process that must refuse a wrong file, with every error in it.
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

/// `watched`: somebody looks on.
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
    // It may take minutes until there is more to say. Who has closed stdout still waits.
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

/// Shows how far a drain is until the server has no sessions, those among them whose handshake was
/// under way when it began.
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
            // The file has it no more, and it has no sessions.
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

/// What the API said, on a line of its own.
fn as_json(client: &Client, body: &Bytes) -> Result<String, ClientError> {
    let value: Value = client.read(body)?;
    Ok(line_of(&value))
}

/// Some of it comes from clients: a terminal must not obey it.
fn line_of(value: &Value) -> String {
    let mut line = Vec::new();
    match terminal::write_json(&mut line, value) {
        Ok(()) => format!("{}\n", String::from_utf8_lossy(&line)),
        // Only a bug could make this fail: it is plain data in memory.
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
    let query = args.code.map(|code| format!("?code={code}"));
    let call = Call {
        method: Method::DELETE,
        path: format!("/api/v1/sessions/{}{}", args.id, query.unwrap_or_default()),
        body: String::new(),
        patience: PATIENCE,
    };
    let body = client.call(call).await?;
    if args.json {
        return as_json(&client, &body);
    }
    Ok(format!("closed {}\n", args.id))
}

impl SessionsArgs {
    fn query(&self, after: Option<&str>) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &params::MAX_LIMIT.to_string());
        if let Some(upstream) = &self.upstream {
            query.append_pair("upstream", upstream);
        }
        if let Some(server) = &self.server {
            query.append_pair("server", &server.to_string());
        }
        if let Some(client) = &self.client {
            query.append_pair("client", &client.to_string());
        }
        let texts = [("route", &self.route), ("path", &self.path)];
        for (name, text) in texts {
            if let Some(text) = text {
                query.append_pair(name, text);
            }
        }
        if let Some(id) = &self.id {
            query.append_pair("id", &id.to_string());
        }
        if let Some(older_than) = self.older_than {
            let older_than = humantime::format_duration(older_than).to_string();
            query.append_pair("older_than", &older_than);
        }
        if let Some(after) = after {
            query.append_pair("after", after);
        }
        query.finish()
    }
}

/// The list of sessions as it grows. Kept as JSON, so that nothing is lost that a newer process
/// tells.
#[derive(Debug, Default)]
struct Pages {
    sessions: Vec<Value>,
    next: Option<String>,
}

impl Pages {
    /// Whether there is another page.
    fn add(&mut self, client: &Client, body: &Bytes) -> Result<bool, ClientError> {
        #[derive(serde::Deserialize)]
        struct Page {
            sessions: Vec<Value>,
            next: Option<String>,
        }

        let page: Page = client.read(body)?;
        // Without progress it would go on forever.
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::{fs, mem};

    use clap::{FromArgMatches, Parser};
    use tempfile::TempDir;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::admin::fake::{Fake, SESSION};
    use crate::admin::{self, Access};
    use crate::net::{Inherited, ListenAddress, ListeningSocket};

    const SERVER: &str = "chat/[::1]:9080";

    /// A process that is asked by unix socket, with a token.
    struct Process {
        folder: TempDir,
        fake: Arc<Fake>,
        /// Its file goes with it.
        _socket: ListeningSocket,
        /// Dropping it stops the server.
        _serving: watch::Sender<admin::Serving>,
    }

    #[derive(Debug, Parser)]
    struct Line<A: Args> {
        #[command(flatten)]
        args: A,
    }

    impl Process {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let token = folder.path().join("token");
            fs::write(&token, "s3cret\n").unwrap();
            let address = ListenAddress::Unix(folder.path().join("admin.sock"));
            let socket = admin::bind(&address, &mut Inherited::default()).unwrap();
            let fake = Arc::new(Fake::default());
            let control = Arc::clone(&fake) as Arc<dyn admin::Control>;
            let (_serving, served) = watch::channel(admin::Serving::Serves);
            tokio::spawn(admin::serve(
                socket.acceptor().unwrap(),
                control,
                Access::new(Some(token)),
                served,
                oneshot::channel().0,
            ));
            Self {
                folder,
                fake,
                _socket: socket,
                _serving,
            }
        }

        /// What clap makes of these arguments, and of those that lead to the process.
        fn line<A: Args + FromArgMatches>(&self, words: &[&str]) -> A {
            let path = |name: &str| self.folder.path().join(name).display().to_string();
            let admin = format!("unix:{}", path("admin.sock"));
            let token = path("token");
            let reach = ["prusik", "--admin", &admin, "--token-file", &token];
            Line::parse_from(reach.iter().chain(words)).args
        }

        fn asked(&self) -> Vec<String> {
            mem::take(&mut *self.fake.asked.lock().unwrap())
        }
    }

    #[tokio::test]
    async fn the_lifecycle_commands_tell_what_came_of_it() {
        let process = Process::start();
        process.fake.reload.may_end.notify_one();
        let said = reload(process.line(&[])).await.unwrap();
        assert_eq!(said, "route \"chat\" is new\n");
        let error = upgrade(process.line(&[])).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the new binary does not start\n  hint: see its log"
        );
    }

    #[tokio::test]
    async fn status_is_a_table_or_json() {
        let process = Process::start();
        let said = status(process.line(&[])).await.unwrap();
        assert!(
            said.contains("\nchat      round_robin  [::1]:9080"),
            "{said}"
        );
        let said = status(process.line(&["--json"])).await.unwrap();
        let value: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(value["upstreams"][0]["servers"][0]["address"], "[::1]:9080");
    }

    #[tokio::test]
    async fn sessions_are_listed_to_the_last_page() {
        let process = Process::start();
        process.fake.has_two_pages.store(true, Ordering::Relaxed);
        let words = ["--json", "--upstream", "a b", "--server", "[::1]:9080"];
        let more = ["--client", "192.0.2.7", "--older-than", "1h 30m"];
        let rest = ["--route", "r", "--path", "userId=7", "--id", SESSION];
        let said = sessions(process.line(&[&words[..], &more, &rest].concat())).await;
        let value: Value = serde_json::from_str(&said.unwrap()).unwrap();
        assert_eq!(value["sessions"].as_array().unwrap().len(), 2);
        assert_eq!(value["next"], Value::Null);
        let asked = process.asked();
        assert_eq!(asked.len(), 2);
        let filter = "upstream: Some(\"a b\"), server: Some([::1]:9080), \
                      client: Some(192.0.2.7), route: Some(\"r\"), path: Some(\"userId=7\"), id: \
                      Some(0190aaaa-0000-7000-8000-000000000001), search: None, older_than: \
                      Some(5400s)";
        assert!(asked[0].contains(filter), "{asked:?}");
        assert!(
            asked[1].contains(filter) && asked[1].contains(SESSION),
            "{asked:?}"
        );
        let said = sessions(process.line(&[])).await.unwrap();
        assert_eq!(said.lines().count(), 4, "{said}");
    }

    #[tokio::test]
    async fn a_server_is_drained_and_enabled() {
        let process = Process::start();
        let words = [SERVER, "--window", "1m 30s", "--code", "1001"];
        let said = drain(process.line(&words), false).await.unwrap();
        assert_eq!(
            said,
            format!("draining {SERVER}: 1 session is told to go within 1m 30s, with code 1001\n")
        );
        drain(process.line(&[SERVER]), false).await.unwrap();
        let said = enable(process.line(&[SERVER])).await.unwrap();
        assert_eq!(said, format!("enabled {SERVER}\n"));
        let asked = [
            format!("drain {SERVER} DrainOrder {{ window: Some(90s), code: Some(1001) }}"),
            format!("drain {SERVER} DrainOrder {{ window: None, code: None }}"),
            format!("enable {SERVER}"),
        ];
        assert_eq!(process.asked(), asked);
    }

    #[tokio::test]
    async fn a_session_is_closed_and_an_unknown_one_is_an_error() {
        let process = Process::start();
        let said = close(process.line(&[SESSION, "--code", "4001"]))
            .await
            .unwrap();
        assert_eq!(said, format!("closed {SESSION}\n"));
        let gone = "0190aaaa-0000-7000-8000-000000000002";
        let error = close(process.line(&[gone])).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error}");
        let asked = [
            format!("close {SESSION} Some(4001)"),
            format!("close {gone} None"),
        ];
        assert_eq!(process.asked(), asked);
    }
}
