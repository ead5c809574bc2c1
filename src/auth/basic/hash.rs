//! The hashes of passwords that a file of users may have: bcrypt, SHA-crypt and APR1.
//!
//! Each is a text that begins with the name of its scheme, as `htpasswd` and `openssl passwd` write
//! it: `$2y$05$…`, `$6$salt$…`, `$apr1$salt$…`.

use std::fmt;
use std::str::FromStr;

use bcrypt::HashParts;
use sha_crypt::{Params, sha256_crypt, sha512_crypt};
use subtle::ConstantTimeEq;

use super::apr1::apr1;
use super::crypt64;

/// The lowest cost that bcrypt has.
const COST_MIN: u32 = 4;

/// The highest cost of bcrypt that is taken: a guess takes seconds then.
const COST_MAX: u32 = 15;

/// The most rounds of SHA-crypt, for the same reason.
const ROUNDS_MAX: u32 = 5_000_000;

/// A hash that passwords can be compared with. Two are equal if their texts are.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: Box<str>,
    scheme: Scheme,
}

/// The digest is the end of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scheme {
    Bcrypt,
    Sha256 { salt: Box<str>, rounds: u32 },
    Sha512 { salt: Box<str>, rounds: u32 },
    Apr1 { salt: Box<str> },
}

/// Why a text is no hash that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("it is {0}, which is broken in no time")]
    Weak(&'static str),
    #[error("it is {0}, which is not supported")]
    Unsupported(&'static str),
    #[error("it is DES or plain text")]
    Unmarked,
    #[error("there is no password")]
    Empty,
    #[error("it is a cut or mistyped {0} hash")]
    Malformed(&'static str),
    #[error("each login would take seconds: {what} is {is}, at most {most} is taken")]
    Slow {
        what: &'static str,
        is: u32,
        most: u32,
    },
}

impl FromStr for PasswordHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let scheme = match text.split('$').nth(1) {
            _ if text.is_empty() => return Err(HashError::Empty),
            _ if text.starts_with("{SHA}") => return Err(HashError::Weak("SHA-1 without a salt")),
            _ if text.starts_with("{SSHA}") => return Err(HashError::Weak("SHA-1")),
            _ if text.starts_with("{PLAIN}") => return Err(HashError::Weak("plain text")),
            _ if !text.starts_with('$') => return Err(HashError::Unmarked),
            Some("2y" | "2a" | "2b") => bcrypt_scheme(text)?,
            Some("5") => {
                let (salt, rounds) = sha_crypt_scheme(text, "SHA-256-crypt", 43)?;
                Scheme::Sha256 { salt, rounds }
            }
            Some("6") => {
                let (salt, rounds) = sha_crypt_scheme(text, "SHA-512-crypt", 86)?;
                Scheme::Sha512 { salt, rounds }
            }
            Some("apr1") => apr1_scheme(text)?,
            Some("1") => return Err(HashError::Weak("MD5-crypt")),
            Some("2x") => return Err(HashError::Unsupported("bcrypt by a faulty program")),
            Some("y") => return Err(HashError::Unsupported("yescrypt")),
            Some("7") => return Err(HashError::Unsupported("scrypt")),
            Some(name) if name.starts_with("argon2") => {
                return Err(HashError::Unsupported("Argon2"));
            }
            _ => return Err(HashError::Unmarked),
        };
        Ok(Self {
            text: text.into(),
            scheme,
        })
    }
}

fn bcrypt_scheme(text: &str) -> Result<Scheme, HashError> {
    let parts = HashParts::from_str(text).map_err(|_| HashError::Malformed("bcrypt"))?;
    match parts.get_cost() {
        ..COST_MIN => Err(HashError::Malformed("bcrypt")),
        COST_MIN..=COST_MAX => Ok(Scheme::Bcrypt),
        cost => Err(HashError::Slow {
            what: "its cost",
            is: cost,
            most: COST_MAX,
        }),
    }
}

/// Salt and rounds of `$5$[rounds=N$]SALT$DIGEST`.
fn sha_crypt_scheme(
    text: &str,
    name: &'static str,
    digest_length: usize,
) -> Result<(Box<str>, u32), HashError> {
    let malformed = || HashError::Malformed(name);
    // Nothing stands before the first dollar, and the scheme before the second.
    let rest = text.splitn(3, '$').nth(2).ok_or_else(malformed)?;
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(behind) => {
            let (rounds, rest) = behind.split_once('$').ok_or_else(malformed)?;
            (rounds.parse().map_err(|_| malformed())?, rest)
        }
        None => (Params::RECOMMENDED_ROUNDS, rest),
    };
    if rounds > ROUNDS_MAX {
        return Err(HashError::Slow {
            what: "its number of rounds",
            is: rounds,
            most: ROUNDS_MAX,
        });
    }
    let salt = salted(rest, 16, digest_length).ok_or_else(malformed)?;
    if Params::new(rounds).is_err() {
        return Err(malformed());
    }
    Ok((salt, rounds))
}

fn apr1_scheme(text: &str) -> Result<Scheme, HashError> {
    let rest = text.strip_prefix("$apr1$");
    let salt = rest.and_then(|rest| salted(rest, 8, 22));
    match salt {
        Some(salt) => Ok(Scheme::Apr1 { salt }),
        None => Err(HashError::Malformed("APR1")),
    }
}

