//! Finds everything that cannot be decoded in a large file, in time linear to its size.
//!
//! If the whole file were decoded again after each error, a mistake that is in every route would
//! take quadratic time. So a large tree is divided: each part is decoded separately, in a tree that
//! contains only the path from the root to it.
//!
//! ```text
//!   routes: [ a, b, c, … ]   ─►   routes: [ a ]   routes: [ b ]   routes: [ c ]   …
//! ```
//!
//! This finds the same errors, because no key of the file is required, and decoding a key never
//! depends on another key.

use super::attempt;
use crate::config::error::{ConfigError, Position};
use crate::config::file::cursor::labelled_by;
use crate::config::file::tree::{Content, Entry, Node};

/// How many values are decoded together, and again after each error among them.
const PART: usize = 64;

/// One container on the path from the root to a part, without its other children.
struct Level {
    position: Position,
    link: Link,
    /// The entries by which errors name this container.
    names: Vec<Entry>,
}

/// The step from a container to its child.
enum Link {
    Key(String, Position),
    Item,
}

enum Outcome {
    /// The rest can be decoded.
    Kept(Node),
    /// The container at this depth has a wrong child on the path.
    LostAt(usize),
    /// The file is not a mapping.
    NothingLeft,
}

/// `None`: nothing of the file could be decoded.
pub fn take_out_errors(root: &mut Node, errors: &mut Vec<ConfigError>) -> Option<()> {
    let whole = std::mem::replace(
        root,
        Node::new(root.position, Content::Sequence(Vec::new())),
    );
    match take_apart(whole, &mut Vec::new(), errors) {
        Outcome::Kept(rest) => {
            *root = rest;
            Some(())
        }
        Outcome::LostAt(_) | Outcome::NothingLeft => None,
    }
}

fn take_apart(mut node: Node, way: &mut Vec<Level>, errors: &mut Vec<ConfigError>) -> Outcome {
    if node.measure().0 <= PART {
        return decode_part(node, way, errors);
    }
    let depth = way.len();
    let names = names(&node, way);
    let mut lost = Vec::new();
    let children: Vec<(Link, Node)> = match node.content {
        Content::Scalar { .. } => return decode_part(node, way, errors),
        Content::Sequence(items) => items.into_iter().map(|item| (Link::Item, item)).collect(),
        Content::Mapping(entries) => entries
            .into_iter()
            .map(|entry| (Link::Key(entry.key, entry.key_position), entry.value))
            .collect(),
    };
    let mut items = Vec::new();
    let mut entries = Vec::new();
    let is_list = matches!(children.first(), Some((Link::Item, _)));
    for (link, child) in children {
        way.push(Level {
            position: node.position,
            names: match &link {
                Link::Key(key, _) => names
                    .iter()
                    .filter(|name| name.key != *key)
                    .cloned()
                    .collect(),
                Link::Item => Vec::new(),
            },
            link,
        });
        let outcome = take_apart(child, way, errors);
        let link = way.pop().map(|level| level.link);
        match (outcome, link) {
            (Outcome::Kept(value), Some(Link::Key(key, key_position))) => entries.push(Entry {
                key,
                key_position,
                value,
            }),
            (Outcome::Kept(value), _) => items.push(value),
            (Outcome::LostAt(at), link) if at == depth => lost.push(match link {
                Some(Link::Key(key, _)) => key,
                _ => String::new(),
            }),
            (outcome, _) => return outcome,
        }
    }
    node.content = match is_list {
        true => Content::Sequence(items),
        false => Content::Mapping(entries),
    };
    node.remember_lost(lost);
    Outcome::Kept(node)
}

/// The entries by which errors name a route or a listener.
fn names(node: &Node, way: &[Level]) -> Vec<Entry> {
    let [
        Level {
            link: Link::Key(section, _),
            ..
        },
        _,
    ] = way
    else {
        return Vec::new();
    };
    let keys = labelled_by(section);
    let written = keys.iter().filter_map(|key| node.entry(key));
    written
        .filter(|entry| entry.value.text().is_some())
        .cloned()
        .collect()
}

fn decode_part(part: Node, way: &[Level], errors: &mut Vec<ConfigError>) -> Outcome {
    let mut tree = way.iter().rev().fold(part, |child, level| {
        let content = match &level.link {
            Link::Item => Content::Sequence(vec![child]),
            Link::Key(key, key_position) => {
                let mut entries = level.names.clone();
                entries.push(Entry {
                    key: key.clone(),
                    key_position: *key_position,
                    value: child,
                });
                Content::Mapping(entries)
            }
        };
        Node::new(level.position, content)
    });
    while let Err(failure) = attempt(&tree) {
        errors.push(failure.explain(&tree));
        if !tree.prune(&failure.path) {
            return Outcome::NothingLeft;
        }
    }
    for (depth, level) in way.iter().enumerate() {
        let child = match (tree.content, &level.link) {
            (Content::Sequence(items), Link::Item) => items.into_iter().next(),
            (Content::Mapping(entries), Link::Key(key, _)) => entries
                .into_iter()
                .find(|entry| entry.key == *key)
                .map(|entry| entry.value),
            _ => None,
        };
        match child {
            Some(child) => tree = child,
            None => return Outcome::LostAt(depth),
        }
    }
    Outcome::Kept(tree)
}
