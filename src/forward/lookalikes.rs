//! Fields that a server may confuse with others.
//!
//! CGI and its successors (WSGI, Rack, PHP) give fields to the application under names in which
//! every byte except letters and digits is `_`. There `X_User` is the same as `X-User`, so whoever
//! may not set the one must not set the other. Such a name is removed if its form with dashes is
//! present, or is one that has an effect; alone it is an ordinary name. `Proxy` is removed too: it
//! becomes the variable `HTTP_PROXY`, which tells HTTP clients where to send requests
//! (CVE-2016-5385).

use http::HeaderName;

use super::{Fields, HeaderRules};

const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Fields that have an effect on a server whether they are present or not.
const THAT_COUNT: [&str; 12] = [
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
];

pub fn remove(out: &mut impl Fields, rules: &HeaderRules) {
    if out.map().contains_key(&PROXY) {
        out.remove(&PROXY);
    }
    if !out.map().keys().any(is_odd) {
        return;
    }
    let of_rules = |twin: &str| {
        let set = rules.set.iter().chain(&rules.add).map(|(name, ..)| name);
        set.chain(&rules.remove).any(|name| name.as_str() == twin)
    };
    let impostors: Vec<_> = out
        .map()
        .keys()
        .filter(|name| is_odd(name))
        .filter(|name| {
            let twin = dashed(name);
            THAT_COUNT.contains(&twin.as_str())
                || out.map().contains_key(twin.as_str())
                || of_rules(&twin)
        })
        .cloned()
        .collect();
    for name in &impostors {
        out.remove(name);
    }
}

/// Removes the fields of these names, and those that a server may confuse with them.
pub fn remove_forms_of<'a>(
    out: &mut impl Fields,
    names: impl Iterator<Item = &'a HeaderName> + Clone,
) {
    let is_one = |found: &&HeaderName| {
        let found = dashed(found);
        names.clone().any(|name| dashed(name) == found)
    };
    let found: Vec<_> = out.map().keys().filter(is_one).cloned().collect();
    for name in &found {
        out.remove(name);
    }
}

fn is_odd(name: &HeaderName) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !name.as_str().bytes().all(is_plain)
}

fn dashed(name: &HeaderName) -> String {
    let dash = |byte: char| {
        if byte.is_ascii_alphanumeric() {
            byte
        } else {
            '-'
        }
    };
    name.as_str().chars().map(dash).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn a_name_goes_that_could_pass_for_one_that_counts() {
        let rules = HeaderRules {
            remove: vec![HeaderName::from_static("x-debug")],
            ..HeaderRules::default()
        };
        let mut out = HeaderMap::new();
        for name in [
            "host",
            "x-user",
            "x_user",
            "x.user",
            "content_length",
            "x_debug",
            "proxy",
            "x_own",
            "x_own_too",
        ] {
            out.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        remove(&mut out, &rules);
        let left: Vec<_> = out.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-user", "x_own", "x_own_too"]);
    }

    #[test]
    fn a_name_goes_in_each_of_its_forms() {
        let mut out = HeaderMap::new();
        for name in ["x-user", "x_user", "x.user", "x-user-id", "xuser"] {
            out.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        let names = [
            HeaderName::from_static("x-user"),
            HeaderName::from_static("x_role"),
        ];
        remove_forms_of(&mut out, names.iter());
        let mut left: Vec<_> = out.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user-id", "xuser"]);
    }
}
