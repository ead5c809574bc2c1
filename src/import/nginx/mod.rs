//! nginx's files.
//!
//! [`syntax`] reads a text into a [`tree`], [`includes`] puts those of other files into it, and
//! [`grammar`] refuses what nginx would.
//! [`document`] makes our file: [`listen`] and [`listeners`], [`upstreams`], and the routes of all
//! [`servers`], whose [`locations`] stand in the order in which the first match is what nginx
//! takes. A [`location`] is what [`answer`]s, or is [`proxied`] for whom [`protect`] lets in.
//! [`known`] has what is not translated, and why. All but reading files is pure.

mod answer;
mod context;
mod document;
mod error;
mod grammar;
mod headers;
mod health;
mod includes;
mod known;
mod levels;
mod listen;
mod listeners;
mod location;
mod locations;
mod names;
mod notes;
mod protect;
mod proxied;
mod redirects;
mod regexes;
mod retries;
mod servers;
mod syntax;
mod target;
mod tree;
mod units;
mod upstreams;
mod variables;

use std::path::Path;
use std::sync::Arc;

use crate::config::{self, ConfigErrors, Extent};

pub use error::ImportError;
use notes::Kind;

/// A file of nginx as one of prusik.
#[derive(Debug)]
pub struct Imported {
    /// What `prusik check` passes, unless files that it names are not here.
    pub text: String,
    /// What was left out, each as `FILE:LINE:COL: …` with a hint.
    pub left_out: Vec<String>,
    /// What `check` says on this machine: of files and folders that are not here, or are wrong.
    pub not_here: Option<ConfigErrors>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    File(#[from] ImportError),
    /// A bug: what was written is not valid.
    #[error("{0}")]
    Invalid(ConfigErrors),
}

pub fn import(path: &Path) -> Result<Imported, Failure> {
    let mut tree = includes::load(path, &includes::Disk)?;
    translate(&mut tree, path)
}

/// The same for one text. Its includes are left out.
pub fn import_text(name: &str, text: &str) -> Result<Imported, Failure> {
    let mut tree = syntax::parse(&Arc::from(name), text)?;
    translate(&mut tree, Path::new(name))
}

fn translate(tree: &mut [tree::Directive], path: &Path) -> Result<Imported, Failure> {
    grammar::check(tree)?;
    let (document, notes) = document::document(tree, path)?;
    let text = document.write();
    let left_out = notes.iter().filter(|note| note.kind == Kind::LeftOut);
    let left_out = left_out.map(notes::Note::message).collect();
    let not_here = match config::check(OUTPUT, &text, Extent::Start) {
        Ok(_) => None,
        Err(errors) => {
            // The same without what depends on files must be valid: they may be another machine's.
            let rest = document.without_files().write();
            config::check(OUTPUT, &rest, Extent::File).map_err(Failure::Invalid)?;
            Some(errors)
        }
    };
    Ok(Imported {
        text,
        left_out,
        not_here,
    })
}

/// What errors call the text that was written.
const OUTPUT: &str = "the imported file";

#[cfg(test)]
mod tests;
