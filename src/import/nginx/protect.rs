//! Who may come in: `allow`, `deny`, `auth_basic`, `auth_request` and `limit_req`.

use std::path::PathBuf;

use http::Uri;
use ipnet::IpNet;

use super::context::Context;
use super::levels::Levels;
use super::locations::Located;
use super::notes::Note;
use super::target::{Target, is_server};
use super::tree::Directive;
use super::variables::Variables;
use super::{answer, known, locations, units};
use crate::import::yaml::{Map, Yaml};
use crate::route::PathMatch;

/// What a route's keys say of it.
#[derive(Debug, Default)]
pub struct Protection {
    pub map: Map,
    /// It cannot be said as nginx has it, or nobody may come in: the route must be closed.
    pub closed: bool,
}

/// `server`: the blocks down to the server, in which the location for `auth_request` stands.
pub fn protection(
    context: &Context<'_>,
    server: &Levels<'_>,
    levels: &Levels<'_>,
    notes: &mut Vec<Note>,
) -> Protection {
    let mut protection = Protection::default();
    let rules = levels.list(&["allow", "deny"]);
    if let (Some(rule), true) = (rules.first(), context.has_other_clients) {
        let why = "who the client is, is said of its connection in another way than here: closed";
        close(rule, why, &mut protection, notes);
    } else {
        addresses(&rules, &mut protection, notes);
    }
    let (auth, files) = auth(context, server, levels, &mut protection, notes);
    if let Some(any) = levels
        .last("satisfy")
        .filter(|satisfy| satisfy.arg(0) == "any")
    {
        let several = !protection.map.is_empty() || protection.closed;
        if several && (levels.last("auth_basic").is_some() || levels.last("auth_request").is_some())
        {
            close(
                any,
                "all that is asked for must be satisfied: closed",
                &mut protection,
                notes,
            );
        }
    }
    if !auth.is_empty() {
        protection.map.set_with_files("auth", auth, files);
    }
    for found in levels
        .every("if")
        .filter(|found| answer::protects(found, levels))
    {
        // What can be said is a route of its own.
        if answer::conditional(found, levels, &Variables::of(levels), &mut Vec::new()).is_none() {
            close(
                found,
                "who this keeps out would come in: closed",
                &mut protection,
                notes,
            );
        }
    }
    protection.closed |= known::protects(levels);
    rate(context, levels, &mut protection, notes);
    protection
}

/// The route's `auth`, and the files that it needs.
fn auth(
    context: &Context<'_>,
    server: &Levels<'_>,
    levels: &Levels<'_>,
    protection: &mut Protection,
    notes: &mut Vec<Note>,
) -> (Map, Vec<PathBuf>) {
    let mut auth = Map::default();
    let mut files = Vec::new();
    if let Some(basic) = levels
        .last("auth_basic")
        .filter(|basic| basic.arg(0) != "off")
    {
        let users = levels
            .value("auth_basic_user_file")
            .map(|file| context.file(file));
        match users {
            Some(_) if basic.arg(0).contains('$') => close(
                basic,
                "who must show a password depends on the request: closed",
                protection,
                notes,
            ),
            Some(users) => {
                let mut map = Map::default();
                map.set("users", Yaml::text(users.display().to_string()));
                map.set("realm", Yaml::text(basic.arg(0)));
                auth.set("basic", map);
                files.push(users);
            }
            None => close(
                basic,
                "no auth_basic_user_file says who may: closed",
                protection,
                notes,
            ),
        }
    }
    if let Some(request) = levels
        .last("auth_request")
        .filter(|asked| asked.arg(0) != "off")
    {
        match forward(context, server, request.arg(0), notes) {
            Some(forward) => auth.set("forward", forward),
            None => close(
                request,
                "this auth server cannot be asked: closed",
                protection,
                notes,
            ),
        }
    }
    (auth, files)
}

fn close(directive: &Directive, why: &str, protection: &mut Protection, notes: &mut Vec<Note>) {
    notes.push(Note::left_out(directive, why));
    protection.closed = true;
}

