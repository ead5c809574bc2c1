//! From the tree to the file's shape, with every error: serde stops at the first, so what is wrong
//! is recorded, taken out of the tree, and the rest decoded again.

use serde_yaml::Value;

use super::at::owner;
use super::error::{ConfigError, Place};
use super::raw;
use super::source::{Content, Node, Step};
use super::units::Section;

/// Decodes `root` and takes everything out of it that could not be, so that afterwards the tree
/// and the result agree. `None`: nothing could be decoded.
pub fn decode(root: &mut Node, errors: &mut Vec<ConfigError>) -> Option<raw::File> {
    let file = loop {
        let decoded: Result<Section<raw::File>, _> =
            serde_path_to_error::deserialize(root.to_value());
        match decoded {
            Ok(Section(file)) => break file,
            Err(error) => {
                let path = steps(error.path());
                errors.push(explain(root, &path, &error.inner().to_string()));
                if !root.prune(&path) {
                    return None;
                }
            }
        }
    };
    // A key without a value decodes like no key at all. Whoever writes one expects it to count.
    for path in valueless(root) {
        let (node, entry) = root.find(&path);
        let message = format!("{} has no value", subject(root, &path));
        let place = entry.map_or(node.place, |entry| entry.key_place);
        errors.push(ConfigError::new(place, message).hint("write one, or leave the key out"));
        root.prune(&path);
    }
    Some(file)
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

/// Serde's wording made into one for operators.
fn explain(root: &Node, path: &[Step], message: &str) -> ConfigError {
    let (node, entry) = root.find(path);
    if let Some(known) = expected_of(message, "unknown field ") {
        let place = entry.map_or(node.place, |entry| entry.key_place);
        return unknown_key(root, path, place, &known);
    }
    let value = node.to_value();
    if let Some(known) = expected_of(message, "unknown variant ") {
        // `word` takes `false` for the word `off`: it is the only value that is no text.
        let word = value.as_str().unwrap_or("false");
        let error = ConfigError::new(
            node.place,
            format!("{} cannot be \"{word}\"", subject(root, path)),
        );
        if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == word) {
            return error.hint(format!("write {ours}"));
        }
        return error.hint_one_of(word, "it is one of", known.iter().map(String::as_str));
    }
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        return ConfigError::new(node.place, format!("{}: {message}", subject(root, path)));
    };
    let error = ConfigError::new(
        node.place,
        format!(
            "{} must be {}, not {}",
            subject(root, path),
            plain_words(expected),
            shown(&value)
        ),
    );
    match remedy(expected, &value, node, entry.map_or("", |entry| &entry.key)) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn unknown_key(root: &Node, path: &[Step], place: Place, known: &[String]) -> ConfigError {
    let Some((Step::Key(key), parent)) = path.split_last() else {
        return ConfigError::new(place, "unknown key");
    };
    let owner = owner(root, parent);
    let error = if owner.is_empty() {
        ConfigError::new(place, format!("unknown key \"{key}\""))
    } else {
        ConfigError::new(place, format!("unknown key \"{key}\" in {owner}"))
    };
    error.hint_one_of(key, "known keys", known.iter().map(String::as_str))
}

/// The names in backticks after `expected` in a message that begins with `what`.
fn expected_of(message: &str, what: &str) -> Option<Vec<String>> {
    let (_, expected) = message.strip_prefix(what)?.rsplit_once(", expected ")?;
    let names = expected.split('`').skip(1).step_by(2);
    Some(names.map(str::to_owned).collect())
}

/// The value at `path` in words: `"idle" in websocket of route "chat"`.
fn subject(root: &Node, path: &[Step]) -> String {
    let Some(last) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else {
        return "the file".to_owned();
    };
    let Step::Key(key) = &path[last] else {
        return "the file".to_owned();
    };
    let named = match &path[..last] {
        [Step::Key(section)] if section == "upstreams" => return format!("upstream \"{key}\""),
        parent => match owner(root, parent) {
            owner if owner.is_empty() => format!("\"{key}\""),
            owner => format!("\"{key}\" in {owner}"),
        },
    };
    match path.len() - last {
        1 => named,
        _ => format!("an entry of {named}"),
    }
}

