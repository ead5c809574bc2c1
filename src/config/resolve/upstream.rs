//! Upstreams: their servers and how one of them is chosen.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::{Errors, address, affinity, health, retry, source, tls};
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, OptionalPeriod, Ordered, Period, Section, Switch};
use crate::config::{Balance, Discover, Eject, OnGone, ServerAddress, Upstream, UpstreamServer};
use crate::forward::proxy_protocol::Version;
use crate::forward::template::Template;

/// A ring of hashes has points for each unit of weight.
const WEIGHT_MAX: u32 = 65_535;

const DISCOVER_REFRESH: Duration = Duration::from_secs(10);
const DISCOVER_HOLD: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 3;
const KEEPALIVE: usize = 128;
const WAITING: usize = 20_000;
const STALL: Duration = Duration::from_secs(60);

pub fn upstreams(
    raw: Option<Ordered<Section<raw::Upstream>>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<Upstream>> {
    let Ordered(raw) = raw.unwrap_or(Ordered(Vec::new()));
    let system = tls::SystemAuthorities::default();
    let upstreams: Vec<Option<Upstream>> = raw
        .into_iter()
        .enumerate()
        .map(|(position, (name, Section(raw)))| {
            let at = at.entry(position, &name);
            upstream(name, raw, &system, at, errors)
        })
        .collect();
    upstreams.into_iter().collect()
}

fn upstream(
    name: String,
    raw: raw::Upstream,
    system: &tls::SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Upstream> {
    // Operators name a server as UPSTREAM/ADDRESS, on the command line and in URLs.
    let unusable = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(unusable) {
        errors.push(
            at.key_error(format!("\"{name}\" cannot be the name of an upstream"))
                .hint("choose a name without slashes and blanks"),
        );
    }
    let balance = balance(&name, &raw, at, errors);
    let servers = servers(&name, raw.servers, at, errors);
    let discover = match raw.discover {
        Some(Section(raw)) => discover(&name, raw, at.key("discover"), errors).map(Some),
        None => Some(None),
    };
    let tls = match raw.tls {
        Some(Switch::On(raw)) => {
            let names = names(servers.as_deref(), discover.as_ref());
            tls::connector(&name, raw, names, system, at.key("tls"), errors).map(Some)
        }
        Some(Switch::Off) | None => Some(None),
    };
    let health_check = match raw.health_check {
        Some(OffOr::On(raw)) => health::check(&name, raw, at.key("health_check"), errors).map(Some),
        Some(OffOr::Off) | None => Some(None),
    };
    let eject = match raw.eject {
        Some(OffOr::On(raw)) => eject(&name, raw, at.key("eject"), errors).map(Some),
        Some(OffOr::Off) | None => Some(None),
    };
    let affinity = affinity::affinity(&name, raw.affinity, at, errors);
    let source = source::source(&name, raw.source, servers.as_deref(), at, errors);
    let attempts = raw.attempts.map_or(ATTEMPTS, |attempts| attempts.get());
    let retry_on = retry::retry_on(raw.retry_on, at.key("retry_on"), errors);
    retry::never(retry_on, attempts, at, errors);
    Some(Upstream {
        balance: balance?,
        servers: servers?,
        discover: discover?,
        affinity: affinity?,
        tls: tls?,
        proxy_protocol: match raw.proxy_protocol {
            Some(raw::SendProxy::V1) => Some(Version::V1),
            Some(raw::SendProxy::V2) => Some(Version::V2),
            Some(raw::SendProxy::Off) | None => None,
        },
        source: source?,
        health_check: health_check?,
        eject: eject?,
        slow_start: match raw.slow_start {
            Some(OptionalPeriod(slow_start)) => slow_start.unwrap_or_default(),
            None => Duration::ZERO,
        },
        attempts,
        retry_on,
        keepalive: raw.keepalive.unwrap_or(KEEPALIVE),
        stall: raw.stall.map_or(STALL, |Period(stall)| stall),
        pacing: pacing(raw.pacing),
        on_down: raw.on_down.map_or(OnGone::Keep, fate),
        on_removed: raw.on_removed.map_or(OnGone::Close, fate),
        name,
    })
}

/// The names of the servers in the file. `None`: some of them are not valid.
fn names(
    servers: Option<&[UpstreamServer]>,
    discover: Option<&Option<Discover>>,
) -> Option<Vec<String>> {
    let servers = servers?.iter().filter_map(|server| match &server.address {
        ServerAddress::Socket(_) => None,
        ServerAddress::Name { host, .. } => Some(host.clone()),
    });
    let discovered = discover?.iter().map(|discover| discover.host.clone());
    let mut names: Vec<String> = servers.chain(discovered).collect();
    names.sort_unstable();
    names.dedup();
    Some(names)
}

fn pacing(raw: Option<OffOr<raw::Pacing>>) -> Option<usize> {
    match raw {
        Some(OffOr::Off) => None,
        Some(OffOr::On(raw)) => Some(raw.waiting.map_or(WAITING, NonZeroUsize::get)),
        None => Some(WAITING),
    }
}

fn fate(raw: raw::OnGone) -> OnGone {
    match raw {
        raw::OnGone::Keep => OnGone::Keep,
        raw::OnGone::Close => OnGone::Close,
    }
}

fn balance(
    name: &str,
    raw: &raw::Upstream,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Balance> {
    let hashes = raw.balance == Some(raw::Balance::ConsistentHash);
    if !hashes && !at.key("balance").damaged() {
        for key in ["hash_key", "load_bound"]
            .into_iter()
            .filter(|key| at.has(key))
        {
            errors.push(
                at.key(key)
                    .key_error(format!(
                        "\"{key}\" has no effect in upstream \"{name}\": it does not hash"
                    ))
                    .hint("write balance: consistent_hash, or remove the key"),
            );
        }
    }
    if let Some(bound) = raw.load_bound
        && !(bound > 1.0 && bound.is_finite())
    {
        errors.push(
            at.key("load_bound")
                .error(format!(
                    "load_bound of upstream \"{name}\" must be over 1, not {bound}"
                ))
                .hint("1.25 lets a server have a quarter more than the mean"),
        );
    }
    match raw.balance.unwrap_or(raw::Balance::RoundRobin) {
        raw::Balance::RoundRobin => Some(Balance::RoundRobin),
        raw::Balance::LeastSessions => Some(Balance::LeastSessions),
        raw::Balance::TwoChoices => Some(Balance::TwoChoices),
        raw::Balance::ConsistentHash => {
            let Some(key) = &raw.hash_key else {
                if at.lacks("hash_key") {
                    errors.push(
                        at.key("balance")
                            .error(format!(
                                "upstream \"{name}\" hashes, but has no \"hash_key\""
                            ))
                            .hint("write one, such as hash_key: $arg_userId"),
                    );
                }
                return None;
            };
            Some(Balance::ConsistentHash {
                key: template(key, "hash_key", at.key("hash_key"), errors)?,
                load_bound: raw.load_bound,
            })
        }
    }
}

/// `what`: the template's name in errors.
/// One that is rendered before a server has answered.
pub fn template(text: &str, what: &str, at: Cursor<'_>, errors: &mut Errors) -> Option<Template> {
    let template = any_template(text, what, at, errors)?;
    if template.reads_server() {
        errors.push(
            at.error(format!(
                "bad template in {what}: $upstream_addr is not known yet"
            ))
            .hint("it is for headers.response, when a server has answered"),
        );
        return None;
    }
    Some(template)
}

pub fn any_template(
    text: &str,
    what: &str,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Template> {
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(error) => {
            let wrong = at.error(format!("bad template in {what}: {error}"));
            errors.push(wrong.hint(error.hint()));
            None
        }
    }
}

fn servers(
    name: &str,
    raw: Option<Vec<raw::ServerEntry>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<UpstreamServer>> {
    let raw = raw.unwrap_or_default();
    let list = at.key("servers");
    let wanting = at.lacks("servers") || (at.has("servers") && !list.damaged());
    if raw.is_empty() && wanting && at.lacks("discover") {
        errors.push(
            at.key_error(format!("upstream \"{name}\" has no servers"))
                .hint("write some, such as servers: [127.0.0.1:9080], or discover them"),
        );
    }
    let mut first_lines: HashMap<ServerAddress, usize> = HashMap::new();
    let mut servers = Vec::new();
    for (i, entry) in raw.into_iter().enumerate() {
        let at = list.index(i);
        let server = server(name, entry, at, errors);
        if let Some(server) = &server {
            let address_at = if at.has("address") {
                at.key("address")
            } else {
                at
            };
            if let Some(line) = first_lines.get(&server.address) {
                errors.push(
                    address_at
                        .error(format!(
                            "duplicate server \"{}\" in upstream \"{name}\"",
                            server.address
                        ))
                        .hint(format!(
                            "first written on line {line}; a weight gives it more of the traffic"
                        )),
                );
            } else {
                first_lines.insert(server.address.clone(), at.line());
            }
        }
        servers.push(server);
    }
    let servers: Vec<UpstreamServer> = servers.into_iter().collect::<Option<_>>()?;
    let all_backup = !servers.is_empty() && servers.iter().all(|server| server.backup);
    if all_backup && at.lacks("discover") && !list.damaged() {
        errors.push(
            list.key_error(format!("all servers of upstream \"{name}\" are backup"))
                .hint("remove backup from those that serve first"),
        );
    }
    Some(servers)
}

fn server(
    upstream: &str,
    raw: raw::ServerEntry,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<UpstreamServer> {
    let (address, address_at, table) = match raw {
        raw::ServerEntry::Address(address) => (Some(address), at, raw::ServerTable::default()),
        raw::ServerEntry::Table(mut table) => (table.address.take(), at.key("address"), table),
    };
    let weight = table.weight.map_or(1, |weight| weight.get());
    if weight > WEIGHT_MAX {
        errors.push(
            at.key("weight")
                .error(format!("weight {weight} is too large"))
                .hint(format!("weights are relative and at most {WEIGHT_MAX}")),
        );
    }
    let Some(address) = address else {
        if at.lacks("address") {
            errors.push(
                at.key_error(format!(
                    "a server of upstream \"{upstream}\" has no \"address\""
                ))
                .hint("write one, such as address: 127.0.0.1:9080"),
            );
        }
        return None;
    };
    match address::server(&address) {
        Ok(address) => Some(UpstreamServer {
            address,
            weight,
            max_sessions: table.max_sessions.filter(|max| *max > 0),
            backup: table.backup.unwrap_or(false),
        }),
        Err(wrong) => {
            errors.push(wrong.at(address_at));
            None
        }
    }
}

fn discover(
    name: &str,
    raw: raw::Discover,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Discover> {
    let Some(text) = raw.dns else {
        if at.lacks("dns") {
            errors.push(
                at.key_error(format!(
                    "\"discover\" of upstream \"{name}\" has no \"dns\""
                ))
                .hint("write a name and a port, such as dns: chat.internal:9080"),
            );
        }
        return None;
    };
    match address::named(&text) {
        Ok((host, port)) => Some(Discover {
            host,
            port,
            refresh: raw
                .refresh
                .map_or(DISCOVER_REFRESH, |Period(refresh)| refresh),
            hold: match raw.hold {
                Some(OptionalPeriod(hold)) => hold.unwrap_or_default(),
                None => DISCOVER_HOLD,
            },
        }),
        Err(wrong) => {
            errors.push(wrong.at(at.key("dns")));
            None
        }
    }
}

fn eject(name: &str, raw: raw::Eject, at: Cursor<'_>, errors: &mut Errors) -> Option<Eject> {
    for key in ["failures", "within", "for"] {
        if at.lacks(key) {
            errors.push(
                at.key_error(format!("\"eject\" of upstream \"{name}\" has no \"{key}\""))
                    .hint("write all three, such as eject: { failures: 5, within: 10s, for: 30s }"),
            );
        }
    }
    let Period(within) = raw.within?;
    let Period(duration) = raw.duration?;
    Some(Eject {
        failures: raw.failures?.get(),
        within,
        duration,
    })
}
