//! What a route answers by itself, and how much it takes.

use std::collections::BTreeMap;

use bytes::Bytes;

/// The bodies of prusik's own answers by status.
pub type ErrorPages = BTreeMap<u16, Page>;

/// A body that an operator has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub content_type: &'static str,
    pub body: Bytes,
}
