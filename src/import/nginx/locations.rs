//! Which `location` of a server serves a path, as a list in which the first match serves.
//!
//! nginx takes an exact location; else the longest prefix, unless a regular expression of the same
//! block matches, the first of them in the order of the file; `^~` at the longest prefix keeps the
//! expressions out. Those inside a prefix come before those beside it. So prefixes with
//! expressions of their own (or with none) stand before the common expressions, with theirs
//! narrowed to the prefix, and all other prefixes behind them, longer ones first.

use super::known::keeps_out;
use super::levels::Levels;
use super::notes::Note;
use super::regexes::{encoded_regex, has_branches, widened};
use super::tree::Directive;
use crate::route::{PathMatch, PathRegex, normalise};

/// A location, and the paths that come to it in its turn.
#[derive(Debug, Clone)]
pub struct Located<'t> {
    pub directive: &'t Directive,
    pub levels: Levels<'t>,
    pub path: PathMatch,
    /// The prefix as it is written, for `proxy_pass` with a path. `None`: a regular expression.
    pub prefix: Option<String>,
    /// What cannot be said of it.
    pub notes: Vec<Note>,
    /// Whom it, or a location within it, keeps out would come in: nobody may.
    pub closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    /// `^~`.
    FinalPrefix,
    Regex,
    Named,
}

#[derive(Debug)]
struct Location<'t> {
    kind: Kind,
    /// The path, or the expression.
    pattern: String,
    directive: &'t Directive,
    levels: Levels<'t>,
    /// How many locations are around it.
    depth: usize,
    inner: Vec<Location<'t>>,
}

/// A prefix with the expressions that are tried before it.
struct Prefix<'l, 't> {
    location: &'l Location<'t>,
    regexes: Vec<&'l Location<'t>>,
}

/// The locations of a server. `@names` are none of them.
pub fn ordered<'t>(server: &Levels<'t>) -> Vec<Located<'t>> {
    let locations = read(server, 0);
    let mut order = Order::default();
    let top: Vec<&Location<'_>> = of_kind(&locations, Kind::Regex).collect();
    order.collect(&locations, &[]);
    // Of two with the same prefix the one within the other decides, but outer exact ones do.
    order.prefixes.sort_by_key(|prefix| {
        std::cmp::Reverse((prefix.location.pattern.len(), prefix.location.depth))
    });
    order.exact.sort_by_key(|(depth, _)| *depth);
    let is_special = |prefix: &Prefix<'_, '_>| {
        prefix.regexes.len() != top.len()
            || prefix
                .regexes
                .iter()
                .zip(&top)
                .any(|(a, b)| !std::ptr::eq(*a, *b))
    };
    let special: Vec<String> = order
        .prefixes
        .iter()
        .filter(|prefix| is_special(prefix))
        .map(|prefix| prefix.location.pattern.clone())
        .collect();
    let (early, late): (Vec<_>, Vec<_>) = order.prefixes.into_iter().partition(|prefix| {
        special
            .iter()
            .any(|special| prefix.location.pattern.starts_with(special))
    });
    let exact = order.exact.into_iter().map(|(_, located)| located);
    let mut located: Vec<Located<'t>> = exact.collect();
    for prefix in early {
        let mut own = prefix.location.located();
        for regex in &prefix.regexes {
            match narrowed(&regex.pattern, &prefix.location.pattern) {
                Narrowed::Never => {}
                Narrowed::To(pattern) => located.push(regex.located_as(&pattern, server)),
                Narrowed::Unknown if !is_proxied_alone(server, regex.directive) => {
                    let mut wide = regex.located_as(&regex.pattern, server);
                    let why = format!("before {}, and so elsewhere too: closed", own.pattern());
                    wide.notes.push(Note::left_out(regex.directive, why));
                    wide.closed = true;
                    located.push(wide);
                }
                Narrowed::Unknown => {
                    let why = format!("not within {}: no expression is both", own.pattern());
                    own.notes.push(Note::left_out(regex.directive, why));
                }
            }
        }
        located.push(own);
    }
    for regex in top {
        located.push(regex.located_as(&regex.pattern, server));
    }
    located.extend(late.iter().map(|prefix| prefix.location.located()));
    located
}

/// The blocks down to that of `location = PATH`, if the server has it.
pub fn exact<'t>(server: &Levels<'t>, path: &str) -> Option<Levels<'t>> {
    let mut locations = server.own().iter().filter(|inner| inner.name == "location");
    let found = locations.find(|location| kind(location) == (Kind::Exact, path.to_owned()))?;
    Some(server.within(found.inner()))
}

