//! What a route changes, answers by itself and takes, and what an upstream tries again.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::forward::template::Template;
use crate::limits::Rate;
use crate::route::Rewrite;

/// The bodies of prusik's own answers by status.
pub type ErrorPages = BTreeMap<u16, Page>;

/// How the path that a server gets differs from the one by which the route was found.
#[derive(Debug, Clone, PartialEq)]
pub enum PathChange {
    None,
    /// This is removed from the front, in whole segments. The rest always begins with `/`.
    Strip(String),
    Rewrite(Rewrite),
}

/// What is tried at the next server, besides a connection that did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn {
    pub bad_gateway: bool,
    pub unavailable: bool,
    pub gateway_timeout: bool,
    /// The server's answer did not come in time.
    pub timeout: bool,
}

impl RetryOn {
    /// Whether an answer with this status is left to another server.
    pub fn has(self, status: u16) -> bool {
        match status {
            502 => self.bad_gateway,
            503 => self.unavailable,
            504 => self.gateway_timeout,
            _ => false,
        }
    }
}

/// The largest body that a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// That of the listener.
    Inherited,
    /// `None`: any size.
    Own(Option<u64>),
}

impl BodySize {
    /// `listener`: the size that the listener takes. `None`: any size.
    pub fn within(self, listener: Option<u64>) -> Option<u64> {
        match self {
            Self::Inherited => listener,
            Self::Own(own) => own,
        }
    }
}

/// How many requests a route takes for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRate {
    pub rate: Rate,
    pub key: RateKey,
}

/// For whom a request is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address, an IPv6 one with its whole /64.
    Client,
    /// An empty value is not counted.
    Value(Template),
    /// What was found out about the caller, such as `$user`. An empty one is not counted.
    Caller(Template),
}

impl RateKey {
    pub fn reads_user(&self) -> bool {
        matches!(self, Self::Caller(template) if template.reads_user())
    }
}

/// A body that an operator has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Bytes,
}
