//! Why a file cannot be imported at all.

use std::fmt;

use super::tree::Place;

/// Shown as `FILE:LINE:COL: message`, with `  hint: …` below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportError {
    place: String,
    message: String,
    hint: Option<String>,
}

impl ImportError {
    pub fn at(place: &Place, message: impl Into<String>) -> Self {
        Self::of_file(place.to_string(), message)
    }

    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: file.into(),
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ImportError {}
