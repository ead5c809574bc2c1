//! The arguments of a query: those of some names, and the query without them.
//!
//! Names are compared as servers read them, decoded, and without regard to case, as some do.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The values of an argument, decoded. One without `=` has none.
pub fn values<'a>(query: &'a [u8], name: &'a str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
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
    let is_other = |pair: &&[u8]| !names.clone().any(|name| is_named(split_pair(pair).0, name));
    let pairs = || query.split(|byte| *byte == b'&');
    if pairs().all(|pair| is_other(&pair)) {
        return None;
    }
    let mut rest = path.to_vec();
    for pair in pairs().filter(is_other).filter(|pair| !pair.is_empty()) {
        rest.push(if rest.len() == at { b'?' } else { b'&' });
        rest.extend_from_slice(pair);
    }
    Some(rest)
}

fn split_pair(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], Some(&pair[at + 1..])),
        None => (pair, None),
    }
}

fn is_named(key: &[u8], name: &str) -> bool {
    decoded(key).eq_ignore_ascii_case(name.as_bytes())
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
        ] {
            let found: Vec<_> = values(query.as_bytes(), "token").collect();
            assert_eq!(found, [&b"abc"[..]], "{query}");
        }
        for query in ["", "token", "tokens=abc", "a=token=abc", "x?token=abc"] {
            assert_eq!(values(query.as_bytes(), "token").count(), 0, "{query}");
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
