//! Finds listeners that are servers of their own routes, or their own auth servers: a request would
//! loop until no connections are left.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Method;

use super::Errors;
use crate::auth::endpoint::Endpoint;
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::{Action, ListenAddress, Listener, Route, ServerAddress, Upstream};
use crate::route::{Coverage, HostPattern, ListenerId, Matcher, PathMatch, Slashes};

/// How often to check whether a request comes back. If thousands of routes could send requests to
/// thousands of listeners, only the first loops are reported.
const QUESTIONS: usize = 100_000;

/// Listeners by address, each with its index in the file.
type ByAddress<'a> = HashMap<SocketAddr, (ListenerId, &'a Listener)>;

/// A server that is a listener, with its position in the file.
struct Loop<'a> {
    listener: ListenerId,
    name: &'a str,
    server: String,
    at: Cursor<'a>,
}

/// Reports each server to which a request comes back that came in on the listener with the same
/// address. A file does not tell the addresses of a name other than `localhost`, or those of the
/// machine.
pub fn report(
    listeners: &[Option<Listener>],
    upstreams: &[Upstream],
    routes: &[Route],
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    let by_address = by_address(listeners);
    let upstreams = upstreams.iter().enumerate();
    let mut met: Vec<Vec<Loop<'_>>> = upstreams
        .map(|(position, upstream)| {
            let at = at.entry(position, &upstream.name);
            met_by(upstream, &by_address, at)
        })
        .collect();
    if met.iter().all(Vec::is_empty) {
        return;
    }
    let mut coverage = Coverage::default();
    let mut questions = QUESTIONS;
    for route in routes {
        if let Action::Proxy { upstream, .. } = route.action {
            met[upstream.index()].retain(|met| {
                let mut matcher = route.matcher.clone();
                let comes_in = matcher.listener.is_none_or(|number| number == met.listener);
                matcher.listener = Some(met.listener);
                questions = questions.saturating_sub(1);
                // Earlier routes may match everything that comes in there.
                let comes_back =
                    comes_in && questions > 0 && coverage.first_cover(&matcher).is_none();
                if comes_back {
                    errors.push(circle(route, met));
                }
                !comes_back
            });
        }
        coverage.add(&route.matcher);
    }
}

fn by_address(listeners: &[Option<Listener>]) -> ByAddress<'_> {
    let mut by_address = ByAddress::new();
    for (number, listener) in listeners.iter().enumerate() {
        if let Some(listener) = listener
            && let ListenAddress::Tcp(address) = listener.address
        {
            by_address.insert(canonical(address), (ListenerId::new(number), listener));
        }
    }
    by_address
}

/// Reports each route whose question to the auth server comes back to it, by way of others or
/// straight: nobody would ever answer. `at`: the routes.
pub fn report_questions(
    listeners: &[Option<Listener>],
    routes: &[Route],
    at: Cursor<'_>,
    errors: &mut Errors,
) {
    let by_address = by_address(listeners);
    let question_of = |route: &Route| {
        let forward = route.auth.as_deref()?.forward.as_ref()?;
        question(&forward.settings().endpoint, &by_address)
    };
    let questions: Vec<Option<Matcher>> = routes.iter().map(question_of).collect();
    if questions.iter().all(Option::is_none) {
        return;
    }
    let mut coverage = Coverage::default();
    routes.iter().for_each(|route| coverage.add(&route.matcher));
    let asked = questions
        .iter()
        .map(|question| coverage.first_cover(question.as_ref()?));
    let asked: Vec<Option<usize>> = asked.collect();
    for (position, route) in routes.iter().enumerate() {
        let onward = std::iter::successors(asked[position], |route| asked[*route]);
        // A way with more steps goes round elsewhere.
        if onward.take(routes.len()).any(|met| met == position) {
            let at = at.index(position).key("auth").key("forward").key("url");
            errors.push(
                at.error(format!(
                    "the question of {:?} comes back to that route",
                    route.name
                ))
                .hint("name the auth server itself, or give it a route without auth.forward"),
            );
        }
    }
}

/// What a question to this auth server matches, if it comes to a listener.
fn question(endpoint: &Endpoint, by_address: &ByAddress<'_>) -> Option<Matcher> {
    let (host, port) = (endpoint.server(), endpoint.port());
    let address = match host.parse() {
        Ok(address) => ServerAddress::Socket(SocketAddr::new(address, port)),
        Err(_) => ServerAddress::Name {
            host: host.to_owned(),
            port,
        },
    };
    let mut met = ends(&address).into_iter();
    let (listener, _) = met.find_map(|end| by_address.get(&end))?;
    Some(Matcher {
        listener: Some(*listener),
        hosts: vec![HostPattern::Exact(
            endpoint.uri.host()?.to_ascii_lowercase(),
        )],
        path: PathMatch::Exact(endpoint.uri.path().to_owned()),
        slashes: Slashes::Merged,
        headers: Vec::new(),
        methods: vec![Method::GET],
    })
}

fn circle(route: &Route, met: &Loop<'_>) -> ConfigError {
    let Loop {
        name, server, at, ..
    } = met;
    at.error(format!("{server} is listener {name:?} itself"))
        .hint(format!(
            "route {:?} would send its requests round in circles: name another server, or match \
             by listener",
            route.name
        ))
}

fn met_by<'a>(upstream: &Upstream, by_address: &ByAddress<'a>, at: Cursor<'a>) -> Vec<Loop<'a>> {
    let servers = upstream.servers.iter().enumerate().map(|(number, server)| {
        let at = at.key("servers").index(number);
        let at = if at.has("address") {
            at.key("address")
        } else {
            at
        };
        (server.address.clone(), at)
    });
    let discovered = upstream.discover.iter().map(|discover| {
        let name = ServerAddress::Name {
            host: discover.host.clone(),
            port: discover.port,
        };
        (name, at.key("discover").key("dns"))
    });
    let mut met = Vec::new();
    for (server, at) in servers.chain(discovered) {
        let listeners = ends(&server)
            .into_iter()
            .filter_map(|end| by_address.get(&end));
        met.extend(listeners.map(|(listener, Listener { name, .. })| Loop {
            listener: *listener,
            name,
            server: server.to_string(),
            at,
        }));
    }
    met
}

/// The addresses of listeners that a connection to `server` reaches, as far as the file tells.
fn ends(server: &ServerAddress) -> Vec<SocketAddr> {
    let (addresses, port) = match server {
        ServerAddress::Socket(address) => (vec![address.ip()], address.port()),
        ServerAddress::Name { host, port } if host.eq_ignore_ascii_case("localhost") => (
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            *port,
        ),
        ServerAddress::Name { .. } => return Vec::new(),
    };
    let addresses = addresses.into_iter().flat_map(|address| {
        let address = match address.to_canonical() {
            // A connection to the unspecified address reaches this machine.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        // A listener on [::] accepts only IPv6.
        let any = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        [Some(address), address.is_loopback().then_some(any)]
    });
    let addresses = addresses.flatten();
    addresses
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

/// `::ffff:127.0.0.1` is another notation of `127.0.0.1`.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
