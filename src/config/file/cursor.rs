//! A cursor on the tree of the file. It moves along while the decoded file is resolved, so that
//! every error has its position.

use crate::config::error::{ConfigError, Position, closest};
use crate::config::file::tree::{Content, Node, Step};

/// A position in the file: that of a value, or if the value is missing, that of its parent.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    node: Option<&'a Node>,
    value: Position,
    key: Position,
    lost: bool,
}

impl<'a> Cursor<'a> {
    pub fn root(root: &'a Node) -> Cursor<'a> {
        Cursor {
            node: Some(root),
            value: root.position,
            key: root.position,
            lost: false,
        }
    }

    pub fn key(self, key: &str) -> Cursor<'a> {
        match self.node.and_then(|node| node.entry(key)) {
            Some(entry) => Cursor {
                node: Some(&entry.value),
                value: entry.value.position,
                key: entry.key_position,
                lost: false,
            },
            None => Cursor {
                node: None,
                lost: self.lost || self.node.is_some_and(|node| node.lost(key)),
                ..self
            },
        }
    }

    /// Like [`Cursor::key`], for the entry at this index of the mapping, so that no search is
    /// needed.
    pub fn entry(self, position: usize, key: &str) -> Cursor<'a> {
        match self.node.map(|node| &node.content) {
            Some(Content::Mapping(entries)) => match entries.get(position) {
                Some(entry) if entry.key == key => Cursor {
                    node: Some(&entry.value),
                    value: entry.value.position,
                    key: entry.key_position,
                    lost: false,
                },
                _ => self.key(key),
            },
            _ => self.key(key),
        }
    }

    pub fn index(self, index: usize) -> Cursor<'a> {
        match self.node.and_then(|node| node.item(index)) {
            Some(item) => Cursor {
                node: Some(item),
                value: item.position,
                key: item.position,
                lost: false,
            },
            None => Cursor { node: None, ..self },
        }
    }

    pub fn has(self, key: &str) -> bool {
        self.node.is_some_and(|node| node.entry(key).is_some())
    }

    /// Whether `key` is missing. A key that could not be decoded, or that has a spelling mistake,
    /// was already reported and does not count as missing.
    pub fn lacks(self, key: &str) -> bool {
        let lost = |node: &Node| node.lost_keys().any(|lost| closest(lost, [key]).is_some());
        !self.has(key) && !self.lost && !self.node.is_some_and(lost)
    }

    pub fn text(self) -> Option<&'a str> {
        self.node.and_then(Node::text)
    }

    /// Whether elements of this list could not be decoded.
    pub fn lost_items(self) -> bool {
        self.node
            .is_some_and(|node| node.lost_keys().next().is_some())
    }

    /// Whether a part of this value could not be decoded. That was reported, so errors that follow
    /// from it are not reported too.
    pub fn damaged(self) -> bool {
        self.lost || self.node.is_some_and(Node::damaged)
    }

    /// The keys of this value, including those that could not be decoded.
    pub fn keys(self) -> Vec<&'a str> {
        let Some(node) = self.node else {
            return Vec::new();
        };
        let mut keys: Vec<&str> = match &node.content {
            Content::Mapping(entries) => entries.iter().map(|entry| entry.key.as_str()).collect(),
            _ => Vec::new(),
        };
        keys.extend(node.lost_keys());
        keys
    }

    pub fn line(self) -> usize {
        self.key.line
    }

    /// An error about the value.
    pub fn error(self, message: impl Into<String>) -> ConfigError {
        ConfigError::new(self.value, message)
    }

    /// An error about the key, or about something that is missing in it.
    pub fn key_error(self, message: impl Into<String>) -> ConfigError {
        ConfigError::new(self.key, message)
    }
}

/// The owner of the value at `path`, in words: `health_check of upstream "chat"`. Empty for the
/// file itself.
pub fn owner(root: &Node, path: &[Step]) -> String {
    let (name, rest) = match path {
        [Step::Key(section), Step::Key(name), rest @ ..] if section == "upstreams" => {
            (format!("upstream \"{name}\""), rest)
        }
        [Step::Key(section), Step::Index(_), rest @ ..] if !labelled_by(section).is_empty() => {
            let (item, _) = root.find(&path[..2]);
            let what = section.trim_end_matches('s');
            (label(item, what, labelled_by(section)), rest)
        }
        _ => (String::new(), path),
    };
    let keys: Vec<&str> = rest
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    match (keys.is_empty(), name.is_empty()) {
        (true, _) => name,
        (false, true) => keys.join("."),
        (false, false) => format!("{} of {name}", keys.join(".")),
    }
}

/// The keys by which errors name the items of a list at the top of the file.
pub fn labelled_by(section: &str) -> &'static [&'static str] {
    match section {
        "routes" => &["name"],
        "listeners" => &["name", "listen"],
        _ => &[],
    }
}

/// `route "chat"`, by the first of `keys` that the file has, else `this route`.
fn label(node: &Node, what: &str, keys: &[&str]) -> String {
    let name = keys
        .iter()
        .filter_map(|key| node.entry(key).and_then(|entry| entry.value.text()))
        .find(|name| !name.is_empty());
    match name {
        Some(name) => format!("{what} \"{name}\""),
        None => format!("this {what}"),
    }
}
