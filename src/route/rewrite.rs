//! The path that a server gets in place of the one by which the route was found.
//!
//! What a client chooses is in the captures only. It is in normal form, so it has no query and no
//! bytes that end a line, and encoded ones stay encoded. But next to other text it could lead
//! upwards (`..`), where the path that was checked did not: such a path is refused.

use regex::Captures;

use super::matcher::PathRegex;
use super::path::{Slashes, Traversal, leads_upwards, normalise_assembled};

/// Equal if the texts are equal.
#[derive(Debug, Clone, PartialEq)]
pub struct Rewrite {
    regex: PathRegex,
    to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    #[error("does not begin with /")]
    NoSlash,
    #[error("has a {0:?}, which no path has")]
    Stray(char),
    #[error("leads upwards")]
    Upwards,
    #[error("has {reference}, and the regex has no such group")]
    NoGroup {
        reference: String,
        /// The number at the begin of a name such as `1a`.
        number: Option<String>,
    },
}

impl Rewrite {
    /// `to`: a path, with the captures of the expression as the regex crate writes them.
    pub fn new(regex: PathRegex, to: &str) -> Result<Self, RewriteError> {
        if !to.starts_with('/') {
            return Err(RewriteError::NoSlash);
        }
        let literal = check_references(&regex, to)?;
        let stray = literal.chars().find(|c| !is_of_path(*c));
        if let Some(stray) = stray {
            return Err(RewriteError::Stray(stray));
        }
        if leads_upwards(to) {
            return Err(RewriteError::Upwards);
        }
        let to = to.to_owned();
        Ok(Self { regex, to })
    }

    /// The new path, in normal form. `None`: the expression does not match, and the path stays.
    pub fn apply(&self, path: &str, slashes: Slashes) -> Result<Option<String>, Traversal> {
        let Some(captures) = self.regex.captures(path) else {
            return Ok(None);
        };
        normalise_assembled(&self.expand(&captures), slashes).map(Some)
    }

    fn expand(&self, captures: &Captures<'_>) -> String {
        let mut path = String::new();
        captures.expand(&self.to, &mut path);
        path
    }
}

/// Returns `to` without its references, each of which names a group of the expression. (The regex
/// crate takes a group that does not exist for an empty one.)
fn check_references(regex: &PathRegex, to: &str) -> Result<String, RewriteError> {
    let mut literal = String::new();
    let mut rest = to;
    while let Some(at) = rest.find('$') {
        literal.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let braced = behind
            .strip_prefix('{')
            .and_then(|behind| behind.split_once('}'));
        let (name, after) = match braced {
            Some(braced) => braced,
            None if behind.starts_with('$') => ("", &behind[1..]),
            None => {
                let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                behind.split_at(behind.find(is_end).unwrap_or(behind.len()))
            }
        };
        let is_reference = braced.is_some() || !name.is_empty();
        if is_reference && !regex.has_group(name) {
            let digits = name.trim_start_matches(|c: char| c.is_ascii_digit());
            let number = &name[..name.len() - digits.len()];
            return Err(RewriteError::NoGroup {
                reference: rest[at..rest.len() - after.len()].to_owned(),
                number: (!number.is_empty() && number != name).then(|| number.to_owned()),
            });
        }
        rest = after;
    }
    literal.push_str(rest);
    Ok(literal)
}

/// The characters of a path (RFC 3986 section 3.3).
fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@%".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(regex: &str, to: &str) -> Result<Rewrite, RewriteError> {
        Rewrite::new(PathRegex::parse(regex).unwrap(), to)
    }

    fn applied(regex: &str, to: &str, path: &str) -> Result<Option<String>, Traversal> {
        rewrite(regex, to).unwrap().apply(path, Slashes::Merged)
    }

    #[test]
    fn the_whole_path_is_replaced_by_the_template_with_its_captures() {
        for (regex, to, path, expected) in [
            ("^/v1/(.*)$", "/api/$1", "/v1/a/b", Some("/api/a/b")),
            ("^/v1/(.*)$", "/api/$1", "/v1/", Some("/api/")),
            ("^/v1/(.*)$", "/api/$1", "/v2/a", None),
            ("v1", "/api", "/a/v1/b", Some("/api")),
            (
                "^/(?<room>[^/]+)/(.)",
                "/${2}x/${room}",
                "/r1/ab",
                Some("/ax/r1"),
            ),
            ("^/a(/b)?", "/x$1", "/a", Some("/x")),
            ("^/(.*)$", "/a$$1", "/x", Some("/a$1")),
            ("^/a/?(.*)$", "/b/$1/c", "/a", Some("/b/c")),
            // What is encoded stays so.
            (
                "^/a/(.*)$",
                "/b/$1",
                "/a/x%3Fy%23%0D%0Az",
                Some("/b/x%3Fy%23%0D%0Az"),
            ),
            ("^/a/(.*)$", "/b/%0$1", "/a/d", Some("/b/%0D")),
        ] {
            let expected = Ok(expected.map(str::to_owned));
            assert_eq!(applied(regex, to, path), expected, "{regex} {to} {path}");
        }
        let kept = rewrite("^/a(.*)$", "/b$1").unwrap();
        let kept = kept.apply("/a//x//", Slashes::Kept);
        assert_eq!(kept, Ok(Some("/b//x//".to_owned())));
    }

    #[test]
    fn captures_lead_nowhere_upwards() {
        for (regex, to, path) in [
            ("^/u/x(.*)$", "/home/$1", "/u/x../secret"),
            ("^/u/x(.*)$", "/home/$1", "/u/x%2E%2E%2Fsecret"),
            ("^/(.)/(.*)$", "/home/$1$2", "/././secret"),
            ("^/u/(.*)$", "/home/.$1", "/u/./secret"),
            ("^/u/(.*)$", "/home/%$1", "/u/2e%2e/secret"),
            ("^/u/(.*)$", "/home/%2$1", "/u/e./secret"),
            ("^/u/(.*)$", "/home/%252e%25$1", "/u/2e/secret"),
            ("^/u/x(.*)$", "/home/$1", "/u/x..;a/secret"),
            ("^/u/x(.*)$", "/home/$1", "/u/x..%5Csecret"),
        ] {
            assert_eq!(
                applied(regex, to, path),
                Err(Traversal),
                "{regex} {to} {path}"
            );
        }
    }

    #[test]
    fn a_template_that_cannot_be_meant_is_refused() {
        let no_group = |reference: &str, number: Option<&str>| RewriteError::NoGroup {
            reference: reference.to_owned(),
            number: number.map(str::to_owned),
        };
        for (to, error) in [
            ("api/$1", RewriteError::NoSlash),
            ("$1", RewriteError::NoSlash),
            ("/api?$1", RewriteError::Stray('?')),
            ("/api#", RewriteError::Stray('#')),
            ("/a b", RewriteError::Stray(' ')),
            ("/a{b}", RewriteError::Stray('{')),
            ("/../$1", RewriteError::Upwards),
            ("/a/%2e/$1", RewriteError::Upwards),
            ("/$2", no_group("$2", None)),
            ("/$1a", no_group("$1a", Some("1"))),
            ("/${host}", no_group("${host}", None)),
            ("/${}", no_group("${}", None)),
        ] {
            assert_eq!(rewrite("^/(.*)$", to), Err(error), "{to}");
        }
        assert!(rewrite("^/(?<name>.*)$", "/$name/${0}/${name}/$").is_ok());
    }
}
