//! The arguments of a query: those of some names, and the query without them.
//!
//! Names are compared as any server may read them: decoded, without regard to case, with `.`, ` `
//! and `[` as `_` and `name[…]` as `name` (PHP), between `&` or `;` (HTML 4, appendix B.2.2). What
//! another reader takes for the token would else pass unseen.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The values of an argument, decoded. One without `=` has none.
pub fn values<'a>(query: &'a [u8], name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split(is_separator).filter_map(move |pair| {
        let (key, value) = split_pair(pair);
        is_named(key, name).then_some(value).flatten().map(decoded)
    })
}

/// The target without the arguments of these names. `None`: it has none of them.
pub fn target_without<'n>(
    target: &[u8],
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<Vec<u8>> {
    let at = memchr::memchr(b'?', target)?;
    let (path, query) = (&target[..at], &target[at + 1..]);
    let is_other = |pair: &[u8]| !names.clone().any(|name| is_named(split_pair(pair).0, name));
    if query.split(is_separator).all(is_other) {
        return None;
    }
    let mut rest = path.to_vec();
    let mut behind = 0_usize;
    for pair in query.split(is_separator) {
        // What stands before it stays before it.
        let separator = behind.checked_sub(1).map_or(b'?', |before| query[before]);
        behind += pair.len() + 1;
        if !pair.is_empty() && is_other(pair) {
            rest.push(if rest.len() == at { b'?' } else { separator });
            rest.extend_from_slice(pair);
        }
    }
    Some(rest)
}

fn is_separator(byte: &u8) -> bool {
    matches!(byte, b'&' | b';')
}

fn split_pair(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], Some(&pair[at + 1..])),
        None => (pair, None),
    }
}

fn is_named(key: &[u8], name: &str) -> bool {
    let key = decoded(key);
    let key = key.trim_ascii_start();
    let before_index = memchr::memchr(b'[', key).filter(|at| *at > 0);
    let same = |key: &[u8]| {
        let plain = |byte: &u8| match byte {
            b'.' | b' ' | b'[' => b'_',
            byte => byte.to_ascii_lowercase(),
        };
        key.iter().map(plain).eq(name.as_bytes().iter().map(plain))
    };
    same(key) || before_index.is_some_and(|at| same(&key[..at]))
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    match memchr::memchr2(b'%', b'+', text) {
        None => Cow::Borrowed(text),
        Some(_) => {
            let spaced: Vec<u8> = text
                .iter()
                .map(|byte| if *byte == b'+' { b' ' } else { *byte })
                .collect();
            Cow::Owned(percent_decode(&spaced).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_found_however_its_name_is_written() {
        for query in [
            "token=abc",
            "a=1&token=abc&b=2",
            "TOKEN=abc",
            "t%6fken=abc",
            "token=%61b%63",
            "a=1;token=abc;b=2",
            "token[]=abc",
            "%20token%5B0%5D=abc",
        ] {
            let found: Vec<_> = values(query.as_bytes(), "token").collect();
            assert_eq!(found, [&b"abc"[..]], "{query}");
        }
        for query in ["", "token", "tokens=abc", "a=token=abc", "x?token=abc"] {
            assert_eq!(values(query.as_bytes(), "token").count(), 0, "{query}");
        }
    }

    #[test]
    fn what_php_reads_as_the_same_name_is_the_same() {
        for name in [
            "access_token",
            "access.token",
            "access+token",
            "access%5Btoken",
        ] {
            let query = format!("{name}=abc");
            let found: Vec<_> = values(query.as_bytes(), "access_token").collect();
            assert_eq!(found, [&b"abc"[..]], "{name}");
        }
        for name in [
            "access-token",
            "accesstoken",
            "[access_token",
            "access_token]",
        ] {
            let query = format!("{name}=abc");
            assert_eq!(
                values(query.as_bytes(), "access_token").count(),
                0,
                "{name}"
            );
        }
    }

    #[test]
    fn a_target_without_an_argument_keeps_the_others_as_they_were() {
        let names = ["token", "key"];
        for (target, rest) in [
            ("/a?token=abc", Some("/a")),
            ("/a?token", Some("/a")),
            ("/a?token=abc&x=%41", Some("/a?x=%41")),
            ("/a?x=1&Token=abc&key=1&y", Some("/a?x=1&y")),
            ("/a?x=1&t%6Fken=a&token=b", Some("/a?x=1")),
            ("/a?&token=a&", Some("/a")),
            ("/a?x=1;token=a;y=2&z", Some("/a?x=1;y=2&z")),
            ("/a?token.x=1&key[]=2", Some("/a?token.x=1")),
            ("/a?x=1", None),
            ("/a?", None),
            ("/token=abc", None),
            ("/a?x=?token=abc", None),
        ] {
            let found = target_without(target.as_bytes(), names.into_iter());
            assert_eq!(found.as_deref(), rest.map(str::as_bytes), "{target}");
        }
    }
}
