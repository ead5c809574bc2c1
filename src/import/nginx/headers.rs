//! `proxy_set_header`, `add_header` and what hides headers, as the rules of a route.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};

use super::levels::Levels;
use super::notes::Note;
use super::target::Target;
use super::variables::Variables;
use crate::import::yaml::{Map, Yaml};

/// Headers that prusik sets as the message and the handshake need them.
const RESERVED: [&str; 11] = [
    "connection",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "te",
    "trailer",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-accept",
    "keep-alive",
    "proxy-connection",
];

/// The rules for the request, and whether an upgrade passes.
pub fn request_headers(
    levels: &Levels<'_>,
    variables: &Variables,
    target: &Target,
    notes: &mut Vec<Note>,
) -> (Map, bool) {
    let (mut set, mut add, mut remove) = (Map::default(), Map::default(), Vec::new());
    let mut seen = HashSet::new();
    let (mut upgrade, mut connection) = (false, false);
    let mut host = Some(target.proxy_host().to_owned());
    for header in levels.list(&["proxy_set_header"]) {
        let (name, value) = (header.arg(0), header.arg(1));
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "upgrade" => upgrade = !value.is_empty(),
            "connection" => {
                connection = value.contains('$') || value.to_ascii_lowercase().contains("upgrade")
            }
            "host" if value == "$http_host" => host = None,
            "host" if value.is_empty() => {
                notes.push(Note::left_out(
                    header,
                    "a request has a Host: it goes as it came",
                ));
                host = None;
            }
            "host" => match variables.template(value) {
                Ok(template) => host = Some(template),
                Err(unknown) => notes.push(Note::left_out(header, unknown.why())),
            },
            lower if RESERVED.contains(&lower) => {
                let why = "set as the message or the handshake needs it";
                notes.push(Note::no_meaning(header, why));
            }
            _ if HeaderName::from_bytes(name.as_bytes()).is_err() => {
                notes.push(Note::left_out(header, "no header can have this name"));
            }
            _ if value.is_empty() => remove.push(name),
            _ => match template(variables, value) {
                Ok(template) if seen.insert(lower) => set.set(name, Yaml::text(template)),
                Ok(template) => add.set(name, Yaml::text(template)),
                // The client's own must not pass for it.
                Err(why) => {
                    notes.push(Note::left_out(
                        header,
                        format!("{why}: no such header passes"),
                    ));
                    remove.push(name);
                }
            },
        }
    }
    remove.retain(|name| seen.insert(name.to_ascii_lowercase()));
    let mut rules = Map::default();
    if let Some(host) = host {
        let mut all = Map::default().with("Host", Yaml::text(host));
        all.append(set);
        set = all;
    }
    rules.set_map("set", set);
    rules.set_map("add", add);
    if !remove.is_empty() {
        rules.set("remove", Yaml::texts(remove));
    }
    (rules, upgrade && connection)
}

fn template(variables: &Variables, value: &str) -> Result<String, String> {
    let template = variables.template(value).map_err(|unknown| unknown.why())?;
    match HeaderValue::from_bytes(template.as_bytes()) {
        Ok(_) => Ok(template),
        Err(_) => Err("a header has no line breaks and control characters".to_owned()),
    }
}

fn can_change(name: &str) -> bool {
    let mut reserved = RESERVED.iter();
    let is_reserved = reserved.any(|reserved| name.eq_ignore_ascii_case(reserved));
    HeaderName::from_bytes(name.as_bytes()).is_ok() && !is_reserved
}

/// For every kind of answer: of a server, a redirection, a refusal.
pub fn response_headers(levels: &Levels<'_>, variables: &Variables, notes: &mut Vec<Note>) -> Map {
    let variables = &variables.answered();
    let (mut set, mut add, mut remove) = (Map::default(), Map::default(), Vec::new());
    let mut seen = HashSet::new();
    for header in levels.list(&["add_header"]) {
        let (name, value) = (header.arg(0), header.arg(1));
        let lower = name.to_ascii_lowercase();
        if value.is_empty() || RESERVED.contains(&lower.as_str()) {
            notes.push(Note::no_meaning(header, "nothing that would be sent"));
            continue;
        }
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            notes.push(Note::left_out(header, "no header can have this name"));
            continue;
        }
        match template(variables, value) {
            Ok(_) if !seen.insert(lower.clone()) => {
                notes.push(Note::left_out(header, "a route adds one header of a name"));
            }
            Ok(template) if lower == "content-type" => set.set(name, Yaml::text(template)),
            Ok(template) => add.set(name, Yaml::text(template)),
            Err(why) => notes.push(Note::left_out(header, why)),
        }
    }
    for more in levels.list(&["more_set_headers"]) {
        for arg in &more.args {
            match arg.split_once(':').filter(|(name, _)| can_change(name)) {
                Some((name, value)) => match template(variables, value.trim()) {
                    Ok(_) if !seen.insert(name.to_ascii_lowercase()) => {}
                    Ok(template) => set.set(name, Yaml::text(template)),
                    Err(why) => notes.push(Note::left_out(more, why)),
                },
                None => notes.push(Note::left_out(more, "a header is set for every status")),
            }
        }
    }
    for hidden in levels
        .list(&["proxy_hide_header"])
        .into_iter()
        .chain(levels.list(&["more_clear_headers"]))
    {
        remove.extend(hidden.args.iter().filter(|name| can_change(name)));
    }
    let mut rules = Map::default();
    rules.set_map("set", set);
    rules.set_map("add", add);
    if !remove.is_empty() {
        rules.set(
            "remove",
            Yaml::texts(remove.into_iter().map(String::as_str)),
        );
    }
    rules
}

pub fn add_response_headers(
    levels: &Levels<'_>,
    variables: &Variables,
    body: &mut Map,
    notes: &mut Vec<Note>,
) {
    let response = response_headers(levels, variables, notes);
    if response.is_empty() {
        return;
    }
    // A `Content-Type` that stands there already is the answer's.
    if body.has("headers") {
        return;
    }
    body.set("headers", Map::default().with("response", response));
}