/// nginx takes the first rule that fits; prusik refuses who is in `deny`, and who is in no
/// network of `allow` if there is one.
fn addresses(rules: &[&Directive], protection: &mut Protection, notes: &mut Vec<Note>) {
    let mut allow: Vec<IpNet> = Vec::new();
    let mut deny: Vec<IpNet> = Vec::new();
    let overlaps = |networks: &[IpNet], new: &IpNet| {
        networks
            .iter()
            .any(|old| old.contains(new) || new.contains(old))
    };
    let mut ends_in_deny = false;
    for rule in rules {
        let is_allow = rule.name == "allow";
        if rule.arg(0) == "all" {
            ends_in_deny = !is_allow;
            break;
        }
        if rule.arg(0) == "unix:" {
            notes.push(Note::no_meaning(
                rule,
                "who connects by a unix socket has no address",
            ));
            continue;
        }
        let Some(network) = network(rule.arg(0)) else {
            return close(rule, "it is no network: closed", protection, notes);
        };
        match is_allow {
            true => allow.push(network),
            // Who is in an earlier `allow` would come in.
            false if overlaps(&allow, &network) => {
                return close(
                    rule,
                    "an earlier allow is an exception from it: closed",
                    protection,
                    notes,
                );
            }
            false => deny.push(network),
        }
    }
    if ends_in_deny && allow.is_empty() {
        protection.closed = true;
        return;
    }
    let texts = |networks: &[IpNet]| {
        Yaml::texts(networks.iter().map(|network| {
            match network.prefix_len() == network.max_prefix_len() {
                true => network.addr().to_string(),
                false => network.to_string(),
            }
        }))
    };
    if ends_in_deny {
        protection.map.set("allow", texts(&allow));
    }
    if !deny.is_empty() {
        protection.map.set("deny", texts(&deny));
    }
}

fn network(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    network.map(|network| network.trunc())
}

/// The server that a subrequest asks.
fn forward(
    context: &Context<'_>,
    server: &Levels<'_>,
    uri: &str,
    notes: &mut Vec<Note>,
) -> Option<Map> {
    let path = uri.split('?').next().filter(|path| path.starts_with('/'))?;
    let asked = locations::ordered(server)
        .into_iter()
        .find(|located| located.path.matches(path))?;
    let levels = &asked.levels;
    let variables = Variables::of(levels);
    // What it does before it asks would be lost.
    let acts = [
        "if",
        "return",
        "rewrite",
        "set",
        "try_files",
        "auth_request",
    ];
    if levels
        .own()
        .iter()
        .any(|step| acts.contains(&step.name.as_str()))
        || asked.closed
    {
        return None;
    }
    let pass = levels.own_last("proxy_pass")?;
    let url = pass
        .arg(0)
        .strip_suffix("$request_uri")
        .unwrap_or(pass.arg(0));
    let target = Target::parse(&variables.literal(url)?).ok()?;
    if target.uri.is_some() && (asked.prefix.is_none() || pass.arg(0).contains('$')) {
        return None;
    }
    let scheme = if target.is_tls { "https" } else { "http" };
    let address = context.upstreams.first_address(&target)?;
    let url = format!("{scheme}://{address}{}", asked_path(&asked, &target, uri));
    let is_fixed = is_server(&address) && !url.contains(['$', '#']);
    url.parse::<Uri>().ok().filter(|_| is_fixed)?;
    let mut map = Map::default();
    map.set("url", Yaml::text(url));
    let timeout = levels.value("proxy_read_timeout").and_then(units::time);
    if let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) {
        map.set("timeout", Yaml::plain(units::written(timeout)));
    }
    const TOLD: [&str; 8] = [
        "content-length",
        "connection",
        "host",
        "x-real-ip",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-uri",
    ];
    for header in levels.list(&["proxy_set_header"]) {
        if !TOLD.contains(&header.arg(0).to_ascii_lowercase().as_str()) {
            let why = "the auth server is told X-Forwarded-Method, -Proto, -Host, -Uri and -For";
            notes.push(Note::left_out(header, why));
        }
    }
    Some(map)
}

