//! Routes that can never serve, because an earlier one takes everything they match.

use super::matcher::{HostPattern, Matcher, PathMatch};

/// The first of the earlier routes that wholly covers `later` on listener, host and path, and
/// that has no other condition.
pub fn first_cover(earlier: &[&Matcher], later: &Matcher) -> Option<usize> {
    earlier.iter().position(|matcher| {
        !matcher.has_other_conditions()
            && (matcher.listener.is_none() || matcher.listener == later.listener)
            && host_covers(matcher.host.as_ref(), later.host.as_ref())
            && path_covers(&matcher.path, &later.path)
    })
}

fn host_covers(earlier: Option<&HostPattern>, later: Option<&HostPattern>) -> bool {
    match (earlier, later) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(HostPattern::Exact(name))) => earlier.matches(name),
        (Some(HostPattern::Exact(_)), Some(HostPattern::Wildcard(_))) => false,
        (Some(HostPattern::Wildcard(wide)), Some(HostPattern::Wildcard(narrow))) => {
            wide == narrow || HostPattern::Wildcard(wide.clone()).matches(narrow)
        }
    }
}

fn path_covers(earlier: &PathMatch, later: &PathMatch) -> bool {
    match (earlier, later) {
        (PathMatch::Any, _) => true,
        (PathMatch::Prefix(prefix), _) if prefix == "/" => true,
        (PathMatch::Prefix(_) | PathMatch::Regex(_), PathMatch::Exact(path))
        | (PathMatch::Prefix(_), PathMatch::Prefix(path)) => earlier.matches(path),
        _ => earlier == later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathRegex;

    fn route(host: &str, path: PathMatch) -> Matcher {
        let host = (!host.is_empty()).then(|| HostPattern::parse(host).unwrap());
        Matcher {
            listener: None,
            host,
            path,
            headers: Vec::new(),
            methods: Vec::new(),
        }
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    #[test]
    fn a_wider_prefix_covers_what_is_below_it() {
        for (earlier, later, covers) in [
            (prefix("/IMS"), prefix("/IMS/a"), true),
            (prefix("/IMS"), prefix("/IMS"), true),
            (prefix("/IMS"), prefix("/IMS_SVR"), false),
            (prefix("/IMS/a"), prefix("/IMS"), false),
            (prefix("/IMS/"), prefix("/IMS"), false),
            (prefix("/IMS"), PathMatch::Exact("/IMS/x".to_owned()), true),
            (PathMatch::Any, prefix("/x"), true),
            (
                prefix("/"),
                PathMatch::Regex(PathRegex::parse("x").unwrap()),
                true,
            ),
            (
                prefix("/a"),
                PathMatch::Regex(PathRegex::parse("^/a").unwrap()),
                false,
            ),
            (
                PathMatch::Regex(PathRegex::parse("^/a").unwrap()),
                prefix("/a"),
                false,
            ),
            (
                PathMatch::Regex(PathRegex::parse("^/a").unwrap()),
                PathMatch::Exact("/ab".to_owned()),
                true,
            ),
            (prefix("/"), PathMatch::Any, true),
            (PathMatch::Exact("/a".to_owned()), prefix("/a"), false),
        ] {
            let found = first_cover(&[&route("", earlier.clone())], &route("", later.clone()));
            assert_eq!(found.is_some(), covers, "{earlier:?} covers {later:?}");
        }
    }

    #[test]
    fn hosts_cover_by_name_and_by_wildcard() {
        for (earlier, later, covers) in [
            ("", "a.example.com", true),
            ("a.example.com", "", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.a.example.com", "*.example.com", false),
            ("a.example.com", "*.example.com", false),
        ] {
            let found = first_cover(
                &[&route(earlier, PathMatch::Any)],
                &route(later, PathMatch::Any),
            );
            assert_eq!(found.is_some(), covers, "{earlier:?} covers {later:?}");
        }
    }

    #[test]
    fn a_route_with_another_condition_covers_nothing() {
        let mut conditional = route("", PathMatch::Any);
        conditional.methods.push(http::Method::POST);
        assert_eq!(
            first_cover(&[&conditional], &route("", PathMatch::Any)),
            None
        );
    }
}
