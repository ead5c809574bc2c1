//! What is wrong with a configuration file: each error with its place and a hint, all in one list.

use std::collections::HashSet;
use std::fmt;
use std::io;

/// A place in the file, both counted from 1. Columns are characters, as editors count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub line: usize,
    pub col: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `None` when the error is the file itself: it cannot be read.
    pub place: Option<Place>,
    pub message: String,
    pub hint: Option<String>,
}

impl ConfigError {
    pub fn new(place: Place, message: impl Into<String>) -> ConfigError {
        ConfigError {
            place: Some(place),
            message: message.into(),
            hint: None,
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> ConfigError {
        ConfigError {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Names what was meant by `word`, or, when nothing comes near, all there is to choose from.
    pub fn hint_one_of<'a>(
        mut self,
        word: &str,
        known: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> ConfigError {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        if let Some(meant) = closest(word, &candidates) {
            self.hint = Some(format!("did you mean \"{meant}\"?"));
        } else if !candidates.is_empty() {
            self.hint = Some(format!("{known}: {}", candidates.join(", ")));
        }
        self
    }
}

/// Every error of one file, in the order of their places.
///
/// Shown as `FILE:LINE:COL: message`, a line each, with `  hint: …` below where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub fn new(file: impl Into<String>, mut errors: Vec<ConfigError>) -> ConfigErrors {
        errors.sort_by_key(|error| error.place);
        // A value reached through several aliases is checked once for each of them.
        let mut seen = HashSet::new();
        errors.retain(|error| seen.insert((error.place, error.message.clone())));
        ConfigErrors {
            file: file.into(),
            errors,
        }
    }

    pub fn unreadable(file: impl Into<String>, cause: &io::Error) -> ConfigErrors {
        let file = file.into();
        let hint = match cause.kind() {
            io::ErrorKind::NotFound if file == super::DEFAULT_FILE => {
                Some("name the file with --config FILE".to_owned())
            }
            io::ErrorKind::InvalidData => Some("save it as UTF-8".to_owned()),
            _ => None,
        };
        let error = ConfigError {
            place: None,
            message: format!("cannot read: {cause}"),
            hint,
        };
        ConfigErrors {
            file,
            errors: vec![error],
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// Never empty.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(Place { line, col }) = error.place {
                write!(f, ":{line}:{col}")?;
            }
            write!(f, ": {}", error.message)?;
            if let Some(hint) = &error.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The candidate that `word` is most likely a slip of: about one wrong letter in three, at most three.
pub fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| {
            let distance = strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase());
            (distance, *candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, col: usize, message: &str) -> ConfigError {
        ConfigError::new(Place { line, col }, message)
    }

    #[test]
    fn errors_are_shown_in_the_order_of_their_places_with_hints_below() {
        let errors = ConfigErrors::new(
            "a.yaml",
            vec![at(9, 1, "later"), at(2, 5, "earlier").hint("do this")],
        );
        assert_eq!(
            errors.to_string(),
            "a.yaml:2:5: earlier\n  hint: do this\na.yaml:9:1: later"
        );
    }

    #[test]
    fn the_same_error_at_the_same_place_is_shown_once() {
        let errors = ConfigErrors::new("a.yaml", vec![at(1, 1, "x"), at(1, 1, "x")]);
        assert_eq!(errors.errors().len(), 1);
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let known = ["balance", "servers", "GET"];
        assert_eq!(closest("blance", &known), Some("balance"));
        assert_eq!(closest("server", &known), Some("servers"));
        assert_eq!(closest("get", &known), Some("GET"));
        assert_eq!(closest("colour", &known), None);
    }
}
