//! A file of the tree, with its comments and strings told apart from its code.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

pub struct Source {
    /// From the root of the repository.
    pub path: String,
    pub text: String,
    /// As long as the text, line by line, with blanks for what is a comment, a string or a
    /// character.
    pub code: String,
    /// The code without what is compiled for unit tests alone.
    pub shipped: String,
    /// Numbers from 1 of the lines in which a comment stands.
    pub comments: HashSet<usize>,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let (code, comments) = code_of(&text);
        let shipped = without_tests(&code);
        Self {
            path,
            text,
            code,
            shipped,
            comments,
        }
    }

    /// The names from the crate's root to this file's module.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut names: Vec<&str> = path.split('/').collect();
        if matches!(names.last(), Some(&("mod" | "lib" | "main"))) {
            names.pop();
        }
        names
    }

    /// Where the files of its child modules are.
    fn children(&self) -> String {
        format!("src/{}", self.module().join("/"))
    }
}

/// All Rust files in these folders.
pub fn read(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in folders {
        read_folder(root, &root.join(folder), &mut sources);
    }
    leave_out_test_files(sources)
}

fn read_folder(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                read_folder(root, &path, sources);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("it is below the root");
            let text = fs::read_to_string(&path).expect("it is text");
            sources.push(Source::new(name.display().to_string(), text));
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
}

pub fn of_texts(files: &[(&str, &str)]) -> Vec<Source> {
    let new = |(path, text): &(&str, &str)| Source::new((*path).to_owned(), (*text).to_owned());
    leave_out_test_files(files.iter().map(new).collect())
}

/// Nothing of a file is shipped that is declared by `#[cfg(test)] mod name;`.
fn leave_out_test_files(mut sources: Vec<Source>) -> Vec<Source> {
    let mut test_modules = Vec::new();
    for source in &sources {
        for after in source.code.split("#[cfg(test)]").skip(1) {
            let words: Vec<&str> = after.split_whitespace().take(3).collect();
            let name = words.iter().skip_while(|word| **word != "mod").nth(1);
            if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
                test_modules.push(format!("{}/{name}", source.children()));
            }
        }
    }
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs");
        let of_tests = stem.ends_with("/tests")
            || test_modules
                .iter()
                .any(|module| stem == module || stem.starts_with(&format!("{module}/")));
        if of_tests {
            source.shipped.clear();
        }
    }
    sources
}

/// The index behind the brace that closes the first one that opens at or after `from`, and whether
/// a semicolon ends the item before any brace does.
pub fn end_of_item(code: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (index, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            b';' if depth == 0 && brackets == 0 => return Some(index + 1),
            _ => {}
        }
    }
    None
}

fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let starts: Vec<usize> = code
        .match_indices("#[cfg(test)]")
        .map(|(at, _)| at)
        .collect();
    for start in starts {
        let end = end_of_item(&bytes, start + "#[cfg(test)]".len()).unwrap_or(bytes.len());
        for byte in &mut bytes[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How long the comment, string or character is that begins at `at`, if one does.
fn literal(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(
            rest.iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len()),
        ),
        [b'/', b'*', ..] => Some(block_comment(rest)),
        [b'"', ..] => Some(quoted(rest, b'"')),
        [b'r', b'"' | b'#', ..] if !after_name => raw_string(rest, 1),
        [b'b', b'r', ..] if !after_name => raw_string(rest, 2),
        // A lifetime has no quote behind its first letter.
        [b'\'', b'\\', ..] => Some(quoted(rest, b'\'')),
        [b'\'', first, ..] if *first >= 0x80 => Some(quoted(rest, b'\'')),
        [b'\'', _, b'\'', ..] => Some(3),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let opening = prefix + hashes + 1;
    if rest.get(opening - 1) != Some(&b'"') {
        return None;
    }
    let mut closing = vec![b'"'];
    closing.extend(std::iter::repeat_n(b'#', hashes));
    let body = &rest[opening..];
    let end = body
        .windows(closing.len())
        .position(|window| window == closing);
    Some(end.map_or(rest.len(), |end| opening + end + closing.len()))
}

fn code_of(text: &str) -> (String, HashSet<usize>) {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut comments = HashSet::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let Some(length) = literal(bytes, at) else {
            line += usize::from(bytes[at] == b'\n');
            at += 1;
            continue;
        };
        let end = (at + length).min(bytes.len());
        let comment = bytes[at] == b'/';
        for byte in &mut code[at..end] {
            if comment {
                comments.insert(line);
            }
            if *byte == b'\n' {
                line += 1;
            } else {
                *byte = b' ';
            }
        }
        at = end;
    }
    (String::from_utf8_lossy(&code).into_owned(), comments)
}
