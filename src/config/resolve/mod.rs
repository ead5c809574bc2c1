//! Turns the decoded file into a [`Config`]: fills in defaults, resolves references, and checks
//! everything that decoding does not check.
//!
//! Each function reports all errors that it finds. It returns `None` only if it, or the decoding
//! before it, has reported an error.

mod access;
mod action;
mod address;
mod affinity;
mod auth;
mod header_name;
mod headers;
mod health;
mod limits;
mod listeners;
mod loops;
mod matching;
mod pages;
mod rate;
mod retry;
mod rewrite;
mod route;
mod scope;
mod server;
mod source;
mod start;
mod stream;
mod tls;
mod upstream;
mod user;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use super::error::ConfigError;
use super::file::cursor::Cursor;
use super::file::tree::Node;
use super::schema::raw;
use super::{
    AccessLog, Admin, Config, Extent, ListenAddress, Listener, LogFormat, LogOutput, Route, Server,
    ServerAddress, Tracing, Tunnel, Upstream,
};
use crate::config::schema::units::{OffOr, Section};

use crate::forward::client_address::ClientField;
use crate::net::overlap;

pub use affinity::shared_cookies;
pub use pages::{answers_by_itself, page_type};
pub use start::missing_at_run_time;

type Errors = Vec<ConfigError>;

/// `root`: the tree from which `file` was decoded.
pub fn resolve(
    file: raw::File,
    root: &Node,
    extent: Extent,
    errors: &mut Errors,
) -> Option<Config> {
    let at = Cursor::root(root);
    let server = server::server(
        file.server
            .map(|Section(server)| server)
            .unwrap_or_default(),
        at.key("server"),
        errors,
    );
    let admin = match file.admin {
        Some(OffOr::On(raw)) => server::admin(raw, at.key("admin"), errors).map(Some),
        Some(OffOr::Off) | None => Some(None),
    };
    let access_log = access_log(file.access_log, at.key("access_log"), errors);
    let tracing = match file.tracing {
        Some(OffOr::On(raw)) => tracing(raw, at.key("tracing"), errors).map(Some),
        Some(OffOr::Off) | None => Some(None),
    };
    let trusted_proxies = networks(
        file.trusted_proxies.unwrap_or_default(),
        at.key("trusted_proxies"),
        errors,
    );
    let listeners = listeners::listeners(file.listeners.unwrap_or_default(), at, errors);
    if at.lacks("trusted_proxies") {
        listeners::closed_to_all(&listeners, at.key("listeners"), errors);
    }
    if let Some(Some(admin)) = &admin {
        on_a_listener(admin, &listeners, at.key("admin").key("listen"), errors);
    }
    if let Some(server) = &server {
        let taken = listeners.iter().flatten().map(|listener| &listener.address);
        let admin = admin.iter().flatten().flat_map(|admin| &admin.listen);
        let at = at.key("server").key("hand_over");
        server::alone(server, taken.chain(admin), at, errors);
    }
    let upstreams = upstream::upstreams(file.upstreams, at.key("upstreams"), errors);
    if let (Some(Some(admin)), Some(upstreams)) = (&admin, &upstreams) {
        exposed(admin, upstreams, at.key("upstreams"), errors);
    }
    let names = names(&listeners, at);
    let routes = route::routes(
        file.routes.unwrap_or_default(),
        at.key("routes"),
        &names,
        errors,
    );
    if let (Some(upstreams), Some(routes)) = (&upstreams, &routes) {
        loops::report(&listeners, upstreams, routes, at.key("upstreams"), errors);
    }
    if let Some(routes) = &routes {
        loops::report_questions(&listeners, routes, at.key("routes"), errors);
        user::endless(routes, &listeners, at.key("routes"), errors);
    }
    if let (Some(server), Some(routes)) = (&server, &routes) {
        unwatched(server, routes, at.key("routes"), errors);
    }
    if extent == Extent::Start {
        let parts = start::Parts {
            server: server.as_ref(),
            admin: admin.as_ref().and_then(Option::as_ref),
            access_log: access_log.as_ref(),
            listeners: &listeners,
        };
        start::report(&parts, at, errors);
    }
    Some(Config {
        server: server?,
        admin: admin?,
        access_log: access_log?,
        tracing: tracing?,
        trusted_proxies: trusted_proxies?,
        client_address: client_field(file.client_address),
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        upstreams: upstreams?,
        routes: routes?,
    })
}