fn read<'t>(levels: &Levels<'t>, depth: usize) -> Vec<Location<'t>> {
    let locations = levels.own().iter().filter(|inner| inner.name == "location");
    locations
        .map(|directive| {
            let (kind, pattern) = kind(directive);
            let levels = levels.within(directive.inner());
            let inner = read(&levels, depth + 1);
            Location {
                kind,
                pattern,
                directive,
                levels,
                depth,
                inner,
            }
        })
        .collect()
}

/// `= /x`, `^~ /x`, `~ x`, `~* x`, `@x`, `/x`; the blank behind the sign may be missing.
fn kind(directive: &Directive) -> (Kind, String) {
    let text = directive.args.join(" ");
    let behind = |sign: &str| {
        text.strip_prefix(sign)
            .map(|rest| rest.trim_start().to_owned())
    };
    if let Some(path) = behind("=") {
        (Kind::Exact, path)
    } else if let Some(path) = behind("^~") {
        (Kind::FinalPrefix, path)
    } else if let Some(regex) = behind("~*") {
        (Kind::Regex, format!("(?i){regex}"))
    } else if let Some(regex) = behind("~") {
        (Kind::Regex, regex)
    } else if text.starts_with('@') {
        (Kind::Named, text)
    } else {
        (Kind::Prefix, text)
    }
}

fn of_kind<'l, 't>(
    locations: &'l [Location<'t>],
    kind: Kind,
) -> impl Iterator<Item = &'l Location<'t>> {
    locations
        .iter()
        .filter(move |location| location.kind == kind)
}

#[derive(Default)]
struct Order<'l, 't> {
    /// Each with its depth.
    exact: Vec<(usize, Located<'t>)>,
    prefixes: Vec<Prefix<'l, 't>>,
}

impl<'l, 't> Order<'l, 't> {
    /// `outer`: the expressions that are tried behind those of this block.
    fn collect(&mut self, locations: &'l [Location<'t>], outer: &[&'l Location<'t>]) {
        let own: Vec<_> = of_kind(locations, Kind::Regex).collect();
        let siblings: Vec<&str> = locations
            .iter()
            .filter(|location| matches!(location.kind, Kind::Prefix | Kind::FinalPrefix))
            .map(|location| location.pattern.as_str())
            .collect();
        for location in locations {
            if location.kind == Kind::Exact {
                self.exact.push((location.depth, location.located()));
            }
            if !matches!(location.kind, Kind::Prefix | Kind::FinalPrefix) {
                continue;
            }
            let beside = match location.kind {
                Kind::FinalPrefix => outer.to_vec(),
                _ => [&own[..], outer].concat(),
            };
            let within: Vec<_> = of_kind(&location.inner, Kind::Regex).collect();
            self.prefixes.push(Prefix {
                location,
                regexes: [&within[..], &beside[..]].concat(),
            });
            let (first, first_exact) = (self.prefixes.len(), self.exact.len());
            self.collect(&location.inner, &beside);
            // A longer prefix beside this one takes its paths before one within this does.
            let is_longer = |sibling: &&str| sibling.len() > location.pattern.len();
            let longer: Vec<&str> = siblings.iter().copied().filter(|s| is_longer(s)).collect();
            let mut number = 0;
            self.prefixes.retain(|prefix| {
                number += 1;
                let pattern = &prefix.location.pattern;
                number <= first || !longer.iter().any(|longer| pattern.starts_with(longer))
            });
            let mut number = 0;
            self.exact.retain(|(_, exact)| {
                number += 1;
                let path = exact.prefix.as_deref().unwrap_or_default();
                number <= first_exact || !longer.iter().any(|longer| path.starts_with(longer))
            });
        }
    }
}

impl<'t> Location<'t> {
    fn located(&self) -> Located<'t> {
        let path = encoded(&self.pattern);
        let path = match self.kind {
            _ if !self.can_match() => return self.never(),
            Kind::Exact if path.ends_with("/*") || path.contains(';') => exactly(&path),
            Kind::Exact => PathMatch::Exact(path),
            _ => prefix(&path),
        };
        self.with_path(path, Some(self.pattern.clone()))
    }

    /// Whether a path in normal form can begin so, which is what nginx compares.
    fn can_match(&self) -> bool {
        let path = self.pattern.as_str();
        let merges = self.levels.value("merge_slashes") != Some("off");
        let has_dots = ["/./", "/../"].iter().any(|dots| path.contains(dots))
            || path.ends_with("/.")
            || path.ends_with("/..");
        path.starts_with('/') && !has_dots && !(merges && path.contains("//"))
    }

    fn never(&self) -> Located<'t> {
        let never = PathRegex::parse("^$").map_or(PathMatch::Any, PathMatch::Regex);
        self.with_path(never, None)
    }

    /// An expression that prusik's engine does not read is noted, and matches nothing. If the
    /// location keeps somebody out, it matches what it must at least, and is closed.
    fn located_as(&self, pattern: &str, server: &Levels<'_>) -> Located<'t> {
        let encoded = encoded_regex(pattern).and_then(|regex| PathRegex::parse(&regex).ok());
        let mut located = match encoded {
            Some(regex) => self.with_path(PathMatch::Regex(regex), None),
            None => {
                let mut located = match is_proxied_alone(server, self.directive) {
                    true => self.never(),
                    false => {
                        let path = widened(pattern).map_or(PathMatch::Any, PathMatch::Regex);
                        self.with_path(path, None)
                    }
                };
                located.leave_out(self, server, |closed| {
                    let why = "its regular expression has what Rust's has not, such as look-ahead";
                    format!("{why}{closed}")
                });
                located
            }
        };
        for inner in &self.inner {
            located.leave_out(inner, server, |closed| {
                format!("a location within one by a regular expression{closed}")
            });
        }
        located
    }

    fn with_path(&self, path: PathMatch, prefix: Option<String>) -> Located<'t> {
        Located {
            directive: self.directive,
            levels: self.levels.clone(),
            path,
            prefix,
            notes: Vec::new(),
            closed: false,
        }
    }
}

