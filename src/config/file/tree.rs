//! The YAML file as a tree in which every value and key has its position.
//!
//! [`super::reader`] makes the tree. `serde_yaml`, to which the tree is converted, decides what a
//! plain scalar is: number, boolean or text.

use serde_yaml::Value;

use crate::config::error::Position;

#[derive(Debug, Clone)]
pub struct Node {
    pub position: Position,
    pub content: Content,
    /// Keys that [`Node::prune`] has taken out, or one empty string for each element.
    pruned: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Content {
    Scalar { text: String, form: ScalarForm },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarForm {
    /// The text decides the type: `5` is a number, `false` a boolean, and an empty text is null.
    Plain,
    /// Quoted, a block scalar or tagged `!!str`: always text.
    Text,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_position: Position,
    pub value: Node,
}

/// One step of the path from the root to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl Node {
    pub fn new(position: Position, content: Content) -> Node {
        Node {
            position,
            content,
            pruned: Vec::new(),
        }
    }

    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Scalar { text, form } => scalar_value(text, *form),
            Content::Sequence(items) => Value::Sequence(items.iter().map(Node::to_value).collect()),
            Content::Mapping(entries) => Value::Mapping(
                entries
                    .iter()
                    .map(|entry| (Value::String(entry.key.clone()), entry.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// Whether the value is empty or `null`.
    pub fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar { text, form } => scalar_value(text, *form).is_null(),
            _ => false,
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub fn item(&self, index: usize) -> Option<&Node> {
        match &self.content {
            Content::Sequence(items) => items.get(index),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The node at `path`, and its key if its parent is a mapping. If the path leads out of the
    /// tree, the last node on it.
    pub fn find(&self, path: &[Step]) -> (&Node, Option<&Entry>) {
        let mut found = (self, None);
        for step in path {
            found = match step {
                Step::Key(key) => match found.0.entry(key) {
                    Some(entry) => (&entry.value, Some(entry)),
                    None => break,
                },
                Step::Index(index) => match found.0.item(*index) {
                    Some(item) => (item, None),
                    None => break,
                },
            };
        }
        found
    }

    /// Takes out the key or element at `path`, or the last one on the path that exists. Returns
    /// false if nothing could be taken out.
    pub fn prune(&mut self, path: &[Step]) -> bool {
        let Some((step, rest)) = path.split_first() else {
            return false;
        };
        match (step, &mut self.content) {
            (Step::Key(key), Content::Mapping(entries)) => {
                let Some(at) = entries.iter().position(|entry| entry.key == *key) else {
                    return false;
                };
                if !entries[at].value.prune(rest) {
                    entries.remove(at);
                    self.pruned.push(key.clone());
                }
                true
            }
            (Step::Index(index), Content::Sequence(items)) => {
                if *index >= items.len() {
                    return false;
                }
                if !items[*index].prune(rest) {
                    items.remove(*index);
                    self.pruned.push(String::new());
                }
                true
            }
            _ => false,
        }
    }

    /// Takes out all children that are wrong.
    pub fn take_out(&mut self, is_wrong: impl Fn(&Node) -> bool) {
        let pruned = &mut self.pruned;
        match &mut self.content {
            Content::Scalar { .. } => {}
            Content::Sequence(items) => items.retain(|item| {
                let goes = is_wrong(item);
                if goes {
                    pruned.push(String::new());
                }
                !goes
            }),
            Content::Mapping(entries) => entries.retain(|entry| {
                let goes = is_wrong(&entry.value);
                if goes {
                    pruned.push(entry.key.clone());
                }
                !goes
            }),
        }
    }

    /// Remembers that these children were taken out, like [`Node::prune`].
    pub fn remember_lost(&mut self, keys: Vec<String>) {
        self.pruned.extend(keys);
    }

    /// Whether `key` was taken out of this node.
    pub fn lost(&self, key: &str) -> bool {
        self.pruned.iter().any(|lost| lost == key)
    }

    /// The keys that were taken out of this node.
    pub fn lost_keys(&self) -> impl Iterator<Item = &str> {
        self.pruned.iter().map(String::as_str)
    }

    /// Whether anything was taken out of this node or below it.
    pub fn damaged(&self) -> bool {
        !self.pruned.is_empty() || self.children().any(Node::damaged)
    }

    fn children(&self) -> impl Iterator<Item = &Node> {
        let (items, entries): (&[Node], &[Entry]) = match &self.content {
            Content::Scalar { .. } => (&[], &[]),
            Content::Sequence(items) => (items, &[]),
            Content::Mapping(entries) => (&[], entries),
        };
        items.iter().chain(entries.iter().map(|entry| &entry.value))
    }

    /// The number of nodes, and the number of levels.
    pub fn measure(&self) -> (usize, usize) {
        let (nodes, depth) = self
            .children()
            .map(Node::measure)
            .fold((0, 0), |all, one| (all.0 + one.0, all.1.max(one.1)));
        (nodes + 1, depth + 1)
    }
}

/// `serde_yaml` decides the type, but only for booleans and numbers. Some other texts, such as
/// `---`, would be read as YAML syntax when they stand alone.
fn scalar_value(text: &str, form: ScalarForm) -> Value {
    if form == ScalarForm::Text {
        return Value::String(text.to_owned());
    }
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    // Nearly all scalars are words. A parser call for each would slow large files down.
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.tTfF".contains(c)) {
        return Value::String(text.to_owned());
    }
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::reader::read;

    fn root(text: &str) -> Node {
        let (root, errors) = read(text);
        assert_eq!(errors, []);
        root.expect("it is valid")
    }

    fn key(key: &str) -> Step {
        Step::Key(key.to_owned())
    }

    #[test]
    fn plain_scalars_mean_what_yaml_says_and_quoted_ones_are_text() {
        let root = root("[5, '5', false, \"false\", off, 1.5, ~, ---x, !!str 5, $a, 200-399]");
        let expected: Value =
            serde_yaml::from_str("[5, '5', false, 'false', off, 1.5, ~, '---x', '5', $a, 200-399]")
                .expect("it is valid");
        assert_eq!(root.to_value(), expected);
    }

    #[test]
    fn what_is_pruned_is_gone_and_remembered() {
        let mut root = root("a: { b: [1, 2] }");
        assert!(root.prune(&[key("a"), key("b"), Step::Index(0)]));
        let (b, _) = root.find(&[key("a"), key("b")]);
        assert_eq!(b.item(0).and_then(Node::text), Some("2"));
        assert!(root.damaged());
        assert!(root.prune(&[key("a"), key("b"), key("no list")]));
        let (a, _) = root.find(&[key("a")]);
        assert!(a.entry("b").is_none() && a.lost("b"));
        assert!(!root.prune(&[]));
    }
}
