//! Listeners: each one alone, and that no two have the same address.

use std::collections::HashMap;

use super::{Errors, address, limits, tls};
use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::{OffOr, Section};
use crate::config::{AcceptProxy, ListenAddress, Listener};

/// Port 0 is a different port each time.
fn is_any_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

/// Returns as many as the file has, so that the indices are the same as in the file.
pub fn listeners(
    raw: Vec<Section<raw::Listener>>,
    root: Cursor<'_>,
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
    let mut wide = Overlaps::default();
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
            let beside = wide.beside(address);
            let first = addresses.insert(address.to_string(), at.line());
            if let Some(other) = beside {
                errors.push(overlapping(at.key("listen"), address, &other));
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

/// Finds two addresses of which one includes the other, without comparing all pairs.
#[derive(Default)]
struct Overlaps {
    /// By port, and by whether it is IPv4.
    first: HashMap<(u16, bool), First>,
}

#[derive(Default)]
struct First {
    /// The first one that means all addresses of the machine.
    wide: Option<ListenAddress>,
    /// The first one that does not.
    narrow: Option<ListenAddress>,
}

impl Overlaps {
    /// The first earlier address that overlaps this one and is not equal to it.
    fn beside(&mut self, address: &ListenAddress) -> Option<ListenAddress> {
        let ListenAddress::Tcp(socket) = address else {
            return None;
        };
        if socket.port() == 0 {
            return None;
        }
        let first = self
            .first
            .entry((socket.port(), socket.is_ipv4()))
            .or_default();
        let (same_kind, other_kind) = match socket.ip().is_unspecified() {
            true => (&mut first.wide, &first.narrow),
            false => (&mut first.narrow, &first.wide),
        };
        same_kind.get_or_insert_with(|| address.clone());
        other_kind.clone()
    }
}

/// The kernel does not allow a process to listen on both.
pub fn overlapping(at: Cursor<'_>, address: &ListenAddress, other: &ListenAddress) -> ConfigError {
    at.error(format!(
        "\"{address}\" and \"{other}\" cannot both be listened on"
    ))
    .hint("0.0.0.0 and [::] stand for all addresses of the machine: leave one of the two out")
}

fn listener(raw: raw::Listener, at: Cursor<'_>, errors: &mut Errors) -> Option<Listener> {
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
        let error = at.key("name").error("the listener's name is empty");
        errors.push(error.hint("write one, or leave the key out: it is the address then"));
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

/// A PROXY header is accepted from trusted proxies only. Without trusted proxies nobody could
/// connect.
pub fn closed_to_all(listeners: &[Option<Listener>], at: Cursor<'_>, errors: &mut Errors) {
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

/// The name of each listener, including invalid ones, because a route may use the name.
pub fn names(listeners: &[Option<Listener>], at: Cursor<'_>) -> Vec<Option<String>> {
    let written = |at: Cursor<'_>, key: &str| at.key(key).text().map(str::to_owned);
    listeners
        .iter()
        .enumerate()
        .map(|(i, listener)| match listener {
            Some(listener) => Some(listener.name.clone()),
            None => written(at.index(i), "name").or_else(|| written(at.index(i), "listen")),
        })
        .collect()
}