fn asked_path(asked: &Located<'_>, target: &Target, uri: &str) -> String {
    match (&target.uri, &asked.prefix, &asked.path) {
        (Some(to), Some(_), PathMatch::Exact(_)) => to.clone(),
        (Some(to), Some(prefix), _) => {
            format!("{to}{}", uri.strip_prefix(prefix).unwrap_or_default())
        }
        _ => uri.to_owned(),
    }
}

fn rate(
    context: &Context<'_>,
    levels: &Levels<'_>,
    protection: &mut Protection,
    notes: &mut Vec<Note>,
) {
    let mut limits = levels.list(&["limit_req"]).into_iter();
    let Some(limit) = limits.next() else { return };
    for other in limits {
        notes.push(Note::left_out(other, "a route has one rate"));
    }
    match rate_of(context, limit) {
        Ok(map) => protection.map.set("requests_per_second", map),
        Err(why) => notes.push(Note::left_out(limit, why)),
    }
}

fn rate_of(context: &Context<'_>, limit: &Directive) -> Result<Map, String> {
    let value = |directive: &Directive, name: &str| -> Option<String> {
        let mut words = directive
            .args
            .iter()
            .filter_map(|word| word.split_once('='));
        words
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let zone = value(limit, "zone").unwrap_or_default();
    let zone = context
        .zone("limit_req_zone", &zone)
        .ok_or("no limit_req_zone has this name")?;
    let key = Variables::of(&context.http)
        .template(zone.arg(0))
        .map_err(|unknown| unknown.why())?;
    if key.is_empty() {
        return Err("nothing is counted by an empty key".to_owned());
    }
    let rate = value(zone, "rate").unwrap_or_default();
    let (number, seconds) = match rate.strip_suffix("r/m") {
        Some(number) => (number, 60.0),
        None => (rate.strip_suffix("r/s").unwrap_or_default(), 1.0),
    };
    let rate = number.parse::<f64>().unwrap_or_default() / seconds;
    if !(0.001..=1_000_000.0).contains(&rate) {
        return Err("prusik has no such rate".to_owned());
    }
    let rate = (rate * 1000.0).round() / 1000.0;
    let burst: u32 = value(limit, "burst")
        .and_then(|burst| burst.parse().ok())
        .unwrap_or(0);
    // nginx counts those beyond the one that is due.
    Ok(Map::default()
        .with("rate", Yaml::plain(rate))
        .with("burst", Yaml::plain(burst.saturating_add(1).min(1_000_000)))
        .with("key", Yaml::text(key)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    #[test]
    fn rules_in_turn_are_two_lists_where_they_can_be() {
        for (text, yaml, closed) in [
            (
                "allow 10.0.0.0/8; deny all;",
                "allow: [10.0.0.0/8]\n",
                false,
            ),
            (
                "deny 10.6.0.1; allow 10.0.0.0/8; deny all;",
                "allow: [10.0.0.0/8]\n\ndeny: [10.6.0.1]\n",
                false,
            ),
            ("deny 10.6.0.1; allow all;", "deny: [10.6.0.1]\n", false),
            ("allow all; deny 10.0.0.1;", "", false),
            ("deny all;", "", true),
            ("allow 10.0.0.1; deny 10.0.0.0/8;", "", true),
            (
                "allow 10.0.0.1; deny 192.168.0.0/16;",
                "deny: [192.168.0.0/16]\n",
                false,
            ),
            ("allow example.com; deny all;", "", true),
        ] {
            let tree = parse(&Arc::from("f"), text).unwrap();
            let rules: Vec<&Directive> = tree.iter().collect();
            let mut protection = Protection::default();
            addresses(&rules, &mut protection, &mut Vec::new());
            assert_eq!(protection.closed, closed, "{text}");
            if !closed {
                assert_eq!(protection.map.write(), yaml, "{text}");
            }
        }
    }
}
