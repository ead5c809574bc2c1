//! The whole file: what stands at its top, and the sections that others make.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::context::{Context, Route};
use super::error::ImportError;
use super::levels::Levels;
use super::notes::Note;
use super::servers::{self, Placed};
use super::tree::Directive;
use super::upstreams::Upstreams;
use super::{known, listeners, units};
use crate::import::yaml::{List, Map, Yaml};
use crate::route::PathMatch;

/// The window of a drain, unless the file says another.
const DRAIN_WINDOW: Duration = Duration::from_secs(30);

/// What nginx does with every answer of a server, unasked.
const HABITS: [&str; 2] = [
    "nginx keeps a server's Server header to itself. Here it passes, unless a route has\n\
     headers: { response: { remove: [Server] } }",
    "nginx changes a Location that begins with proxy_pass's own URL. Here it passes as it is; a\n\
     server that is sent the client's Host writes none.",
];

/// What nginx's `combined` begins with.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                        $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// The file, and what was left out of it. `name`: of the main file, for messages.
pub fn document(tree: &[Directive], name: &Path) -> Result<(Map, Vec<Note>), ImportError> {
    // A file of a site has no `http` around it.
    let http = tree
        .iter()
        .find(|block| block.name == "http" && block.block.is_some());
    let http_block = http.map_or(tree, Directive::inner);
    let folder = std::path::absolute(name).unwrap_or_else(|_| name.to_owned());
    let folder = folder.parent().unwrap_or(Path::new("/")).to_owned();
    let mut context = Context {
        http: Levels::new(http_block),
        upstreams: Upstreams::new(http_block, &folder),
        folder,
        notes: Vec::new(),
        said: HashSet::new(),
        has_other_clients: false,
        listens: Vec::new(),
    };
    let mut servers = servers::read(&context.http);
    if servers.is_empty() {
        let message = "there is no server block: nothing to import";
        return Err(ImportError::of_file(name.display().to_string(), message)
            .hint("name nginx's main file, or one with server { … }"));
    }
    let mut root = Map::default();
    root.comment(format!("From {} by `prusik import nginx`.", name.display()));
    for habit in HABITS {
        root.comment(habit);
    }
    let top = if http.is_some() { tree } else { &[] };
    for comment in head(&mut context, top, http_block) {
        root.comment(comment);
    }
    process(top, &mut root);
    access_log(&mut context, tree, &mut root);
    let sockets = servers::sockets(&mut servers);
    if sockets.is_empty() {
        return Err(no_address(&servers, name));
    }
    trusted_proxies(&mut context, &servers, &sockets, &mut root);
    context.has_other_clients = has_other_clients(http_block, &servers, &sockets);
    let listeners = listeners::listeners(&mut context, &sockets, &servers);
    root.set("listeners", listeners);
    let mut of: Vec<Vec<Route>> = Vec::new();
    for server in &mut servers {
        of.push(servers::routes(&mut context, server));
    }
    close_without_certificates(&sockets, &servers, &mut of, &mut context);
    let placed = servers::place(&sockets, &servers, &of);
    let (upstreams, notes) = context.upstreams.finish();
    root.set_map("upstreams", upstreams);
    root.set("routes", routes(placed));
    let mut said = context.notes;
    for note in notes {
        if !said.contains(&note) {
            said.push(note);
        }
    }
    said.sort_by(|a, b| {
        let key = |note: &Note| (note.place.file.clone(), note.place.line, note.place.col);
        key(a).cmp(&key(b))
    });
    Ok((root, said))
}

