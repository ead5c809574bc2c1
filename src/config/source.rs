//! The YAML file as a tree in which every value and key knows its place.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved here; duplicate keys are found here. What a
//! plain scalar means (number, boolean, text) is left to `serde_yaml`, to which the tree converts.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde_yaml::Value;

use super::error::{ConfigError, Place};

/// Nodes that aliases may add to what the file spells out, against a few lines that expand to
/// gigabytes.
const ALIASED_NODES_MAX: usize = 100_000;

/// Levels of nesting; the deepest value of a valid file is at seven. The tree is walked recursively.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub content: Content,
    /// Keys, or one empty string for each element, that [`Node::prune`] took out of here.
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
    /// Means what its text says: `5` is a number, `false` a boolean, nothing at all is null.
    Plain,
    /// Quoted, a block scalar or tagged `!!str`: text, whatever it says.
    Text,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

/// One step of the way from the root to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Reads the one document of `text`. Without a tree there is at least one error; with one there
/// may be (duplicate keys).
pub fn read(text: &str) -> (Option<Node>, Vec<ConfigError>) {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        aliased: 0,
        errors: Vec::new(),
    };
    match reader.document() {
        Ok(root) => (Some(root), reader.errors),
        Err(error) => {
            reader.errors.push(error);
            (None, reader.errors)
        }
    }
}

impl Node {
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

    /// The node at `path`, and the key that leads to it where its parent is a mapping. Where the
    /// path leaves the tree, the last node on it.
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

    /// Takes the key or element at `path` out of the tree, or the last one on the way that exists.
    /// False: nothing could be taken out.
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

    /// Whether `key` was taken out of here.
    pub fn lost(&self, key: &str) -> bool {
        self.pruned.iter().any(|lost| lost == key)
    }

    /// The keys that were taken out of here.
    pub fn lost_keys(&self) -> impl Iterator<Item = &str> {
        self.pruned.iter().map(String::as_str)
    }

    /// Whether anything was taken out of here or from below.
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

    /// How many nodes there are, and how many levels.
    fn measure(&self) -> (usize, usize) {
        let (nodes, depth) = self
            .children()
            .map(Node::measure)
            .fold((0, 0), |all, one| (all.0 + one.0, all.1.max(one.1)));
        (nodes + 1, depth + 1)
    }
}

/// `serde_yaml` decides what a plain scalar is, but only among booleans and numbers: of the rest,
/// some (`---`) would read as YAML syntax once they stand alone.
fn scalar_value(text: &str, form: ScalarForm) -> Value {
    if form == ScalarForm::Text {
        return Value::String(text.to_owned());
    }
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

struct Reader<'input> {
    parser: Parser<'input, saphyr_parser::StrInput<'input>>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    errors: Vec<ConfigError>,
}

