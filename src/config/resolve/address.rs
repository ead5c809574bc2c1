//! Addresses in the file: of listeners, of servers, and of DNS names to resolve.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;
use crate::config::{ListenAddress, ServerAddress};

/// The size of `sockaddr_un`'s path without the final zero.
const UNIX_PATH_MAX: usize = 107;

/// What is wrong with an address, when its position in the file is not known yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    message: String,
    hint: String,
}

impl Wrong {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
        Wrong {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub fn at(self, at: Cursor<'_>) -> ConfigError {
        at.error(self.message).hint(self.hint)
    }
}

/// `0.0.0.0:9090`, `[::]:9090`, `unix:/path`.
pub fn listen(text: &str) -> Result<ListenAddress, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    if let Ok(address) = text.parse() {
        return Ok(ListenAddress::Tcp(address));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(without_port(text, address));
    }
    let hint = if let Some(hint) = nginx_listen(text) {
        hint
    } else if let Some(port) = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')) {
        format!("write all addresses as 0.0.0.0:{port} or \"[::]:{port}\"")
    } else if let Some(port) = text.strip_prefix("localhost:") {
        format!("write 127.0.0.1:{port}, or \"[::1]:{port}\" for IPv6")
    } else {
        "write an IP address and port such as 0.0.0.0:9090, or unix:/path".to_owned()
    };
    Err(Wrong::new(
        format!("cannot listen on \"{text}\": not an address"),
        hint,
    ))
}

/// An address or a port followed by words, such as `80 default_server`, `443 ssl http2` or
/// `[::]:443 ssl`. In prusik each word is a key of its own.
fn nginx_listen(text: &str) -> Option<String> {
    let mut words = text.trim_end_matches(';').split_whitespace();
    let first = words.next()?;
    let words: Vec<&str> = words.collect();
    let address = match first.parse::<u16>() {
        Ok(port) => format!("0.0.0.0:{port}"),
        Err(_) if words.is_empty() => return None,
        Err(_) => first.replacen("*:", "0.0.0.0:", 1),
    };
    let mut keys = vec![match address.starts_with('[') {
        true => format!("listen: \"{address}\""),
        false => format!("listen: {address}"),
    }];
    let http2 = if words.contains(&"http2") {
        ", http2: true"
    } else {
        ""
    };
    if words.contains(&"ssl") {
        keys.push(format!(
            "tls: {{ certificates: [{{ cert: chain.pem, key: key.pem }}]{http2} }}"
        ));
    }
    if words.contains(&"proxy_protocol") {
        keys.push("proxy_protocol: required".to_owned());
    }
    Some(format!("write {}", keys.join(", ")))
}

fn unix(path: &str) -> Result<ListenAddress, Wrong> {
    if !path.starts_with('/') {
        return Err(Wrong::new(
            format!("the socket path \"{path}\" is not absolute"),
            "write the whole path, such as unix:/run/prusik/web.sock",
        ));
    }
    if path.len() > UNIX_PATH_MAX {
        return Err(Wrong::new(
            format!("the socket path is {} bytes long", path.len()),
            format!("choose a path of at most {UNIX_PATH_MAX} bytes"),
        ));
    }
    Ok(ListenAddress::Unix(PathBuf::from(path)))
}

/// `IP:port`, `[v6]:port`, `name:port`.
pub fn server(text: &str) -> Result<ServerAddress, Wrong> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(no_such_port(text)),
            _ => Ok(ServerAddress::Socket(address)),
        };
    }
    let (host, port) = named(text)?;
    Ok(ServerAddress::Name { host, port })
}

