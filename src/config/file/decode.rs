//! Decodes the tree into the types of the file, and finds every error. Serde stops at the first
//! one, so what is wrong is recorded and taken out of the tree, and the rest is decoded again.
//!
//! [`parts`] makes this fast for large files, [`explain`] words the errors, and [`elsewhere`] knows
//! the words of other proxies.

mod elsewhere;
mod explain;
mod parts;

use crate::config::error::ConfigError;
use crate::config::file::tree::{Content, Node, Step};
use crate::config::schema::raw;
use crate::config::schema::units::Section;
use explain::subject;

/// Top-level keys that begin so belong to the operator, for example to hold anchors.
const OWN_KEYS: &str = "x-";

/// Decodes `root`, and takes out what could not be decoded, so that afterwards the tree and the
/// result agree. `None`: nothing could be decoded.
pub fn decode(root: &mut Node, errors: &mut Vec<ConfigError>) -> Option<raw::File> {
    if let Content::Mapping(entries) = &mut root.content {
        entries.retain(|entry| !entry.key.starts_with(OWN_KEYS));
    }
    let mut decoded = attempt(root);
    if decoded.is_err() {
        parts::take_out_errors(root, errors)?;
        decoded = attempt(root);
    }
    // Each part could be decoded, so the whole file can be. If it cannot, this loop is slow for
    // many errors, but correct.
    let file = loop {
        match decoded {
            Ok(file) => break file,
            Err(failure) => {
                errors.push(failure.explain(root));
                if !root.prune(&failure.path) {
                    return None;
                }
                decoded = attempt(root);
            }
        }
    };
    // A key without a value decodes like a missing key. But whoever writes it expects an effect.
    report_valueless(root, errors);
    take_out_valueless(root);
    Some(file)
}

/// The first value that serde could not decode.
struct Failure {
    path: Vec<Step>,
    message: String,
}

impl Failure {
    fn explain(&self, root: &Node) -> ConfigError {
        explain::explain(root, &self.path, &self.message)
    }
}

fn attempt(root: &Node) -> Result<raw::File, Failure> {
    let decoded: Result<Section<raw::File>, _> = serde_path_to_error::deserialize(root.to_value());
    match decoded {
        Ok(Section(file)) => Ok(file),
        Err(error) => Err(Failure {
            path: steps(error.path()),
            message: error.inner().to_string(),
        }),
    }
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Reports every key and every list entry whose value is null.
fn report_valueless(root: &Node, errors: &mut Vec<ConfigError>) {
    fn walk(root: &Node, node: &Node, path: &mut Vec<Step>, errors: &mut Vec<ConfigError>) {
        let error = |position, path: &[Step]| {
            let message = format!("{} has no value", subject(root, path));
            ConfigError::new(position, message).hint("write one, or leave the key out")
        };
        match &node.content {
            Content::Scalar { .. } => {}
            Content::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    path.push(Step::Index(i));
                    if item.is_null() {
                        errors.push(error(item.position, path));
                    }
                    walk(root, item, path, errors);
                    path.pop();
                }
            }
            Content::Mapping(entries) => {
                for entry in entries {
                    path.push(Step::Key(entry.key.clone()));
                    if entry.value.is_null() {
                        errors.push(error(entry.key_position, path));
                    }
                    walk(root, &entry.value, path, errors);
                    path.pop();
                }
            }
        }
    }
    walk(root, root, &mut Vec::new(), errors);
}

fn take_out_valueless(node: &mut Node) {
    node.take_out(|child| child.is_null());
    match &mut node.content {
        Content::Scalar { .. } => {}
        Content::Sequence(items) => items.iter_mut().for_each(take_out_valueless),
        Content::Mapping(entries) => entries
            .iter_mut()
            .for_each(|entry| take_out_valueless(&mut entry.value)),
    }
}
