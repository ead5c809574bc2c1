//! Where `proxy_pass` leads.

use std::net::SocketAddr;

/// `http://HOST[:PORT][URI]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub is_tls: bool,
    /// As it is written, with its port if it has one.
    pub authority: String,
    /// `None`: the path passes as it came.
    pub uri: Option<String>,
}

impl Target {
    /// `Err`: why there is no such server.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let lower = url.to_ascii_lowercase();
        let (is_tls, rest) = if lower.starts_with("http://") {
            (false, &url["http://".len()..])
        } else if lower.starts_with("https://") {
            (true, &url["https://".len()..])
        } else {
            return Err("it is no address that begins with http:// or https://");
        };
        if rest.starts_with("unix:") {
            return Err("servers are reached by TCP, not by a unix socket");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, uri) = rest.split_at(end);
        if authority.is_empty() || authority.contains('$') {
            return Err("which server it is depends on the request: write a route for each");
        }
        let target = Self {
            is_tls,
            authority: authority.to_owned(),
            uri: (!uri.is_empty()).then(|| uri.to_owned()),
        };
        match is_server(&target.address()) {
            true => Ok(target),
            false => Err("it is no address of a server"),
        }
    }

    /// The host without its port, and the port if one is written.
    pub fn host(&self) -> (&str, Option<&str>) {
        split_port(&self.authority)
    }

    /// With the port that the scheme has by default.
    pub fn address(&self) -> String {
        let port = if self.is_tls { "443" } else { "80" };
        with_port(&self.authority, port)
    }

    /// The `Host` that nginx sends by default.
    pub fn proxy_host(&self) -> &str {
        match self.host() {
            (host, Some("80")) if !self.is_tls => host,
            (host, Some("443")) if self.is_tls => host,
            _ => &self.authority,
        }
    }
}

/// `[v6]:port`, `name:port`, and both without a port.
pub fn split_port(text: &str) -> (&str, Option<&str>) {
    let behind_brackets = text.rfind(']').map_or(0, |at| at + 1);
    match text[behind_brackets..].rfind(':') {
        Some(at) => {
            let (host, port) = text.split_at(behind_brackets + at);
            (host, Some(&port[1..]))
        }
        None => (text, None),
    }
}

pub fn with_port(text: &str, port: &str) -> String {
    match split_port(text) {
        (_, Some(_)) => text.to_owned(),
        (host, None) => format!("{host}:{port}"),
    }
}

/// Whether a server can have this address: `IP:port`, `[v6]:port` or `name:port`.
pub fn is_server(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let (host, Some(port)) = split_port(address) else {
        return false;
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        for (url, address, host, uri) in [
            ("http://app", "app:80", "app", None),
            ("http://app/", "app:80", "app", Some("/")),
            ("http://app:80/", "app:80", "app", Some("/")),
            ("http://app:8080/a?b", "app:8080", "app:8080", Some("/a?b")),
            ("https://app", "app:443", "app", None),
            ("HTTPS://[::1]:80", "[::1]:80", "[::1]:80", None),
            ("http://[::1]", "[::1]:80", "[::1]", None),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.address(), address, "{url}");
            assert_eq!(target.proxy_host(), host, "{url}");
            assert_eq!(target.uri.as_deref(), uri, "{url}");
        }
        for url in [
            "app",
            "http://",
            "http://$up",
            "http://unix:/run/a.sock:/",
            "grpc://x",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
