//! The name and the password that a request has (RFC 7617).

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, header};
use zeroize::Zeroizing;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const SCHEME: &[u8] = b"basic";

/// Some hashes take the square of a password's length, so a long one could occupy a thread. glibc
/// has the same limit.
const LONGEST: usize = 512;

#[derive(PartialEq, Eq)]
pub struct Credentials {
    /// Name, colon, password.
    decoded: Zeroizing<Vec<u8>>,
    colon: usize,
}

/// Why a request has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCredentials {
    /// It has no field for them, or one of another scheme.
    Missing,
    /// The field cannot be read, or has two readings.
    Unreadable,
}

impl Credentials {
    pub fn find(headers: &HeaderMap) -> Result<Self, NoCredentials> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let field = fields.next().ok_or(NoCredentials::Missing)?;
        if fields.next().is_some() {
            // The server might read the other one.
            return Err(NoCredentials::Unreadable);
        }
        let field = field.as_bytes();
        let scheme = field.get(..SCHEME.len()).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(SCHEME) || field.get(SCHEME.len()) != Some(&b' ') {
            return Err(NoCredentials::Missing);
        }
        Self::decode(field[SCHEME.len()..].trim_ascii()).ok_or(NoCredentials::Unreadable)
    }

    fn decode(encoded: &[u8]) -> Option<Self> {
        let decoded = Zeroizing::new(BASE64.decode(encoded).ok()?);
        let colon = memchr::memchr(b':', &decoded)?;
        let is_control = |byte: &u8| byte.is_ascii_control();
        if decoded.len() > LONGEST || decoded.iter().any(is_control) {
            return None;
        }
        Some(Self { decoded, colon })
    }

    pub fn user(&self) -> &[u8] {
        &self.decoded[..self.colon]
    }

    pub fn password(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.decoded[self.colon + 1..].to_vec())
    }
}

/// Hides both, because `Debug` output goes to logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use http::HeaderValue;

    use super::*;

    fn find(fields: &[&str]) -> Result<(Vec<u8>, Vec<u8>), NoCredentials> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        let found = Credentials::find(&headers)?;
        Ok((found.user().to_vec(), found.password().to_vec()))
    }

    fn encoded(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[test]
    fn name_and_password_are_parted_by_the_first_colon() {
        for (field, user, password) in [
            ("Basic YWxpY2U6czNjcmV0", "alice", "s3cret"),
            ("bAsIc   YWxpY2U6czNjcmV0 ", "alice", "s3cret"),
            ("Basic YWxpY2U6", "alice", ""),
            ("Basic YTpiOmM", "a", "b:c"),
            ("Basic YTpiOmM=", "a", "b:c"),
            ("Basic Og==", "", ""),
            (&encoded("jürgen:pässwort"), "jürgen", "pässwort"),
        ] {
            let wanted = (user.as_bytes().to_vec(), password.as_bytes().to_vec());
            assert_eq!(find(&[field]), Ok(wanted), "{field}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed() {
        use NoCredentials::*;
        for (fields, wanted) in [
            (&[][..], Missing),
            (&["Bearer YWxpY2U6czNjcmV0"][..], Missing),
            (&["Basic"], Missing),
            (&["BasicYWxpY2U6czNjcmV0"], Missing),
            (&["Basic "], Unreadable),
            (&["Basic alice:s3cret"], Unreadable),
            (&["Basic YWxpY2U"], Unreadable),
            (
                &["Basic YWxpY2U6czNjcmV0", "Basic YWxpY2U6czNjcmV0"],
                Unreadable,
            ),
            (&["Bearer x", "Basic YWxpY2U6czNjcmV0"], Unreadable),
            (&[&encoded("alice:s3\u{0}cret")], Unreadable),
            (&[&encoded("al\nice:s3cret")], Unreadable),
            (
                &[&encoded(&format!("alice:{}", "x".repeat(LONGEST)))],
                Unreadable,
            ),
        ] {
            assert_eq!(find(fields), Err(wanted), "{fields:?}");
        }
    }
}
