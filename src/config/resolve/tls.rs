//! TLS of listeners and upstreams. The files are read here, so that `check`, a start and a reload
//! report the same errors with positions.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::Errors;
use crate::config::file::cursor::Cursor;
use crate::config::schema::raw;
use crate::config::schema::units::Section;
use crate::tls::tickets::TicketSecret;
use crate::tls::{
    Acceptor, Authorities, Connector, FileError, Pair, ServerTrust, read_chain, read_key,
    system_authorities,
};

/// The authorities that the machine trusts, read when the first upstream needs them.
#[derive(Default)]
pub struct SystemAuthorities(OnceCell<Option<Authorities>>);

impl SystemAuthorities {
    fn read(&self) -> Option<Authorities> {
        self.0.get_or_init(system_authorities).clone()
    }
}

/// The acceptor of a listener.
pub fn acceptor(
    listener: &str,
    raw: raw::ListenerTls,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Arc<Acceptor>> {
    let label = format!("listener \"{listener}\"");
    let list = at.key("certificates");
    let pairs = raw.certificates.unwrap_or_default();
    let is_wanting = at.lacks("certificates") || (at.has("certificates") && !list.damaged());
    if pairs.is_empty() && is_wanting {
        errors.push(
            at.key_error(format!("the tls of {label} has no certificates"))
                .hint("write some: certificates: [{ cert: chain.pem, key: key.pem }]"),
        );
    }
    let pairs: Vec<Option<Pair>> = pairs
        .into_iter()
        .enumerate()
        .map(|(i, Section(pair))| {
            let keys = [("cert", pair.cert), ("key", pair.key)];
            read_pair(&label, keys, list.index(i), errors)
        })
        .collect();
    let client_ca = match raw.client_ca {
        Some(file) => authorities(&label, &file, at.key("client_ca"), errors).map(Some),
        None => (!at.key("client_ca").damaged()).then_some(None),
    };
    let ticket_keys = ticket_keys(&label, raw.ticket_keys, at, errors);
    let pairs: Vec<Pair> = pairs.into_iter().collect::<Option<_>>()?;
    if pairs.is_empty() {
        return None;
    }
    match Acceptor::new(pairs, client_ca?, ticket_keys?, raw.http2.unwrap_or(false)) {
        Ok(acceptor) => Some(Arc::new(acceptor)),
        Err(error) => {
            errors.push(at.key_error(format!("the tls of {label} cannot be used: {error}")));
            None
        }
    }
}

/// Empty if the key is not there.
fn ticket_keys(
    label: &str,
    raw: Option<Vec<String>>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Vec<TicketSecret>> {
    let Some(files) = raw else {
        // If there is one that could not be decoded, that was reported.
        return at.lacks("ticket_keys").then(Vec::new);
    };
    let list = at.key("ticket_keys");
    if files.is_empty() && !list.damaged() {
        errors.push(
            list.error(format!("\"ticket_keys\" of {label} is empty"))
                .hint("name a file, or leave the key out: prusik makes keys of its own"),
        );
    }
    let mut is_whole = !files.is_empty() && !list.damaged();
    let mut secrets: Vec<TicketSecret> = Vec::new();
    let mut read: Vec<&str> = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let secret = TicketSecret::read(Path::new(file));
        let Some(secret) = report(label, secret, list.index(i), errors) else {
            is_whole = false;
            continue;
        };
        if let Some(same) = secrets.iter().position(|other| *other == secret) {
            is_whole = false;
            let what = match read[same] {
                twice if twice == file => format!("{label} names {file} twice"),
                other => format!("{label}: {file} holds the same key as {other}"),
            };
            let error = list.index(i).error(what);
            errors.push(error.hint("remove one of them: each opens its own tickets"));
        }
        secrets.push(secret);
        read.push(file);
    }
    is_whole.then_some(secrets)
}

/// The connector of an upstream. `names`: the names of its servers in the file, each once.
pub fn connector(
    upstream: &str,
    raw: raw::UpstreamTls,
    names: Option<Vec<String>>,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Arc<Connector>> {
    let label = format!("upstream \"{upstream}\"");
    let verifies = raw.verify.unwrap_or(true);
    let name = match (raw.sni, names.as_deref()) {
        (Some(sni), _) => server_name(&label, sni, at.key("sni"), errors).map(Some),
        (None, Some([])) => Some(None),
        (None, Some([only])) => server_name(&label, only.clone(), at, errors).map(Some),
        (None, Some([..])) if at.lacks("sni") => {
            errors.push(
                at.key_error(format!("the servers of {label} have several names"))
                    .hint("write in tls which of them all can prove, such as sni: chat.internal"),
            );
            None
        }
        (None, _) => None,
    };
    let trust = trust(&label, raw.ca, verifies, system, at, errors);
    let has_pair = ["client_cert", "client_key"].map(|key| !at.lacks(key));
    let pair = match has_pair {
        [false, false] => Some(None),
        _ => {
            let keys = [
                ("client_cert", raw.client_cert),
                ("client_key", raw.client_key),
            ];
            read_pair(&label, keys, at, errors).map(Some)
        }
    };
    match Connector::new(name?, trust?, pair?) {
        Ok(connector) => Some(Arc::new(connector)),
        Err(error) => {
            errors.push(at.key_error(format!("the tls of {label} cannot be used: {error}")));
            None
        }
    }
}

/// The connector for a URL of keys. `host`: as the URL has it.
pub fn key_authorities(
    label: &str,
    host: String,
    ca: Option<String>,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Arc<Connector>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = server_name(label, host.to_owned(), at.key("keys"), errors);
    let trust = trust(label, ca, true, system, at, errors);
    match Connector::new(Some(name?), trust?, None) {
        Ok(connector) => Some(Arc::new(connector)),
        Err(error) => {
            errors.push(at.key_error(format!("the keys of {label} cannot be fetched: {error}")));
            None
        }
    }
}

/// Which authorities are trusted to vouch for the servers.
fn trust(
    label: &str,
    ca: Option<String>,
    verifies: bool,
    system: &SystemAuthorities,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<ServerTrust> {
    match (ca, verifies) {
        (Some(_), false) => {
            errors.push(
                at.key("ca")
                    .key_error(format!(
                        "\"ca\" has no effect in tls of {label}: it does not verify"
                    ))
                    .hint("remove it, or verify: false"),
            );
            None
        }
        (None, false) => Some(ServerTrust::Anyone),
        (Some(file), true) => {
            authorities(label, &file, at.key("ca"), errors).map(ServerTrust::Authorities)
        }
        (None, true) if at.lacks("ca") => {
            let system = system.read();
            if system.is_none() {
                errors.push(
                    at.key_error(format!(
                        "{label} has no authorities: the system has none, and tls names no \"ca\""
                    ))
                    .hint("install ca-certificates, or name the authorities: ca: ca.pem"),
                );
            }
            system.map(ServerTrust::Authorities)
        }
        (None, true) => None,
    }
}

/// A certificate and its key, with their names in the file.
fn read_pair(
    label: &str,
    [(cert_key, cert), (key_key, key)]: [(&str, Option<String>); 2],
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Pair> {
    for (missing, other) in [(cert_key, key_key), (key_key, cert_key)] {
        if at.lacks(missing) {
            errors.push(
                at.key_error(format!("a certificate of {label} has no \"{missing}\""))
                    .hint(format!("name both files, \"{other}\" and \"{missing}\"")),
            );
        }
    }
    let cert = cert.map(|file| (read_chain(Path::new(&file)), file));
    let key = key.map(|file| (read_key(Path::new(&file)), file));
    let chain = cert.map(|(chain, file)| {
        let chain = report(label, chain, at.key(cert_key), errors)?;
        Some((chain, file))
    });
    let key = key.map(|(key, _)| report(label, key, at.key(key_key), errors));
    let (chain, file) = chain??;
    let pair = Pair::new(Path::new(&file), chain, key??);
    let is_mismatch = matches!(pair, Err(FileError::Mismatch { .. }));
    let key = if is_mismatch { key_key } else { cert_key };
    report(label, pair, at.key(key), errors)
}

fn authorities(
    label: &str,
    file: &str,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<Authorities> {
    report(label, Authorities::read(Path::new(file)), at, errors)
}

fn report<T>(
    label: &str,
    outcome: Result<T, FileError>,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<T> {
    outcome
        .map_err(|error| {
            let told = at.error(format!("{label}: {error}"));
            errors.push(match error.remedy() {
                Some(remedy) => told.hint(remedy),
                None => told,
            });
        })
        .ok()
}

fn server_name(
    label: &str,
    name: String,
    at: Cursor<'_>,
    errors: &mut Errors,
) -> Option<ServerName<'static>> {
    match ServerName::try_from(name.clone()) {
        Ok(name) => Some(name),
        Err(_) => {
            errors.push(
                at.error(format!("\"{name}\" is no name for the servers of {label}"))
                    .hint("write the name in their certificates, such as sni: chat.internal"),
            );
            None
        }
    }
}
