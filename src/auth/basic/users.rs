//! The users of a route: a file as `htpasswd` writes it, `NAME:HASH` on each line.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use super::hash::{HashError, PasswordHash};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    by_name: HashMap<Box<str>, Arc<PasswordHash>>,
    /// In the order of the file.
    hashes: Vec<Arc<PasswordHash>>,
}

/// What is wrong with a line of the file, or with all of it.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// From 1. `None`: no line has a user.
    pub line: Option<usize>,
    pub why: Bad,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("there is no user in it")]
    NoUsers,
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("there is no colon behind the name")]
    NoColon,
    #[error("the name is empty")]
    NoName,
    #[error("the name has a control character in it")]
    Control,
    #[error("{name:?} is there a second time, after line {first}")]
    Twice { name: String, first: usize },
    #[error("the password of {name:?} cannot be used: {cause}")]
    Hash { name: String, cause: HashError },
}

impl Bad {
    /// What an operator can do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoUsers => "add one: htpasswd -B FILE NAME".to_owned(),
            Self::NotUtf8 => "save the file as UTF-8".to_owned(),
            Self::NoColon | Self::NoName | Self::Control => {
                "a line is NAME:HASH, as htpasswd -B writes it".to_owned()
            }
            Self::Twice { .. } => "remove one of the two lines".to_owned(),
            Self::Hash { name, .. } if is_plain(name) => {
                format!("make a new one: htpasswd -B FILE {name}")
            }
            Self::Hash { .. } => "make a new one: htpasswd -B FILE NAME".to_owned(),
        }
    }
}

/// Whether a shell takes it as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    !name.starts_with('-') && name.bytes().all(is_plain)
}

impl Users {
    /// Everything that is wrong is reported, line by line.
    pub fn parse(content: &[u8]) -> Result<Self, Vec<BadLine>> {
        let mut users = Self {
            by_name: HashMap::new(),
            hashes: Vec::new(),
        };
        let mut lines: HashMap<&str, usize> = HashMap::new();
        let mut bad = Vec::new();
        let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            let mut wrong = |why| {
                bad.push(BadLine {
                    line: Some(number),
                    why,
                });
            };
            let Ok(line) = str::from_utf8(line) else {
                wrong(Bad::NotUtf8);
                continue;
            };
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split(':').next().unwrap_or_default();
            let first = match lines.entry(name) {
                Entry::Occupied(first) => Some(*first.get()),
                Entry::Vacant(entry) => {
                    entry.insert(number);
                    None
                }
            };
            match (first, user(line)) {
                (Some(first), _) => {
                    let name = name.to_owned();
                    wrong(Bad::Twice { name, first });
                }
                (None, Err(why)) => wrong(why),
                (None, Ok((name, hash))) => users.add(name, hash),
            }
        }
        if bad.is_empty() && users.hashes.is_empty() {
            bad.push(BadLine {
                line: None,
                why: Bad::NoUsers,
            });
        }
        if bad.is_empty() { Ok(users) } else { Err(bad) }
    }

    fn add(&mut self, name: &str, hash: PasswordHash) {
        let hash = Arc::new(hash);
        self.hashes.push(hash.clone());
        self.by_name.insert(name.into(), hash);
    }

    pub fn hash_of(&self, name: &str) -> Option<&Arc<PasswordHash>> {
        self.by_name.get(name)
    }

    /// A hash of somebody. `number`: any number.
    pub fn any_hash(&self, number: u64) -> &Arc<PasswordHash> {
        let index = number % self.hashes.len() as u64;
        &self.hashes[index as usize]
    }
}

/// Like nginx, takes what follows a second colon for a comment.
fn user(line: &str) -> Result<(&str, PasswordHash), Bad> {
    let (name, rest) = line.split_once(':').ok_or(Bad::NoColon)?;
    if name.is_empty() {
        return Err(Bad::NoName);
    }
    if name.chars().any(char::is_control) {
        return Err(Bad::Control);
    }
    let hash = rest.split(':').next().unwrap_or_default();
    match hash.parse() {
        Ok(hash) => Ok((name, hash)),
        Err(cause) => Err(Bad::Hash {
            name: name.to_owned(),
            cause,
        }),
    }
}

/// Hides names and hashes, because `Debug` output goes to logs.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({} of them)", self.hashes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn/";

    #[test]
    fn a_file_of_htpasswd_is_read() {
        let file = format!(
            "\u{feff}# staff\n\nalice:{HASH}\r\nb o b:{HASH}:a comment: of his\n  \njürgen:{HASH}"
        );
        let users = Users::parse(file.as_bytes()).unwrap();
        for name in ["alice", "b o b", "jürgen"] {
            assert!(users.hash_of(name).is_some(), "{name}");
        }
        for name in ["", "# staff", "Alice", "carol"] {
            assert!(users.hash_of(name).is_none(), "{name}");
        }
        assert_eq!(users.any_hash(7), users.any_hash(8));
        assert_eq!(format!("{users:?}"), "Users(3 of them)");
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_line() {
        let file = format!(
            "alice:{HASH}\nbob\n:{HASH}\nalice:{HASH}\ncarol:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\
             d\u{7}:{HASH}\n"
        );
        let file = [file.as_bytes(), b"\xff:x\n"].concat();
        let bad = Users::parse(&file).unwrap_err();
        let lines: Vec<_> = bad.iter().map(|bad| bad.line.unwrap()).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 7]);
        let said: Vec<_> = bad.iter().map(|bad| bad.why.to_string()).collect();
        assert!(said[2].contains("after line 1"), "{said:?}");
        assert!(said[3].contains("SHA-1 without a salt"), "{said:?}");
        assert!(bad[3].why.remedy().ends_with("htpasswd -B FILE carol"));
        let twice = format!("a b:{HASH}\na b:{HASH}\n");
        let bad = Users::parse(twice.as_bytes()).unwrap_err();
        assert_eq!(bad[0].line, Some(2));
    }

    #[test]
    fn a_file_without_users_lets_nobody_in_and_is_an_error() {
        for file in ["", "\n", "# nobody\n"] {
            let bad = Users::parse(file.as_bytes()).unwrap_err();
            assert_eq!(
                bad[0],
                BadLine {
                    line: None,
                    why: Bad::NoUsers
                }
            );
        }
    }
}
