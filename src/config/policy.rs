//! What a route answers by itself, and how much it takes.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::forward::template::Template;
use crate::limits::Rate;

/// The bodies of prusik's own answers by status.
pub type ErrorPages = BTreeMap<u16, Page>;

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
}

/// A body that an operator has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Bytes,
}
