//! The `listeners` of the file: addresses, certificates and limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::context::Context;
use super::listen::Socket;
use super::location::{body_size_value, most_of_body};
use super::notes::Note;
use super::proxied::per_client_limit;
use super::servers::Server;
use super::tree::Directive;
use super::units;
use crate::import::yaml::{List, Map, Yaml};

/// Where a certificate is looked for that nginx's files do not name.
const PLACE: &str = "/etc/prusik/tls";

/// prusik waits no longer for a head.
const HEADER_TIMEOUT_MAX: Duration = Duration::from_secs(60);

pub fn listeners(context: &mut Context<'_>, sockets: &[Socket], servers: &[Server<'_>]) -> List {
    let mut list = List::default();
    for socket in sockets {
        let mut notes = Vec::new();
        let mut map = Map::default();
        map.set("listen", Yaml::text(&socket.address));
        if socket.proxy_protocol {
            map.set("proxy_protocol", Yaml::text("required"));
        }
        if socket.is_tls {
            let (tls, files) = tls(context, socket, servers, &mut notes);
            map.set_with_files("tls", tls, files);
        }
        let limits = limits(context, socket, servers, &mut notes);
        map.set("limits", limits);
        for comment in context.comments(notes) {
            list.comment(comment);
        }
        list.push(map);
    }
    list
}

/// The servers of the socket, the default one first: its certificate is for all other names.
fn by_default<'s, 't>(
    socket: &Socket,
    servers: &'s [Server<'t>],
) -> impl Iterator<Item = &'s Server<'t>> {
    let default = socket.default;
    let others = socket
        .servers
        .clone()
        .into_iter()
        .filter(move |number| *number != default);
    std::iter::once(default)
        .chain(others)
        .map(|number| &servers[number])
}

fn is_file(directive: &Directive) -> bool {
    let name = directive.arg(0);
    !name.contains('$') && !name.starts_with("data:") && !name.starts_with("engine:")
}

