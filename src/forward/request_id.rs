//! `X-Request-Id`: one id for a request in the logs of all that handle it.
//!
//! The id of a trusted proxy is kept, and any other is replaced. The server gets it with the
//! request, and the client with the answer.

use http::{HeaderMap, HeaderName, HeaderValue};
use itertools::Itertools;
use uuid::Uuid;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer than the id of any proxy.
const LONGEST: usize = 128;

/// The id of a trusted proxy, if it is a single plain word, because it goes into logs.
pub fn taken_over(headers: &HeaderMap) -> Option<&HeaderValue> {
    let sent = headers.get_all(&REQUEST_ID).iter().exactly_one();
    sent.ok().filter(|only| is_plain(only.as_bytes()))
}

fn is_plain(bytes: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=~@".contains(byte);
    (1..=LONGEST).contains(&bytes.len()) && bytes.iter().all(is_plain)
}

pub fn from_uuid(id: Uuid) -> HeaderValue {
    let text = &mut [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.as_hyphenated().encode_lower(text))
        .expect("hex digits and dashes are a field's value")
}

/// The id as a UUID, if it is written in the form that prusik writes.
pub fn as_uuid(value: &HeaderValue) -> Option<Uuid> {
    let id = Uuid::try_parse_ascii(value.as_bytes()).ok()?;
    let text = &mut [0; uuid::fmt::Hyphenated::LENGTH];
    (id.as_hyphenated().encode_lower(text).as_bytes() == value.as_bytes()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plain_word_is_taken_over_and_nothing_else() {
        let taken = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(
                    REQUEST_ID,
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                );
            }
            taken_over(&headers).cloned()
        };
        let longest = "a".repeat(LONGEST);
        for good in ["7", "a-b_c.d:e+f/g=h~i@j", &longest] {
            assert_eq!(taken(&[good]).unwrap(), good);
        }
        let too_long = "a".repeat(LONGEST + 1);
        for bad in [
            "",
            "a b",
            "a\"b",
            "a,b",
            "a{b",
            "caf\u{e9}",
            "a\\b",
            &too_long,
        ] {
            assert_eq!(taken(&[bad]), None, "{bad}");
        }
        assert_eq!(taken(&["a", "b"]), None);
        assert_eq!(taken(&[]), None);
    }

    #[test]
    fn only_a_uuid_in_our_own_spelling_is_one() {
        let id = Uuid::now_v7();
        assert_eq!(as_uuid(&from_uuid(id)), Some(id));
        for other in [
            id.simple().to_string(),
            id.to_string().to_uppercase(),
            id.urn().to_string(),
            "7".to_owned(),
        ] {
            assert_eq!(
                as_uuid(&HeaderValue::from_str(&other).unwrap()),
                None,
                "{other}"
            );
        }
    }
}