impl Located<'_> {
    /// As it is written.
    fn pattern(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// `why` is told what becomes of this one if the other keeps somebody out.
    fn leave_out(
        &mut self,
        other: &Location<'_>,
        server: &Levels<'_>,
        why: impl FnOnce(&str) -> String,
    ) {
        let closes = !is_proxied_alone(server, other.directive);
        let why = why(if closes { ": closed" } else { "" });
        self.notes.push(Note::left_out(other.directive, why));
        self.closed |= closes;
    }
}

/// Whether requests that come to another location instead are served by another server at most: it
/// sends them to one, and keeps nobody out.
fn is_proxied_alone(server: &Levels<'_>, location: &Directive) -> bool {
    location.each("proxy_pass").next().is_some() && !keeps_out(server, location.inner())
}

/// nginx's prefixes are of characters, ours of segments: only behind a slash they are the same.
pub fn prefix(path: &str) -> PathMatch {
    if path.ends_with('/') && !path.contains(';') {
        return PathMatch::Prefix(path.to_owned());
    }
    match PathRegex::parse(&format!("^{}", escaped(path))) {
        Ok(regex) => PathMatch::Regex(regex),
        Err(_) => PathMatch::Prefix(path.to_owned()),
    }
}

/// The path as an expression: our own file takes a star at the end for a slip.
fn exactly(path: &str) -> PathMatch {
    match PathRegex::parse(&format!("^{}$", escaped(path))) {
        Ok(regex) => PathMatch::Regex(regex),
        Err(_) => PathMatch::Exact(path.to_owned()),
    }
}

/// nginx compares decoded paths; here what must be encoded is.
pub fn encoded(path: &str) -> String {
    let path = path
        .replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
        .replace('\\', "%5C");
    normalise(&path).into_owned()
}

/// What matches the path. A `;` comes as it is, or encoded.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        if letter == ';' {
            out.push_str("(?:;|%3B)");
            continue;
        }
        if "\\.+*?()|[]{}^$".contains(letter) {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// An expression, of the paths below a prefix alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Narrowed {
    To(String),
    Never,
    Unknown,
}

pub fn narrowed(regex: &str, prefix: &str) -> Narrowed {
    if prefix == "/" {
        return Narrowed::To(regex.to_owned());
    }
    if has_branches(regex) {
        return Narrowed::Unknown;
    }
    let (flags, bare) = match regex.strip_prefix("(?i)") {
        Some(bare) => ("(?i)", bare),
        None => ("", regex),
    };
    if let Some(anchored) = bare.strip_prefix('^') {
        let literal = literal_beginning(anchored);
        return if literal.starts_with(prefix) && flags.is_empty() {
            Narrowed::To(regex.to_owned())
        } else if !prefix.starts_with(&literal) && !literal.starts_with(prefix) && flags.is_empty()
        {
            Narrowed::Never
        } else {
            Narrowed::Unknown
        };
    }
    // An ending cannot begin within a prefix that has no dot.
    if bare.starts_with("\\.") && !prefix.contains('.') {
        return Narrowed::To(format!("^{}.*{flags}(?:{bare})", escaped(prefix)));
    }
    Narrowed::Unknown
}

/// The text with which everything begins that the anchored expression matches.
fn literal_beginning(anchored: &str) -> String {
    let mut literal = String::new();
    let mut letters = anchored.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(letter) if !letter.is_ascii_alphanumeric() => literal.push(letter),
                _ => break,
            },
            '?' | '*' | '{' => {
                literal.pop();
                break;
            }
            '.' | '+' | '(' | ')' | '[' | '|' | '$' | '^' => break,
            letter => literal.push(letter),
        }
    }
    literal
}

#[cfg(test)]
mod tests;