/// The salt of `SALT$DIGEST`.
fn salted(rest: &str, longest_salt: usize, digest_length: usize) -> Option<Box<str>> {
    let (salt, digest) = rest.split_once('$')?;
    let is_digest = digest.len() == digest_length && digest.bytes().all(crypt64::is_digit);
    (salt.len() <= longest_salt && is_digest).then(|| salt.into())
}

impl PasswordHash {
    /// Takes as long as the scheme is meant to: from a millisecond to some seconds.
    pub fn verify(&self, password: &[u8]) -> bool {
        let digest = match &self.scheme {
            // Compared in constant time there.
            Scheme::Bcrypt => return bcrypt::verify(password, &self.text).unwrap_or(false),
            Scheme::Sha256 { salt, rounds } => {
                let Ok(params) = Params::new(*rounds) else {
                    return false;
                };
                crypt64::of_sha256(&sha256_crypt(password, salt.as_bytes(), params))
            }
            Scheme::Sha512 { salt, rounds } => {
                let Ok(params) = Params::new(*rounds) else {
                    return false;
                };
                crypt64::of_sha512(&sha512_crypt(password, salt.as_bytes(), params))
            }
            Scheme::Apr1 { salt } => crypt64::of_md5(&apr1(password, salt.as_bytes())),
        };
        let start = self.text.len() - digest.len();
        self.text.as_bytes()[start..].ct_eq(&digest).into()
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Hides the hash, because `Debug` output goes to logs.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `openssl passwd`, `crypt(3)` and `htpasswd`.
    #[test]
    fn each_scheme_knows_its_password() {
        for (password, text) in [
            ("s3cret", "$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn/"),
            ("", "$apr1$x$tMwYqBfQwi3FYAr0aJc8M/"),
            (
                "a much longer password than sixteen bytes, which is more than one block",
                "$apr1$abcdefgh$3/s4KHCR6dIA9hkIHjgoM/",
            ),
            (
                "Hello world!",
                "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
            ),
            (
                "s3cret",
                "$5$rounds=1400$anotherlongsalts$tNaRfLGMb.6s3f8.nLeLTkFjqrLXTzCkfokbcd7Lf07",
            ),
            (
                "Hello world!",
                "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFd\
                 cbYEdFCoEOfaS35inz1",
            ),
            (
                "s3cret pässwort",
                "$6$toolongsaltstrin$j8LD5AGVpcLXCkkXu/rFHF.2YAkf4aeN/0.HeEjIzHFZ5BbcdHPrEFrt5l/pk\
                 b5pNuQzCHYsvd3qbSSbouWOh1",
            ),
            (
                "s3cret",
                "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK",
            ),
            (
                "s3cret",
                "$2a$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG",
            ),
            (
                "",
                "$2b$04$abcdefghijklmnopqrstuubyCG3zY1GIXMyxfivm.ClDiInHzxjiq",
            ),
            (
                &"x".repeat(100),
                "$2b$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i",
            ),
        ] {
            let hash: PasswordHash = text.parse().unwrap();
            assert!(hash.verify(password.as_bytes()), "{text}");
            assert!(!hash.verify(b"guess"), "{text}");
            assert_eq!(format!("{hash:?}"), "PasswordHash(…)");
        }
    }

    #[test]
    fn what_is_no_good_hash_is_an_error_that_says_why() {
        use HashError::*;
        let error = |text: &str| text.parse::<PasswordHash>().unwrap_err();
        for (text, wanted) in [
            ("", Empty),
            (
                "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
                Weak("SHA-1 without a salt"),
            ),
            ("{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", Weak("SHA-1")),
            ("{PLAIN}s3cret", Weak("plain text")),
            ("$1$salt$qJH7.N4xYta3aEG/dfqo/0", Weak("MD5-crypt")),
            ("rqXexS6ZhobKA", Unmarked),
            ("s3cret", Unmarked),
            ("$s3cret", Unmarked),
            ("$y$j9T$salt$hash", Unsupported("yescrypt")),
            ("$argon2id$v=19$m=1,t=1,p=1$a$b", Unsupported("Argon2")),
            ("$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn", Malformed("APR1")),
            ("$apr1$rqXexS6Z9$aZPrT61zTCW5Lnamo2wYn/", Malformed("APR1")),
            ("$2y$05$abc", Malformed("bcrypt")),
            (
                "$2y$03$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK",
                Malformed("bcrypt"),
            ),
            ("$5$saltstring$5B8vYYiY", Malformed("SHA-256-crypt")),
            (
                "$5$rounds=999$salt$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
                Malformed("SHA-256-crypt"),
            ),
            (
                "$5$rounds=5000001$salt$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
                Slow {
                    what: "its number of rounds",
                    is: 5_000_001,
                    most: ROUNDS_MAX,
                },
            ),
            (
                "$2y$16$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK",
                Slow {
                    what: "its cost",
                    is: 16,
                    most: COST_MAX,
                },
            ),
        ] {
            assert_eq!(error(text), wanted, "{text}");
        }
    }
}
