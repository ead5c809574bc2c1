//! `auth.basic`: a name and a password (RFC 7617) that a file of users knows.
//!
//! ```text
//! credentials ─► users: whose hash ─► verifier: memo, or a thread that compares ─► in, or 401
//! ```
//!
//! A name that the file does not have is compared with the hash of somebody else, and refused
//! whatever comes of it: so it takes as long as a name that is there.

mod apr1;
mod credentials;
mod crypt64;
mod hash;
mod memo;
mod users;
mod verifier;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode};

pub use credentials::{Credentials, NoCredentials};
pub use users::{BadLine, Users};

use super::{Denied, Reason};
use crate::http1::Rejection;
use verifier::{Busy, VERIFIER};

const NEEDED: Rejection =
    Rejection::new(StatusCode::UNAUTHORIZED, "a name and a password are needed");
const WRONG: Rejection = Rejection::new(
    StatusCode::UNAUTHORIZED,
    "the name or the password is not right",
);
const BUSY: Rejection = Rejection::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "too many passwords wait to be compared",
);

#[derive(Debug, Clone, PartialEq)]
pub struct Basic {
    users: Arc<Users>,
    challenge: HeaderValue,
}

impl Basic {
    /// `None`: the realm has characters that no header field can have.
    pub fn new(users: Users, realm: &str) -> Option<Self> {
        Some(Self {
            users: Arc::new(users),
            challenge: challenge(realm)?,
        })
    }

    /// What the request shows of who sends it.
    pub fn credentials(&self, headers: &HeaderMap) -> Result<Credentials, Denied> {
        Credentials::find(headers).map_err(|why| match why {
            NoCredentials::Missing => self.denied(Reason::Missing, NEEDED),
            NoCredentials::Unreadable => self.denied(Reason::Invalid, WRONG),
        })
    }

    /// Returns the user's name.
    pub async fn verify(&self, credentials: Credentials) -> Result<Box<str>, Denied> {
        let user = credentials.user();
        let name = str::from_utf8(user).ok();
        let known = name.and_then(|name| Some((name, self.users.hash_of(name)?)));
        let hash = match known {
            Some((_, hash)) => hash,
            None => self.users.any_hash(VERIFIER.number_of(user)),
        };
        let is_right = VERIFIER.verify(user, credentials.password(), hash).await;
        match (known, is_right) {
            (Some((name, _)), Ok(true)) => Ok(name.into()),
            (_, Ok(_)) => Err(self.denied(Reason::Invalid, WRONG)),
            (_, Err(Busy)) => Err(Denied {
                reason: Reason::Unavailable,
                rejection: BUSY,
                challenge: None,
            }),
        }
    }

    fn denied(&self, reason: Reason, rejection: Rejection) -> Denied {
        Denied {
            reason,
            rejection,
            challenge: Some(self.challenge.clone()),
        }
    }
}

/// The realm is quoted (RFC 9110 section 5.6.4). Clients encode names and passwords as UTF-8.
fn challenge(realm: &str) -> Option<HeaderValue> {
    let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
    let challenge = format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"");
    HeaderValue::from_bytes(challenge.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_quoted() {
        let value = challenge(r#"staff "of \ the" house"#).unwrap();
        let wanted = r#"Basic realm="staff \"of \\ the\" house", charset="UTF-8""#;
        assert_eq!(value, wanted);
        assert_eq!(challenge("staff\r\nX-Evil: 1"), None);
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_is_refused_whatever_its_password_is() {
        let file = b"alice:$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn/\n";
        let basic = Basic::new(Users::parse(file).unwrap(), "staff").unwrap();
        let verify = async |encoded: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", HeaderValue::from_static(encoded));
            basic.verify(basic.credentials(&headers).unwrap()).await
        };
        assert_eq!(verify("Basic YWxpY2U6czNjcmV0").await, Ok("alice".into()));
        // Bob, with the password of Alice; and a name that is no UTF-8.
        for encoded in ["Basic Ym9iOnMzY3JldA==", "Basic /zpzM2NyZXQ="] {
            let denied = verify(encoded).await.unwrap_err();
            assert_eq!((denied.reason, denied.rejection), (Reason::Invalid, WRONG));
        }
    }
}
