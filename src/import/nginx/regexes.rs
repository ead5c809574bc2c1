//! nginx's regular expressions, as those of routes: nginx compares decoded bytes, routes compare
//! the path as it stands in a request, in normal form.

use crate::route::PathRegex;

/// One byte of a path, as it stands there encoded.
const BYTE: &str = "%[0-9A-F]{2}";

/// The expression for a path in which what must be encoded is, and other bytes may be. `None`: it
/// has what is not known here.
pub fn encoded_regex(regex: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = regex;
    while let Some(letter) = rest.chars().next() {
        let (part, behind) = part(rest)?;
        let repeats = behind.starts_with(['*', '+']);
        match letter {
            '.' if !repeats => out.push_str(&format!("(?:{BYTE}|.)")),
            '[' if part == "[^/]" && repeats => out.push_str(part),
            '[' if !is_plain_class(part) => out.push_str(&format!("(?:{BYTE}|{part})")),
            '\\' => match part.chars().nth(1)? {
                's' | 'S' | 'W' | 'D' | 'x' => out.push_str(&format!("(?:{BYTE}|{part})")),
                'd' | 'w' | 'b' | 'B' | 'A' | 'z' => out.push_str(part),
                escaped if escaped.is_ascii_alphanumeric() => return None,
                escaped => out.push_str(&literal(escaped)),
            },
            '(' | '[' | '{' | ')' | '|' | '*' | '+' | '?' | '^' | '$' | '.' => out.push_str(part),
            letter => out.push_str(&literal(letter)),
        }
        rest = behind;
    }
    Some(out)
}

/// The first part of an expression (a letter, an escape, a class, the beginning of a group, how
/// often), and what stands behind it.
fn part(regex: &str) -> Option<(&str, &str)> {
    let first = regex.chars().next()?;
    let length = match first {
        '\\' if regex.starts_with("\\x{") => regex.find('}')? + 1,
        '\\' if regex.starts_with("\\x") => 4,
        '\\' => 1 + regex.chars().nth(1)?.len_utf8(),
        '[' => class(regex)?,
        '(' if regex.starts_with("(?") => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "<_-P'".contains(c);
            2 + regex[2..].find(|c: char| !is_name(c))? + 1
        }
        '{' if regex[1..].starts_with(|c: char| c.is_ascii_digit()) => regex.find('}')? + 1,
        first => first.len_utf8(),
    };
    regex.split_at_checked(length)
}

/// How long the class is with which the expression begins.
fn class(regex: &str) -> Option<usize> {
    let begin = if regex.starts_with("[^") { 2 } else { 1 };
    // A bracket at the beginning is a letter.
    let mut is_letter = true;
    let end = regex.get(begin..)?.char_indices().find(|(_, letter)| {
        let is_end = *letter == ']' && !is_letter;
        is_letter = *letter == '\\' && !is_letter;
        is_end
    });
    Some(begin + end?.0 + 1)
}

/// Whether it has only letters that are never encoded.
fn is_plain_class(class: &str) -> bool {
    let inner = class.trim_start_matches('[').trim_end_matches(']');
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        let is_plain = match letter {
            '\\' => letters
                .next()
                .is_some_and(|escaped| "dw-./_".contains(escaped)),
            letter => letter.is_ascii_alphanumeric() || "_-./~".contains(letter),
        };
        if !is_plain {
            return false;
        }
    }
    true
}

/// A letter of a path: some must be encoded there, some may be.
fn literal(letter: char) -> String {
    let mut bytes = [0; 4];
    let bytes = letter.encode_utf8(&mut bytes).bytes();
    let encoded: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
    let plain = match ".+*?()|[]{}^$".contains(letter) {
        true => format!("\\{letter}"),
        false => letter.to_string(),
    };
    match letter {
        letter if letter.is_ascii_alphanumeric() || "-_.~/".contains(letter) => plain,
        letter if ";,=:@!&'$()*+".contains(letter) => format!("(?:{plain}|{encoded})"),
        _ => format!("(?:{encoded})"),
    }
}

/// An expression that Rust has, which matches all that this one matches and perhaps more: without
/// what it asks of the text around a match. `None`: it is not known what it matches.
pub fn widened(regex: &str) -> Option<PathRegex> {
    let mut out = String::new();
    let mut rest = regex;
    while let Some(letter) = rest.chars().next() {
        let behind = &rest[letter.len_utf8()..];
        if ["(?=", "(?!", "(?<=", "(?<!"]
            .iter()
            .any(|of| rest.starts_with(of))
        {
            rest = behind_group(rest)?;
            continue;
        }
        if let Some(atomic) = rest.strip_prefix("(?>") {
            out.push_str("(?:");
            rest = atomic;
            continue;
        }
        rest = behind;
        match (letter, behind.chars().next()) {
            // A group once more.
            ('\\', Some('1'..='9' | 'k' | 'g')) => return None,
            ('\\', Some(escaped)) => {
                out.extend([letter, escaped]);
                rest = &behind[escaped.len_utf8()..];
            }
            ('*' | '+' | '?' | '}', Some('+')) => {
                out.push(letter);
                rest = &behind[1..];
            }
            _ => out.push(letter),
        }
    }
    PathRegex::parse(&encoded_regex(&out)?).ok()
}

/// What stands behind the group with which the text begins.
fn behind_group(text: &str) -> Option<&str> {
    let (mut depth, mut in_class, mut is_escaped) = (0, false, false);
    for (at, letter) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        match letter {
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text.get(at + 1..);
        }
    }
    None
}

/// Whether it is several expressions, each of which begins in a way of its own.
pub fn has_branches(regex: &str) -> bool {
    let mut depth = 0;
    let mut rest = regex;
    while let Some((part, behind)) = part(rest) {
        match part {
            "|" if depth == 0 => return true,
            ")" => depth -= 1,
            part if part.starts_with('(') => depth += 1,
            _ => {}
        }
        rest = behind;
    }
    // One that cannot be read may be anything.
    !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathMatch;

    #[test]
    fn what_is_decoded_in_nginx_is_encoded_here() {
        for (regex, path) in [
            ("^/.$", "/%20"),
            ("^/café", "/caf%C3%A9"),
            ("caf..$", "/caf%C3%A9"),
            ("[\\x00-\\x20\\x7f-\\xff]", "/a%FF"),
            ("^/c d", "/c%20d"),
            ("^/a;b", "/a%3Bb"),
            ("^/g[;]h", "/g%3Bh"),
            ("^/a\\sb", "/a%20b"),
            ("^/[^a]$", "/%20"),
            ("(?i)^/A=b", "/a%3Db"),
            ("(<|%3C)script", "/a%253Cscript"),
        ] {
            let encoded = encoded_regex(regex).unwrap();
            assert!(
                PathMatch::Regex(PathRegex::parse(&encoded).unwrap()).matches(path),
                "{regex}: {encoded}"
            );
        }
        for plain in [
            "\\.(png|JPG)$",
            "^/v[0-9]+/(.*)$",
            "^/(?<name>[a-z_-]+)/.+\\.php$",
            "(?i)^/a{2,3}/[^/]+$",
            "^/a/(?:b|c)?$",
        ] {
            assert_eq!(encoded_regex(plain).as_deref(), Some(plain));
        }
        assert_eq!(encoded_regex("^/(a)\\1"), None);
    }

    #[test]
    fn branches_are_those_outside_of_groups_and_classes() {
        assert!(has_branches("^/adm(in)|secret") && has_branches("a|b"));
        assert!(!has_branches("^/(a|b)") && !has_branches("[|]") && !has_branches("\\|"));
    }
}
