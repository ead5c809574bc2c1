//! The cookie that names a server: how it is found in a request, and set by an answer.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, header};

use super::key::ServerTag;

/// The cookie of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// A token.
    pub name: String,
    /// In whole seconds. `None`: the cookie lasts as long as the browser's session.
    pub max_age: Option<Duration>,
    pub same_site: SameSite,
    pub secure: Secure,
}

/// With which requests of other sites a browser sends the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// Whether a browser sends the cookie by TLS only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secure {
    /// It does if the cookie came by TLS.
    Auto,
    Always,
    Never,
}

impl Cookie {
    /// The servers that the cookies of this name may mean. A browser sends several if others set
    /// them too, for another path or domain.
    pub fn tags<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = ServerTag> + 'a {
        let fields = headers.get_all(header::COOKIE).iter();
        let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        pairs.filter_map(|pair| {
            let rest = pair.trim_ascii().strip_prefix(self.name.as_bytes())?;
            ServerTag::parse(rest.strip_prefix(b"=")?)
        })
    }

    /// The value of `Set-Cookie` for a client of this server. `is_by_tls`: the client uses TLS.
    pub fn set(&self, tag: ServerTag, is_by_tls: bool) -> String {
        let same_site = match self.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let mut value = format!(
            "{}={tag}; Path=/; HttpOnly; SameSite={same_site}",
            self.name
        );
        let is_secure = match self.secure {
            Secure::Auto => is_by_tls,
            Secure::Always => true,
            Secure::Never => false,
        };
        if is_secure {
            value.push_str("; Secure");
        }
        if let Some(max_age) = self.max_age {
            // Writing to a String cannot fail.
            let _ = write!(value, "; Max-Age={}", max_age.as_secs());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::affinity::AffinityKey;

    const COOKIE: Cookie = Cookie {
        name: String::new(),
        max_age: None,
        same_site: SameSite::Lax,
        secure: Secure::Auto,
    };

    fn named(name: &str) -> Cookie {
        Cookie {
            name: name.to_owned(),
            ..COOKIE
        }
    }

    fn tag(port: u16) -> ServerTag {
        let key = AffinityKey::new(vec![7; 32].into()).unwrap();
        key.tag("chat", ([127, 0, 0, 1], port).into())
    }

    fn read(cookie: &Cookie, fields: &[&str]) -> Vec<ServerTag> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::COOKIE, HeaderValue::from_str(field).unwrap());
        }
        cookie.tags(&headers).collect()
    }

    #[test]
    fn it_is_found_among_others_in_any_field_and_order() {
        let (one, two) = (tag(1), tag(2));
        let cookie = named("prusik");
        for (fields, expected) in [
            (vec![format!("prusik={one}")], vec![one]),
            (vec![format!("a=b; prusik={one}; c=d")], vec![one]),
            (vec![format!("a=b;prusik={one};c")], vec![one]),
            (vec!["a=b".to_owned(), format!("prusik={one}")], vec![one]),
            (vec![format!("prusik={two}; prusik={one}")], vec![two, one]),
            (vec![format!("prusik=forged; prusik={one}")], vec![one]),
            (vec![format!("xprusik={one}; prusik2={one}")], vec![]),
            (vec![format!("Prusik={one}; prusik{one}")], vec![]),
            (vec!["prusik=; prusik; =; ;;".to_owned()], vec![]),
            (vec![], vec![]),
        ] {
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            assert_eq!(read(&cookie, &fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn it_is_set_with_its_attributes() {
        let value = |cookie: &Cookie, by_tls| {
            let text = cookie.set(tag(1), by_tls);
            text.replace(&tag(1).to_string(), "TAG")
        };
        let plain = "a=TAG; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(value(&named("a"), false), plain);
        assert_eq!(value(&named("a"), true), format!("{plain}; Secure"));
        let mut cookie = named("a");
        cookie.secure = Secure::Never;
        assert_eq!(value(&cookie, true), plain);
        cookie.secure = Secure::Always;
        cookie.same_site = SameSite::None;
        cookie.max_age = Some(Duration::from_secs(3600));
        assert_eq!(
            value(&cookie, false),
            "a=TAG; Path=/; HttpOnly; SameSite=None; Secure; Max-Age=3600"
        );
        cookie.same_site = SameSite::Strict;
        assert!(value(&cookie, false).contains("SameSite=Strict;"));
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_whatever_stands_around_it(
            before in "[ -:<-~]{0,40}", after in "[ -~]{0,40}", port: u16,
        ) {
            let cookie = named("prusik");
            let set = cookie.set(tag(port), true);
            let pair = set.split(';').next().unwrap();
            let field = format!("{before}; {pair}; {after}");
            prop_assert!(read(&cookie, &[&field]).contains(&tag(port)));
        }
    }
}
