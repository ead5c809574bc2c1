//! A location with `proxy_pass`: which server, by which path, with which headers and limits.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::answer::{behind_prefix, captures, path_rewrite, redirects};
use super::context::Context;
use super::headers::{request_headers, response_headers};
use super::known::QUERY_PASSES;
use super::levels::Levels;
use super::locations::{Located, encoded, escaped};
use super::notes::Note;
use super::target::Target;
use super::tree::Directive;
use super::variables::{Variables, names};
use super::{locations, units};
use crate::config::{answers_by_itself, page_type};
use crate::import::yaml::{Map, Yaml};
use crate::route::{PathMatch, PathRegex, Rewrite};

const SERVERS_ERRORS: &str = "errors of servers pass as they are";

/// What nginx waits for by default.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// All keys but `match` and what protects, by which a request goes to a server as nginx makes it.
/// `levels`: where the `proxy_pass` stands. `Err`: why the requests cannot go there.
pub fn proxied(
    context: &mut Context<'_>,
    located: &Located<'_>,
    levels: &Levels<'_>,
    pass: &Directive,
    server: &Levels<'_>,
    notes: &mut Vec<Note>,
) -> Result<Map, String> {
    let mut variables = Variables::of(levels);
    let (target, change) = destination(located, levels, pass, &variables, notes)?;
    let addresses = context.upstreams.addresses(&target);
    let comes_back = |to: &String| context.listens.iter().any(|listen| leads_to(listen, to));
    if addresses.iter().any(comes_back) {
        return Err("it would come back to its own listener".to_owned());
    }
    let upstream = context
        .upstreams
        .name_for(&target, pass, levels, notes)
        .ok_or("its upstream has no server that can be reached")?;
    variables.set("proxy_host", target.proxy_host());
    variables.set("proxy_port", target.host().1.unwrap_or("80"));
    if levels
        .last("auth_basic")
        .is_some_and(|basic| basic.arg(0) != "off")
    {
        variables.set("remote_user", "$user");
    }
    let mut body = Map::default().with("upstream", Yaml::text(upstream));
    change.write(&mut body);
    if levels
        .own()
        .iter()
        .any(|step| step.name == "rewrite" && redirects(step).is_none())
    {
        // Here it is the path that came.
        for name in ["$uri", "$document_uri"] {
            variables.forget(Some(&name.to_owned()));
        }
    }
    let (request, upgrades) = request_headers(levels, &variables, &target, notes);
    let response = response_headers(levels, &variables, notes);
    let mut headers = Map::default();
    headers.set_map("request", request);
    headers.set_map("response", response);
    if !headers.is_empty() {
        body.set("headers", headers);
    }
    body.set("forwarded", Yaml::plain("off"));
    limits(context, levels, upgrades, &mut body, notes);
    errors(context, levels, server, &mut body, notes);
    if levels.value("merge_slashes") == Some("off") {
        body.set("merge_slashes", Yaml::plain(false));
    }
    Ok(body)
}

/// Whether a connection to the server comes to the listener, as far as the file tells.
fn leads_to(listen: &str, server: &str) -> bool {
    let server = server.replacen("localhost:", "127.0.0.1:", 1);
    let (Ok(listen), Ok(server)) = (listen.parse::<SocketAddr>(), server.parse::<SocketAddr>())
    else {
        return false;
    };
    let is_here = |end: SocketAddr| end.ip().is_loopback() || end.ip().is_unspecified();
    let is_met = listen.ip() == server.ip() || is_here(listen) && is_here(server);
    listen.port() == server.port() && is_met
}

/// What becomes of the path on its way.
#[derive(Debug, PartialEq)]
enum Change {
    None,
    /// The prefix is taken off.
    Strip(String),
    Rewrite(String, String),
}

impl Change {
    fn write(self, body: &mut Map) {
        match self {
            Self::None => {}
            Self::Strip(prefix) => body.set("strip_prefix", Yaml::text(prefix)),
            Self::Rewrite(regex, to) => {
                let rewrite = Map::default()
                    .with("regex", Yaml::text(regex))
                    .with("to", Yaml::text(to));
                body.set("rewrite", rewrite);
            }
        }
    }
}