/// The names that routes may refer to.
fn names(listeners: &[Option<Listener>], at: Cursor<'_>) -> scope::Names {
    let not_decoded = |at: Cursor<'_>, key: &str| !at.has(key) && !at.lacks(key);
    let listener_names = listeners::names(listeners, at.key("listeners"));
    let more_listeners = not_decoded(at, "listeners") || at.key("listeners").lost_items();
    let upstream_names = at.key("upstreams").keys().into_iter().map(Some);
    scope::Names {
        listeners: scope::Known::new(listener_names.iter().map(Option::as_deref), more_listeners),
        upstreams: scope::Known::new(upstream_names, not_decoded(at, "upstreams")),
    }
}

fn client_field(raw: Option<raw::ClientField>) -> ClientField {
    match raw {
        None | Some(raw::ClientField::Either) => ClientField::Either,
        Some(raw::ClientField::XForwardedFor) => ClientField::XForwardedFor,
        Some(raw::ClientField::Forwarded) => ClientField::Forwarded,
    }
}

/// Turns a network of IPv4-mapped IPv6 addresses into one of IPv4, because peers are compared in
/// that form. `None`: the network also contains other addresses.
fn canonical(network: IpNet) -> Option<IpNet> {
    const MAPPED: u8 = 96;
    let mapped = match network.addr() {
        IpAddr::V6(address) => address.to_ipv4_mapped(),
        IpAddr::V4(_) => None,
    };
    let Some(mapped) = mapped else {
        return Some(network.trunc());
    };
    let length = network.prefix_len().checked_sub(MAPPED)?;
    let network = Ipv4Net::new(mapped, length).ok()?;
    Some(IpNet::V4(network).trunc())
}

/// One socket cannot serve both the operator and the clients.
fn on_a_listener(
    admin: &Admin,
    listeners: &[Option<Listener>],
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    for (number, address) in admin.listen.iter().enumerate() {
        let mut listeners = listeners.iter().flatten();
        let taken = listeners.find(|listener| overlap(&listener.address, address));
        let at = at.index(number);
        match taken {
            Some(listener) if listener.address != *address => {
                errors.push(listeners::overlapping(at, address, &listener.address));
            }
            Some(listener) => errors.push(
                at.error(format!(
                    "listener {:?} has this address already",
                    listener.name
                ))
                .hint("give admin one of its own, such as 127.0.0.1:9900"),
            ),
            None => {}
        }
    }
}

/// The operator's API must not be a server: everybody who can reach a listener could reach it.
fn exposed(admin: &Admin, upstreams: &[Upstream], at: Cursor<'_>, errors: &mut Errors) {
    let leads_there = |server: &ServerAddress| {
        admin.listen.iter().any(|listen| match listen {
            ListenAddress::Tcp(listen) => leads_to(server, *listen),
            ListenAddress::Unix(_) => false,
        })
    };
    for (position, upstream) in upstreams.iter().enumerate() {
        let at = at.entry(position, &upstream.name);
        for (number, server) in upstream.servers.iter().enumerate() {
            if leads_there(&server.address) {
                let at = at.key("servers").index(number);
                errors.push(exposure(at, &server.address));
            }
        }
        if let Some(discover) = &upstream.discover {
            let name = ServerAddress::Name {
                host: discover.host.clone(),
                port: discover.port,
            };
            if leads_there(&name) {
                let at = at.key("discover").key("dns");
                errors.push(exposure(at, &name));
            }
        }
    }
}

fn exposure(at: Cursor<'_>, address: &ServerAddress) -> ConfigError {
    at.error(format!("{address} is the address of admin"))
        .hint("who can reach a listener must not reach the API: take it out")
}

/// Whether a connection to `server` reaches the socket on `listen`. `is_here`: whether an address
/// belongs to this machine.
pub fn is_met_at(listen: SocketAddr, server: SocketAddr, is_here: impl Fn(IpAddr) -> bool) -> bool {
    // `::ffff:127.0.0.1` is another notation of `127.0.0.1`.
    let [listen, server] =
        [listen, server].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let any = listen.ip().is_unspecified() || server.ip().is_unspecified();
    server == listen
        || any && server.port() == listen.port() && is_here(server.ip()) && is_here(listen.ip())
}

