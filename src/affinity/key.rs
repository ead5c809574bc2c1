//! The name of a server that a client may see: a hash of its address under a secret key.

use std::fmt;
use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use zeroize::Zeroizing;

/// The least length of a secret, in bytes.
pub const SECRET_MIN: usize = 32;

const TAG_LEN: usize = 16;

/// How many letters a tag has as text.
const TEXT_LEN: usize = 22;

/// Room for what base64 expects of so many letters.
const ROOM: usize = TEXT_LEN.div_ceil(4) * 3;

/// Makes the tags ours: another use of the same secret has other ones.
const LABEL: &[u8] = b"prusik affinity 1";

/// Names a server. Shown as base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerTag([u8; TAG_LEN]);

impl ServerTag {
    /// `None`: this is no tag, whoever has written it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LEN {
            return None;
        }
        let mut bytes = [0; ROOM];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        bytes[..length].try_into().ok().map(Self)
    }
}

impl fmt::Display for ServerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Who has the same secret makes the same tags.
pub struct AffinityKey {
    secret: Zeroizing<Vec<u8>>,
    hmac: hmac::Key,
}

impl AffinityKey {
    /// `None`: the secret is too short.
    pub fn new(secret: Zeroizing<Vec<u8>>) -> Option<Self> {
        if secret.len() < SECRET_MIN {
            return None;
        }
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Some(Self { secret, hmac })
    }

    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The name of this server in this upstream.
    pub fn tag(&self, upstream: &str, server: SocketAddr) -> ServerTag {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(LABEL);
        // The length says where the name ends.
        context.update(&(upstream.len() as u64).to_be_bytes());
        context.update(upstream.as_bytes());
        context.update(server.to_string().as_bytes());
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&context.sign().as_ref()[..TAG_LEN]);
        ServerTag(tag)
    }
}

/// A reload compares the keys of two configurations.
impl PartialEq for AffinityKey {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

/// Hides the key, because `Debug` output goes to logs.
impl fmt::Debug for AffinityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AffinityKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> AffinityKey {
        AffinityKey::new(Zeroizing::new(vec![byte; SECRET_MIN])).unwrap()
    }

    fn server(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn a_secret_has_32_bytes_and_shows_none_of_them() {
        assert!(AffinityKey::new(Zeroizing::new(vec![1; 31])).is_none());
        assert_eq!(format!("{:?}", key(7)), "AffinityKey(…)");
        assert_eq!((key(1), key(1)), (key(1), key(1)));
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn key_upstream_and_address_all_count() {
        let tags = [
            key(1).tag("chat", server(1)),
            key(1).tag("chat", server(2)),
            key(1).tag("chat1", server(1)),
            key(2).tag("chat", server(1)),
            key(1).tag("chat", "[::ffff:10.0.0.1]:1".parse().unwrap()),
        ];
        for (index, tag) in tags.iter().enumerate() {
            assert!(!tags[..index].contains(tag), "{index}");
        }
        assert_eq!(tags[0], key(1).tag("chat", server(1)));
    }

    /// Nodes of other versions must read the cookies of this one.
    #[test]
    fn a_tag_is_the_same_in_every_version() {
        let tag = key(b'k').tag("chat", "127.0.0.1:9080".parse().unwrap());
        assert_eq!(tag.to_string(), "nbEK5iW94LuuX2FCuDIR3g");
    }

    proptest! {
        #[test]
        fn a_tag_is_read_as_it_is_written_and_in_no_other_way(bytes: [u8; TAG_LEN]) {
            let text = ServerTag(bytes).to_string();
            prop_assert_eq!(text.len(), TEXT_LEN);
            prop_assert_eq!(ServerTag::parse(text.as_bytes()), Some(ServerTag(bytes)));
            for other in [&text[1..], &format!("{text}A"), &format!(" {}", &text[1..])] {
                prop_assert_eq!(ServerTag::parse(other.as_bytes()), None);
            }
        }

        #[test]
        fn what_is_read_is_what_would_be_written(text in "[A-Za-z0-9_-]{22}|.{0,30}") {
            if let Some(tag) = ServerTag::parse(text.as_bytes()) {
                prop_assert_eq!(tag.to_string(), text);
            }
        }
    }
}
