//! Explains invalid YAML: where it is, and what to do. The parser reports where it stopped and
//! which rule was broken; operators need to know what they have written wrong.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use crate::config::error::{ConfigError, Position};

/// The parser's message if a tab follows the colon of a key.
const TAB_AFTER_COLON: &str = "':' must be followed by a valid YAML whitespace";

/// Explains the error by the text of the file.
pub fn explain(text: &str, error: &ScanError) -> ConfigError {
    let info = error.info();
    let position = position(*error.marker());
    if info.to_ascii_lowercase().contains("tab") && !info.contains("expected") {
        return tab(text, position);
    }
    let error = ConfigError::new(position, format!("not valid YAML: {info}"));
    match hint(text, info, position) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Reports the tab's own position: the parser reports the line where the value before it begins.
fn tab(text: &str, position: Position) -> ConfigError {
    let lines = text
        .lines()
        .enumerate()
        .skip(position.line.saturating_sub(1));
    let indented = lines.filter_map(|(number, line)| {
        let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
        let col = line[..blank].find('\t')? + 1;
        (blank < line.len()).then_some(Position {
            line: number + 1,
            col,
        })
    });
    let position = indented.into_iter().next().unwrap_or(position);
    ConfigError::new(position, "not valid YAML: a tab cannot indent a line")
        .hint("indent with spaces; an editor can convert them (in vim: :set expandtab | retab)")
}

fn hint(text: &str, info: &str, position: Position) -> Option<String> {
    let line_of = |number: usize| {
        text.lines()
            .nth(number.saturating_sub(1))
            .unwrap_or_default()
    };
    let line = line_of(position.line);
    let before = line_of(position.line - 1);
    if let Some(hint) = hint_by_lines([line, before]) {
        return Some(hint);
    }
    if let Some(name) = info.strip_prefix("unexpected character: ") {
        let c = name.trim_matches(['`', '\'']);
        return Some(match c {
            "" => "put the value in quotes: it cannot begin with a backtick".to_owned(),
            _ => format!("put the value in quotes: it cannot begin with {c}"),
        });
    }
    let hint = match info {
        _ if info.contains("unknown anchor") => return Some(unknown_anchor(line, position)),
        _ if info.contains("expected '-' indicator")
            || info.contains("block mapping, did not find expected key")
            || info == "invalid indentation" =>
        {
            if !is_open_before(text, position) {
                return Some(indentation(line, before));
            }
            NOT_CLOSED
        }
        _ if info.starts_with("mapping values are not allowed") => {
            "put a value with a colon and a blank in it in quotes; else it is indented too far"
        }
        _ if info.starts_with("simple key expect") => {
            "write `key: value`: the line has no colon with a blank behind it"
        }
        _ if info.contains("flow mapping") => {
            "close the { before it with }, and part its entries by commas"
        }
        _ if info.contains("flow sequence") => {
            "close the [ before it with ], and part its entries by commas"
        }
        _ if info.contains("flow construct") || info.contains("only valid inside a block") => {
            NOT_CLOSED
        }
        _ if info.contains("misplaced bracket") => "there is a bracket too many",
        _ if info.contains("escape") => {
            "between double quotes a backslash is written \\\\; between single quotes it is itself"
        }
        _ if info.contains("trailing content") => "let the quotes stand around the whole value",
        _ if info.contains("quoted scalar") => "the quote that is opened here is not closed",
        _ if info.contains("unprintable") => "take the control character out",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// A hint for what the text alone shows, whatever rule of YAML it breaks.
fn hint_by_lines(lines: [&str; 2]) -> Option<String> {
    let is_conflict = |line: &str| {
        ["<<<<<<<", "=======", ">>>>>>>"]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    if lines.into_iter().any(is_conflict) {
        return Some("a conflict of a merge by git is left in the file: resolve it".to_owned());
    }
    if lines
        .into_iter()
        .any(|line| line.contains("{{") || line.contains("{%"))
    {
        return Some("this is a template: make the file out of it first".to_owned());
    }
    let address = lines.into_iter().find_map(bare_ipv6)?;
    Some(format!("put the address in quotes: \"{address}\""))
}

const NOT_CLOSED: &str = "a { or [ before it is not closed";

/// Whether a bracket is open at the beginning of this line, ignoring quotes.
fn is_open_before(text: &str, position: Position) -> bool {
    let lines = text.lines().take(position.line.saturating_sub(1));
    let code = lines.map(|line| line.split(" #").next().unwrap_or_default());
    let depth: i64 = code
        .flat_map(str::bytes)
        .map(|byte| match byte {
            b'[' | b'{' => 1,
            b']' | b'}' => -1,
            _ => 0,
        })
        .sum();
    depth > 0
}

/// Finds `[::1]:80` without quotes, which YAML reads as a list.
fn bare_ipv6(line: &str) -> Option<&str> {
    line.match_indices('[').find_map(|(start, _)| {
        let is_quoted = line[..start].ends_with(['"', '\'']);
        let end = start + line[start..].find("]:")?;
        let digits = |c: char| c.is_ascii_digit();
        let port = line[end + 2..]
            .find(|c| !digits(c))
            .unwrap_or(line.len() - end - 2);
        let is_address = line[start + 1..end].parse::<std::net::Ipv6Addr>().is_ok();
        (is_address && port > 0 && !is_quoted).then(|| &line[start..end + 2 + port])
    })
}

fn unknown_anchor(line: &str, position: Position) -> String {
    let word: String = line
        .chars()
        .skip(position.col)
        .take_while(|c| !c.is_whitespace() && !",]}".contains(*c))
        .collect();
    match word.strip_prefix(':') {
        Some(port) => format!("write all addresses as 0.0.0.0:{port} or \"[::]:{port}\""),
        None => format!(
            "nothing before it is marked &{word}; a value that begins with * stands in quotes"
        ),
    }
}

fn indentation(line: &str, before: &str) -> String {
    let indent = |line: &str| line.chars().take_while(|c| *c == ' ').count();
    let (here, there) = (indent(line), indent(before));
    format!(
        "keys that belong together begin in the same column: this line is indented by {here}, the \
         one before it by {there}"
    )
}

/// YAML allows a tab between the colon of a key and the value (YAML 1.2.2 section 6.2), and the
/// parser does not. If the error is about that, returns `text` with a space for each such tab. Tabs
/// in quotes and in block scalars stay, because they belong to the value.
pub fn with_spaces_after_colons(text: &str, error: &ScanError) -> Option<String> {
    if error.info() != TAB_AFTER_COLON {
        return None;
    }
    let mut spaced: Vec<char> = text.chars().collect();
    let mut changed = Vec::new();
    for at in 1..spaced.len() {
        if spaced[at] == '\t' && spaced[at - 1] == ':' {
            spaced[at] = ' ';
            changed.push(at);
        }
    }
    let structure: String = spaced.iter().collect();
    for (start, end) in texts(&structure) {
        let first = changed.partition_point(|at| *at < start);
        for at in changed[first..].iter().take_while(|at| **at < end) {
            spaced[*at] = '\t';
        }
    }
    Some(spaced.into_iter().collect())
}

/// The ranges of quoted and block scalars, counted in characters.
fn texts(text: &str) -> Vec<(usize, usize)> {
    let parser = Parser::new_from_str(text);
    let events = parser.map_while(Result::ok);
    events
        .filter(|(event, _)| {
            matches!(event, Event::Scalar(_, style, ..) if *style != ScalarStyle::Plain)
        })
        .map(|(_, span)| (span.start.index(), span.end.index()))
        .collect()
}

/// More brackets in a row (ignoring white space) than any file needs. The parser takes quadratic
/// time to find that there are too many.
const BRACKETS_MAX: usize = 1000;

/// The position where there are too many brackets in a row.
pub fn brackets(text: &str) -> Option<Position> {
    let mut row = 0;
    for (number, line) in text.lines().enumerate() {
        for (col, c) in line.chars().enumerate() {
            match c {
                '[' | '{' => row += 1,
                c if c.is_whitespace() => {}
                _ => row = 0,
            }
            if row > BRACKETS_MAX {
                return Some(Position {
                    line: number + 1,
                    col: col + 1,
                });
            }
        }
    }
    None
}

/// Columns are counted from 1.
pub fn position(marker: Marker) -> Position {
    Position {
        line: marker.line(),
        col: marker.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::file::reader::read;

    fn scalar(text: &str, key: &str) -> String {
        let (root, errors) = read(text);
        assert_eq!(errors, [], "{text:?}");
        let root = root.expect("it is valid");
        let entry = root.entry(key).expect("it is there");
        entry.value.text().expect("it is a scalar").to_owned()
    }

    fn hint(text: &str) -> String {
        let (_, errors) = read(text);
        errors[0].hint.clone().unwrap_or_default()
    }

    #[test]
    fn a_tab_after_a_colon_separates_and_one_in_a_text_stays() {
        assert_eq!(scalar("a:\tb\n", "a"), "b");
        assert_eq!(scalar("ü:\tb\na:\t\tc\n", "a"), "c");
        assert_eq!(scalar("a:\t-b\n", "a"), "-b");
        let text = "a:\tb\nq: \"x:\ty\"\ns: 'x:\ty'\nl: |\n  x:\ty\nf: { g:\th }\n";
        for key in ["q", "s"] {
            assert_eq!(scalar(text, key), "x:\ty", "{key}");
        }
        assert_eq!(scalar(text, "l"), "x:\ty\n");
    }

    #[test]
    fn brackets_without_end_are_refused_at_once() {
        for text in ["[".repeat(100_000), "{ [\n".repeat(50_000)] {
            let (root, errors) = read(&format!("a: {text}"));
            assert!(root.is_none());
            assert!(errors[0].message.starts_with("nested more than"));
        }
    }

    #[test]
    fn a_tab_that_indents_is_named_at_its_own_line() {
        for (text, line, col) in [
            ("a:\n  b: 1\n  \tc: 2\n", 3, 3),
            ("a:\n\t- b\n", 2, 1),
            ("a:\n  - b: 1\n\tc: 2\n", 3, 1),
        ] {
            let (_, errors) = read(text);
            let position = errors[0].position.expect("it has one");
            assert_eq!((position.line, position.col), (line, col), "{text:?}");
            assert!(errors[0].message.contains("a tab cannot indent"));
        }
    }

    #[test]
    fn what_is_no_yaml_has_a_hint() {
        for (text, what) in [
            (
                "a:\n  - listen: [::1]:80\n",
                "put the address in quotes: \"[::1]:80\"",
            ),
            (
                "a: [{ listen: [::]:9090 }]\n",
                "put the address in quotes: \"[::]:9090\"",
            ),
            ("a: *:80\n", "0.0.0.0:80"),
            ("a: *b\n", "&b"),
            (
                "a:\n - b: 1\n  c: 2\n",
                "indented by 2, the one before it by 1",
            ),
            ("a: b: c\n", "in quotes"),
            ("a: 1\nb\nc: 2\n", "no colon"),
            ("a: { b: 1\nc: 2\n", "close the {"),
            ("a:\n  - { b: 1\nc:\n  - d\n", "not closed"),
            ("a: [b, c\n", "close the ["),
            ("a: \"b\nc: d\n", "quote"),
            ("a: %b\n", "cannot begin with %"),
            ("a: @b\n", "cannot begin with @"),
            ("a: `b\n", "backtick"),
            ("a: \"b\" c\n", "around the whole value"),
            ("a: \"\\d\"\n", "backslash"),
            ("a: [b]]\n", "bracket too many"),
            ("a: 1\n<<<<<<< HEAD\nb: 2\n", "git"),
            ("a: {% if x %}\n", "template"),
        ] {
            assert!(hint(text).contains(what), "{text:?}: {:?}", hint(text));
        }
    }
}
