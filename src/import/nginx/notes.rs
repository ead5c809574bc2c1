//! What is said of directives that have no equivalent.

use super::tree::{Directive, Place};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does something that prusik's file cannot say: told on stderr too, and exit 1.
    LeftOut,
    /// It tunes what is not there, or happens anyway.
    NoMeaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub kind: Kind,
    pub place: Place,
    text: String,
    why: String,
}

impl Note {
    pub fn left_out(directive: &Directive, why: impl Into<String>) -> Self {
        Self::new(Kind::LeftOut, directive, why)
    }

    pub fn no_meaning(directive: &Directive, why: impl Into<String>) -> Self {
        Self::new(Kind::NoMeaning, directive, why)
    }

    pub fn new(kind: Kind, directive: &Directive, why: impl Into<String>) -> Self {
        Self {
            kind,
            place: directive.place.clone(),
            text: directive.text(),
            why: why.into(),
        }
    }

    /// For the file that is written.
    pub fn comment(&self) -> String {
        let Place { file, line, .. } = &self.place;
        let Self { text, why, .. } = self;
        match self.kind {
            Kind::LeftOut => format!("LEFT OUT {file}:{line}: {text} ({why})"),
            Kind::NoMeaning => format!("{file}:{line}: {text} ({why})"),
        }
    }

    /// For stderr.
    pub fn message(&self) -> String {
        format!(
            "{}: left out: {}\n  hint: {}",
            self.place, self.text, self.why
        )
    }
}
