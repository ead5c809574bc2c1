//! The configuration that most tests need: one listener, one upstream, one route, and what the
//! test is about.

use std::fmt;
use std::net::SocketAddr;

use super::Origin;

/// Shown, it is the file.
#[derive(Debug, Clone, Default)]
pub struct Config {
    top: Vec<String>,
    tls: String,
    listener: String,
    servers: Vec<String>,
    upstream: Vec<String>,
    routes: Vec<String>,
    route: Vec<String>,
}

impl Config {
    /// Everything goes to these origins.
    pub fn to(origins: &[&Origin]) -> Self {
        Self {
            servers: origins
                .iter()
                .map(|origin| origin.address().to_string())
                .collect(),
            ..Self::default()
        }
    }

    /// Everything goes to these addresses.
    pub fn to_addresses(addresses: &[SocketAddr]) -> Self {
        Self {
            servers: addresses.iter().map(SocketAddr::to_string).collect(),
            ..Self::default()
        }
    }

    /// One more entry of `servers`.
    pub fn server(mut self, entry: impl fmt::Display) -> Self {
        self.servers.push(entry.to_string());
        self
    }

    /// TLS on the listener, with these keys.
    pub fn tls(mut self, keys: impl fmt::Display) -> Self {
        self.tls = format!(", tls: {{ {keys} }}");
        self
    }

    /// One more key of the listener.
    pub fn listener(mut self, key: impl fmt::Display) -> Self {
        self.listener.push_str(&format!(", {key}"));
        self
    }

    /// One more key of the upstream.
    pub fn upstream(mut self, line: impl fmt::Display) -> Self {
        self.upstream.push(line.to_string());
        self
    }

    /// One more key of the route.
    pub fn route(mut self, line: impl fmt::Display) -> Self {
        self.route.push(line.to_string());
        self
    }

    /// One more route, before the one that takes everything.
    pub fn first(mut self, route: impl fmt::Display) -> Self {
        self.routes.push(route.to_string());
        self
    }

    /// One more key of the file itself.
    pub fn top(mut self, line: impl fmt::Display) -> Self {
        self.top.push(line.to_string());
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.top {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "listeners: [{{ listen: \"127.0.0.1:0\", name: public{}{} }}]",
            self.tls, self.listener
        )?;
        writeln!(f, "upstreams:\n  backend:\n    servers:")?;
        for server in &self.servers {
            writeln!(f, "      - {server}")?;
        }
        for line in &self.upstream {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "routes:")?;
        for route in &self.routes {
            writeln!(f, "  - {route}")?;
        }
        writeln!(f, "  - upstream: backend")?;
        for line in &self.route {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}