fn destination(
    located: &Located<'_>,
    levels: &Levels<'_>,
    pass: &Directive,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Result<(Target, Change), String> {
    let written = pass.arg(0);
    let (target, change) = match written.contains('$') {
        true => as_it_says(located, levels, pass, variables, notes)?,
        false => {
            let target = Target::parse(written)?;
            let change = match rewrites(levels, notes) {
                Some((regex, to)) => {
                    if target.uri.is_some() {
                        let why = "paths that the rewrite does not change keep their beginning";
                        notes.push(Note::left_out(pass, why));
                    }
                    Change::Rewrite(regex, to)
                }
                None => path_change(located, target.uri.as_deref(), pass, notes)?,
            };
            (target, change)
        }
    };
    if let Change::Rewrite(regex, to) = &change
        && !is_rewrite(regex, to)
    {
        return Err("no path can be made by this expression".to_owned());
    }
    Ok((target, change))
}

/// A `proxy_pass` with variables: what stands behind the address is the whole path and query.
fn as_it_says(
    located: &Located<'_>,
    levels: &Levels<'_>,
    pass: &Directive,
    variables: &Variables,
    notes: &mut Vec<Note>,
) -> Result<(Target, Change), String> {
    let written = pass.arg(0);
    let whole = WHOLE.into_iter().find(|whole| written.ends_with(whole));
    let whole = whole.unwrap_or_default();
    let (url, behind) = split_uri(written.strip_suffix(whole).unwrap_or(written));
    let unknown =
        |name: &str| format!("which server it is depends on ${name}: write a route for each");
    let url = variables.template(url).map_err(|name| unknown(&name.0))?;
    let (url, before) = split_uri(&url);
    if let Some(name) = names(url).next() {
        return Err(unknown(name));
    }
    let mut target = Target::parse(url)?;
    target.uri = None;
    let uri = [before, behind, whole].concat();
    let mut said = Vec::new();
    let rewrite = rewrites(levels, &mut said);
    let change = match uri.as_str() {
        "" | "$uri$is_args$args" | "$uri" => {
            notes.extend(said);
            rewrite.map_or(Change::None, |(regex, to)| Change::Rewrite(regex, to))
        }
        "$request_uri" => Change::None,
        uri => {
            let prefix = WHOLE.iter().find_map(|whole| uri.strip_suffix(whole));
            match prefix.and_then(|prefix| variables.literal(prefix)) {
                Some(_) if rewrite.is_some() => {
                    return Err("the path is made of that of a rewrite".to_owned());
                }
                Some(prefix) => Change::Rewrite("^(.*)$".to_owned(), format!("{prefix}$1")),
                None => {
                    let (path, _) = split_query(uri);
                    Change::Rewrite(whole_of(located, path)?, made_of(path)?)
                }
            }
        }
    };
    let keeps_query = uri.is_empty() || uri.ends_with("$request_uri") || split_query(&uri).1;
    if !keeps_query {
        notes.push(Note::left_out(pass, QUERY_PASSES));
    }
    Ok((target, change))
}

/// The whole of what came; the last without its query.
const WHOLE: [&str; 3] = ["$request_uri", "$uri$is_args$args", "$uri"];

/// The path without its query, and whether that is the request's.
fn split_query(uri: &str) -> (&str, bool) {
    if let Some(path) = uri.strip_suffix("$is_args$args") {
        return (path, true);
    }
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    (path, matches!(query, "$args" | "$query_string"))
}

fn made_of(path: &str) -> Result<String, String> {
    captures(path).ok_or_else(|| "the path that the server gets has variables".to_owned())
}

/// The expression that matches each path of the location, with the captures that are used.
fn whole_of(located: &Located<'_>, path: &str) -> Result<String, String> {
    match &located.path {
        PathMatch::Regex(regex) if located.prefix.is_none() => Ok(regex.as_str().to_owned()),
        _ if path.contains('$') => Err("its captures are those of another expression".to_owned()),
        _ => Ok("^.*$".to_owned()),
    }
}

/// The address, and the path behind it, which may have captures.
fn split_uri(url: &str) -> (&str, &str) {
    let behind_scheme = url.find("://").map_or(0, |at| at + 3);
    match url[behind_scheme..].find('/') {
        Some(at) => url.split_at(behind_scheme + at),
        None => (url, ""),
    }
}

/// The location's own `rewrite`s that change the path.
fn rewrites(levels: &Levels<'_>, notes: &mut Vec<Note>) -> Option<(String, String)> {
    let own = levels.own().iter().filter(|step| step.name == "rewrite");
    let mut found = None;
    for rewrite in own.filter(|rewrite| redirects(rewrite).is_none()) {
        if found.is_some() {
            notes.push(Note::left_out(rewrite, "a route rewrites once"));
            continue;
        }
        found = path_rewrite(rewrite, notes);
        if rewrite.arg(2) != "break" && found.is_some() {
            notes.push(Note::left_out(
                rewrite,
                "no other route is looked for: taken as break",
            ));
        }
    }
    found
}

/// Whether prusik has such a rewrite.
fn is_rewrite(regex: &str, to: &str) -> bool {
    PathRegex::parse(regex).is_ok_and(|regex| Rewrite::new(regex, to).is_ok())
}

fn path_change(
    located: &Located<'_>,
    uri: Option<&str>,
    pass: &Directive,
    notes: &mut Vec<Note>,
) -> Result<Change, String> {
    let Some(uri) = uri else {
        return Ok(Change::None);
    };
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    if !query.is_empty() {
        notes.push(Note::left_out(pass, QUERY_PASSES));
    }
    let plain = made_of(path)?;
    let Some(prefix) = &located.prefix else {
        let PathMatch::Regex(regex) = &located.path else {
            return Ok(Change::None);
        };
        return Ok(Change::Rewrite(regex.as_str().to_owned(), plain));
    };
    let prefix = encoded(prefix);
    if prefix == plain {
        return Ok(Change::None);
    }
    if matches!(located.path, PathMatch::Exact(_)) {
        return Ok(Change::Rewrite(format!("^{}$", escaped(&prefix)), plain));
    }
    let stripped = prefix.trim_end_matches('/');
    match (plain.as_str(), prefix.ends_with('/')) {
        ("/", true) => Ok(Change::Strip(stripped.to_owned())),
        _ => Ok(Change::Rewrite(
            behind_prefix(&prefix),
            format!("{plain}$1"),
        )),
    }
}

fn limits(
    context: &Context<'_>,
    levels: &Levels<'_>,
    upgrades: bool,
    body: &mut Map,
    notes: &mut Vec<Note>,
) {
    let time = |name: &str| {
        levels
            .value(name)
            .and_then(units::time)
            .filter(|time| !time.is_zero())
    };
    let read = time("proxy_read_timeout");
    let written = |time| Yaml::plain(units::written(time));
    let mut timeouts = Map::default();
    if let Some(connect) = time("proxy_connect_timeout") {
        timeouts.set("connect", written(connect));
    }
    if let Some(read) = read.filter(|read| *read != READ_TIMEOUT) {
        timeouts.set("response", written(read));
        timeouts.set("idle", written(read));
    }
    body.set_map("timeouts", timeouts);
    let own_conns = levels
        .own()
        .iter()
        .filter(|limit| limit.name == "limit_conn");
    let mut per_client = None;
    for limit in own_conns {
        match per_client_limit(context, limit) {
            Some(most) if upgrades && per_client.is_none() => per_client = Some(most),
            _ => notes.push(Note::left_out(
                limit,
                "a route limits the sessions of each client, or of each user",
            )),
        }
    }
    match upgrades {
        true => {
            let mut websocket = Map::default().with("idle", written(read.unwrap_or(READ_TIMEOUT)));
            if let Some(most) = per_client {
                websocket.set("max_sessions_per_client", Yaml::plain(most));
            }
            body.set("websocket", websocket);
        }
        false => body.set("websocket", Yaml::plain("off")),
    }
    if let Some(read) = read {
        body.set("stream", Map::default().with("idle", written(read)));
    }
}

/// The number of a `limit_conn` whose zone counts client addresses.
pub fn per_client_limit(context: &Context<'_>, limit: &Directive) -> Option<u32> {
    let zone = context.zone("limit_conn_zone", limit.arg(0))?;
    let is_client = matches!(zone.arg(0), "$binary_remote_addr" | "$remote_addr");
    limit
        .arg(1)
        .parse()
        .ok()
        .filter(|most| is_client && *most > 0)
}

/// `error_page 502 503 /50x.html`, where the page is a file.
fn errors(
    context: &Context<'_>,
    levels: &Levels<'_>,
    server: &Levels<'_>,
    body: &mut Map,
    notes: &mut Vec<Note>,
) {
    let mut pages = Map::default();
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    let all = levels.list(&["error_page"]);
    let intercept = levels
        .last("proxy_intercept_errors")
        .filter(|_| !all.is_empty());
    if let Some(intercept) = intercept.filter(|intercept| intercept.arg(0) == "on") {
        notes.push(Note::left_out(intercept, SERVERS_ERRORS));
    }
    for page in all {
        let (uri, codes) = page
            .args
            .split_last()
            .map_or(("", &[][..]), |(uri, codes)| (uri.as_str(), codes));
        let is_file = uri.starts_with('/') && !uri.contains('$');
        let page_levels = locations::exact(server, uri).unwrap_or_else(|| server.clone());
        let file = page_levels.value("root").filter(|root| !root.contains('$'));
        let file = file.map(|root| context.file(root).join(uri.trim_start_matches('/')));
        let Some(file) = file.filter(|file| is_file && page_type(file).is_some()) else {
            notes.push(Note::left_out(
                page,
                "the body of an error is a file, and its status stays",
            ));
            continue;
        };
        let (own, foreign): (Vec<&String>, Vec<&String>) = codes
            .iter()
            .partition(|code| code.parse().is_ok_and(answers_by_itself));
        if !foreign.is_empty() {
            notes.push(Note::no_meaning(page, SERVERS_ERRORS));
        }
        if own.is_empty() {
            continue;
        }
        for code in own.into_iter().filter(|code| seen.insert((*code).clone())) {
            pages.set(code, Yaml::text(file.display().to_string()));
        }
        files.push(file);
    }
    if !pages.is_empty() {
        body.set_with_files("errors", pages, files);
    }
}
