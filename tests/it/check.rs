//! The command line: what is printed where, and the exit codes that scripts rely on.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Config, Origin, Prusik, Session, check, prusik};

const GOOD: &str = "listeners: [{ listen: 127.0.0.1:9090 }]
upstreams: { chat: { servers: [127.0.0.1:9080] } }
routes: [{ upstream: chat }]
";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_good_file_is_ok_and_exits_0() {
    let output = check(GOOD);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("prusik.yaml: ok"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn every_error_is_told_at_its_place_in_one_run() {
    let output = check(
        "listeners:
  - { listen: 127.0.0.1:9090, nam: public }
upstreams:
  chat: { servers: [127.0.0.1:9080, { address: 127.0.0.1:9081, weight: 0 }] }
  empty: { servers: [] }
routes:
  - { match: { path_prefix: /a }, upstream: chta }
  - { match: { path_prefix: /b, listener: publik }, upstream: chat }
  - { match: { path_prefix: /a/b }, upstream: chat, timeouts: { connect: 5 parsecs } }
",
    );
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    for (place, what) in [
        (":2:31: ", "nam"),
        (":4:72: ", "weight"),
        (":5:", "empty"),
        (":7:45: ", "chta"),
        (":8:43: ", "publik"),
        (":9:7: ", "never match"),
        (":9:74: ", "parsecs"),
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("prusik.yaml{place}")));
        let line = line.unwrap_or_else(|| panic!("nothing at {place} in {text}"));
        assert!(line.contains(what), "{line}");
    }
    assert!(text.contains("hint: did you mean \"chat\"?"), "{text}");
    for line in text.lines() {
        let is_error = line.contains("prusik.yaml:");
        assert!(is_error || line.starts_with("  hint: "), "{line:?}");
    }
}

#[test]
fn what_is_no_yaml_is_78_with_a_place() {
    for text in ["routes: [", "a: b: c", "\t- x", "listeners: {", ""] {
        let output = check(text);
        assert_eq!(output.status.code(), Some(78), "{text:?}");
        assert!(
            stderr(&output).contains("prusik.yaml"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    for command in ["check", "run"] {
        let output = prusik(&[command, "--config", "/nonexistent/p.yaml"]);
        assert_eq!(output.status.code(), Some(78));
        let text = stderr(&output);
        assert!(text.contains("/nonexistent/p.yaml: "), "{text}");
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, "listeners: []\n").unwrap();
    let file = file.to_str().unwrap();
    let [run, check] = ["run", "check"].map(|command| prusik(&[command, "--config", file]));
    assert_eq!(run.status.code(), Some(78));
    assert_eq!(stderr(&run), stderr(&check));
}

/// The file is written into a folder, in which the program runs.
fn check_in(folder: &Path, keys: &str) -> Output {
    fs::write(folder.join("prusik.yaml"), format!("{keys}{GOOD}")).expect("it is ours");
    Command::new(env!("CARGO_BIN_EXE_prusik"))
        .args(["check", "prusik.yaml"])
        .current_dir(folder)
        .output()
        .expect("it runs")
}

#[test]
fn what_a_start_needs_of_the_machine_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("logs")).unwrap();
    for name in ["plain", "empty"] {
        fs::write(path(name), "").unwrap();
    }
    fs::write(path("token"), "s3cret\n").unwrap();
    let unix = |name: &str| format!("\"unix:{}\"", path(name).display());
    let [sock, gone, plain] = ["a.sock", "gone/a.sock", "plain"].map(unix);
    for (keys, place, what) in [
        (
            "access_log: { path: gone/a.log }\n",
            ":1:21: ",
            "no directory gone",
        ),
        (
            "access_log: { path: logs }\n",
            ":1:21: ",
            "logs is a directory",
        ),
        (
            "server: { pid_file: gone/pid }\n",
            ":1:21: ",
            "no directory gone",
        ),
        (
            "server: { pid_file: plain/pid }\n",
            ":1:21: ",
            "no directory plain",
        ),
        (
            &format!("admin: {{ listen: {gone} }}\n"),
            ":1:18: ",
            "no directory",
        ),
        (
            &format!("admin: {{ listen: {plain} }}\n"),
            ":1:18: ",
            "no socket",
        ),
        (
            "admin: { listen: 127.0.0.1:9900, token_file: gone }\n",
            ":1:46: ",
            "token file gone",
        ),
        (
            "admin: { listen: 127.0.0.1:9900, token_file: empty }\n",
            ":1:46: ",
            "is empty",
        ),
    ] {
        let checked = check_in(folder.path(), keys);
        assert_eq!(checked.status.code(), Some(78), "{keys}");
        let text = stderr(&checked);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with(&format!("prusik.yaml{place}")), "{text}");
        assert!(first.contains(what) && text.contains("hint: "), "{text}");
        let run = Command::new(env!("CARGO_BIN_EXE_prusik"))
            .args(["run", "-c", "prusik.yaml"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(78), "{keys}");
        assert_eq!(stderr(&run), text);
    }
    let good = format!(
        "access_log: {{ path: logs/a.log }}\nserver: {{ pid_file: pid }}\n\
         admin: {{ listen: {sock}, token_file: token }}\n"
    );
    let checked = check_in(folder.path(), &good);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
}

#[test]
fn what_systemd_makes_for_the_service_is_a_warning_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let keys = "admin: { listen: \"unix:/run/no-such-prusik/admin.sock\" }\n";
    let checked = check_in(folder.path(), keys);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    let text = stderr(&checked);
    assert!(
        text.contains("warning: there is no directory /run/no-such-prusik yet"),
        "{text}"
    );
}

