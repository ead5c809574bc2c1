//! What a shell suggests if the running process knows the answer: its servers, upstreams, routes
//! and sessions. The scripts of `prusik completions` pass on the words that were typed so far.
//!
//! At a press of Tab nobody wants an error or a wait, so any failure leads to no suggestions.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Parser;
use http::Method;

use super::client::{Call, Client};
use super::reach::{Reach, WrongFile};
use crate::admin::params::MAX_LIMIT;
use crate::admin::view::{ServerState, SessionPage, Status};

/// A running process answers at once.
const PATIENCE: Duration = Duration::from_millis(700);

/// Options whose values the process knows.
pub const LIVE_OPTIONS: [&str; 5] = ["upstream", "server", "route", "id", "user"];

/// Options whose value is the next word.
const WITH_VALUE: [&str; 11] = [
    "--admin",
    "--config",
    "-c",
    "--token-file",
    "--window",
    "--code",
    "--client",
    "--older-than",
    "--user",
    "--path",
    "--kind",
];

/// What is asked for at the end of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// `UPSTREAM/ADDRESS` of servers that can be drained.
    ServersInUse,
    DrainedServers,
    Addresses,
    Upstreams,
    Routes,
    Sessions,
    Users,
}

/// The last word is the one under the cursor. Returns one suggestion for each line.
pub async fn candidates(words: &[String]) -> String {
    let found = async {
        let wanted = wanted(words)?;
        let client = reach(words)?.client(WrongFile::Judged).ok()?;
        ask(&client, wanted).await
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    let mut lines = found.ok().flatten().unwrap_or_default();
    // Each line is one name, so a name with a line break is left out.
    lines.retain(|line| !line.contains(char::is_control));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn wanted(words: &[String]) -> Option<Wanted> {
    let (current, before) = words.split_last()?;
    let command = before.first()?.as_str();
    let last = before.last()?.as_str();
    match (command, last) {
        ("sessions", "--upstream") => return Some(Wanted::Upstreams),
        ("sessions", "--server") => return Some(Wanted::Addresses),
        ("sessions", "--route") => return Some(Wanted::Routes),
        ("sessions", "--id") => return Some(Wanted::Sessions),
        ("sessions" | "close", "--user") => return Some(Wanted::Users),
        _ => {}
    }
    if current.starts_with('-') || WITH_VALUE.contains(&last) {
        return None;
    }
    match command {
        "drain" => Some(Wanted::ServersInUse),
        "enable" => Some(Wanted::DrainedServers),
        "close" => Some(Wanted::Sessions),
        _ => None,
    }
}

/// How to reach the process, according to the words so far.
fn reach(words: &[String]) -> Option<Reach> {
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        reach: Reach,
    }

    let mut line = vec!["prusik".to_owned()];
    let mut words = words.iter().take(words.len().saturating_sub(1));
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        if ["--admin", "--config", "-c", "--token-file"].contains(&name) {
            line.push(word.clone());
            if name == word {
                line.push(words.next()?.clone());
            }
        }
    }
    Some(Line::try_parse_from(line).ok()?.reach)
}

async fn ask(client: &Client, wanted: Wanted) -> Option<Vec<String>> {
    if let Wanted::Sessions | Wanted::Users = wanted {
        let path = format!("/api/v1/sessions?limit={MAX_LIMIT}&order=newest");
        let page: SessionPage = call(client, path).await?;
        let sessions = page.sessions.into_iter();
        if wanted == Wanted::Sessions {
            return Some(sessions.map(|session| session.id).collect());
        }
        let users: BTreeSet<String> = sessions.filter_map(|session| session.user).collect();
        return Some(users.into_iter().collect());
    }
    let status: Status = call(client, "/api/v1/status".to_owned()).await?;
    let upstreams = status.upstreams.iter();
    if wanted == Wanted::Upstreams {
        return Some(upstreams.map(|upstream| upstream.name.clone()).collect());
    }
    if wanted == Wanted::Routes {
        return Some(status.routes.into_iter().map(|route| route.name).collect());
    }
    let servers = upstreams.flat_map(|upstream| {
        let servers = upstream.servers.iter();
        servers.map(|server| (&upstream.name, server))
    });
    let names = servers.filter_map(|(upstream, server)| {
        let is_drained = matches!(server.state, ServerState::Drained);
        match wanted {
            Wanted::Addresses => Some(server.address.clone()),
            Wanted::ServersInUse if is_drained => None,
            Wanted::DrainedServers if !is_drained => None,
            _ => Some(format!("{upstream}/{}", server.address)),
        }
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    Some(names)
}

async fn call<T: serde::de::DeserializeOwned>(client: &Client, path: String) -> Option<T> {
    let call = Call {
        method: Method::GET,
        path,
        body: String::new(),
        patience: PATIENCE,
    };
    let body = client.call(call).await.ok()?;
    client.read(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_is_wanted_is_seen_from_the_words() {
        for (line, expected) in [
            ("drain ", Some(Wanted::ServersInUse)),
            ("drain --window 3s ch", Some(Wanted::ServersInUse)),
            (
                "drain --admin 127.0.0.1:9900 --wait ",
                Some(Wanted::ServersInUse),
            ),
            ("drain --window ", None),
            ("drain -", None),
            ("enable chat/", Some(Wanted::DrainedServers)),
            ("close ", Some(Wanted::Sessions)),
            ("close --code ", None),
            ("close --user al", Some(Wanted::Users)),
            ("sessions --user ", Some(Wanted::Users)),
            ("sessions --upstream ", Some(Wanted::Upstreams)),
            ("sessions --server 127", Some(Wanted::Addresses)),
            ("sessions --route ", Some(Wanted::Routes)),
            ("sessions ", None),
            ("status ", None),
            ("dra", None),
            ("", None),
        ] {
            assert_eq!(wanted(&words(line)), expected, "{line:?}");
        }
        assert_eq!(wanted(&[]), None);
    }

    #[test]
    fn the_way_to_the_process_is_taken_from_the_line() {
        for line in [
            "drain ",
            "drain --admin 127.0.0.1:9900 ",
            "drain --window 3s --admin=unix:/run/a.sock -c a.yaml ch",
            "drain --token-file t --config=b.yaml ch",
        ] {
            assert!(reach(&words(line)).is_some(), "{line:?}");
        }
        assert!(reach(&words("drain --admin nowhere x")).is_none());
    }

    #[tokio::test]
    async fn without_a_process_nothing_is_offered() {
        let line = words("drain --admin unix:/nonexistent/admin.sock ");
        assert_eq!(candidates(&line).await, "");
    }
}
