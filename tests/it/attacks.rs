//! Every known attack of `tests/attacks/` against the real binary: what reached the server, and
//! what the client got, to the byte.
//!
//! Behind each attack stands a canary, a request like any other. Who disagrees with the server
//! about where the attack ends shows it there: the canary is missing, doubled, or has something of
//! the attack in it. How a case is written is told in `tests/attacks/README.md`.

#[path = "../attacks/case.rs"]
mod case;
#[path = "../attacks/lane.rs"]
mod lane;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::support::{Answer, Client, Config, Origin, Prusik, eventually};
use case::{Attack, Case};
use lane::{LANES, Lane};

const TUNNELS: [&str; 2] = ["relay", "pingora"];

/// What the issue asks for.
const AT_LEAST: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_known_attack_gets_through() {
    let cases = read_all();
    assert!(cases.len() >= AT_LEAST, "only {} cases", cases.len());
    for tunnel in TUNNELS {
        run_all(tunnel, cases.clone()).await;
    }
}

async fn run_all(tunnel: &str, cases: Vec<Case>) {
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        lanes.push(Lane::open().await);
    }
    let lanes_of = lane::configuration(&lanes);
    let prusik = Prusik::start(format!("server: {{ tunnel: {tunnel} }}\n{lanes_of}")).await;

    let mut shares: Vec<Vec<Case>> = lanes.iter().map(|_| Vec::new()).collect();
    for (number, case) in cases.into_iter().enumerate() {
        shares[number % LANES].push(case);
    }
    let mut running = Vec::new();
    for (number, (mut lane, share)) in lanes.into_iter().zip(shares).enumerate() {
        let listener = format!("lane-{number}");
        let address = prusik.address(&listener);
        running.push(tokio::spawn(async move {
            let mut faults = Vec::new();
            let mut statuses = Vec::new();
            for case in share {
                match lane.run(address, &case).await {
                    Ok(seen) => statuses.extend(seen),
                    Err(fault) => faults.push(format!("{}: {fault}", case.name)),
                }
            }
            (listener, faults, statuses)
        }));
    }
    let mut faults = Vec::new();
    let mut expected = HashMap::new();
    for lane in running {
        let (listener, found, statuses) = lane.await.expect("a lane does not panic");
        faults.extend(found);
        expected.insert(listener, statuses);
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );

    // An operator sees each of them: one line for each answer, in the order of the answers.
    eventually("every answer is in the access log", async || {
        logged(&prusik) == expected
    })
    .await;
}

#[tokio::test]
async fn an_operator_reads_what_was_refused_and_why() {
    let prusik = Prusik::start(
        "listeners: [{ listen: 127.0.0.1:0, name: public }]\n\
         routes: [{ match: { path: / }, respond: { status: 204 } }]\n",
    )
    .await;
    for (request, method, path, error) in [
        (
            "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET",
            "/x",
            "there is more than one Host",
        ),
        (
            "TRACE /\u{e9} HTTP/1.1\r\n",
            "TRACE",
            "/\u{e9}",
            "this method is not for a gateway",
        ),
        (
            "GET /%2F.. HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET",
            "/%2F..",
            "the path leads upwards by encoded separators",
        ),
    ] {
        let answer = Client::connect(prusik.public()).await.ask(request).await;
        assert_eq!(
            answer.text().split_once(": ").map(|(_, why)| why.trim()),
            Some(error)
        );
        let line = prusik
            .wait_log(error, |entry| entry["error"] == error)
            .await;
        assert_eq!(line["kind"], "request");
        assert_eq!(line["status"], answer.status());
        assert_eq!(line["method"], method);
        assert_eq!(line["path"], path);
        assert_eq!(line["client"], "127.0.0.1");
    }
}

#[tokio::test]
async fn a_head_in_pieces_is_served_and_one_that_begins_wrong_is_refused_at_once() {
    let origin = Origin::start(|request| Answer::text(request.target())).await;
    let prusik = Prusik::start(Config::to(&[&origin])).await;
    let request = "POST /caf\u{e9}?\" HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = Client::connect(prusik.public()).await;
    for byte in request.bytes() {
        client.send([byte]).await;
    }
    assert_eq!(client.response().await.text(), "/caf%C3%A9?%22");
    assert_eq!(client.get("/next").await.text(), "/next");
    // No blank line comes, and none is awaited.
    client.send("GET  / HTTP/1.1\r\n").await;
    assert_eq!(client.response().await.status(), 400);
    client.expect_end().await;
}

fn logged(prusik: &Prusik) -> HashMap<String, Vec<u16>> {
    let mut logged: HashMap<String, Vec<u16>> = HashMap::new();
    for entry in prusik.access_log() {
        if entry["kind"] == "session_close" {
            continue;
        }
        let listener = entry["listener"].as_str().unwrap_or_default().to_owned();
        let status = entry["status"].as_u64().unwrap_or_default() as u16;
        logged.entry(listener).or_default().push(status);
    }
    logged
}

fn read_all() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    let (mut names, mut attacks) = (HashSet::new(), HashSet::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let found: Vec<Case> = serde_yaml::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for case in found {
            assert!(
                names.insert(case.name.clone()),
                "{} is there twice",
                case.name
            );
            assert!(!case.source.is_empty(), "{} has no source", case.name);
            let Attack { sent, answered } = case.attack();
            let letters = (sent, answered);
            assert!(
                attacks.insert(letters),
                "{} sends what another sends",
                case.name
            );
            cases.push(case);
        }
    }
    cases
}