#[test]
fn the_file_is_named_in_three_ways() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, GOOD).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["check", file][..],
        &["check", "-c", file],
        &["check", "--config", file],
    ] {
        assert_eq!(prusik(arguments).status.code(), Some(0), "{arguments:?}");
    }
    assert_eq!(prusik(&["check", file, "-c", file]).status.code(), Some(2));
}

#[test]
fn a_byte_that_is_not_utf_8_has_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    for (bytes, place) in [
        (
            &b"# \xc3\xbc: caf\xe9\nlisteners: []\n"[..],
            ":1:9: the byte 0xe9",
        ),
        (&b"a: 1\nb: \xff\n"[..], ":2:4: the byte 0xff"),
        (&b"\xff\xfea\0"[..], ":1:1: the byte 0xff"),
    ] {
        fs::write(&file, bytes).unwrap();
        let output = prusik(&["check", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78));
        let text = stderr(&output);
        assert!(text.contains(place) && text.contains("UTF-8"), "{text}");
    }
}

/// A program and a file get every error; people, and logs, the first hundred.
#[test]
fn thousands_of_errors_are_all_told_by_check_and_a_hundred_by_run() {
    const MANY: usize = 2000;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    let slips: String = (0..MANY).map(|i| format!("slip{i}: 1\n")).collect();
    fs::write(&file, format!("{GOOD}{slips}")).unwrap();
    let file = file.to_str().unwrap();
    let [checked, run] = ["check", "run"].map(|command| prusik(&[command, "-c", file]));
    assert_eq!(stderr(&checked).matches("unknown key").count(), MANY);
    let text = stderr(&run);
    assert_eq!(text.matches("unknown key").count(), 100);
    assert!(text.contains(": and 1900 more ("), "{text}");
}

#[test]
fn a_pem_file_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["chat.example.com.pem", "chat.example.com.key"] {
        let shipped = format!("{}/tests/shipped/tls/{name}", env!("CARGO_MANIFEST_DIR"));
        let pem = fs::read(shipped).unwrap();
        let marked = [b"\xef\xbb\xbf", &pem[..]].concat();
        fs::write(folder.path().join(name), marked).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("chat.example.com.pem"), path("chat.example.com.key"));
    let tls = format!("tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }}");
    let text = GOOD.replace("127.0.0.1:9090", &format!("127.0.0.1:9090, {tls}"));
    let output = check(&text);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn the_shipped_files_pass() {
    let folder = format!("{}/conf", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = fs::read_to_string(&path).unwrap();
            // They stand in for the operator's certificates, token, page and users.
            let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shipped");
            let text = text
                .replace("/etc/prusik/tls", &format!("{shipped}/tls"))
                .replace("/etc/prusik/admin.token", &format!("{shipped}/admin.token"))
                .replace("/etc/prusik/sorry.html", &format!("{shipped}/sorry.html"))
                .replace("/etc/prusik/htpasswd", &format!("{shipped}/htpasswd"));
            let output = check(&text);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{path:?}: {}",
                stderr(&output)
            );
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} files");
}

