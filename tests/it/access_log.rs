//! The access log never stands in the way of traffic.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::http2::Http2Site;
use crate::support::{
    Answer, Client, Config, Ended, Origin, Outcome, Prusik, RawSession, Session, client_frame,
    eventually, free_address, handshake, status_of, within,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RESPOND: &str = "\
listeners: [{ listen: 127.0.0.1:0, name: public }]
routes: [{ match: { path_prefix: / }, respond: { status: 200, body: fine } }]
";

/// Sends requests over one connection, in batches, and reads every answer.
async fn request_often(address: std::net::SocketAddr, times: usize) {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    let answer_length = {
        stream.write_all(REQUEST).await.expect("a request goes out");
        let mut first = vec![0; 4096];
        let read = stream.read(&mut first).await.expect("an answer");
        assert!(
            first.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&first[..read])
        );
        read
    };
    let mut answers = vec![0; answer_length * BATCH];
    for _ in 0..times / BATCH {
        stream
            .write_all(&REQUEST.repeat(BATCH))
            .await
            .expect("requests go out");
        stream
            .read_exact(&mut answers)
            .await
            .expect("as many answers");
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const BATCH: usize = 50;

#[tokio::test]
async fn a_reader_that_stops_reading_costs_lines_and_no_requests() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, RESPOND).expect("the file can be written");
    // A pipe on stdout that nobody reads: full after 64 KiB.
    let stderr_file = folder.path().join("stderr");
    let mut child = Command::new(env!("CARGO_BIN_EXE_prusik"))
        .args(["run", "--config"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&stderr_file).expect("a file for stderr"))
        .spawn()
        .expect("the binary runs");
    let stderr = || fs::read_to_string(&stderr_file).unwrap_or_default();
    eventually("prusik is ready", async || stderr().contains("ready")).await;
    let address = stderr()
        .lines()
        .find_map(|line| {
            line.split("listening on ")
                .nth(1)?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .expect("the address is told");
    // A deadline for each part: how long all of them take depends on what else the machine does.
    for _ in 0..24 {
        within("500 requests", request_often(address, 500)).await;
    }
    eventually("the drop is told", async || {
        stderr().contains("lines dropped")
    })
    .await;
    child.kill().expect("our own child");
    child.wait().expect("it ends");
}

/// Lines of requests: a reload has a line too.
fn requests_in(path: &std::path::Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    let requests = text
        .lines()
        .filter(|line| line.contains("\"kind\":\"request\""));
    requests.count()
}

#[tokio::test]
async fn a_rotated_file_is_let_go_of_at_a_reload() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("access.log");
    let yaml = format!("{RESPOND}access_log: {{ path: {} }}\n", log.display());
    let prusik = Prusik::start(&yaml).await;
    let lines = requests_in;
    request_often(prusik.public(), 0).await;
    eventually("a line in the file", async || lines(&log) == 1).await;
    let rotated = folder.path().join("access.log.1");
    fs::rename(&log, &rotated).expect("a file can be renamed");
    prusik.reload().await;
    request_often(prusik.public(), 0).await;
    eventually("a line in the new file", async || lines(&log) == 1).await;
    assert_eq!(lines(&rotated), 1);
}

#[tokio::test]
async fn what_waits_in_the_log_is_written_before_the_process_ends() {
    let origin = Origin::start(|_| Answer::text("fine")).await;
    let yaml = format!(
        "listeners: [{{ listen: 127.0.0.1:0, name: public }}]
upstreams: {{ one: {{ servers: ['{}'] }} }}
routes: [{{ match: {{ path_prefix: / }}, upstream: one }}]
access_log: {{ path: access.log }}
",
        origin.address()
    );
    let mut prusik = Prusik::start(&yaml).await;
    request_often(prusik.public(), 0).await;
    prusik.signal("TERM");
    assert_eq!(prusik.exit_code().await, Some(0));
    let log = fs::read_to_string(prusik.folder().join("access.log")).expect("the log is there");
    let entry: Value = serde_json::from_str(log.trim()).expect("one line of JSON");
    assert_eq!(entry["kind"], "request");
    assert_eq!(entry["server"], origin.address().to_string());
    assert_eq!(entry["status"], 200);
}

#[tokio::test]
async fn stop_waits_for_the_request_in_flight() {
    let late = |_: &_| Answer::text("late").after(Duration::from_millis(500));
    let origin = Origin::start(late).await;
    let yaml = format!(
        "listeners: [{{ listen: 127.0.0.1:0, name: public }}]
upstreams: {{ one: {{ servers: ['{}'] }} }}
routes: [{{ match: {{ path_prefix: / }}, upstream: one }}]
",
        origin.address()
    );
    let mut prusik = Prusik::start(&yaml).await;
    let mut stream = TcpStream::connect(prusik.public())
        .await
        .expect("a listener");
    stream.write_all(REQUEST).await.expect("a request goes out");
    eventually("the origin has the request", async || {
        !origin.received().is_empty()
    })
    .await;
    prusik.signal("TERM");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the whole answer");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"),
        "{answer}"
    );
    assert_eq!(prusik.exit_code().await, Some(0));
}

