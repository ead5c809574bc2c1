//! Reads the YAML file into a tree, from the events of `saphyr-parser`, which have positions.
//!
//! [`syntax`] explains what is not valid YAML. This file resolves anchors, aliases and merge keys
//! (`<<`), and finds duplicate keys.

mod syntax;

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::config::error::{ConfigError, Position};
use crate::config::file::tree::{Content, Entry, Node, ScalarForm};
use syntax::position;

/// How many nodes aliases may add to the written ones. Without this limit a few lines could expand
/// to gigabytes.
const ALIASED_NODES_MAX: usize = 100_000;

/// The deepest nesting that is allowed, because the tree is walked recursively. A valid file has at
/// most seven levels.
const DEPTH_MAX: usize = 32;

/// Reads the one document of `text`. If there is no tree, there is at least one error. Even with a
/// tree there may be errors (duplicate keys).
pub fn read(text: &str) -> (Option<Node>, Vec<ConfigError>) {
    if let Some(position) = syntax::brackets(text) {
        return (None, vec![too_deep(position)]);
    }
    let mut reader = Reader::of(text);
    let document = match reader.document() {
        Err(Stop::Syntax(error)) => match syntax::with_spaces_after_colons(text, &error) {
            Some(spaced) => return read_spaced(&spaced),
            None => Err(Stop::Syntax(error)),
        },
        document => document,
    };
    finish(text, document, reader.errors)
}

/// Reads the text with tabs replaced by spaces, which changes no position.
fn read_spaced(text: &str) -> (Option<Node>, Vec<ConfigError>) {
    let mut reader = Reader::of(text);
    let document = reader.document();
    finish(text, document, reader.errors)
}

fn finish(
    text: &str,
    document: Result<Node, Stop>,
    mut errors: Vec<ConfigError>,
) -> (Option<Node>, Vec<ConfigError>) {
    match document {
        Ok(root) => (Some(root), errors),
        Err(stop) => {
            errors.push(match stop {
                Stop::Syntax(error) => syntax::explain(text, &error),
                Stop::Other(error) => error,
            });
            (None, errors)
        }
    }
}

/// Why the rest of a file cannot be read.
enum Stop {
    /// From there on the file is not valid YAML.
    Syntax(ScanError),
    Other(ConfigError),
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Self::Other(error)
    }
}

struct Reader<'input> {
    parser: Parser<'input, saphyr_parser::StrInput<'input>>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    errors: Vec<ConfigError>,
}

