//! What an answer of the auth server means.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::forward::hop_by_hop;

#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// The request may go on.
    In(Granted),
    /// The client gets this answer instead.
    Out(Refusal),
}

/// An answer of 2xx, whose body says nothing.
#[derive(Debug, PartialEq)]
pub struct Granted {
    pub fields: HeaderMap,
    /// Its `Set-Cookie`, which are the client's.
    pub cookies: Vec<HeaderValue>,
}

/// Any other answer, less what was meant for one connection only.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Bytes,
}

impl Verdict {
    pub fn of(status: StatusCode, mut fields: HeaderMap, body: Bytes) -> Self {
        let received = fields.clone();
        hop_by_hop::remove(&mut fields, &received);
        for name in [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ] {
            fields.remove(name);
        }
        if !status.is_success() {
            return Self::Out(Refusal {
                status,
                fields,
                body,
            });
        }
        let cookies = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
        fields.remove(header::SET_COOKIE);
        Self::In(Granted { fields, cookies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16) -> Verdict {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("content-length", "2"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-user", "alice"),
            ("www-authenticate", "Bearer"),
            ("location", "/login"),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        Verdict::of(status, fields, Bytes::from_static(b"no"))
    }

    #[test]
    fn any_2xx_lets_in_and_keeps_cookies_apart() {
        for status in [200, 202, 204, 299] {
            let Verdict::In(granted) = verdict(status) else {
                panic!("{status}");
            };
            assert_eq!(granted.cookies, ["a=1", "b=2"]);
            let names: Vec<_> = granted.fields.keys().map(|name| name.as_str()).collect();
            assert_eq!(names, ["x-user", "www-authenticate", "location"]);
        }
    }

    #[test]
    fn anything_else_is_the_clients_without_what_is_hop_by_hop() {
        for status in [300, 302, 401, 403, 404, 500, 503] {
            let Verdict::Out(refusal) = verdict(status) else {
                panic!("{status}");
            };
            assert_eq!(refusal.status.as_u16(), status);
            assert_eq!(refusal.body, "no");
            let names: Vec<_> = refusal.fields.keys().map(|name| name.as_str()).collect();
            let wanted = ["set-cookie", "x-user", "www-authenticate", "location"];
            assert_eq!(names.len(), wanted.len(), "{names:?}");
            assert!(wanted.iter().all(|name| names.contains(name)), "{names:?}");
        }
    }
}
