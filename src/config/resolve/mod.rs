//! From the file's shape to a [`Config`]: defaults, references and everything that can be wrong
//! with values that decode.
//!
//! Each function reports all it finds and gives `None` only when it, or the decoding before it,
//! has reported an error.

mod action;
mod address;
mod headers;
mod health;
mod limits;
mod matching;
mod route;
mod server;
mod source;
mod tls;
mod upstream;
mod websocket;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::at::At;
use super::error::ConfigError;
use super::raw;
use super::source::Node;
use super::units::{OffOr, Section};
use super::{
    AcceptProxy, AccessLog, Admin, Config, ListenAddress, Listener, LogFormat, LogOutput, Route,
    Server, ServerAddress, Tracing, Tunnel, Upstream,
};

use crate::net::overlap;

type Errors = Vec<ConfigError>;

/// `root` is the tree that `file` was decoded from.
pub fn resolve(file: raw::File, root: &Node, errors: &mut Errors) -> Option<Config> {
    let at = At::root(root);
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
    let listeners = listeners(file.listeners.unwrap_or_default(), at, errors);
    if at.lacks("trusted_proxies") {
        closed_to_all(&listeners, at.key("listeners"), errors);
    }
    if let Some(Some(admin)) = &admin {
        let taken = listeners
            .iter()
            .flatten()
            .find(|listener| overlap(&listener.address, &admin.listen));
        if let Some(listener) = taken.filter(|listener| listener.address != admin.listen) {
            let at = at.key("admin").key("listen");
            errors.push(overlapping(at, &admin.listen, &listener.address));
        } else if let Some(listener) = taken {
            errors.push(
                at.key("admin")
                    .key("listen")
                    .error(format!(
                        "listener {:?} has this address already",
                        listener.name
                    ))
                    .hint("give admin one of its own, such as 127.0.0.1:9900"),
            );
        }
    }
    let upstreams = upstream::upstreams(file.upstreams, at.key("upstreams"), errors);
    if let (Some(Some(admin)), Some(upstreams)) = (&admin, &upstreams) {
        exposed(admin, upstreams, at.key("upstreams"), errors);
    }
    let not_decoded = |at: At<'_>, key: &str| !at.has(key) && !at.lacks(key);
    let names = route::Names {
        listeners: listener_names(&listeners, at.key("listeners")),
        upstreams: at.key("upstreams").keys(),
        more_listeners: not_decoded(at, "listeners") || at.key("listeners").lost_items(),
        more_upstreams: not_decoded(at, "upstreams"),
    };
    let routes = route::routes(
        file.routes.unwrap_or_default(),
        at.key("routes"),
        &names,
        errors,
    );
    if let (Some(server), Some(routes)) = (&server, &routes) {
        unwatched(server, routes, at.key("routes"), errors);
    }
    Some(Config {
        server: server?,
        admin: admin?,
        access_log: access_log?,
        tracing: tracing?,
        trusted_proxies: trusted_proxies?,
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        upstreams: upstreams?,
        routes: routes?,
    })
}

/// The operator's API as a server: whoever can reach a listener could reach it.
fn exposed(admin: &Admin, upstreams: &[Upstream], at: At<'_>, errors: &mut Errors) {
    let ListenAddress::Tcp(listen) = &admin.listen else {
        return;
    };
    for upstream in upstreams {
        for (number, server) in upstream.servers.iter().enumerate() {
            if leads_to(&server.address, *listen) {
                let at = at.key(&upstream.name).key("servers").index(number);
                errors.push(exposure(at, &server.address));
            }
        }
        if let Some(discover) = &upstream.discover {
            let name = ServerAddress::Name {
                host: discover.host.clone(),
                port: discover.port,
            };
            if leads_to(&name, *listen) {
                let at = at.key(&upstream.name).key("discover").key("dns");
                errors.push(exposure(at, &name));
            }
        }
    }
}

fn exposure(at: At<'_>, address: &ServerAddress) -> ConfigError {
    at.error(format!("{address} is the address of admin"))
        .hint("who can reach a listener must not reach the API: take it out")
}

/// Whether who connects to `server` meets the socket on `listen`; `is_here`: an address of this
/// machine, or any of them.
pub fn is_met_at(listen: SocketAddr, server: SocketAddr, is_here: impl Fn(IpAddr) -> bool) -> bool {
    // `::ffff:127.0.0.1` is `127.0.0.1` by another name.
    let [listen, server] =
        [listen, server].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let any = listen.ip().is_unspecified() || server.ip().is_unspecified();
    server == listen
        || any && server.port() == listen.port() && is_here(server.ip()) && is_here(listen.ip())
}

/// Whether who connects to `server` meets the socket on `listen`, as far as the file tells: what a
/// name means is known later.
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
    at: At<'_>,
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