#[test]
fn shells_get_completions_and_people_man_pages() {
    for shell in ["bash", "zsh", "fish"] {
        let output = prusik(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            script.contains("upgrade") && script.contains("window"),
            "{shell}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(prusik(&["man", path]).status.code(), Some(0));
    let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let drain = page("prusik-drain.1");
    for part in [
        "window",
        ".SH EXIT STATUS",
        "78",
        ".SH EXAMPLES",
        "prusik drain chat/",
    ] {
        assert!(drain.contains(part), "{part} is not in {drain}");
    }
    let overview = page("prusik.1");
    for part in [
        ".SH SIGNALS",
        "USR2",
        ".SH FILES",
        "/etc/prusik/prusik.yaml",
        "prusik.yaml(5)",
    ] {
        assert!(overview.contains(part), "{part} is not in {overview}");
    }
    let file = page("prusik.yaml.5");
    for part in [
        "routes[].websocket",
        "max_sessions_per_client",
        "default 1h",
        "x\\-",
    ] {
        assert!(file.contains(part), "{part} is not in {file}");
    }
    let output = prusik(&["man", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/at/all"));
}

/// What bash offers when Tab is pressed behind this line.
fn offered(script: &Path, line: &str) -> Vec<String> {
    let program = "source \"$0\"; COMP_LINE=$1; COMP_POINT=${#1}; COMP_WORDS=($1); \
                   COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_WORDBREAKS=': '; \
                   _prusik_live \"${COMP_WORDS[0]}\" \"${COMP_WORDS[COMP_CWORD]}\" ''; \
                   printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["-c", program, &script.display().to_string(), line])
        .output()
        .expect("bash is there");
    let stdout = String::from_utf8(output.stdout).expect("words");
    stdout
        .lines()
        .map(str::to_owned)
        .filter(|line| !line.is_empty())
        .collect()
}

#[tokio::test]
async fn a_shell_completes_servers_and_sessions_of_the_running_process() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", folder.path().join("admin.sock").display());
    let config = Config::to(&[&origin]).top(format!("admin: {{ listen: \"{admin}\" }}"));
    let process = Prusik::start(config).await;
    let mut session = Session::open(process.public(), "/").await;
    let script = folder.path().join("completions.bash");
    fs::write(&script, prusik(&["completions", "bash"]).stdout).unwrap();
    let binary = env!("CARGO_BIN_EXE_prusik");
    let offers = |rest: &str| offered(&script, &format!("{binary} {rest}"));
    let server = origin.address().to_string();
    let (host, port) = server.split_once(':').unwrap();
    assert_eq!(
        offers(&format!("drain --admin {admin} ")),
        [format!("backend/{server}")]
    );
    assert_eq!(
        offers(&format!("drain --admin {admin} back")),
        [format!("backend/{server}")]
    );
    // Bash has taken what is in front of the colon already.
    assert_eq!(
        offers(&format!("drain --admin {admin} backend/{host}:")),
        [port]
    );
    assert_eq!(
        offers(&format!("sessions --admin {admin} --upstream ")),
        ["backend"]
    );
    assert_eq!(
        offers(&format!("sessions --admin {admin} --server ")),
        [server.as_str()]
    );
    let ids = offers(&format!("close --admin {admin} "));
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(ids[0].len(), 36, "{ids:?}");
    // Nothing is drained, and options are clap's.
    assert!(offers(&format!("drain --admin {admin} --win")).contains(&"--window".to_owned()));
    assert!(
        !offers(&format!("enable --admin {admin} ")).contains(&format!("backend/{host}:{port}"))
    );
    assert!(offers("drain --admin unix:/nonexistent/admin.sock x").is_empty());
    assert!(session.is_alive().await);
}

#[test]
fn the_schema_is_json_that_describes_the_file() {
    let output = prusik(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["listeners", "upstreams", "routes", "access_log"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for arguments in [&["chekc"][..], &["check", "--confg", "x"], &[]] {
        let output = prusik(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let nobody = prusik(&["close"]);
    assert_eq!(nobody.status.code(), Some(2));
    let said = stderr(&nobody);
    assert!(said.contains("<ID|--user <U>>"), "{said}");
}

/// As `| head` is one.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, GOOD).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["schema"][..], &["check", "--config", file]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let program = env!("CARGO_BIN_EXE_prusik");
        let output = Command::new(program)
            .args(arguments)
            .stdout(writer)
            .output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn an_address_that_is_taken_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    fs::write(&file, GOOD.replace("127.0.0.1:9090", &address)).unwrap();
    let output = prusik(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains(&address) && !text.contains("listening on"),
        "{text}"
    );
}

#[tokio::test]
async fn the_pid_file_lives_as_long_as_the_process() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top("server: { pid_file: prusik.pid }");
    let mut prusik = Prusik::start(config).await;
    let file = prusik.folder().join("prusik.pid");
    let pid = fs::read_to_string(&file).unwrap();
    assert_eq!(pid.trim(), prusik.pid().to_string());
    prusik.signal("INT");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(!file.exists());
}