/// Whether a connection to `server` reaches the socket on `listen`, as far as the file tells. Names
/// are resolved later.
fn leads_to(server: &ServerAddress, listen: SocketAddr) -> bool {
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    match server {
        ServerAddress::Socket(server) => is_met_at(listen, *server, is_here),
        ServerAddress::Name { host, port } => {
            host.eq_ignore_ascii_case("localhost") && *port == listen.port() && is_here(listen.ip())
        }
    }
}

fn access_log(
    raw: Option<OffOr<raw::AccessLog>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<AccessLog> {
    let raw = match raw {
        None => raw::AccessLog::default(),
        Some(OffOr::Off) => raw::AccessLog {
            path: Some("off".to_owned()),
            format: None,
        },
        Some(OffOr::On(raw)) => raw,
    };
    let output = match raw.path.as_deref() {
        None | Some("stdout") => LogOutput::Stdout,
        Some("stderr") => LogOutput::Stderr,
        Some("off") => LogOutput::Off,
        Some("") => {
            let error = at.key("path").error("the path of access_log is empty");
            errors.push(error.hint("write stdout, stderr, off or a file"));
            return None;
        }
        Some(file) => LogOutput::File(PathBuf::from(file)),
    };
    Some(AccessLog {
        output,
        format: raw.format.unwrap_or(LogFormat::Json),
    })
}

fn tracing(raw: raw::Tracing, at: Cursor<'_>, errors: &mut Errors) -> Option<Tracing> {
    if !cfg!(feature = "otlp") {
        let error = at.error("this binary makes no spans");
        errors.push(error.hint("build it with `--features otlp`, or take tracing out"));
        return None;
    }
    let Some(endpoint) = raw.endpoint else {
        let error = at.error("tracing needs an endpoint");
        errors.push(error.hint("write endpoint: http://127.0.0.1:4318/v1/traces, say"));
        return None;
    };
    let uri = endpoint.parse::<http::Uri>().ok();
    if !uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
        let error = at
            .key("endpoint")
            .error(format!("\"{endpoint}\" is not the address of a collector"));
        errors.push(
            error.hint("write one such as http://127.0.0.1:4318/v1/traces; https is not spoken"),
        );
        return None;
    }
    let sample = raw.sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&sample) {
        let error = at
            .key("sample")
            .error(format!("sample must be from 0 to 1, not {sample}"));
        errors.push(error.hint("write 0.1 to export one trace in ten"));
        return None;
    }
    Some(Tracing {
        endpoint,
        sample,
        service: raw.service.unwrap_or_else(|| "prusik".to_owned()),
    })
}

/// Reads networks. A plain address is a network of one address.
fn networks(raw: Vec<String>, at: Cursor<'_>, errors: &mut Errors) -> Option<Vec<IpNet>> {
    let networks = raw.iter().enumerate().map(|(i, text)| {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network else {
            let error = at.index(i).error(format!("\"{text}\" is not a network"));
            errors.push(error.hint("write one such as 10.0.0.0/8, or an address such as 10.1.2.3"));
            return None;
        };
        let canonical = canonical(network);
        if canonical.is_none() {
            let error = at.index(i).error(format!(
                "\"{text}\" is more than the IPv4 addresses that it names"
            ));
            errors.push(error.hint("write IPv4 networks as such: 0.0.0.0/0 for ::ffff:0:0/96"));
        }
        canonical
    });
    // Collected in two steps, because a short-circuit would hide the errors after the first.
    let networks: Vec<Option<IpNet>> = networks.collect();
    networks.into_iter().collect()
}

/// Pingora's tunnel cannot hold back what has passed, and cannot insert anything.
fn unwatched(server: &Server, routes: &[Route], at: Cursor<'_>, errors: &mut Errors) {
    if server.tunnel == Tunnel::Relay {
        return;
    }
    for (i, route) in routes.iter().enumerate() {
        let Some(websocket) = &route.websocket else {
            continue;
        };
        let keys = [
            ("max_message", websocket.max_message.is_some()),
            ("ping", websocket.ping.is_some()),
        ];
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
            errors.push(
                at.index(i)
                    .key("websocket")
                    .key(key)
                    .error(format!("{key:?} has no effect with tunnel: pingora"))
                    .hint("leave server.tunnel out, or this key"),
            );
        }
    }
}