fn tracing(raw: raw::Tracing, at: At<'_>, errors: &mut Errors) -> Option<Tracing> {
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

/// Networks; a plain address stands for itself alone.
fn networks(raw: Vec<String>, at: At<'_>, errors: &mut Errors) -> Option<Vec<IpNet>> {
    let networks = raw.iter().enumerate().map(|(i, text)| {
        let network = text
            .parse::<IpNet>()
            .map(|network| network.trunc())
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map_err(|_| {
                let message = format!("\"{text}\" is not a network");
                errors.push(
                    at.index(i)
                        .error(message)
                        .hint("write one such as 10.0.0.0/8, or an address such as 10.1.2.3"),
                );
            })
            .ok()
    });
    // Collected in two steps: a short-cut would hide the errors after the first.
    let networks: Vec<Option<IpNet>> = networks.collect();
    networks.into_iter().collect()
}

/// Port 0 is another one each time.
fn is_any_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

/// As many as the file has, so that their indices are those of the file.
fn listeners(
    raw: Vec<Section<raw::Listener>>,
    root: At<'_>,
    errors: &mut Errors,
) -> Vec<Option<Listener>> {
    let at = root.key("listeners");
    if raw.is_empty() && !at.damaged() && (root.has("listeners") || root.lacks("listeners")) {
        errors.push(
            at.key_error("no listeners")
                .hint("write at least one, such as listeners: [{ listen: 0.0.0.0:9090 }]"),
        );
    }
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut addresses: HashMap<String, usize> = HashMap::new();
    let mut listeners = Vec::new();
    for (i, Section(raw)) in raw.into_iter().enumerate() {
        let listener = listener(raw, at.index(i), errors);
        if let Some(Listener { name, address, .. }) = &listener {
            let at = at.index(i);
            let name_at = if at.has("name") {
                at.key("name")
            } else {
                at.key("listen")
            };
            let shared = is_any_port(address);
            let mut before = listeners.iter().flatten();
            let beside = before.find(|other: &&Listener| {
                other.address != *address && overlap(&other.address, address)
            });
            let first = addresses.insert(address.to_string(), at.line());
            if let Some(other) = beside {
                errors.push(overlapping(at.key("listen"), address, &other.address));
            } else if let Some(line) = first.filter(|_| !shared) {
                errors.push(
                    at.key("listen")
                        .error(format!("duplicate listen address \"{address}\""))
                        .hint(format!("first written on line {line}")),
                );
            } else if let Some(line) = names.insert(name.clone(), at.line()) {
                errors.push(
                    name_at
                        .error(format!("duplicate listener \"{name}\""))
                        .hint(format!(
                            "the first is on line {line}; give this one another name"
                        )),
                );
            }
        }
        listeners.push(listener);
    }
    listeners
}

/// The kernel lets nobody listen on both.
fn overlapping(at: At<'_>, address: &ListenAddress, other: &ListenAddress) -> ConfigError {
    at.error(format!(
        "\"{address}\" and \"{other}\" cannot both be listened on"
    ))
    .hint("0.0.0.0 and [::] stand for all addresses of the machine: leave one of the two out")
}

fn listener(raw: raw::Listener, at: At<'_>, errors: &mut Errors) -> Option<Listener> {
    let listen = at.key("listen");
    let Some(text) = raw.listen else {
        if at.lacks("listen") {
            errors.push(
                at.key_error("this listener has no \"listen\"")
                    .hint("write an address, such as listen: 0.0.0.0:9090"),
            );
        }
        return None;
    };
    if raw.name.as_deref() == Some("") {
        errors.push(at.key("name").error("the listener's name is empty"));
    }
    let address = match address::listen(&text) {
        Ok(address) => Some(address),
        Err(wrong) => {
            errors.push(wrong.at(listen));
            None
        }
    };
    let name = raw.name.unwrap_or(text);
    let tls = match raw.tls {
        Some(OffOr::On(raw)) => tls::acceptor(&name, raw, at.key("tls"), errors).map(Some),
        Some(OffOr::Off) | None => Some(None),
    };
    let proxy_protocol = match raw.proxy_protocol {
        Some(raw::AcceptProxy::Required) => AcceptProxy::Required,
        Some(raw::AcceptProxy::Off) | None => AcceptProxy::Off,
    };
    let limits = limits::limits(raw.limits, at.key("limits"), errors);
    let address = address?;
    Some(Listener {
        name: match at.has("name") {
            true => name,
            false => address.to_string(),
        },
        address,
        proxy_protocol,
        tls: tls?,
        limits,
    })
}

/// A PROXY header is believed of trusted proxies alone, and without one nobody gets in.
fn closed_to_all(listeners: &[Option<Listener>], at: At<'_>, errors: &mut Errors) {
    for (i, listener) in listeners.iter().enumerate() {
        if let Some(listener) = listener
            && listener.proxy_protocol == AcceptProxy::Required
            && matches!(listener.address, ListenAddress::Tcp(_))
        {
            errors.push(
                at.index(i)
                    .key("proxy_protocol")
                    .error(format!(
                        "nobody can connect to listener {:?}: there are no trusted_proxies",
                        listener.name
                    ))
                    .hint("name the proxies before it, such as trusted_proxies: [10.0.0.0/8]"),
            );
        }
    }
}

/// What Pingora's tunnel has passed on cannot be held back, and nothing can be put in.
fn unwatched(server: &Server, routes: &[Route], at: At<'_>, errors: &mut Errors) {
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

/// The name of each listener, also of those that are not valid: a route may name them.
fn listener_names(listeners: &[Option<Listener>], at: At<'_>) -> Vec<Option<String>> {
    let written = |at: At<'_>, key: &str| at.key(key).text().map(str::to_owned);
    listeners
        .iter()
        .enumerate()
        .map(|(i, listener)| match listener {
            Some(listener) => Some(listener.name.clone()),
            None => written(at.index(i), "name").or_else(|| written(at.index(i), "listen")),
        })
        .collect()
}