#[tokio::test]
async fn combined_is_what_nginx_writes() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin])
        .top("access_log: { path: access.log, format: combined }")
        .first("{ match: { path: /own }, respond: { status: 410, body: gone } }");
    let prusik = Prusik::start(config).await;
    let request = "GET /own?a=b HTTP/1.1\r\nHost: test\r\nReferer: https://a.example/\r\n\
                   User-Agent: cu\"rl\\\r\n\r\n";
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(answer.status(), 410);
    let lines = || {
        let text = fs::read_to_string(prusik.folder().join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("a line", async || lines().len() == 1).await;
    let session = RawSession::open(prusik.public(), handshake("/chat")).await;
    let mut client = session.client;
    client.send(client_frame(8, &[0x03, 0xe8])).await;
    eventually("a line for the session", async || lines().len() == 2).await;
    let time = regex::Regex::new(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]").unwrap();
    let plain: Vec<_> = lines()
        .iter()
        .map(|line| time.replace(line, "[TIME]").into_owned())
        .collect();
    let length = answer.body.len();
    assert_eq!(
        plain[0],
        format!(
            "127.0.0.1 - - [TIME] \"GET /own?a=b HTTP/1.1\" 410 {length} \
             \"https://a.example/\" \"cu\\x22rl\\x5C\""
        )
    );
    let session = regex::Regex::new(
        "^127.0.0.1 - - \\[TIME\\] \"GET /chat HTTP/1.1\" 101 [0-9]+ \"-\" \"-\"$",
    )
    .unwrap();
    assert!(session.is_match(&plain[1]), "{}", plain[1]);
}

#[tokio::test]
async fn combined_says_what_the_client_speaks() {
    let site = Http2Site::start(Origin::chat().await, |config| {
        config.top("access_log: { path: access.log, format: combined }")
    })
    .await;
    assert_eq!(site.client().await.get("/page").await.0.status(), 200);
    let log = site.prusik.folder().join("access.log");
    eventually("a line for the stream", async || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"GET /page HTTP/2.0\" 200 ")
    })
    .await;
}

