//! The command line: what is printed where, and the exit codes that scripts rely on.

mod support;

use std::net::TcpListener;
use std::process::Output;

use support::{Config, Origin, Prusik, check, prusik};

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
    std::fs::write(&file, "listeners: []\n").unwrap();
    let file = file.to_str().unwrap();
    let [run, check] = ["run", "check"].map(|command| prusik(&[command, "--config", file]));
    assert_eq!(run.status.code(), Some(78));
    assert_eq!(stderr(&run), stderr(&check));
}

#[test]
fn the_shipped_files_pass() {
    let folder = format!("{}/conf", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            // They stand in for the operator's certificates.
            let text = text.replace(
                "/etc/prusik/tls/",
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shipped/tls/"),
            );
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
    let page = std::fs::read_to_string(folder.path().join("prusik-drain.1")).unwrap();
    assert!(page.contains("window"), "{page}");
    let output = prusik(&["man", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/at/all"));
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
}

#[test]
fn an_address_that_is_taken_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prusik.yaml");
    std::fs::write(&file, GOOD.replace("127.0.0.1:9090", &address)).unwrap();
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
    let pid = std::fs::read_to_string(&file).unwrap();
    assert_eq!(pid.trim(), prusik.pid().to_string());
    prusik.signal("INT");
    assert_eq!(prusik.exit_code().await, Some(0));
    assert!(!file.exists());
}