impl<'input> Reader<'input> {
    fn of(text: &'input str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            aliased: 0,
            errors: Vec::new(),
        }
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let root = loop {
            match self.next()? {
                (Event::StreamEnd, span) => return Err(empty(position(span.start)).into()),
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (event, span) => break self.node(event, span, 0)?,
            }
        };
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::DocumentStart(_), span) => {
                    let error =
                        ConfigError::new(position(span.start), "a second YAML document begins")
                            .hint(
                                "keep one document in the file: remove the `---` and what follows",
                            );
                    return Err(error.into());
                }
                _ => {}
            }
        }
        match root.is_null() {
            true => Err(empty(root.position).into()),
            false => Ok(root),
        }
    }

    fn next(&mut self) -> Result<(Event<'input>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Stop> {
        let position = position(span.start);
        if depth > DEPTH_MAX {
            return Err(too_deep(position).into());
        }
        let (content, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, position, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let form = scalar_form(style, tag.as_deref(), position)?;
                let text = text.into_owned();
                (Content::Scalar { text, form }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), "seq", position)?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), "map", position)?;
                (self.mapping(depth)?, anchor)
            }
            event => {
                return Err(ConfigError::new(
                    position,
                    format!("not valid YAML: expected a value, got {event:?}"),
                )
                .into());
            }
        };
        let node = Node::new(position, content);
        // Anchors are numbered from 1; 0 means no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, position: Position, depth: usize) -> Result<Node, Stop> {
        let Some(target) = self.anchors.get(&anchor) else {
            let error = ConfigError::new(position, "an alias stands inside of what it refers to");
            return Err(error.hint("move the alias out of it").into());
        };
        let (nodes, levels) = target.measure();
        if depth + levels > DEPTH_MAX {
            return Err(too_deep(position).into());
        }
        self.aliased += nodes;
        if self.aliased > ALIASED_NODES_MAX {
            return Err(ConfigError::new(
                position,
                format!("the aliases expand to more than {ALIASED_NODES_MAX} values"),
            )
            .hint("write out what the inner aliases stand for, or less of it")
            .into());
        }
        Ok(target.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Content, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Content::Sequence(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Content, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut by_key: HashMap<String, Position> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key_position = position(span.start);
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Content::Scalar { text: key, form } = key.content else {
                self.errors
                    .push(ConfigError::new(key_position, "a key must be a word").hint(
                    "a value that begins with { stands in quotes; a template is filled in first",
                ));
                continue;
            };
            if key == "<<" && form == ScalarForm::Plain {
                merged.push(value);
            } else if let Some(first) = by_key.get(&key) {
                self.errors.push(
                    ConfigError::new(key_position, format!("duplicate key \"{key}\""))
                        .hint(format!("first written on line {}", first.line)),
                );
            } else {
                by_key.insert(key.clone(), key_position);
                entries.push(Entry {
                    key,
                    key_position,
                    value,
                });
            }
        }
        for node in merged {
            self.merge(node, &mut entries, &mut by_key);
        }
        Ok(Content::Mapping(entries))
    }

    /// Adds the keys of `node` that the mapping does not have. An earlier merge wins over a later
    /// one.
    fn merge(
        &mut self,
        node: Node,
        entries: &mut Vec<Entry>,
        by_key: &mut HashMap<String, Position>,
    ) {
        match node.content {
            Content::Mapping(from) => {
                for entry in from {
                    if !by_key.contains_key(&entry.key) {
                        by_key.insert(entry.key.clone(), entry.key_position);
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
                ConfigError::new(
                    node.position,
                    "\"<<\" must be a mapping or a list of mappings",
                )
                .hint("name an anchor, such as <<: *defaults"),
            ),
        }
    }
}

fn scalar_form(
    style: ScalarStyle,
    tag: Option<&Tag>,
    position: Position,
) -> Result<ScalarForm, ConfigError> {
    if let Some(tag) = tag.filter(|tag| tag.is_yaml_core_schema()) {
        match tag.suffix.as_ref() {
            "str" => return Ok(ScalarForm::Text),
            "null" | "bool" | "int" | "float" => return Ok(ScalarForm::Plain),
            _ => {}
        }
    }
    refuse_tag(tag, "str", position)?;
    Ok(match style {
        ScalarStyle::Plain => ScalarForm::Plain,
        _ => ScalarForm::Text,
    })
}

/// A tag changes the meaning of a value, so an unknown tag must be refused.
fn refuse_tag(tag: Option<&Tag>, allowed: &str, position: Position) -> Result<(), ConfigError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == allowed) => {
            Err(ConfigError::new(position, format!("unknown tag \"{tag}\"")).hint("remove the tag"))
        }
        _ => Ok(()),
    }
}

fn empty(position: Position) -> ConfigError {
    ConfigError::new(position, "the file is empty")
        .hint("write listeners, upstreams and routes; `prusik schema` describes them")
}

fn too_deep(position: Position) -> ConfigError {
    ConfigError::new(
        position,
        format!("nested more than {DEPTH_MAX} levels deep"),
    )
    .hint("no key of prusik's is that deep: look for a bracket too many")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::tree::Step;
    use serde_yaml::Value;

    fn root(text: &str) -> Node {
        let (root, errors) = read(text);
        assert_eq!(errors, []);
        root.expect("it is valid")
    }

    fn key(key: &str) -> Step {
        Step::Key(key.to_owned())
    }

    #[test]
    fn values_and_keys_know_their_places_in_characters() {
        let root = root("a: 1\nü: { ö: [x, 'y'] }\n");
        let (node, _) = root.find(&[key("ü"), key("ö"), Step::Index(1)]);
        assert_eq!(node.position, Position { line: 2, col: 13 });
        let (_, entry) = root.find(&[key("ü"), key("ö")]);
        let key_position = entry.expect("it is there").key_position;
        assert_eq!(key_position, Position { line: 2, col: 6 });
    }

    #[test]
    fn a_merge_adds_what_is_not_there() {
        let root = root("a: &a { x: 1, y: 1 }\nb: &b { y: 2, z: 2 }\nc: { <<: [*a, *b], x: 3 }");
        let (c, _) = root.find(&[key("c")]);
        let expected: Value = serde_yaml::from_str("{ x: 3, y: 1, z: 2 }").expect("it is valid");
        assert_eq!(c.to_value(), expected);
    }

    #[test]
    fn aliases_that_nest_do_not_exhaust_the_stack() {
        let mut text = "l0: &l0 [x]\n".to_owned();
        for level in 1..200 {
            text += &format!("l{level}: &l{level} [*l{}]\n", level - 1);
        }
        let (root, errors) = read(&text);
        assert!(root.is_none());
        assert!(errors[0].message.starts_with("nested more than"));
    }
}