#[tokio::test]
async fn a_file_is_opened_anew_at_hup() {
    let yaml = format!("{RESPOND}access_log: {{ path: access.log }}\n");
    let prusik = Prusik::start(&yaml).await;
    let log = prusik.folder().join("access.log");
    let lines = requests_in;
    request_often(prusik.public(), 0).await;
    eventually("a line in the file", async || lines(&log) == 1).await;
    let rotated = prusik.folder().join("access.log.1");
    fs::rename(&log, &rotated).expect("a file can be renamed");
    // The new file is there a moment before it is written to.
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert!(log.exists());
    request_often(prusik.public(), 0).await;
    eventually("a line in the new file", async || lines(&log) == 1).await;
    assert_eq!(lines(&rotated), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_lines_which_are_counted_and_no_requests() {
    let yaml = format!(
        "{RESPOND}admin: {{ listen: \"127.0.0.1:0\" }}\naccess_log: {{ path: /dev/full }}\n"
    );
    let prusik = Prusik::start(&yaml).await;
    within("3,000 requests", request_often(prusik.public(), 3000)).await;
    prusik
        .wait_stderr("access log: cannot be written: No space left")
        .await;
    let lost = async || {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let text = Client::connect(prusik.admin())
            .await
            .ask(request)
            .await
            .text();
        let series = "prusik_access_log_lost_total{reason=\"error\"} ";
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    eventually("lost lines are in the metric", async || lost().await > 0.0).await;
    // It is said once a minute, not with each line.
    let said = prusik.stderr().matches("cannot be written").count();
    within("more requests", request_often(prusik.public(), 3000)).await;
    eventually("more are lost", async || lost().await > 3000.0).await;
    assert_eq!(prusik.stderr().matches("cannot be written").count(), said);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_drain_is_logged_though_its_server_is_used_again_at_once() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top("admin: { listen: \"127.0.0.1:0\" }");
    let prusik = Prusik::start(config).await;
    let server = format!("backend/{}", origin.address());
    let mut session = Session::open(prusik.public(), "/").await;
    let ends = tokio::spawn(async move { session.ended().await });
    let drain = ["drain", &server, "--window", "0s", "--wait"];
    prusik.order(&drain).await;
    prusik.order(&["enable", &server]).await;
    assert_eq!(ends.await.expect("no panic"), Ended::Close(1012));
    let is_end = |line: &Value| {
        let said = line["outcome"].as_str().unwrap_or_default();
        line["operation"] == "drain" && said.starts_with("ended: no session is left of 1 ")
    };
    prusik.wait_log("the end of the drain", is_end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_do_has_a_line_with_who_asked_for_it() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top("admin: { listen: \"127.0.0.1:0\" }");
    let mut prusik = Prusik::start(config).await;
    let server = format!("backend/{}", origin.address());
    let mut session = Session::open(prusik.public(), "/").await;
    let mut other = Session::open(prusik.public(), "/").await;
    prusik.reload().await;
    let sessions = prusik.order(&["sessions", "--json"]).await;
    let sessions: Value = serde_json::from_str(&sessions).expect("JSON");
    let id = sessions["sessions"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    prusik.order(&["close", &id]).await;
    prusik.order(&["drain", &server, "--window", "0s"]).await;
    let ends = (session.ended().await, other.ended().await);
    assert_eq!(ends, (Ended::Close(1012), Ended::Close(1012)));
    let operation = async |name: &str, outcome: &str| {
        let what = format!("{name}: {outcome}");
        let is_it = |line: &Value| {
            let said = line["outcome"].as_str().unwrap_or_default();
            line["kind"] == "operation" && line["operation"] == name && said.starts_with(outcome)
        };
        prusik.wait_log(&what, is_it).await
    };
    let reload = operation("reload", "nothing changed").await;
    assert_eq!(reload["by"], "signal HUP");
    assert_eq!(operation("close", "told to go").await["of"], *id);
    for outcome in ["begun: ", "ended: "] {
        let drain = operation("drain", outcome).await;
        assert_eq!(drain["of"], *server);
        let by = drain["by"].as_str().unwrap_or_default();
        assert!(by.starts_with("127.0.0.1:"), "{drain}");
    }
    prusik.order(&["enable", &server]).await;
    assert_eq!(operation("enable", "enabled").await["succeeded"], true);
    prusik.upgrade().await;
    let upgrade = prusik.wait_log("the upgrade", |line| line["operation"] == "upgrade");
    let upgrade = upgrade.await;
    assert_eq!(upgrade["succeeded"], true, "{upgrade}");
    assert!(
        upgrade["by"]
            .as_str()
            .unwrap_or_default()
            .starts_with("127.0.0.1:")
    );
    for line in [
        "operation: reload of ",
        "operation: drain of backend/",
        "operation: upgrade by ",
    ] {
        assert!(prusik.stderr().contains(line), "{line}");
    }
    prusik.signal("TERM");
    prusik.ended().await;
    for line in [
        "operation: stop by signal TERM: begun",
        "operation: stop by signal TERM: ended",
    ] {
        assert!(prusik.stderr().contains(line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_summed_and_names_upstream_and_server() {
    let nobody = free_address();
    let yaml = format!(
        "listeners: [{{ listen: 127.0.0.1:0, name: public }}]
upstreams: {{ chat: {{ servers: [\"{nobody}\"] }} }}
routes: [{{ upstream: chat }}]
"
    );
    let prusik = Prusik::start(&yaml).await;
    for _ in 0..300 {
        assert_eq!(status_of(prusik.public(), "/").await, 502);
    }
    let expected = format!("upstream \"chat\", server {nobody}: 502: ");
    prusik.wait_stderr(&expected).await;
    prusik.wait_stderr(" more like it in 1").await;
    let said = prusik.stderr().matches(&expected).count();
    assert!(said <= 4, "{said} lines: {}", prusik.stderr());
}

/// Pingora says such a thing once for each answer, and not whose it was.
#[tokio::test]
async fn what_a_library_warns_of_at_each_request_is_summed_too() {
    let excess = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more";
    let origin = Origin::start(move |_| Answer::raw(excess)).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    for _ in 0..20 {
        assert_eq!(status_of(prusik.public(), "/").await, 200);
    }
    let said = || prusik.stderr().matches("more data than expected").count();
    prusik.wait_stderr("more data than expected").await;
    assert_eq!(said(), 1);
    prusik.signal("INT");
    prusik.wait_stderr("and 18 more like it in").await;
    assert_eq!(said(), 2);
}
