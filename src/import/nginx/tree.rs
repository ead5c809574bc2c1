//! What a file of nginx says: directives, each with its words, its block and its place.

use std::fmt;
use std::sync::Arc;

/// Columns count characters, as editors do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
    pub col: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.col)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    /// Without their quotes and escapes.
    pub args: Vec<String>,
    pub block: Option<Vec<Directive>>,
    pub place: Place,
}

/// A directive in a comment is no longer than this.
const SHOWN: usize = 120;

impl Directive {
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Empty if there is no block.
    pub fn inner(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The directives of this name in the block.
    pub fn each<'t>(&'t self, name: &'t str) -> impl Iterator<Item = &'t Directive> {
        self.inner().iter().filter(move |inner| inner.name == name)
    }

    /// One line that reads as the directive in the file, for comments and messages.
    pub fn text(&self) -> String {
        let mut text = self.name.clone();
        for arg in &self.args {
            text.push(' ');
            text.push_str(&quoted(arg));
        }
        if text.chars().count() > SHOWN {
            text = text.chars().take(SHOWN).chain(['…']).collect();
        }
        text.push_str(match self.block {
            Some(_) => " { … }",
            None => ";",
        });
        text
    }
}

/// The word as it can stand in a file, on one line.
pub fn quoted(word: &str) -> String {
    let is_special = |letter: char| letter.is_whitespace() || ";{\"'\\".contains(letter);
    let is_plain = !word.is_empty()
        && !word.starts_with(['#', '}'])
        && !word.replace("${", "$").contains(is_special);
    if is_plain {
        return word.to_owned();
    }
    let mut text = String::from('"');
    for letter in word.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            letter => text.push(letter),
        }
    }
    text.push('"');
    text
}