/// Those of all servers, with the files that they are in.
fn certificates(
    context: &Context<'_>,
    socket: &Socket,
    servers: &[Server<'_>],
    notes: &mut Vec<Note>,
) -> (List, Vec<PathBuf>) {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut certificates = List::default();
    for server in by_default(socket, servers) {
        let certs = server.levels.list(&["ssl_certificate"]);
        let keys = server.levels.list(&["ssl_certificate_key"]);
        for (cert, key) in certs.into_iter().zip(keys) {
            if !is_file(cert) || !is_file(key) {
                notes.push(Note::left_out(cert, "a certificate is a file"));
                continue;
            }
            let pair = [context.file(cert.arg(0)), context.file(key.arg(0))];
            if files.contains(&pair[0]) {
                continue;
            }
            let map = Map::default()
                .with("cert", text(&pair[0]))
                .with("key", text(&pair[1]));
            certificates.push(map);
            files.extend(pair);
        }
    }
    if files.is_empty() {
        let server = &servers[socket.default];
        let listen = server.directive.each("listen").next();
        let why = "no ssl_certificate is in these files: put its name in";
        notes.push(Note::left_out(listen.unwrap_or(server.directive), why));
        let name = server
            .names
            .exact
            .first()
            .map_or("certificate", String::as_str);
        let pair = ["pem", "key"].map(|kind| PathBuf::from(format!("{PLACE}/{name}.{kind}")));
        let map = Map::default().with("cert", text(&pair[0]));
        certificates.push(map.with("key", text(&pair[1])));
        files.extend(pair);
    }
    (certificates, files)
}

fn text(path: &Path) -> Yaml {
    Yaml::text(path.display().to_string())
}

fn tls(
    context: &Context<'_>,
    socket: &Socket,
    servers: &[Server<'_>],
    notes: &mut Vec<Note>,
) -> (Map, Vec<PathBuf>) {
    let (certificates, mut files) = certificates(context, socket, servers, notes);
    let mut map = Map::default().with("certificates", certificates);
    let default = &servers[socket.default].levels;
    if let Some(verify) = default
        .last("ssl_verify_client")
        .filter(|verify| verify.arg(0) != "off")
    {
        match (verify.arg(0), default.value("ssl_client_certificate")) {
            ("on", Some(file)) => {
                let file = context.file(file);
                map.set("client_ca", text(&file));
                files.push(file);
                let asks =
                    |server: &&Server<'_>| server.levels.value("ssl_verify_client") == Some("on");
                let mut others = by_default(socket, servers).skip(1);
                if let Some(open) = others.find(|server| !asks(server)) {
                    let why = "all servers of its listener ask for a client's certificate";
                    notes.push(Note::left_out(open.directive, why));
                }
            }
            _ => notes.push(Note::left_out(
                verify,
                "a certificate is asked for and needed, or not",
            )),
        }
    }
    let keys = default.list(&["ssl_session_ticket_key"]);
    if !keys.is_empty() {
        let keys: Vec<PathBuf> = keys.iter().map(|key| context.file(key.arg(0))).collect();
        map.set(
            "ticket_keys",
            Yaml::texts(keys.iter().map(|key| key.display().to_string())),
        );
        files.extend(keys);
    }
    if socket.http2 {
        map.set("http2", Yaml::plain(true));
    }
    (map, files)
}

/// Whether the server needs a client's certificate where the socket asks for none: it must be
/// closed.
pub fn lacks_client_certificate(socket: &Socket, servers: &[Server<'_>], number: usize) -> bool {
    let asks = |number: usize| servers[number].levels.value("ssl_verify_client") == Some("on");
    let asks_for_same = || {
        let ca = |number: usize| servers[number].levels.value("ssl_client_certificate");
        asks(socket.default) && ca(number).is_some() && ca(socket.default) == ca(number)
    };
    socket.is_tls && asks(number) && !asks_for_same()
}

fn limits(
    context: &Context<'_>,
    socket: &Socket,
    servers: &[Server<'_>],
    notes: &mut Vec<Note>,
) -> Map {
    let levels = &servers[socket.default].levels;
    let mut map = Map::default();
    let time = |name: &str| levels.value(name).and_then(units::time);
    let written = |time| Yaml::plain(units::written(time));
    for limit in levels.list(&["limit_conn"]) {
        match per_client_limit(context, limit) {
            Some(most) if !map.has("connections_per_client") => {
                map.set("connections_per_client", Yaml::plain(most));
            }
            _ => notes.push(Note::left_out(
                limit,
                "connections are limited by client, or all",
            )),
        }
    }
    if let Some(head) = time("client_header_timeout").filter(|time| !time.is_zero()) {
        map.set("header_timeout", written(head.min(HEADER_TIMEOUT_MAX)));
    }
    if let Some(buffers) = levels.last("large_client_header_buffers") {
        let number: Option<u64> = buffers.arg(0).parse().ok();
        let size = number
            .zip(units::size(buffers.arg(1)))
            .map(|(number, size)| number.saturating_mul(size));
        if let Some(size) = size {
            let size = size.clamp(1 << 10, 512 << 10);
            map.set("header_size", Yaml::plain(units::written_size(size)));
        }
    }
    if let Some(keepalive) = levels.last("keepalive_timeout") {
        match units::time(keepalive.arg(0)) {
            Some(time) if !time.is_zero() => map.set("idle", written(time)),
            _ => notes.push(Note::left_out(
                keepalive,
                "connections stay for the next request",
            )),
        }
    }
    if let Some(send) = time("send_timeout").filter(|time| !time.is_zero()) {
        map.set("stall", written(send));
    }
    let streams = levels.value("http2_max_concurrent_streams");
    let streams = streams.and_then(|streams| streams.parse::<u32>().ok());
    if let Some(streams) = streams.filter(|_| socket.http2) {
        map.set("streams", Yaml::plain(streams.clamp(1, 16_384)));
    }
    // Each route has its own, where it differs.
    map.set("body_size", body_size_value(most_of_body(&context.http)));
    map
}
