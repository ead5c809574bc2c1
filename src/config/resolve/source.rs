//! The addresses of this machine from which servers are connected to.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Errors;
use crate::config::file::cursor::Cursor;
use crate::config::{ServerAddress, UpstreamServer};

/// `servers`: `None` if some of them are not valid.
pub fn source(
    upstream: &str,
    raw: Option<Vec<String>>,
    servers: Option<&[UpstreamServer]>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<IpAddr>> {
    let Some(raw) = raw else {
        return match at.lacks("source") {
            true => Some(Vec::new()),
            // The decoder has reported the error.
            false => None,
        };
    };
    let at = at.key("source");
    if raw.is_empty() && !at.damaged() {
        errors.push(
            at.error(format!("\"source\" of upstream \"{upstream}\" is empty"))
                .hint("list addresses of this machine, or leave the key out"),
        );
    }
    let mut sources = Vec::new();
    let mut seen = HashSet::new();
    let mut is_whole = !raw.is_empty() && !at.damaged();
    for (i, text) in raw.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if !seen.insert(address) => {
                is_whole = false;
                let error = at.index(i).error(format!("duplicate source \"{text}\""));
                errors.push(error.hint("remove one of the two"));
            }
            Ok(address) => sources.push(address),
            Err(_) => {
                is_whole = false;
                errors.push(
                    at.index(i)
                        .error(format!("\"{text}\" is not an address"))
                        .hint("write one of this machine, such as 10.0.0.5"),
                );
            }
        }
    }
    if !is_whole {
        return None;
    }
    let [has_v4, has_v6] = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|kind| sources.iter().any(kind));
    let without = servers.unwrap_or_default().iter().find(|server| {
        matches!(&server.address, ServerAddress::Socket(address)
            if !if address.is_ipv4() { has_v4 } else { has_v6 })
    });
    if let Some(server) = without {
        errors.push(
            at.error(format!(
                "no source of upstream \"{upstream}\" can reach server \"{}\"",
                server.address
            ))
            .hint("IPv4 servers need an IPv4 source, IPv6 servers an IPv6 one"),
        );
    }
    Some(sources)
}
