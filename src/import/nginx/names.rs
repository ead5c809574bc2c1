//! `server_name`: for which hosts a server answers.

use super::notes::Note;
use super::tree::Directive;
use crate::route::HostPattern;

/// As routes match them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub exact: Vec<String>,
    /// `*.example.com`, the longest first.
    pub wildcards: Vec<String>,
    /// It has others, which no route can have.
    pub has_unsaid: bool,
    /// It answers requests without a host.
    pub is_nameless: bool,
}

impl Names {
    pub fn of(server: &Directive, notes: &mut Vec<Note>) -> Self {
        let mut names = Self::default();
        for directive in server.each("server_name") {
            for name in &directive.args {
                if let Err(why) = names.add(name) {
                    names.has_unsaid = true;
                    notes.push(Note::left_out(directive, format!("{name}: {why}")));
                }
            }
        }
        let all = server
            .each("server_name")
            .flat_map(|directive| &directive.args);
        let all: Vec<&String> = all.collect();
        names.is_nameless = all.is_empty() || all.iter().any(|name| name.is_empty());
        names
            .wildcards
            .sort_by_key(|name| std::cmp::Reverse(name.len()));
        names
    }

    fn add(&mut self, name: &str) -> Result<(), &'static str> {
        // `_` is no name at all, and so are the others that files use for "nobody".
        if matches!(name, "_" | "" | "-" | "__" | "--" | "!@#" | "*") {
            return Ok(());
        }
        if name.starts_with('~') {
            return Err("hosts are matched by name, not by a regular expression");
        }
        let (exact, wildcard) = match name.strip_prefix('.') {
            Some(below) => (Some(below.to_owned()), Some(format!("*.{below}"))),
            None if name.starts_with("*.") => (None, Some(name.to_owned())),
            None => (Some(name.to_owned()), None),
        };
        for (name, list) in [(exact, &mut self.exact), (wildcard, &mut self.wildcards)] {
            let Some(name) = name.map(|name| name.to_ascii_lowercase()) else {
                continue;
            };
            if HostPattern::parse(&name).is_err() {
                return Err("a host is a name, or *. and a name");
            }
            if !list.contains(&name) {
                list.push(name);
            }
        }
        Ok(())
    }

    /// Whether a wildcard of the other covers a name of this one.
    pub fn lies_below(&self, other: &Names) -> bool {
        let wide: Vec<HostPattern> = other
            .wildcards
            .iter()
            .filter_map(|name| HostPattern::parse(name).ok())
            .collect();
        let narrow = self
            .wildcards
            .iter()
            .map(|name| name.trim_start_matches("*."));
        let mut all = narrow.chain(self.exact.iter().map(String::as_str));
        all.any(|name| wide.iter().any(|wide| wide.matches(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    fn names(text: &str) -> (Names, usize) {
        let text = format!("server {{ server_name {text}; }}");
        let tree = parse(&Arc::from("f"), &text).unwrap();
        let mut notes = Vec::new();
        (Names::of(&tree[0], &mut notes), notes.len())
    }

    #[test]
    fn names_are_exact_or_wildcards_and_others_are_noted() {
        let (found, notes) = names("A.test .b.test *.c.test _ \"\" ~^d www.e.*");
        assert_eq!(found.exact, ["a.test", "b.test"]);
        assert_eq!(found.wildcards, ["*.b.test", "*.c.test"]);
        assert_eq!(notes, 2);
    }

    #[test]
    fn a_name_lies_below_a_wildcard() {
        let (wide, _) = names("*.a.test");
        assert!(names("x.a.test").0.lies_below(&wide));
        assert!(names("*.x.a.test").0.lies_below(&wide));
        assert!(!names("a.test").0.lies_below(&wide));
    }
}
