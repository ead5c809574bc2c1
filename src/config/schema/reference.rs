//! Makes the reference for people from the schema for editors. The types of `raw` are the only
//! source.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::config::schema::roff::{Roff, escaped};

/// Keys that are only described in the example file: one of two alternatives, or not in every
/// binary.
const ALTERNATIVES: [&str; 7] = [
    "tracing",
    "upstreams.affinity.header",
    "routes[].match.path",
    "routes[].match.path_regex",
    "routes[].rewrite",
    "routes[].redirect",
    "routes[].respond",
];

/// The name of the upstream in examples.
const NAME: &str = "chat";

/// Every key in tables, one for each section.
pub fn markdown(schema: &Value) -> String {
    let book = Book { schema };
    let mut out = String::from(
        "# Every key\n\n\
         Made by `make schema` from the types that read the file, as `conf/reference.yaml` is, which has\n\
         the same as one file. What has no default is not there unless the file says so.\n\n\
         A *duration* is `250ms`, `3s`, `50m`, `24h` or a sum (`1m 30s`); a *size* `64KiB` or `10MiB`; `off` and\n\
         `false` mean the same.\n",
    );
    book.section(&mut out, "", schema);
    out
}

/// Every key in one file, with its default or an example.
pub fn yaml(schema: &Value) -> String {
    let book = Book { schema };
    let mut out = String::from(
        "# yaml-language-server: $schema=prusik.schema.json\n\
         # Every key with an example, made by `make schema`. Nobody needs a file like this:\n\
         # conf/prusik.yaml is one to begin with.\n\n",
    );
    book.keys(&mut out, "", "", schema);
    out
}

/// prusik.yaml(5).
pub fn man(schema: &Value) -> String {
    let book = Book { schema };
    let mut out =
        String::from(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH prusik.yaml 5 \"\" \"\" prusik\n");
    let _ = write!(out, "{}", Roff(MAN_BEGINS));
    book.man_section(&mut out, "", schema);
    let _ = write!(out, "{}", Roff(MAN_ENDS));
    out
}

const MAN_BEGINS: &str = "\
# NAME
prusik.yaml - the configuration of prusik
# DESCRIPTION
One file of YAML, in UTF-8. Listeners take connections, routes say which of them goes where, upstreams are
the servers. The first route that matches a request serves it; without one the answer is 404.

Durations are 250ms, 3s, 50m, 24h or a sum (1m 30s); sizes 64KiB or 10MiB; off and false mean the same.
Unknown keys, duplicate names, dangling references and impossible values are errors; prusik check tells
all of them, each with its place and a hint. Keys at the top that begin with x- are yours: a place for
anchors.

A reload takes in everything but listen addresses, proxy_protocol, threads, tunnel, pid_file and hand_over:
those need prusik upgrade.
";

const MAN_ENDS: &str = "\
# FILES
- /etc/prusik/prusik.yaml : read when no file is named
- /etc/prusik/prusik.schema.json : the same as a JSON Schema; editors find it by the first line below
# EXAMPLES
    # yaml-language-server: $schema=/etc/prusik/prusik.schema.json
    admin: { listen: \"unix:/run/prusik/admin.sock\" }
    listeners:
      - listen: 0.0.0.0:8080
    upstreams:
      chat:
        balance: least_sessions
        servers: [10.0.0.11:9080, 10.0.0.12:9080]
        health_check: { type: tcp }
    routes:
      - match: { path_prefix: /chat }
        upstream: chat
        websocket: { idle: 1h }
# SEE ALSO
prusik(1), prusik-check(1), prusik-reload(1)
";

struct Book<'a> {
    schema: &'a Value,
}

