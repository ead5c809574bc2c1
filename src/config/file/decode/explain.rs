//! Turns serde's errors into errors that help an operator to correct the file.

use serde_yaml::Value;

use super::elsewhere;
use crate::config::error::{ConfigError, Position, closest};
use crate::config::file::cursor::owner;
use crate::config::file::tree::{Node, Step};

/// Turns a message of serde into one for operators.
pub fn explain(root: &Node, path: &[Step], message: &str) -> ConfigError {
    let (node, entry) = root.find(path);
    if let Some(known) = expected_of(message, "unknown field ") {
        let position = entry.map_or(node.position, |entry| entry.key_position);
        return unknown_key(root, path, position, &known);
    }
    let value = node.to_value();
    if let Some(known) = expected_of(message, "unknown variant ") {
        // `word` reads `false` as the word `off`. No other value that is not text can be a word.
        let word = value.as_str().unwrap_or("false");
        let words = match &known[..] {
            [] => "another word".to_owned(),
            [only] => only.clone(),
            [all @ .., last] => format!("one of {} and {last}", all.join(", ")),
        };
        let error = ConfigError::new(
            node.position,
            format!("{} must be {words}, not \"{word}\"", subject(root, path)),
        );
        let near = closest(word, known.iter().map(String::as_str));
        return error.hint(match (elsewhere::word(word), near) {
            (Some(hint), _) => hint,
            (None, Some(near)) => format!("did you mean \"{near}\"?"),
            (None, None) => "write that word, or leave the key out".to_owned(),
        });
    }
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        return ConfigError::new(node.position, format!("{}: {message}", subject(root, path)));
    };
    let error = ConfigError::new(
        node.position,
        format!(
            "{} must be {}, not {}",
            subject(root, path),
            plain_words(expected),
            shown(&value)
        ),
    );
    let special = remedy(expected, &value, node, entry.map_or("", |entry| &entry.key));
    error.hint(special.unwrap_or_else(|| general_remedy(expected, &value)))
}

/// What can be said of any key.
fn general_remedy(expected: &str, value: &Value) -> String {
    let plain = plain_words(expected);
    let is_number = plain.starts_with("a whole number") || plain == "a number";
    match () {
        () if is_number && value.is_string() => "write digits alone, without quotes and units",
        () if is_number => "write it in digits, such as 10, or leave the key out",
        () if plain.starts_with("a mapping") => {
            "write `key: value` pairs below it: docs/reference.md has the keys"
        }
        () if plain == "text" && value.is_sequence() => "write one of them, without brackets",
        () if plain == "text" => "write one, or leave the key out",
        () if plain.starts_with("a duration longer") => {
            "write one such as 30s, or leave the key out for the default"
        }
        () => "write that, or leave the key out for the default",
    }
    .to_owned()
}

fn unknown_key(root: &Node, path: &[Step], position: Position, known: &[String]) -> ConfigError {
    let Some((Step::Key(key), parent)) = path.split_last() else {
        return ConfigError::new(position, "unknown key");
    };
    let owner = owner(root, parent);
    let error = if owner.is_empty() {
        ConfigError::new(position, format!("unknown key \"{key}\""))
    } else {
        ConfigError::new(position, format!("unknown key \"{key}\" in {owner}"))
    };
    match elsewhere::key(key) {
        // `https` may be a mistyped `http`, but other proxies have a key `https`.
        Some(hint) => error.hint(hint),
        None => error.hint_one_of(key, "known keys", known.iter().map(String::as_str)),
    }
}

/// The names in backticks after `expected`, if the message begins with `what`.
fn expected_of(message: &str, what: &str) -> Option<Vec<String>> {
    let (_, expected) = message.strip_prefix(what)?.rsplit_once(", expected ")?;
    let names = expected.split('`').skip(1).step_by(2);
    Some(names.map(str::to_owned).collect())
}

/// Describes the value at `path`: `"idle" in websocket of route "chat"`.
pub fn subject(root: &Node, path: &[Step]) -> String {
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

/// How many characters of a wrong value are shown.
const SHOWN: usize = 80;

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("\"{}…\"", &text[..end]),
            None => format!("\"{text}\""),
        },
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
        Value::Number(number) if expected.starts_with("a size such") && number.is_u64() => Some(
            format!("write a unit, such as {}", with_unit(number.as_u64()?)),
        ),
        Value::String(text) if expected.starts_with("a size such") => {
            Some(match nginx_size(text) {
                Some(size) => format!("write {size}"),
                None => "the units are B, KiB, MiB and GiB: 512B, 64KiB, 10MiB".to_owned(),
            })
        }
        Value::String(text) if expected.starts_with("a duration such") && lower_duration(text) => {
            Some(format!("write {}", text.to_ascii_lowercase()))
        }
        Value::String(text) if expected.starts_with("true, false") => match text.as_str() {
            "yes" | "on" | "y" | "1" | "True" | "TRUE" => Some("write true".to_owned()),
            "no" | "n" | "0" | "False" | "FALSE" | "Off" => Some("write false".to_owned()),
            _ => None,
        },
        Value::String(text) if expected.starts_with("a mapping") && is_nginx(text) => Some(
            "this is nginx's language: docs/from-nginx.md has its directives and prusik's keys"
                .to_owned(),
        ),
        Value::String(text) if expected.starts_with("a mapping") && glued(text).is_some() => {
            let (key, value) = glued(text)?;
            Some(format!(
                "a blank is missing after the colon: write {key}: {value}"
            ))
        }
        Value::Number(port) if is_text(expected) && key == "listen" => {
            Some(format!("write the address as well, such as 0.0.0.0:{port}"))
        }
        Value::Number(_) | Value::Bool(_) if is_text(expected) => {
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

/// Writes 1048576 as 1MiB.
fn with_unit(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |(_, bits): &(&str, u32)| bytes > 0 && bytes.is_multiple_of(1 << bits);
    match units.into_iter().find(fits) {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

/// Reads nginx's `20m` as 20MiB.
fn nginx_size(text: &str) -> Option<String> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" => return number.parse().ok().map(with_unit),
        "k" | "K" | "Ki" => "KiB",
        "m" | "M" | "Mi" => "MiB",
        "g" | "G" | "Gi" => "GiB",
        _ => return None,
    };
    let number: u64 = number.trim().parse().ok()?;
    Some(format!("{number}{unit}"))
}

fn lower_duration(text: &str) -> bool {
    humantime::parse_duration(&text.to_ascii_lowercase()).is_ok()
}

fn is_text(expected: &str) -> bool {
    matches!(expected, "a string" | "a text, or a list of them")
}

fn is_nginx(text: &str) -> bool {
    text.contains(';') && text.contains('{')
}

/// Splits `listen:80`, which YAML reads as one word.
fn glued(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once(':')?;
    let is_key = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (is_key && !value.is_empty() && !value.starts_with("//")).then_some((key, value))
}

/// Examples of sections, for operators who wrote something else there.
const EXAMPLES: [(&str, &str); 13] = [
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
    (
        "stream",
        "stream: { idle: 1h }; without the key event streams are sessions",
    ),
    ("discover", "discover: { dns: chat.internal:9080 }"),
    ("eject", "eject: { failures: 5, within: 10s, for: 30s }"),
    ("timeouts", "timeouts: { idle: 60s }"),
    (
        "certificates",
        "certificates: [{ cert: chain.pem, key: key.pem }]",
    ),
];
