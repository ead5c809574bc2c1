//! Writes YAML with comments: as much of it as a file of prusik needs.
//!
//! What fits on a line stands on one, in braces, unless it has comments.

use std::path::PathBuf;

const WIDTH: usize = 96;
const INDENT: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// Quoted where it would be read as something else.
    Text(String),
    /// A number, a duration, a size, `true` or `off`: as it is.
    Plain(String),
    List(List),
    Map(Map),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Map {
    entries: Vec<Entry>,
    /// Comments that stand behind the last entry.
    tail: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    comments: Vec<String>,
    key: String,
    value: Yaml,
    /// Files that the entry needs.
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct List {
    items: Vec<(Vec<String>, Yaml)>,
    tail: Vec<String>,
}

impl Yaml {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn plain(text: impl ToString) -> Self {
        Self::Plain(text.to_string())
    }

    pub fn texts(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut list = List::default();
        for text in texts {
            list.push(Self::text(text));
        }
        Self::List(list)
    }
}

impl From<Map> for Yaml {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl From<List> for Yaml {
    fn from(list: List) -> Self {
        Self::List(list)
    }
}

impl Map {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub fn get(&self, key: &str) -> Option<&Yaml> {
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| entry.key == key);
        entry.map(|entry| &entry.value)
    }

    pub fn comment(&mut self, comment: impl Into<String>) {
        self.tail.push(comment.into());
    }

    /// Comments that were made since the last entry stand above this one.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Yaml>) {
        self.set_with_files(key, value, Vec::new());
    }

    pub fn set_with_files(
        &mut self,
        key: impl Into<String>,
        value: impl Into<Yaml>,
        files: Vec<PathBuf>,
    ) {
        self.entries.push(Entry {
            comments: std::mem::take(&mut self.tail),
            key: key.into(),
            value: value.into(),
            files,
        });
    }

    /// Of an empty map only the comments are kept.
    pub fn set_map(&mut self, key: impl Into<String>, map: Map) {
        match map.is_empty() {
            true => self.tail.extend(map.tail),
            false => self.set(key, map),
        }
    }

    pub fn with(mut self, key: impl Into<String>, value: impl Into<Yaml>) -> Self {
        self.set(key, value);
        self
    }

    /// Appends all of the other.
    pub fn append(&mut self, other: Map) {
        for mut entry in other.entries {
            entry.comments.splice(0..0, std::mem::take(&mut self.tail));
            self.entries.push(entry);
        }
        self.tail.extend(other.tail);
    }

    /// Without the entries that need files.
    pub fn without_files(&self) -> Map {
        let kept = self.entries.iter().filter(|entry| entry.files.is_empty());
        let entries = kept.map(|entry| Entry {
            value: without_files(&entry.value),
            ..entry.clone()
        });
        Map {
            entries: entries.collect(),
            tail: self.tail.clone(),
        }
    }

    pub fn write(&self) -> String {
        let mut out = String::new();
        self.write_block(0, &mut out);
        out
    }

    fn write_block(&self, indent: usize, out: &mut String) {
        let blank = " ".repeat(indent);
        for (number, entry) in self.entries.iter().enumerate() {
            if indent == 0 && number > 0 {
                out.push('\n');
            }
            comments(&entry.comments, indent, out);
            out.push_str(&format!("{blank}{}:", key(&entry.key)));
            entry
                .value
                .write_behind_key(indent, blank.len() + entry.key.len() + 2, out);
        }
        comments(&self.tail, indent, out);
    }

    fn flow(&self) -> Option<String> {
        let has_comments = self.entries.iter().any(|entry| !entry.comments.is_empty());
        if has_comments || !self.tail.is_empty() {
            return None;
        }
        if self.entries.is_empty() {
            return Some("{}".to_owned());
        }
        let entries: Option<Vec<String>> = self
            .entries
            .iter()
            .map(|entry| Some(format!("{}: {}", key(&entry.key), entry.value.flow()?)))
            .collect();
        Some(format!("{{ {} }}", entries?.join(", ")))
    }
}

fn without_files(value: &Yaml) -> Yaml {
    match value {
        Yaml::Map(map) => Yaml::Map(map.without_files()),
        Yaml::List(list) => Yaml::List(List {
            items: list
                .items
                .iter()
                .map(|(comments, item)| (comments.clone(), without_files(item)))
                .collect(),
            tail: list.tail.clone(),
        }),
        Yaml::Text(_) | Yaml::Plain(_) => value.clone(),
    }
}

impl List {
    pub fn comment(&mut self, comment: impl Into<String>) {
        self.tail.push(comment.into());
    }