fn no_address(servers: &[servers::Server<'_>], name: &Path) -> ImportError {
    let message = "there is no address to listen on";
    let mut listens = servers
        .iter()
        .flat_map(|server| server.directive.each("listen"));
    let error = match listens.next() {
        Some(listen) => ImportError::at(&listen.place, message),
        None => ImportError::of_file(name.display().to_string(), message),
    };
    error.hint("write listen with a port, or an address and a port")
}

/// What is said of the directives that stand outside of servers.
fn head(context: &mut Context<'_>, top: &[Directive], http: &[Directive]) -> Vec<String> {
    let events = top.iter().filter(|block| block.name == "events");
    let outside = top
        .iter()
        .chain(events.flat_map(Directive::inner))
        .chain(http);
    let mut notes: Vec<Note> = outside.filter_map(known::note).collect();
    notes.extend(
        http.iter()
            .filter(|block| block.name == "map")
            .map(map_note),
    );
    context.comments(notes)
}

/// The map that every file with WebSockets has is no loss.
fn map_note(map: &Directive) -> Note {
    let is_word = |word: &str| matches!(word, "upgrade" | "close" | "keep-alive" | "");
    let only_words = map.inner().iter().all(|line| is_word(line.arg(0)));
    match map.arg(0) == "$http_upgrade" && only_words {
        true => Note::no_meaning(map, "a handshake is one, everything else is not"),
        false => Note::left_out(map, "there are no variables by tables: write routes"),
    }
}

fn process(top: &[Directive], root: &mut Map) {
    let value = |name: &str| {
        let mut found = top.iter().filter(|directive| directive.name == name);
        found.next_back().map(|directive| directive.arg(0))
    };
    let mut server = Map::default();
    if let Some(threads) = value("worker_processes").and_then(|number| number.parse::<u32>().ok()) {
        server.set("threads", Yaml::plain(threads.clamp(1, 1024)));
    }
    let shutdown = value("worker_shutdown_timeout").and_then(units::time);
    if let Some(deadline) = shutdown.filter(|time| !time.is_zero()) {
        let mut drain = Map::default();
        if deadline < DRAIN_WINDOW {
            drain.set("window", Yaml::plain(units::written(deadline)));
        }
        drain.set("deadline", Yaml::plain(units::written(deadline)));
        server.set("drain", drain);
    }
    root.set_map("server", server);
}

/// prusik has one access log. That of `http` is it, else the first of all.
fn access_log(context: &mut Context<'_>, tree: &[Directive], root: &mut Map) {
    let mut all = Vec::new();
    every(tree, "access_log", &mut all);
    let of_http = context.http.own_last("access_log");
    let is_written = |log: &&&Directive| log.arg(0) != "off";
    let Some(log) = of_http.or_else(|| all.iter().find(is_written).copied()) else {
        return;
    };
    let mut notes = Vec::new();
    for other in &all {
        if other.arg(0) == log.arg(0) {
            continue;
        }
        notes.push(match other.arg(0) {
            "off" => Note::no_meaning(other, "every request has its line, with its route"),
            _ => Note::left_out(
                other,
                "there is one access log, with the route in each line",
            ),
        });
    }
    let mut map = Map::default();
    let mut files = Vec::new();
    match log.arg(0) {
        "off" => {}
        "/dev/stdout" => map.set("path", Yaml::text("stdout")),
        "/dev/stderr" => map.set("path", Yaml::text("stderr")),
        path if path.starts_with("syslog:") || path.contains('$') => {
            notes.push(Note::left_out(log, "the log is a file, stdout or stderr"));
        }
        path => {
            let path = context.file(path);
            map.set("path", Yaml::text(path.display().to_string()));
            files.extend(path.parent().map(Path::to_owned));
        }
    }
    if log.arg(0) != "off" {
        map.set("format", Yaml::text(format(context, log, &mut notes)));
    }
    for comment in context.comments(notes) {
        root.comment(comment);
    }
    match log.arg(0) {
        "off" => root.set("access_log", Yaml::plain("off")),
        _ => root.set_with_files("access_log", map, files),
    }
}

fn format(context: &Context<'_>, log: &Directive, notes: &mut Vec<Note>) -> &'static str {
    let named = log
        .args
        .get(1)
        .map(String::as_str)
        .filter(|word| !word.contains('='));
    let Some(named) = named.filter(|name| *name != "combined") else {
        return "combined";
    };
    let formats = context
        .http
        .own()
        .iter()
        .filter(|format| format.name == "log_format");
    let Some(format) = formats.rev().find(|format| format.arg(0) == named) else {
        notes.push(Note::left_out(log, "no log_format has this name"));
        return "combined";
    };
    let words: Vec<&str> = format.args[1..]
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with("escape="))
        .collect();
    let text = words.concat();
    if text.trim_start().starts_with('{') {
        notes.push(Note::left_out(format, "prusik's JSON has names of its own"));
        return "json";
    }
    if text != COMBINED {
        notes.push(Note::left_out(format, "a line is as in combined, or JSON"));
    }
    match text.starts_with(COMBINED) {
        true => "combined",
        false => "json",
    }
}

/// All directives of the name, wherever they stand.
fn every<'t>(tree: &'t [Directive], name: &str, found: &mut Vec<&'t Directive>) {
    for directive in tree {
        if directive.name == name {
            found.push(directive);
        }
        every(directive.inner(), name, found);
    }
}