/// `name:port`.
pub fn named(text: &str) -> Result<(String, u16), Wrong> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(Wrong::new(
            format!("\"{text}\" is a URL, not an address"),
            format!(
                "leave out {scheme}:// and the path, and write the port: {}",
                with_some_port(rest)
            ),
        ));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(without_port(text, address));
    }
    if text.starts_with("unix:") || text.starts_with('/') {
        return Err(Wrong::new(
            format!("\"{text}\" is a path, not an address"),
            "servers are reached by TCP: write one such as 127.0.0.1:9080",
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Wrong::new(
            format!("\"{text}\" has no port"),
            format!("write it with one, such as {}", with_some_port(text)),
        ));
    };
    let port = match port.parse::<u16>() {
        Ok(0) | Err(_) => return Err(no_such_port(text)),
        Ok(port) => port,
    };
    if host.contains(':') && !host.starts_with('[') && host.parse::<Ipv6Addr>().is_ok() {
        return Err(Wrong::new(
            format!("\"{text}\" is not an address"),
            format!("put the IPv6 address in brackets: \"[{host}]:{port}\""),
        ));
    }
    if !is_host_name(host) {
        return Err(Wrong::new(
            format!("\"{text}\" is not an address: \"{host}\" is not a host name"),
            "write an IP address or a name and a port, such as 127.0.0.1:9080",
        ));
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn without_port(text: &str, address: IpAddr) -> Wrong {
    // `::1:9080` is a valid address, but hardly the one that was meant.
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
    {
        return Wrong::new(
            format!("\"{text}\" has no port"),
            format!("put the IPv6 address in brackets: \"[{host}]:{port}\""),
        );
    }
    let example = match address {
        IpAddr::V4(address) => format!("{address}:9080"),
        IpAddr::V6(address) => format!("\"[{address}]:9080\""),
    };
    Wrong::new(
        format!("\"{text}\" has no port"),
        format!("write it with one, such as {example}"),
    )
}

fn no_such_port(text: &str) -> Wrong {
    if let Some((address, _)) = text.split_once(' ') {
        return Wrong::new(
            format!("\"{text}\" is more than an address"),
            format!("write {}", server_table(address, text)),
        );
    }
    Wrong::new(
        format!("\"{text}\" has no valid port"),
        "a port is a number from 1 to 65535",
    )
}

/// Writes nginx's `address weight=2 max_fails=3` as an entry with keys.
fn server_table(address: &str, text: &str) -> String {
    let mut keys = vec![format!("address: {address}")];
    let mut beside = "";
    for word in text.trim_end_matches(';').split_whitespace().skip(1) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("weight", value) => keys.push(format!("weight: {value}")),
            ("max_conns" | "maxconn", value) => keys.push(format!("max_sessions: {value}")),
            ("backup", _) => keys.push("backup: true".to_owned()),
            ("max_fails" | "fail_timeout", _) => {
                beside = ", and eject: { failures: 5, within: 10s, for: 30s } in the upstream";
            }
            ("down", _) => return "nothing for a server that is down: leave it out".to_owned(),
            ("check", _) => beside = ", and health_check: { type: tcp } in the upstream",
            _ => {}
        }
    }
    if keys.len() == 1 && beside.is_empty() {
        keys.push("weight: 1".to_owned());
    }
    format!("{{ {} }}{beside}", keys.join(", "))
}

fn with_some_port(text: &str) -> String {
    let host = text.split('/').next().unwrap_or_default();
    if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:9080")
    }
}

/// RFC 1123, and `_`, which is common in internal names. Digits and dots alone are a wrong IPv4
/// address.
fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_or_a_name_with_a_port() {
        for text in [
            "127.0.0.1:9080",
            "[::1]:9080",
            "chat.internal:80",
            "chat_1:80",
        ] {
            assert_eq!(
                server(text).map(|address| address.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!(
            server("Chat.Internal:80"),
            Ok(ServerAddress::Name {
                host: "chat.internal".to_owned(),
                port: 80
            })
        );
    }

    #[test]
    fn what_cannot_be_reached_is_no_server() {
        for text in [
            "",
            ":80",
            "127.0.0.1",
            "chat",
            "127.0.0.1:0",
            "chat:0",
            "chat:70000",
            "chat:http",
            "::1:80",
            "::1",
            "[::1]",
            "127.0.0.300:80",
            "http://chat:80",
            "unix:/run/a.sock",
            "-chat:80",
            "a b:80",
            "chat..internal:80",
        ] {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_is_an_address_or_a_socket_path() {
        for text in [
            "0.0.0.0:9090",
            "[::]:9090",
            "127.0.0.1:0",
            "unix:/run/prusik/web.sock",
        ] {
            assert_eq!(
                listen(text).map(|address| address.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "9090",
            ":9090",
            "*:9090",
            "localhost:9090",
            "0.0.0.0",
            "unix:web.sock",
            "unix:",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_socket_path_fits_into_its_address() {
        let path = |len: usize| format!("unix:/{}", "a".repeat(len - 1));
        assert!(listen(&path(UNIX_PATH_MAX)).is_ok());
        assert!(listen(&path(UNIX_PATH_MAX + 1)).is_err());
    }
}