fn plain_words(expected: &str) -> &str {
    match expected {
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a boolean" => "true or false",
        "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a nonzero u32" | "a nonzero usize" => "a whole number, 1 or more",
        "f64" => "a number",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("\"{text}\""),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) | Value::Tagged(_) => "a mapping".to_owned(),
    }
}

fn remedy(expected: &str, value: &Value, node: &Node, key: &str) -> Option<String> {
    let text = node.text().filter(|text| !text.is_empty());
    match value {
        Value::Number(number) if expected.starts_with("a duration such") && number.is_u64() => {
            Some(format!("write a unit, such as {number}s"))
        }
        Value::Number(number) if expected.starts_with("a size such") && number.is_u64() => {
            Some(format!("write a unit, such as {number}B"))
        }
        Value::String(_) if expected.starts_with("a size such") => {
            Some("the units are B, KiB, MiB and GiB: 512B, 64KiB, 10MiB".to_owned())
        }
        Value::Number(port) if expected == "a string" && key == "listen" => {
            Some(format!("write the address as well, such as 0.0.0.0:{port}"))
        }
        Value::Number(_) | Value::Bool(_) if expected == "a string" => {
            Some(format!("put it in quotes: \"{}\"", text?))
        }
        _ if EXAMPLES.iter().any(|(section, _)| *section == key) => EXAMPLES
            .iter()
            .find(|(section, _)| *section == key)
            .map(|(_, example)| format!("write {example}")),
        Value::String(_) if expected.starts_with("a duration such") => {
            Some("the units are ms, s, m, h and d: 250ms, 90s, 1h 30m".to_owned())
        }
        Value::Number(_) | Value::String(_) if expected == "a sequence" => {
            Some(format!("write it as a list: [{}]", text?))
        }
        Value::Sequence(_) if expected == "a mapping" => {
            Some("write `key: value` pairs without dashes".to_owned())
        }
        _ => None,
    }
}

/// What other proxies call it.
const ELSEWHERE: [(&str, &str); 7] = [
    ("least_conn", "least_sessions"),
    ("leastconn", "least_sessions"),
    ("ip_hash", "consistent_hash, and hash_key: $remote_addr"),
    (
        "hash",
        "consistent_hash, and a hash_key such as $arg_userId",
    ),
    ("random", "two_choices"),
    ("roundrobin", "round_robin"),
    ("rr", "round_robin"),
];

/// What a section looks like, for those who wrote something else in its place.
const EXAMPLES: [(&str, &str); 12] = [
    ("limits", "limits: { connections_per_client: 1000 }"),
    ("listeners", "listeners: [{ listen: 127.0.0.1:9090 }]"),
    (
        "routes",
        "routes: [{ match: { path_prefix: / }, upstream: NAME }]",
    ),
    ("match", "match: { path_prefix: /chat }"),
    ("redirect", "redirect: { to: /new }"),
    ("respond", "respond: { status: 410, body: gone }"),
    ("health_check", "health_check: { type: tcp }"),
    (
        "websocket",
        "websocket: { idle: 1h }; without the key sessions are allowed",
    ),
    ("discover", "discover: { dns: chat.internal:9080 }"),
    ("eject", "eject: { failures: 5, within: 10s, for: 30s }"),
    ("timeouts", "timeouts: { idle: 60s }"),
    (
        "certificates",
        "certificates: [{ cert: chain.pem, key: key.pem }]",
    ),
];

/// The paths of all keys whose value is null.
fn valueless(root: &Node) -> Vec<Vec<Step>> {
    fn walk(node: &Node, path: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
        match &node.content {
            Content::Scalar { .. } => {
                if node.to_value().is_null() {
                    found.push(path.clone());
                }
            }
            Content::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    path.push(Step::Index(i));
                    walk(item, path, found);
                    path.pop();
                }
            }
            Content::Mapping(entries) => {
                for entry in entries {
                    path.push(Step::Key(entry.key.clone()));
                    walk(&entry.value, path, found);
                    path.pop();
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &mut Vec::new(), &mut found);
    found
}
