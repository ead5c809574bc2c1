//! The bearer token from its file, read by the process and by the command line.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{fmt, str};

use subtle::ConstantTimeEq;

/// Longer than any token: a longer file is another file, named by mistake.
const LONGEST: u64 = 4096;

/// Never empty, and valid in a header field.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    #[error("the token file {} is empty; write the token into it", path.display())]
    Empty { path: PathBuf },
    #[error(
        "the token file {} holds no token; write one line of at most {LONGEST} visible ASCII \
         characters",
        path.display()
    )]
    NoToken { path: PathBuf },
}

impl Token {
    /// Trailing white space, such as the newline of editors, is not part of the token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let path_of = || path.to_owned();
        let bytes = read(path).map_err(|cause| TokenError::Unreadable {
            path: path_of(),
            cause,
        })?;
        let token = bytes.trim_ascii_end();
        if token.is_empty() {
            return Err(TokenError::Empty { path: path_of() });
        }
        match str::from_utf8(token) {
            Ok(token) if bytes.len() as u64 <= LONGEST && is_visible(token) => {
                Ok(Self(token.to_owned()))
            }
            _ => Err(TokenError::NoToken { path: path_of() }),
        }
    }

    /// Takes the same time for every wrong token, so that the time tells nothing about the right
    /// one.
    pub fn matches(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }

    /// The value of the `Authorization` field.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// Hides the token, because `Debug` output goes to logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn is_visible(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads one byte more than allowed, which is enough to see that the file is too long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        // Opening a pipe without a writer would block.
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_in(content: &[u8]) -> Result<Token, TokenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, content).unwrap();
        Token::read(&path)
    }

    #[test]
    fn the_newline_at_the_end_is_no_part_of_the_token() {
        for content in ["s3cret", "s3cret\n", "s3cret\r\n", "s3cret \n\n"] {
            let token = token_in(content.as_bytes()).unwrap();
            assert!(token.matches(b"s3cret"), "{content:?}");
            assert!(!token.matches(b"s3cret\n"), "{content:?}");
            assert_eq!(token.authorization(), "Bearer s3cret");
        }
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = token_in(b"s3cret").unwrap();
        for wrong in [&b""[..], b"s", b"s3cre", b"s3cret2", b"S3cret"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_without_a_token_is_an_error() {
        for content in [&b""[..], b"\n", b" \r\n"] {
            assert!(matches!(token_in(content), Err(TokenError::Empty { .. })));
        }
        let long = [b'a'; LONGEST as usize + 1];
        for content in [&b"two words"[..], b"two\nlines", b"\xff\xfe", &long] {
            assert!(matches!(token_in(content), Err(TokenError::NoToken { .. })));
        }
        for path in ["/nowhere/at/all", "/"] {
            let error = Token::read(Path::new(path)).unwrap_err();
            assert!(matches!(error, TokenError::Unreadable { .. }), "{error}");
        }
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        let token = token_in(b"s3cret").unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}