impl<'a> Book<'a> {
    /// Follows references and wrappers of one value.
    fn resolve(&self, node: &'a Value) -> &'a Value {
        if let Some(name) = node["$ref"].as_str() {
            return self
                .schema
                .pointer(name.trim_start_matches('#'))
                .map_or(node, |definition| self.resolve(definition));
        }
        match node["anyOf"].as_array().map(Vec::as_slice) {
            Some([only]) => self.resolve(only),
            _ => node,
        }
    }

    fn options(&self, node: &'a Value) -> Vec<&'a Value> {
        let node = self.resolve(node);
        match node["oneOf"].as_array() {
            Some(options) => options.iter().flat_map(|one| self.options(one)).collect(),
            None => vec![node],
        }
    }

    /// The mapping with keys of its own that a value can be, and what follows its path's name.
    fn below(&self, node: &'a Value) -> Option<(&'a Value, &'static str)> {
        self.options(node).into_iter().find_map(|option| {
            if option["properties"].is_object() {
                Some((option, ""))
            } else if option["items"].is_object() {
                self.below(&option["items"]).map(|(below, _)| (below, "[]"))
            } else {
                let (below, _) = self.below(option.get("additionalProperties")?)?;
                Some((below, ".NAME"))
            }
        })
    }

    fn section(&self, out: &mut String, path: &str, node: &'a Value) {
        let keys = properties(node);
        if !path.is_empty() {
            let _ = write!(out, "\n## {path}\n");
            if let Some(text) = node["description"].as_str() {
                let _ = write!(out, "\n{text}\n");
            }
        }
        out.push_str("\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
        for (key, node) in keys {
            let default = match &node["default"] {
                Value::Null if is_required(self.parent(path), key) => "required".to_owned(),
                Value::Null => String::new(),
                value => format!("`{}`", plain(value)),
            };
            let value = match self.below(node) {
                Some((_, suffix)) => {
                    let inner = join(path, key) + suffix;
                    let others = self.words(node);
                    format!("[{inner}](#{}){others}", anchor(&inner))
                }
                None => self.kind(node),
            };
            let _ = writeln!(
                out,
                "| `{key}` | {} | {default} | {} |",
                value.replace('|', "\\|"),
                self.meaning(node).replace('\n', " ").replace('|', "\\|"),
            );
        }
        for (key, node) in keys {
            if let Some((below, suffix)) = self.below(node) {
                self.section(out, &(join(path, key) + suffix), below);
            }
        }
    }

    fn man_section(&self, out: &mut String, path: &str, node: &'a Value) {
        let heading = match path {
            "" => "KEYS AT THE TOP",
            path => path,
        };
        let _ = writeln!(out, ".SH \"{}\"", escaped(heading));
        if let (false, Some(text)) = (path.is_empty(), node["description"].as_str()) {
            let _ = writeln!(out, "{}\n.PP", man_text(text));
        }
        let keys = properties(node);
        for (key, node) in keys {
            let kind = match self.below(node) {
                Some((_, suffix)) => {
                    let others = self.words(node);
                    format!("see {}{suffix}{others}", join(path, key))
                }
                None => self.kind(node),
            };
            let default = match &node["default"] {
                Value::Null if is_required(self.parent(path), key) => ", required".to_owned(),
                Value::Null => String::new(),
                value => format!(", default {}", plain(value)),
            };
            let _ = writeln!(
                out,
                ".TP\n\\fB{}\\fR: {}{}\n{}",
                escaped(key),
                man_text(&kind),
                man_text(&default),
                man_text(&self.meaning(node))
            );
        }
        for (key, node) in keys {
            if let Some((below, suffix)) = self.below(node) {
                self.man_section(out, &(join(path, key) + suffix), below);
            }
        }
    }

    /// The mapping whose keys are at `path`.
    fn parent(&self, path: &str) -> &'a Value {
        path.split('.')
            .filter(|name| !name.is_empty() && *name != "NAME")
            .fold(self.schema, |node, name| {
                let key = name.trim_end_matches("[]");
                self.below(&node["properties"][key])
                    .map_or(node, |(below, _)| below)
            })
    }

    /// What a value may be except a mapping.
    fn words(&self, node: &'a Value) -> String {
        self.options(node)
            .into_iter()
            .filter(|option| self.below(option).is_none())
            .map(|option| format!(" or {}", self.kind(option)))
            .collect()
    }

    fn kind(&self, node: &'a Value) -> String {
        let kinds = self.options(node).into_iter().map(|option| {
            if let Some(name) = option["title"].as_str() {
                return name.to_owned();
            }
            if let Some(word) = option.get("const") {
                // Means the same as `off`.
                return match word {
                    Value::Bool(_) => String::new(),
                    word => format!("`{}`", plain(word)),
                };
            }
            if let Some(values) = option["enum"].as_array() {
                let is_off = values.contains(&Value::from("off"));
                let shown = values.iter().filter(|value| {
                    !is_off || matches!(value, Value::String(_) | Value::Bool(true))
                });
                return list(shown.map(|value| format!("`{}`", plain(value))));
            }
            match option["type"].as_str() {
                Some("array") => format!("list of: {}", self.kind(&option["items"])),
                Some("object") => format!(
                    "mapping of names to: {}",
                    self.kind(&option["additionalProperties"])
                ),
                Some("integer") => match (&option["minimum"], &option["maximum"]) {
                    (Value::Number(least), Value::Number(most)) => {
                        format!("whole number, {least} to {most}")
                    }
                    (Value::Number(least), _) if least.as_u64() > Some(0) => {
                        format!("whole number, at least {least}")
                    }
                    _ => "whole number".to_owned(),
                },
                Some("number") => "number".to_owned(),
                Some("boolean") => "`true` or `false`".to_owned(),
                _ => "text".to_owned(),
            }
        });
        list(kinds.filter(|kind| !kind.is_empty()))
    }

    /// The description, and the meaning of each word.
    fn meaning(&self, node: &'a Value) -> String {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(node["description"].as_str().map(str::to_owned));
        for option in self.options(node) {
            if let (Some(word), Some(text)) =
                (option["const"].as_str(), option["description"].as_str())
            {
                parts.push(format!("`{word}`: {}", text));
            }
        }
        parts.join("\n")
    }

    fn keys(&self, out: &mut String, path: &str, indent: &str, node: &'a Value) {
        for (key, node) in properties(node) {
            let path = join(path, key);
            let mut entry = String::new();
            for line in self.meaning(node).lines() {
                let _ = writeln!(entry, "{indent}# {line}");
            }
            if let Some(default) = node.get("default") {
                let _ = writeln!(entry, "{indent}# Default: {}.", plain(default));
            }
            match (self.below(node), example(node)) {
                (Some((below, suffix)), _) => {
                    let _ = writeln!(entry, "{indent}{key}:");
                    let mut inner = String::new();
                    match suffix {
                        "[]" => {
                            self.keys(
                                &mut inner,
                                &(path.clone() + suffix),
                                &format!("{indent}    "),
                                below,
                            );
                            entry.push_str(&as_item(&inner, indent));
                        }
                        ".NAME" => {
                            let _ = writeln!(entry, "{indent}  {NAME}:");
                            self.keys(&mut inner, &path, &format!("{indent}    "), below);
                            entry.push_str(&inner);
                        }
                        _ => {
                            self.keys(&mut inner, &path, &format!("{indent}  "), below);
                            entry.push_str(&inner);
                        }
                    }
                }
                (None, Some(value)) => {
                    let _ = writeln!(entry, "{indent}{key}: {}", flow(value));
                }
                (None, None) => {
                    let _ = writeln!(entry, "{indent}{key}: {}", self.kind(node));
                }
            }
            if ALTERNATIVES.contains(&path.as_str()) {
                entry = commented(&entry, indent);
            }
            out.push_str(&entry);
            if indent.is_empty() {
                out.push('\n');
            }
        }
    }
}

/// Removes Markdown's backticks, which roff does not know.
fn man_text(text: &str) -> String {
    let lines = text.lines().map(|line| escaped(&line.replace('`', "")));
    lines.collect::<Vec<_>>().join("\n")
}

fn properties(node: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    node["properties"].as_object().unwrap_or(&NONE)
}

fn is_required(section: &Value, key: &str) -> bool {
    section["required"]
        .as_array()
        .is_some_and(|required| required.iter().any(|name| name == key))
}

fn example(node: &Value) -> Option<&Value> {
    let examples = node["examples"].as_array();
    examples
        .and_then(|examples| examples.first())
        .or_else(|| node.get("default"))
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" or ")
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A value on one line of YAML.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::String(text) if is_plain(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Whether YAML reads this text unchanged without quotes, also between brackets.
fn is_plain(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-._/$".contains(c);
    let reads_back = serde_yaml::from_str::<Value>(text).is_ok_and(|read| read == text);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '$')
        && text.chars().all(|c| is_word(c) || c == ':')
        && reads_back
}

/// Turns lines of keys into one item of a list: the dash is put before the first key.
fn as_item(keys: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut is_first = true;
    for line in keys.lines() {
        let rest = &line[indent.len() + 4..];
        if is_first && !rest.starts_with('#') {
            is_first = false;
            let _ = writeln!(out, "{indent}  - {rest}");
        } else {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn commented(entry: &str, indent: &str) -> String {
    let mut out = String::new();
    for line in entry.lines() {
        let rest = line[indent.len()..].trim_start_matches("# ");
        let _ = writeln!(out, "{indent}# {rest}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_what_it_is_and_shows_a_value() {
        fn walk<'a>(book: &Book<'a>, path: &str, section: &'a Value, seen: &mut usize) {
            for (key, node) in properties(section) {
                let path = join(path, key);
                *seen += 1;
                assert!(node["description"].is_string(), "{path} has no meaning");
                match book.below(node) {
                    Some((below, _)) => walk(book, &path, below, seen),
                    None => assert!(example(node).is_some(), "{path} has no example"),
                }
            }
        }
        let schema = crate::config::json_schema();
        let mut seen = 0;
        walk(&Book { schema: &schema }, "", &schema, &mut seen);
        assert!(seen > 60, "only {seen} keys");
    }

    #[test]
    fn alternatives_are_keys_that_there_are() {
        let file = yaml(&crate::config::json_schema());
        for path in ALTERNATIVES {
            let key = path.rsplit('.').next().unwrap_or_default();
            assert!(file.contains(&format!("# {key}:")), "{path}");
        }
    }
}