fn trusted_networks<'d>(
    froms: impl Iterator<Item = &'d Directive>,
    notes: &mut Vec<Note>,
) -> Vec<String> {
    let mut networks: Vec<String> = Vec::new();
    for from in froms.filter(|from| from.arg(0) != "unix:") {
        let text = from.arg(0);
        match text.parse::<IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok() {
            true if networks.iter().any(|known| known == text) => {}
            true => networks.push(text.to_owned()),
            false => notes.push(Note::left_out(
                from,
                "a trusted proxy is a network or an address",
            )),
        }
    }
    networks
}

/// Whether some client's address is another one in nginx than here, by what the file says of it.
fn has_other_clients(
    http: &[Directive],
    servers: &[servers::Server<'_>],
    sockets: &[super::listen::Socket],
) -> bool {
    const SETTINGS: [&str; 3] = ["set_real_ip_from", "real_ip_header", "real_ip_recursive"];
    let mut all = Vec::new();
    for name in SETTINGS {
        every(http, name, &mut all);
    }
    let has_preamble = sockets.iter().any(|socket| socket.proxy_protocol);
    if !all.iter().any(|one| one.name == "set_real_ip_from") {
        return has_preamble;
    }
    // Here it is said once, for all.
    let of = |block: &[Directive]| {
        let settings = block.iter().filter(|one| SETTINGS.contains(&&*one.name));
        settings.count()
    };
    let of_all = of(http)
        + match servers {
            [only] => of(only.levels.own()),
            _ => 0,
        };
    let says = |name: &str, value: &str| {
        all.iter()
            .any(|one| one.name == name && one.arg(0).eq_ignore_ascii_case(value))
    };
    let headers = all.iter().filter(|one| one.name == "real_ip_header");
    has_preamble
        || of_all != all.len()
        || headers.count() != 1
        || !says("real_ip_header", "x-forwarded-for")
        || !says("real_ip_recursive", "on")
}

/// Which address of the field is the client's.
fn passed_over(recursive: Option<&Directive>, header: Option<&Directive>) -> Option<Note> {
    let is_on = recursive.is_some_and(|recursive| recursive.arg(0) == "on");
    let said = recursive.or(header).filter(|_| !is_on)?;
    let why = "addresses of trusted proxies in the field are passed over, as by on";
    Some(Note::no_meaning(said, why))
}

/// What is said in one server of several, and holds for all of them here.
fn settings_of_one(servers: &[servers::Server<'_>]) -> Option<Note> {
    let own = servers.iter().flat_map(|server| server.levels.own());
    let mut own = own.filter(|one| matches!(&*one.name, "set_real_ip_from" | "real_ip_header"));
    let of_one = own.next().filter(|_| servers.len() > 1)?;
    Some(Note::left_out(
        of_one,
        "trusted_proxies and client_address hold for all servers of the file",
    ))
}

fn trusted_proxies(
    context: &mut Context<'_>,
    servers: &[servers::Server<'_>],
    sockets: &[super::listen::Socket],
    root: &mut Map,
) {
    let blocks =
        std::iter::once(context.http.own()).chain(servers.iter().map(|one| one.levels.own()));
    let all: Vec<&Directive> = blocks.flatten().collect();
    let of_name = |name: &'static str| all.iter().filter(move |one| one.name == name).copied();
    let mut notes = Vec::new();
    let mut networks = trusted_networks(of_name("set_real_ip_from"), &mut notes);
    let header = of_name("real_ip_header").next();
    let name = header
        .map_or("X-Real-IP", |header| header.arg(0))
        .to_ascii_lowercase();
    let needs_some = sockets
        .iter()
        .any(|socket| socket.proxy_protocol && !socket.address.starts_with("unix:"));
    let mut field = None;
    match (name.as_str(), of_name("set_real_ip_from").next()) {
        (_, None) | ("proxy_protocol", _) => {}
        ("x-forwarded-for", _) => {
            field = Some("x_forwarded_for");
            notes.extend(passed_over(of_name("real_ip_recursive").next(), header));
        }
        (_, Some(from)) => {
            notes.push(Note::left_out(
                header.unwrap_or(from),
                "the client's address is read from X-Forwarded-For or Forwarded",
            ));
            // nginx did not believe these fields.
            if !needs_some {
                networks.clear();
            }
        }
    }
    notes.extend(settings_of_one(servers));
    if needs_some && networks.is_empty() {
        let listens = servers
            .iter()
            .flat_map(|server| server.directive.each("listen"));
        let mut listens =
            listens.filter(|listen| listen.args.iter().any(|word| word == "proxy_protocol"));
        if let Some(listen) = listens.next() {
            notes.push(Note::left_out(
                listen,
                "PROXY headers are believed from trusted_proxies: name yours",
            ));
        }
        networks = [
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ]
        .map(str::to_owned)
        .to_vec();
    }
    for comment in context.comments(notes) {
        root.comment(comment);
    }
    if !networks.is_empty() {
        root.set("trusted_proxies", Yaml::texts(networks));
        if let Some(field) = field {
            root.set("client_address", Yaml::text(field));
        }
    }
}

fn close_without_certificates(
    sockets: &[super::listen::Socket],
    servers: &[servers::Server<'_>],
    of: &mut [Vec<Route>],
    context: &mut Context<'_>,
) {
    for socket in sockets {
        for &number in &socket.servers {
            if !listeners::lacks_client_certificate(socket, servers, number) {
                continue;
            }
            let server = &servers[number];
            let asked = server
                .levels
                .last("ssl_verify_client")
                .unwrap_or(server.directive);
            let why = "a listener asks all its clients for a certificate, or none: closed";
            let comments = context.comments(vec![Note::left_out(asked, why)]);
            let mut closed = Route::new(PathMatch::Any, super::context::respond(403));
            closed.comments = comments;
            of[number] = vec![closed];
        }
    }
}

fn routes(placed: Vec<Placed>) -> List {
    let mut list = List::default();
    for Placed {
        listener,
        hosts,
        route,
    } in placed
    {
        for comment in &route.comments {
            list.comment(comment);
        }
        let mut map = Map::default();
        map.set_map("match", matching(listener.as_deref(), hosts, &route));
        map.append(route.body);
        list.push(map);
    }
    list
}

fn matching(listener: Option<&str>, hosts: Vec<String>, route: &Route) -> Map {
    let mut map = Map::default();
    if let Some(listener) = listener {
        map.set("listener", Yaml::text(listener));
    }
    match hosts.as_slice() {
        [] => {}
        [host] => map.set("host", Yaml::text(host)),
        _ => map.set("host", Yaml::texts(hosts)),
    }
    match &route.path {
        PathMatch::Any => {}
        PathMatch::Prefix(prefix) if prefix == "/" && !map.is_empty() => {}
        PathMatch::Prefix(prefix) => map.set("path_prefix", Yaml::text(prefix)),
        PathMatch::Exact(path) => map.set("path", Yaml::text(path)),
        PathMatch::Regex(regex) => map.set("path_regex", Yaml::text(regex.as_str())),
    }
    if !route.condition.methods.is_empty() {
        map.set("methods", Yaml::texts(&route.condition.methods));
    }
    let mut headers = Map::default();
    for (name, value) in &route.condition.headers {
        headers.set(name, Yaml::text(value));
    }
    map.set_map("headers", headers);
    map
}
