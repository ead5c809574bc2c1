//! The rules. Each returns what breaks it, with a key by which it can be excepted.

use std::collections::BTreeMap;

use super::source::{Source, end_of_item};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const COMMENT_COLUMNS: usize = 100;

pub struct Violation {
    pub key: String,
    pub text: String,
}

fn violation(key: String, place: String, text: &str) -> Violation {
    Violation {
        key,
        text: format!("{place}: {text}"),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

fn name_at(code: &str, at: usize) -> &str {
    let rest = &code[at..];
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    &rest[..rest.find(|letter| !is_name(letter)).unwrap_or(rest.len())]
}

/// Files, functions and comments that are too long to be read at once.
pub fn lengths(sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for Source {
        path,
        text,
        comments,
        ..
    } in sources
    {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            let what = format!("{lines} lines, at most {FILE_LINES}: split it by what it is about");
            found.push(violation(
                format!("file {path}"),
                format!("{path}:{lines}"),
                &what,
            ));
        }
        let wide = text.lines().enumerate().find(|(index, line)| {
            comments.contains(&(index + 1)) && line.chars().count() > COMMENT_COLUMNS
        });
        if let Some((index, _)) = wide {
            let what = format!("a comment beyond column {COMMENT_COLUMNS}: break the line");
            found.push(violation(
                format!("comment {path}"),
                format!("{path}:{}", index + 1),
                &what,
            ));
        }
    }
    found.extend(sources.iter().flat_map(functions));
    found.sort_by(|a, b| a.text.cmp(&b.text));
    found
}

fn functions(source: &Source) -> Vec<Violation> {
    let Source { path, code, .. } = source;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name = name_at(code, at + "fn ".len());
        let begins_a_word = at == 0 || !code.as_bytes()[at - 1].is_ascii_alphanumeric();
        if name.is_empty() || !begins_a_word {
            continue;
        }
        let end = end_of_item(code.as_bytes(), at).unwrap_or(code.len());
        let lines = code[at..end].lines().count();
        if lines > FUNCTION_LINES {
            let place = format!("{path}:{}", line_of(code, at));
            let what = format!(
                "`{name}` has {lines} lines, at most {FUNCTION_LINES}: give its steps names"
            );
            found.push(violation(format!("function {path} {name}"), place, &what));
        }
    }
    found
}

/// Where these files and folders name Pingora or the sockets of tokio.
pub fn pure(sources: &[Source], pure: &[&str]) -> Vec<Violation> {
    let mut found = Vec::new();
    for folder in pure {
        let inside = format!("{folder}/");
        let mut files = sources
            .iter()
            .filter(|source| source.path == *folder || source.path.starts_with(&inside))
            .peekable();
        if files.peek().is_none() {
            let text = "nothing is there: change the list PURE as the tree moved";
            found.push(violation(
                format!("pure {folder} is not there"),
                (*folder).into(),
                text,
            ));
        }
        for source in files {
            let pingora = source.shipped.find("pingora");
            let sockets = heads(&source.shipped, "tokio::")
                .into_iter()
                .find_map(|(at, name)| (name == "net").then_some(at));
            if let Some(at) = pingora.or(sockets) {
                let path = &source.path;
                let place = format!("{path}:{}", line_of(&source.shipped, at));
                let text = format!(
                    "{folder} is pure and names pingora or tokio::net: hand it values, and leave \
                     the socket to its caller"
                );
                found.push(violation(format!("pure {path}"), place, &text));
            }
        }
    }
    found
}

/// Pairs of top-level folders of `src` of which each imports the other.
pub fn imports(sources: &[Source]) -> Vec<Violation> {
    let mut first: BTreeMap<(String, String), String> = BTreeMap::new();
    let folders: Vec<&str> = sources.iter().filter_map(folder).collect();
    for source in sources {
        let Some(from) = folder(source) else { continue };
        let up = "super::".repeat(source.module().len());
        let mut named = heads(&source.shipped, "crate::");
        named.extend(heads(&source.shipped, &up));
        for (at, to) in named {
            if to != from && folders.contains(&to) {
                let place = format!("{}:{}", source.path, line_of(&source.shipped, at));
                first
                    .entry((from.to_owned(), to.to_owned()))
                    .or_insert(place);
            }
        }
    }
    let mut found = Vec::new();
    for ((from, to), place) in &first {
        let Some(back) = first.get(&(to.clone(), from.clone())).filter(|_| from < to) else {
            continue;
        };
        let text = format!(
            "{from} imports {to}, and {to} imports {from} at {back}: move what both need below \
             them, or hand it in"
        );
        found.push(violation(
            format!("imports {from} {to}"),
            place.clone(),
            &text,
        ));
    }
    found
}

/// What imports something that does not stand below it.
pub fn layers(sources: &[Source], layers: &[&[&str]]) -> Vec<Violation> {
    let layer_of = |name: &str| layers.iter().position(|layer| layer.contains(&name));
    let mut found = Vec::new();
    for source in sources {
        let Some(from) = part(source).filter(|from| *from != "lib") else {
            continue;
        };
        let Some(from_layer) = layer_of(from) else {
            let text = "it has no layer: name it in LAYERS, above all that it imports";
            found.push(violation(
                format!("layer {from}"),
                source.path.clone(),
                text,
            ));
            continue;
        };
        let up = "super::".repeat(source.module().len());
        let mut named = heads(&source.shipped, "crate::");
        named.extend(heads(&source.shipped, &up));
        for (at, to) in named {
            let is_below = layer_of(to).is_none_or(|to_layer| to_layer > from_layer);
            if to != from && !is_below {
                let place = format!("{}:{}", source.path, line_of(&source.shipped, at));
                let text = format!(
                    "{from} imports {to}, which does not stand below it: move what both need below \
                     them, or hand it in"
                );
                found.push(violation(format!("layer {from} {to}"), place, &text));
            }
        }
    }
    found.dedup_by(|a, b| a.key == b.key);
    found
}

/// The folder of `src` that a file is in, or its name where it stands in `src` itself.
fn part(source: &Source) -> Option<&str> {
    let path = source.path.strip_prefix("src/")?;
    let part = path.split('/').next()?;
    Some(part.strip_suffix(".rs").unwrap_or(part))
}

/// The folder of `src` that a file is in; `None`: it stands in `src` itself, or elsewhere.
fn folder(source: &Source) -> Option<&str> {
    source
        .path
        .strip_prefix("src/")?
        .split_once('/')
        .map(|(folder, _)| folder)
}

/// The names that follow this beginning of a path, also those in braces behind it.
fn heads<'a>(code: &'a str, beginning: &str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices(beginning) {
        let before = code[..start].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || ":_".contains(letter)) {
            continue;
        }
        let at = start + beginning.len();
        if !code[at..].starts_with('{') {
            found.push((at, name_at(code, at)));
            continue;
        }
        let mut depth = 0_usize;
        let mut begins = false;
        for (index, letter) in code[at..].char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if begins && depth == 1 && (letter.is_alphabetic() || letter == '_') {
                found.push((at + index, name_at(code, at + index)));
                begins = false;
            }
            if depth == 1 && (letter == ',' || index == 0) {
                begins = true;
            }
        }
    }
    found
}
