//! The context in which one route is checked: its position, and the names that it may refer to.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::file::cursor::Cursor;

/// The names that routes may refer to.
pub struct Names {
    pub listeners: Known,
    pub upstreams: Known,
}

/// The names of one kind, with their indices in the resolved configuration.
pub struct Known {
    names: Arc<[String]>,
    positions: HashMap<String, usize>,
    /// Whether there are more names, which could not be decoded.
    has_more: bool,
}

impl Known {
    /// `None`: a name that could not be decoded.
    pub fn new<'n>(names: impl IntoIterator<Item = Option<&'n str>>, has_more: bool) -> Self {
        let mut known = Self {
            names: Arc::default(),
            positions: HashMap::new(),
            has_more,
        };
        let mut in_order = Vec::new();
        for (position, name) in names.into_iter().enumerate() {
            let Some(name) = name else {
                known.has_more = true;
                continue;
            };
            known.positions.entry(name.to_owned()).or_insert(position);
            in_order.push(name.to_owned());
        }
        known.names = in_order.into();
        known
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// Whether it is certain that this name does not exist.
    pub fn lacks(&self, name: &str) -> bool {
        !self.has_more && !self.positions.contains_key(name)
    }

    pub fn names(&self) -> &Arc<[String]> {
        &self.names
    }
}

/// The route that is being checked.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub at: Cursor<'a>,
    /// The route's name for errors.
    pub label: &'a str,
    pub names: &'a Names,
}
