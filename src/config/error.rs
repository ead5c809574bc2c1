//! The errors of a configuration file: each with its position and a hint, all in one list.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;

/// A position in the file, both counted from 1. Columns count characters, as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub line: usize,
    pub col: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `None` if the file itself cannot be read.
    pub position: Option<Position>,
    pub message: String,
    pub hint: Option<String>,
    /// The data from which the hint is made.
    choice: Option<Box<Choice>>,
}

/// A word that is none of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    word: String,
    /// The name for the candidates in the hint.
    known: &'static str,
    candidates: Arc<[String]>,
}

impl ConfigError {
    pub fn new(position: Position, message: impl Into<String>) -> ConfigError {
        ConfigError {
            position: Some(position),
            message: message.into(),
            hint: None,
            choice: None,
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> ConfigError {
        ConfigError {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Suggests the candidate closest to `word`, or lists all candidates if none is close.
    pub fn hint_one_of<'a>(
        self,
        word: &str,
        known: &'static str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> ConfigError {
        let candidates: Vec<String> = candidates.into_iter().map(str::to_owned).collect();
        self.hint_among(word, known, &candidates.into())
    }

    /// The same for candidates that many errors share, without a copy for each error.
    pub fn hint_among(
        mut self,
        word: &str,
        known: &'static str,
        candidates: &Arc<[String]>,
    ) -> ConfigError {
        self.choice = Some(Box::new(Choice {
            word: word.to_owned(),
            known,
            candidates: candidates.clone(),
        }));
        self
    }

    /// `comparisons`: how many more words may be compared for hints.
    fn make_hint(&mut self, comparisons: &mut usize) {
        let Some(choice) = self.choice.take() else {
            return;
        };
        let candidates = &choice.candidates;
        let is_affordable = candidates.len() <= *comparisons;
        let meant = is_affordable
            .then(|| {
                *comparisons -= candidates.len();
                closest(&choice.word, candidates.iter().map(String::as_str))
            })
            .flatten();
        if let Some(meant) = meant {
            self.hint = Some(format!("did you mean \"{meant}\"?"));
        } else if !candidates.is_empty() {
            let first = &candidates[..candidates.len().min(LISTED)];
            let more = match candidates.len() - first.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let known = choice.known;
            self.hint = Some(format!("{known}: {}{more}", first.join(", ")));
        }
    }
}

/// How many errors are shown to people who have not asked for the errors.
const SHOWN: usize = 100;

/// How many words a hint lists.
const LISTED: usize = 30;

/// How many words of one file are compared for a `did you mean`. Thousands of errors with thousands
/// of candidates each would take minutes.
const COMPARISONS: usize = 100_000;

/// Every error of one file, sorted by position.
///
/// Shown as `FILE:LINE:COL: message`, one for each line, with `  hint: …` below if there is one:
/// the first hundred, and the number of the others. [`ConfigErrors::all`] shows all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: String,
    errors: Vec<ConfigError>,
}

impl ConfigErrors {
    pub fn new(file: impl Into<String>, mut errors: Vec<ConfigError>) -> ConfigErrors {
        errors.sort_by_key(|error| error.position);
        // A value that several aliases reach is checked once for each of them.
        let mut seen = HashSet::new();
        errors.retain(|error| seen.insert((error.position, error.message.clone())));
        let mut comparisons = COMPARISONS;
        for error in &mut errors {
            error.make_hint(&mut comparisons);
        }
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
            _ => None,
        };
        let error = ConfigError {
            position: None,
            message: format!("cannot read: {cause}"),
            hint,
            choice: None,
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

impl ConfigErrors {
    /// All errors, however many there are.
    pub fn all(&self) -> impl fmt::Display + '_ {
        AllErrors(self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, shown: usize) -> fmt::Result {
        for (i, error) in self.errors.iter().take(shown).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(Position { line, col }) = error.position {
                write!(f, ":{line}:{col}")?;
            }
            write!(f, ": {}", error.message)?;
            if let Some(hint) = &error.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        match self.errors.len().saturating_sub(shown) {
            0 => Ok(()),
            more => write!(
                f,
                "\n{0}: and {more} more (prusik check {0} 2>errors has all of them)",
                self.file
            ),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, SHOWN)
    }
}

struct AllErrors<'a>(&'a ConfigErrors);

impl fmt::Display for AllErrors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, usize::MAX)
    }
}

impl std::error::Error for ConfigErrors {}

/// The candidate that `word` most likely means: with at most one wrong letter in three, and at most
/// three wrong letters.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = word.chars().count();
    let allowed = (letters / 3).clamp(1, 3);
    let word = word.to_lowercase();
    candidates
        .into_iter()
        // Each letter that only one of the two has is wrong.
        .filter(|candidate| candidate.chars().count().abs_diff(letters) <= allowed)
        .map(|candidate| {
            let distance = strsim::osa_distance(&word, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, col: usize, message: &str) -> ConfigError {
        ConfigError::new(Position { line, col }, message)
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
    fn a_hundred_errors_are_shown_and_how_many_more_there_are() {
        let errors = (1..=102).map(|line| at(line, 1, "no")).collect();
        let errors = ConfigErrors::new("a.yaml", errors);
        let shown = errors.to_string();
        assert_eq!(shown.lines().count(), 101);
        assert!(shown.contains("\na.yaml: and 2 more ("), "{shown}");
        assert_eq!(errors.all().to_string().lines().count(), 102);
    }

    #[test]
    fn a_hint_lists_no_more_words_than_one_can_read() {
        let words: Vec<String> = (0..40).map(|i| format!("word-{i:02}")).collect();
        let error = at(1, 1, "no").hint_among("else", "known words", &words.into());
        let errors = ConfigErrors::new("a.yaml", vec![error]);
        let hint = errors.errors()[0].hint.clone().unwrap_or_default();
        assert!(hint.starts_with("known words: word-00, "), "{hint}");
        assert!(hint.ends_with("word-29 and 10 more"), "{hint}");
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        let known = ["balance", "servers", "GET"];
        assert_eq!(closest("blance", known), Some("balance"));
        assert_eq!(closest("server", known), Some("servers"));
        assert_eq!(closest("get", known), Some("GET"));
        assert_eq!(closest("colour", known), None);
    }
}