impl<'input> Reader<'input> {
    fn document(&mut self) -> Result<Node, ConfigError> {
        let root = loop {
            match self.next()? {
                (Event::StreamEnd, span) => return Err(empty(place(span.start))),
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (event, span) => break self.node(event, span, 0)?,
            }
        };
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(_), span) => {
                    let error =
                        ConfigError::new(place(span.start), "a second YAML document begins").hint(
                            "keep one document in the file: remove the `---` and what follows",
                        );
                    return Err(error);
                }
                _ => {}
            }
        }
        match &root.content {
            Content::Scalar { text, form } if scalar_value(text, *form).is_null() => {
                Err(empty(root.place))
            }
            _ => Ok(root),
        }
    }

    fn next(&mut self) -> Result<(Event<'input>, Span), ConfigError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(ConfigError::new(
                place(*error.marker()),
                format!("not valid YAML: {}", error.info()),
            )),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(
        &mut self,
        event: Event<'input>,
        span: Span,
        depth: usize,
    ) -> Result<Node, ConfigError> {
        let place = place(span.start);
        if depth > DEPTH_MAX {
            return Err(too_deep(place));
        }
        let (content, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, place, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let form = scalar_form(style, tag.as_deref(), place)?;
                let text = text.into_owned();
                (Content::Scalar { text, form }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), "seq", place)?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), "map", place)?;
                (self.mapping(depth)?, anchor)
            }
            event => {
                return Err(ConfigError::new(
                    place,
                    format!("not valid YAML: expected a value, got {event:?}"),
                ));
            }
        };
        let node = Node {
            place,
            content,
            pruned: Vec::new(),
        };
        // Ids count from 1; 0 says that there is no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, place: Place, depth: usize) -> Result<Node, ConfigError> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(ConfigError::new(
                place,
                "an alias stands inside of what it refers to",
            ));
        };
        let (nodes, levels) = target.measure();
        if depth + levels > DEPTH_MAX {
            return Err(too_deep(place));
        }
        self.aliased += nodes;
        if self.aliased > ALIASED_NODES_MAX {
            return Err(ConfigError::new(
                place,
                format!("the aliases expand to more than {ALIASED_NODES_MAX} values"),
            ));
        }
        Ok(target.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Content, ConfigError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::Sequence(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, ConfigError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut by_key: HashMap<String, Place> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key_place = place(span.start);
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Content::Scalar { text: key, form } = key.content else {
                self.errors
                    .push(ConfigError::new(key_place, "a key must be a word"));
                continue;
            };
            if key == "<<" && form == ScalarForm::Plain {
                merged.push(value);
            } else if let Some(first) = by_key.get(&key) {
                self.errors.push(
                    ConfigError::new(key_place, format!("duplicate key \"{key}\""))
                        .hint(format!("first written on line {}", first.line)),
                );
            } else {
                by_key.insert(key.clone(), key_place);
                entries.push(Entry {
                    key,
                    key_place,
                    value,
                });
            }
        }
        for node in merged {
            self.merge(node, &mut entries, &mut by_key);
        }
        Ok(Content::Mapping(entries))
    }

    /// Adds what `node` has and the mapping itself has not; of several the earlier wins.
    fn merge(&mut self, node: Node, entries: &mut Vec<Entry>, by_key: &mut HashMap<String, Place>) {
        match node.content {
            Content::Mapping(from) => {
                for entry in from {
                    if !by_key.contains_key(&entry.key) {
                        by_key.insert(entry.key.clone(), entry.key_place);
                        entries.push(entry);
                    }
                }
            }
            Content::Sequence(items) => {
                for item in items {
                    self.merge(item, entries, by_key);
                }
            }
            Content::Scalar { .. } => self.errors.push(
                ConfigError::new(node.place, "\"<<\" must be a mapping or a list of mappings")
                    .hint("name an anchor, such as <<: *defaults"),
            ),
        }
    }
}

fn scalar_form(
    style: ScalarStyle,
    tag: Option<&Tag>,
    place: Place,
) -> Result<ScalarForm, ConfigError> {
    if let Some(tag) = tag.filter(|tag| tag.is_yaml_core_schema()) {
        match tag.suffix.as_ref() {
            "str" => return Ok(ScalarForm::Text),
            "null" | "bool" | "int" | "float" => return Ok(ScalarForm::Plain),
            _ => {}
        }
    }
    refuse_tag(tag, "str", place)?;
    Ok(match style {
        ScalarStyle::Plain => ScalarForm::Plain,
        _ => ScalarForm::Text,
    })
}

/// A tag changes what a value is; one that is not known cannot be honoured.
fn refuse_tag(tag: Option<&Tag>, allowed: &str, place: Place) -> Result<(), ConfigError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == allowed) => {
            Err(ConfigError::new(place, format!("unknown tag \"{tag}\"")).hint("remove the tag"))
        }
        _ => Ok(()),
    }
}

fn place(marker: Marker) -> Place {
    Place {
        line: marker.line(),
        col: marker.col() + 1,
    }
}

fn empty(place: Place) -> ConfigError {
    ConfigError::new(place, "the file is empty")
        .hint("a configuration has at least `listeners` and `routes`")
}

fn too_deep(place: Place) -> ConfigError {
    ConfigError::new(place, format!("nested more than {DEPTH_MAX} levels deep"))
}
