//! Files that import one another in a circle.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::checks::Violation;
use super::source::Source;

/// The files of which each imports another one of them, directly or by way of others.
pub fn circles(sources: &[Source]) -> Vec<Violation> {
    let in_src = || {
        sources
            .iter()
            .filter(|source| source.path.starts_with("src/"))
    };
    let modules: HashSet<String> = in_src().map(|source| source.module().join("::")).collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = in_src()
        .map(|source| {
            let module = source.module().join("::");
            let mut named = named_by(source, &modules);
            named.remove(&module);
            (module, named)
        })
        .collect();
    // Whoever imports nobody, or is imported by nobody, is in no circle; and so on without them.
    loop {
        let imported: HashSet<String> = imports.values().flatten().cloned().collect();
        let others: HashSet<String> = imports
            .iter()
            .filter(|(module, named)| !named.is_empty() && imported.contains(*module))
            .map(|(module, _)| module.clone())
            .collect();
        if others.len() == imports.len() {
            break;
        }
        imports.retain(|module, _| others.contains(module));
        for named in imports.values_mut() {
            named.retain(|name| others.contains(name));
        }
    }
    if imports.is_empty() {
        return Vec::new();
    }
    let modules: Vec<&str> = imports.keys().map(String::as_str).collect();
    let key = format!("circle {}", modules.join(" "));
    let text = "src: these import one another in a circle; move what two of them need below both";
    vec![Violation {
        text: format!("{text}: {}", modules.join(", ")),
        key,
    }]
}

/// The modules that the file names by a path.
fn named_by(source: &Source, modules: &HashSet<String>) -> BTreeSet<String> {
    let code = source.shipped.as_str();
    let mut found = BTreeSet::new();
    for beginning in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(beginning) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || ":_".contains(letter)) {
                continue;
            }
            let mut paths = Vec::new();
            read_tree(code, at, &[], &mut paths);
            let modules = paths
                .iter()
                .filter_map(|path| resolve(source, path, modules));
            found.extend(modules);
        }
    }
    found
}

/// Reads the path, or the tree of paths in braces, that stands there; returns where it ends.
fn read_tree<'a>(
    code: &'a str,
    at: usize,
    before: &[&'a str],
    paths: &mut Vec<Vec<&'a str>>,
) -> usize {
    let skip = |at: usize| at + (code[at..].len() - code[at..].trim_start().len());
    let at = skip(at);
    let rest = &code[at..];
    let length = rest
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(rest.len());
    if length > 0 {
        let path = [before, &[&rest[..length]]].concat();
        if rest[length..].starts_with("::") {
            return read_tree(code, at + length + 2, &path, paths);
        }
        paths.push(path);
        return at + length;
    }
    if !rest.starts_with('{') {
        paths.push(before.to_vec());
        return at + 1;
    }
    let mut next = skip(at + 1);
    while next < code.len() && !code[next..].starts_with('}') {
        next = read_tree(code, next, before, paths);
        // Behind it may stand another name for it, and a comma.
        let end = code[next..]
            .find([',', '}'])
            .map_or(code.len(), |end| next + end);
        next = skip(end + usize::from(code[end..].starts_with(',')));
    }
    next + 1
}

/// The module that a path leads to: the longest beginning of it that is one.
fn resolve(source: &Source, path: &[&str], modules: &HashSet<String>) -> Option<String> {
    let mut from = source.module();
    let mut path = path;
    while let [first, rest @ ..] = path {
        match *first {
            "crate" => from.clear(),
            "super" => drop(from.pop()),
            "self" => {}
            _ => break,
        }
        path = rest;
    }
    from.extend(path);
    while !from.is_empty() {
        let name = from.join("::");
        if modules.contains(&name) {
            return Some(name);
        }
        from.pop();
    }
    None
}
