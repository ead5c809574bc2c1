//! Reads the main file and, in the place of each `include`, the files that it names: relative to
//! the main file's folder and by wildcards, as nginx does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ImportError;
use super::syntax::parse;
use super::tree::{Directive, Place};

/// A file that includes itself would never end.
const DEPTH: usize = 16;

/// Files of types and parameters that nothing here needs, and that often lie elsewhere.
pub const UNREAD: [&str; 5] = [
    "mime.types",
    "fastcgi.conf",
    "fastcgi_params",
    "uwsgi_params",
    "scgi_params",
];

/// Where files come from.
pub trait Files {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// In the order of their names.
    fn find(&self, pattern: &str) -> Vec<PathBuf>;
}

pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn find(&self, pattern: &str) -> Vec<PathBuf> {
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            require_literal_separator: true,
            ..glob::MatchOptions::new()
        };
        let found = glob::glob_with(pattern, options).into_iter().flatten();
        found.flatten().filter(|path| !path.is_dir()).collect()
    }
}

/// The main file's directives, with those of its includes among them. An `include` of a file that
/// is not there stays in the tree.
pub fn load(main: &Path, files: &dyn Files) -> Result<Vec<Directive>, ImportError> {
    let directives = read(main, files)?;
    let folder = main.parent().unwrap_or(Path::new("")).to_owned();
    Loader { folder, files }.expand(directives, 0)
}

fn read(path: &Path, files: &dyn Files) -> Result<Vec<Directive>, ImportError> {
    let name = path.display().to_string();
    let bytes = files
        .read(path)
        .map_err(|error| ImportError::of_file(&name, format!("cannot read: {error}")))?;
    parse(&Arc::from(name), &String::from_utf8_lossy(&bytes))
}

struct Loader<'f> {
    folder: PathBuf,
    files: &'f dyn Files,
}

impl Loader<'_> {
    fn expand(&self, read: Vec<Directive>, depth: usize) -> Result<Vec<Directive>, ImportError> {
        let mut expanded = Vec::with_capacity(read.len());
        for mut directive in read {
            if directive.name == "include" && directive.block.is_none() {
                expanded.extend(self.include(directive, depth)?);
                continue;
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.expand(block, depth)?);
            }
            expanded.push(directive);
        }
        Ok(expanded)
    }

    fn include(&self, include: Directive, depth: usize) -> Result<Vec<Directive>, ImportError> {
        let path = self.folder.join(include.arg(0));
        let name = path.file_name().unwrap_or_default();
        if UNREAD.iter().any(|unread| name == *unread) {
            return Ok(vec![include]);
        }
        if depth == DEPTH {
            return Err(too_deep(&include.place));
        }
        let text = path.to_string_lossy();
        let paths = match text.contains(['*', '?', '[']) {
            true => self.files.find(&text),
            false => vec![path.clone()],
        };
        if paths.is_empty() {
            return Ok(vec![include]);
        }
        let mut included = Vec::new();
        for path in paths {
            if self.files.read(&path).is_err() {
                included.push(include.clone());
                continue;
            }
            let directives = read(&path, self.files)?;
            included.extend(self.expand(directives, depth + 1)?);
        }
        Ok(included)
    }
}

fn too_deep(place: &Place) -> ImportError {
    ImportError::at(place, "includes are nested too deeply").hint("does a file include itself?")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Files by their paths.
    struct Memory(BTreeMap<&'static str, &'static str>);

    impl Files for Memory {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            let text = self.0.get(path.to_str().unwrap());
            text.map(|text| text.as_bytes().to_vec())
                .ok_or(io::ErrorKind::NotFound.into())
        }

        fn find(&self, pattern: &str) -> Vec<PathBuf> {
            let pattern = glob::Pattern::new(pattern).unwrap();
            let found = self.0.keys().filter(|path| pattern.matches(path));
            found.map(PathBuf::from).collect()
        }
    }

    fn names(directives: &[Directive]) -> Vec<String> {
        directives
            .iter()
            .map(|directive| format!("{} {}", directive.place.file, directive.text()))
            .collect()
    }

    #[test]
    fn an_include_is_replaced_by_what_it_names_relative_to_the_main_file() {
        let files = Memory(BTreeMap::from([
            (
                "/etc/nginx/nginx.conf",
                "a; http { include sites/*; include none/*; } b;",
            ),
            ("/etc/nginx/sites/1", "one; include ../more;"),
            ("/etc/nginx/sites/2", "two;"),
            ("/etc/nginx/../more", "more;"),
        ]));
        let read = load(Path::new("/etc/nginx/nginx.conf"), &files).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!(
            names(read[1].inner()),
            [
                "/etc/nginx/sites/1 one;",
                "/etc/nginx/../more more;",
                "/etc/nginx/sites/2 two;",
                "/etc/nginx/nginx.conf include none/*;"
            ]
        );
    }

    #[test]
    fn what_is_not_there_stays_and_what_is_not_needed_is_not_read() {
        let files = Memory(BTreeMap::from([(
            "/e/nginx.conf",
            "include mime.types; include gone.conf; include gone/*.conf;",
        )]));
        let read = load(Path::new("/e/nginx.conf"), &files).unwrap();
        assert_eq!(
            names(&read),
            [
                "/e/nginx.conf include mime.types;",
                "/e/nginx.conf include gone.conf;",
                "/e/nginx.conf include gone/*.conf;"
            ]
        );
    }

    #[test]
    fn a_file_that_includes_itself_is_an_error_with_its_place() {
        let files = Memory(BTreeMap::from([("/e/a.conf", "x;\n include a.conf;")]));
        let error = load(Path::new("/e/a.conf"), &files).unwrap_err();
        assert!(
            error.to_string().starts_with("/e/a.conf:2:2: includes are"),
            "{error}"
        );
    }

    #[test]
    fn an_error_names_the_file_that_it_is_in() {
        let files = Memory(BTreeMap::from([
            ("/e/a.conf", "include b.conf;"),
            ("/e/b.conf", "\nserver {"),
        ]));
        let error = load(Path::new("/e/a.conf"), &files).unwrap_err();
        assert!(error.to_string().starts_with("/e/b.conf:2:1: "), "{error}");
        let error = load(Path::new("/e/none.conf"), &files).unwrap_err();
        assert!(
            error.to_string().starts_with("/e/none.conf: cannot read: "),
            "{error}"
        );
    }
}
