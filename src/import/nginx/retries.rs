//! Retries and addresses of an upstream's connections, which nginx says in its locations.

use super::levels::Levels;
use super::notes::Note;
use super::tree::Directive;
use crate::import::yaml::{List, Map, Yaml};

/// What nginx says in the location, and prusik in the upstream.
pub fn settings(levels: &Levels<'_>, notes: &mut Vec<Note>) -> Map {
    let mut map = Map::default();
    let tries = levels.last("proxy_next_upstream_tries");
    let next = levels.last("proxy_next_upstream");
    let is_off = next.is_some_and(|next| next.arg(0) == "off");
    match tries.map(|tries| tries.arg(0)) {
        _ if is_off => map.set("attempts", Yaml::plain(1)),
        Some(tries) if tries.parse::<u16>().is_ok_and(|tries| tries > 0) => {
            map.set("attempts", Yaml::plain(tries));
        }
        // As many as there are.
        _ => {}
    }
    if let Some(next) = next.filter(|_| !is_off) {
        retry_on(next, &mut map, notes);
    }
    if let Some(bind) = levels
        .last("proxy_bind")
        .filter(|bind| bind.arg(0) != "off")
    {
        match bind.arg(0).parse::<std::net::IpAddr>() {
            Ok(address) => map.set("source", Yaml::texts([address.to_string()])),
            Err(_) => notes.push(Note::left_out(
                bind,
                "`source` is an address of this machine",
            )),
        }
    }
    map
}

fn retry_on(next: &Directive, map: &mut Map, notes: &mut Vec<Note>) {
    let mut kinds = vec!["connect"];
    for word in &next.args {
        match word.as_str() {
            "error" => {}
            "timeout" => kinds.push("timeout"),
            "http_502" => kinds.push("502"),
            "http_503" => kinds.push("503"),
            "http_504" => kinds.push("504"),
            _ => notes.push(Note::left_out(
                next,
                format!("{word} is no reason to try again"),
            )),
        }
    }
    // What nginx does by default is what prusik does by default.
    let is_default = !kinds.iter().any(|kind| kind.starts_with("50"));
    if is_default {
        return;
    }
    let mut list = List::default();
    for kind in kinds {
        list.push(match kind.starts_with('5') {
            true => Yaml::plain(kind),
            false => Yaml::text(kind),
        });
    }
    map.set("retry_on", list);
}