    pub fn push(&mut self, value: impl Into<Yaml>) {
        self.items
            .push((std::mem::take(&mut self.tail), value.into()));
    }

    fn write_block(&self, indent: usize, out: &mut String) {
        let blank = " ".repeat(indent);
        for (above, item) in &self.items {
            comments(above, indent, out);
            let flow = item.flow().filter(|flow| indent + flow.len() + 2 <= WIDTH);
            match (item, flow) {
                (Yaml::Map(map), flow) if flow.is_none() || indent == INDENT => {
                    let mut map = map.clone();
                    if let Some(first) = map.entries.first_mut() {
                        comments(&std::mem::take(&mut first.comments), indent, out);
                    }
                    let mut block = String::new();
                    map.write_block(indent + INDENT, &mut block);
                    // The first line's indentation is where the dash stands.
                    let first = block.find(|letter| letter != ' ').unwrap_or_default();
                    out.push_str(&format!("{blank}- {}", &block[first..]));
                }
                (_, Some(flow)) => out.push_str(&format!("{blank}- {flow}\n")),
                (item, None) => {
                    out.push_str(&format!("{blank}-"));
                    item.write_behind_key(indent, WIDTH, out);
                }
            }
        }
        comments(&self.tail, indent, out);
    }

    fn flow(&self) -> Option<String> {
        let has_comments = self.items.iter().any(|(comments, _)| !comments.is_empty());
        if has_comments || !self.tail.is_empty() {
            return None;
        }
        let items: Option<Vec<String>> = self.items.iter().map(|(_, item)| item.flow()).collect();
        Some(format!("[{}]", items?.join(", ")))
    }

    fn has_maps(&self) -> bool {
        self.items
            .iter()
            .any(|(_, item)| matches!(item, Yaml::Map(_)))
    }
}

impl Yaml {
    /// `column`: where the value would begin on the key's line.
    fn write_behind_key(&self, indent: usize, column: usize, out: &mut String) {
        let flow = self.flow().filter(|flow| column + flow.len() <= WIDTH);
        match (self, flow) {
            // The large sections stand open.
            (Self::List(list), _) if indent == 0 && list.has_maps() => {
                out.push('\n');
                list.write_block(indent + INDENT, out);
            }
            (Self::Map(map), _) if indent == 0 && !map.is_empty() => {
                out.push('\n');
                map.write_block(indent + INDENT, out);
            }
            (_, Some(flow)) => out.push_str(&format!(" {flow}\n")),
            (Self::List(list), None) => {
                out.push('\n');
                list.write_block(indent + INDENT, out);
            }
            (Self::Map(map), None) => {
                out.push('\n');
                map.write_block(indent + INDENT, out);
            }
            (Self::Text(text) | Self::Plain(text), None) => {
                let shown = match self {
                    Self::Text(_) => scalar(text),
                    _ => text.clone(),
                };
                out.push_str(&format!(" {shown}\n"));
            }
        }
    }

    fn flow(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(scalar(text)),
            Self::Plain(text) => Some(text.clone()),
            Self::List(list) => list.flow(),
            Self::Map(map) => map.flow(),
        }
    }
}

/// Whether YAML takes the character, and not for the end of the line (YAML 1.1 sections 4.1, 4.2).
fn is_printable(letter: char) -> bool {
    let others = ['\u{2028}', '\u{2029}', '\u{feff}', '\u{fffe}', '\u{ffff}'];
    !letter.is_control() && !others.contains(&letter)
}

fn comments(comments: &[String], indent: usize, out: &mut String) {
    for line in comments.iter().flat_map(|comment| comment.split('\n')) {
        let line: String = line
            .chars()
            .filter(|letter| is_printable(*letter))
            .collect();
        out.push_str(&format!("{:indent$}# {line}\n", ""));
    }
}

/// A status stands as a number.
fn key(text: &str) -> String {
    match text.parse::<u16>() {
        Ok(number) if number.to_string() == text => text.to_owned(),
        _ => scalar(text),
    }
}

/// The text as a scalar that is read as the same text, in a block and in braces.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    if text.chars().all(is_printable) && text.contains(['\\', '"']) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            letter if !is_printable(letter) => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let begins = |letter: char| letter.is_ascii_alphanumeric() || "/$._".contains(letter);
    let goes_on = |letter: char| letter.is_ascii_alphanumeric() || "/$._-:=@+~".contains(letter);
    text.starts_with(begins)
        && text.chars().all(goes_on)
        && !text.ends_with(':')
        && text.parse::<f64>().is_err()
        && !text.starts_with("0x")
        && !text.starts_with("0o")
        && !text.starts_with("<<")
        && !text.starts_with("...")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests;
