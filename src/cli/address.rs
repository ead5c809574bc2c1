//! The address of a process's API on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::config::ListenAddress;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => Err("write the socket's whole path, such as unix:/run/prusik/admin.sock"),
            };
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        let is_named = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains([':', '/', '@']) && port.parse::<u16>().is_ok()
            })
        };
        if address.parse::<SocketAddr>().is_ok() || is_named(address) {
            return Ok(Self::Tcp(address.to_owned()));
        }
        Err("write an address and port such as 127.0.0.1:9900, or unix:/path")
    }
}

impl From<ListenAddress> for Address {
    fn from(address: ListenAddress) -> Self {
        match address {
            // A connection to the unspecified address reaches this machine.
            ListenAddress::Tcp(address) => Self::Tcp(address.to_string()),
            ListenAddress::Unix(path) => Self::Unix(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
