//! Finds routes that can never serve, because an earlier one takes everything that they match.

use std::collections::HashMap;

use super::matcher::{HostPattern, ListenerId, Matcher, PathMatch, PathRegex};
use super::path::Slashes;

/// How often regular expressions of earlier routes are tried on the exact paths of later ones.
/// There is no faster way to find a match, so in a file with thousands of both, some covered routes
/// are not found.
const REGEX_TRIALS: usize = 100_000;

/// The first earlier route with which `later` is completely covered on listener, host and path by
/// routes without other conditions: by this one alone, or, if `later` has several hosts, each of
/// its hosts by this one or one before it. [`Coverage`] finds the same without comparing with each
/// route.
pub fn first_cover(earlier: &[&Matcher], later: &Matcher) -> Option<usize> {
    with_each_host(later, |host| {
        earlier.iter().position(|matcher| {
            !matcher.has_other_conditions()
                && (matcher.listener.is_none() || matcher.listener == later.listener)
                && host_covers(&matcher.hosts, host)
                && path_covers(&matcher.path, &later.path)
                && slashes_cover(matcher, later)
        })
    })
}

/// The last of the covers of all hosts. `cover_of` gets `None` for a route that takes any host.
fn with_each_host(
    later: &Matcher,
    mut cover_of: impl FnMut(Option<&HostPattern>) -> Option<usize>,
) -> Option<usize> {
    if later.hosts.is_empty() {
        return cover_of(None);
    }
    let mut hosts = later.hosts.iter();
    hosts.try_fold(0, |last, host| Some(last.max(cover_of(Some(host))?)))
}

fn host_covers(earlier: &[HostPattern], later: Option<&HostPattern>) -> bool {
    let Some(later) = later else {
        return earlier.is_empty();
    };
    let covers = |earlier: &HostPattern| match (earlier, later) {
        (earlier, HostPattern::Exact(name)) => earlier.matches(name),
        (HostPattern::Exact(_), HostPattern::Wildcard(_)) => false,
        (HostPattern::Wildcard(wide), HostPattern::Wildcard(narrow)) => {
            wide == narrow || earlier.matches(narrow)
        }
    };
    earlier.is_empty() || earlier.iter().any(covers)
}

/// A route that keeps repeated slashes does not cover one that merges them, unless it takes all
/// paths. The other way round it can: a path that begins with a prefix still does so when slashes
/// are merged.
fn slashes_cover(earlier: &Matcher, later: &Matcher) -> bool {
    let takes_all = match &earlier.path {
        PathMatch::Any => true,
        PathMatch::Prefix(prefix) => prefix == "/",
        PathMatch::Exact(_) | PathMatch::Regex(_) => false,
    };
    let is_plain_prefix = match (&earlier.path, &later.path) {
        (PathMatch::Prefix(_), path) => !matches!(path, PathMatch::Regex(_)),
        _ => false,
    };
    earlier.slashes == later.slashes
        || takes_all
        || earlier.slashes == Slashes::Merged && is_plain_prefix
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

/// The routes of a file so far, indexed by the parts that can be looked up.
#[derive(Debug)]
pub struct Coverage {
    any_host: PathFiles,
    exact_hosts: HashMap<String, PathFiles>,
    /// By the suffix after `*.`.
    wildcard_hosts: HashMap<String, PathFiles>,
    count: usize,
    regex_trials: usize,
}

#[derive(Debug, Default)]
struct PathFiles {
    any: First,
    exact: HashMap<String, First>,
    prefix: HashMap<String, First>,
    longest_prefix: usize,
    regex: HashMap<String, First>,
    /// Each regular expression once.
    regexes: Vec<PathRegex>,
}

/// The first route of one kind, for each listener and form of paths. `None` means all listeners.
#[derive(Debug, Default)]
struct First(HashMap<(Option<ListenerId>, Slashes), usize>);

impl First {
    fn add(&mut self, matcher: &Matcher, number: usize) {
        let key = (matcher.listener, matcher.slashes);
        self.0.entry(key).or_insert(number);
    }

    /// The first one that serves this listener, with one of these forms.
    fn on(&self, listener: Option<ListenerId>, forms: &[Slashes]) -> Option<usize> {
        let keys = forms
            .iter()
            .flat_map(|form| [(None, *form), (listener, *form)]);
        keys.filter_map(|key| self.0.get(&key).copied()).min()
    }
}

/// The forms of paths that include this form, if both routes are prefixes or exact paths.
fn forms_within(slashes: Slashes) -> &'static [Slashes] {
    match slashes {
        Slashes::Merged => &[Slashes::Merged],
        Slashes::Kept => &[Slashes::Kept, Slashes::Merged],
    }
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            any_host: PathFiles::default(),
            exact_hosts: HashMap::new(),
            wildcard_hosts: HashMap::new(),
            count: 0,
            regex_trials: REGEX_TRIALS,
        }
    }
}

impl Coverage {
    /// A route's number is the number of routes before it.
    pub fn add(&mut self, matcher: &Matcher) {
        let number = self.count;
        self.count += 1;
        if matcher.has_other_conditions() {
            return;
        }
        if matcher.hosts.is_empty() {
            self.any_host.add(matcher, number);
        }
        for host in &matcher.hosts {
            let files = match host {
                HostPattern::Exact(name) => self.exact_hosts.entry(name.clone()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    self.wildcard_hosts.entry(suffix.clone()).or_default()
                }
            };
            files.add(matcher, number);
        }
    }

    /// The number of the first route with which `later` is covered, by it alone or, if `later` has
    /// several hosts, together with routes before it.
    pub fn first_cover(&mut self, later: &Matcher) -> Option<usize> {
        with_each_host(later, |host| self.first_cover_of(host, later))
    }

    /// The number of the first route that covers `later` where the host is this one.
    fn first_cover_of(&mut self, host: Option<&HostPattern>, later: &Matcher) -> Option<usize> {
        let (exact, suffixes) = match host {
            None => (None, None),
            Some(HostPattern::Exact(name)) => (self.exact_hosts.get(name), Some((name, None))),
            Some(HostPattern::Wildcard(narrow)) => (None, Some((narrow, Some(narrow.as_str())))),
        };
        let wildcards = suffixes.into_iter().flat_map(|(name, whole)| {
            // A wildcard means at least one label, so a leading dot has none.
            let cuts = name.match_indices('.').filter(|(at, _)| *at > 0);
            let below = cuts.map(|(at, _)| &name[at + 1..]);
            whole.into_iter().chain(below)
        });
        let wildcards = wildcards.filter_map(|suffix| self.wildcard_hosts.get(suffix));
        let files = exact.into_iter().chain(wildcards).chain([&self.any_host]);
        let trials = &mut self.regex_trials;
        files
            .filter_map(|files| files.first_cover(later, trials))
            .min()
    }
}

impl PathFiles {
    fn add(&mut self, matcher: &Matcher, number: usize) {
        let first = match &matcher.path {
            PathMatch::Any => &mut self.any,
            PathMatch::Prefix(prefix) if prefix == "/" => &mut self.any,
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathMatch::Prefix(prefix) => {
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefix.entry(prefix.clone()).or_default()
            }
            PathMatch::Regex(regex) => {
                if !self.regex.contains_key(regex.as_str()) {
                    self.regexes.push(regex.clone());
                }
                self.regex.entry(regex.as_str().to_owned()).or_default()
            }
        };
        first.add(matcher, number);
    }

    fn first_cover(&self, later: &Matcher, trials: &mut usize) -> Option<usize> {
        let on = |first: Option<&First>, forms: &[Slashes]| first?.on(later.listener, forms);
        let same = [later.slashes];
        let by_prefix = |path: &str| {
            let prefixes = covering_prefixes(path, self.longest_prefix);
            prefixes
                .filter_map(|prefix| on(self.prefix.get(prefix), forms_within(later.slashes)))
                .min()
        };
        let by_path = match &later.path {
            PathMatch::Any => None,
            PathMatch::Prefix(path) => by_prefix(path),
            PathMatch::Regex(regex) => on(self.regex.get(regex.as_str()), &same),
            PathMatch::Exact(path) => on(self.exact.get(path.as_str()), &same)
                .into_iter()
                .chain(by_prefix(path))
                .chain(self.by_regex(path, later, trials))
                .min(),
        };
        let any = on(Some(&self.any), &[Slashes::Merged, Slashes::Kept]);
        any.into_iter().chain(by_path).min()
    }

    fn by_regex(&self, path: &str, later: &Matcher, trials: &mut usize) -> Option<usize> {
        let mut first = None;
        for regex in &self.regexes {
            if *trials == 0 {
                break;
            }
            *trials -= 1;
            if regex.is_match(path) {
                let found = self.regex.get(regex.as_str());
                let found = found.and_then(|found| found.on(later.listener, &[later.slashes]));
                first = first.into_iter().chain(found).min();
            }
        }
        first
    }
}

/// The prefixes that match this path: for `/a/b/c` among others `/a/b`, and `/a/b/`.
fn covering_prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let cuts = path.match_indices('/').map(|(at, _)| at);
    let cuts = cuts.take_while(move |at| *at <= longest);
    let whole = (path.len() <= longest).then_some(path);
    cuts.flat_map(move |at| [&path[..at], &path[..=at]])
        .chain(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathRegex;

    /// `hosts`: with blanks between them.
    fn route(hosts: &str, path: PathMatch) -> Matcher {
        let hosts = hosts.split_whitespace().map(HostPattern::parse);
        Matcher {
            listener: None,
            hosts: hosts.collect::<Result<_, _>>().unwrap(),
            path,
            slashes: Slashes::Merged,
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
            ("a.test *.b.test", "x.b.test", true),
            ("a.test *.b.test", "a.test x.b.test", true),
            ("a.test *.b.test", "a.test b.test", false),
            ("a.test", "", false),
        ] {
            let found = first_cover(
                &[&route(earlier, PathMatch::Any)],
                &route(later, PathMatch::Any),
            );
            assert_eq!(found.is_some(), covers, "{earlier:?} covers {later:?}");
        }
    }

    #[test]
    fn routes_cover_the_hosts_of_a_list_together() {
        let [one, two, other] =
            ["a.test", "*.b.test", "c.test"].map(|host| route(host, prefix("/")));
        let later = route("x.b.test a.test", prefix("/x"));
        assert_eq!(first_cover(&[&one, &other, &two], &later), Some(2));
        assert_eq!(first_cover(&[&one, &other], &later), None);
    }

    #[test]
    fn a_route_that_keeps_slashes_covers_none_that_merges_them() {
        let kept = |path| Matcher {
            slashes: Slashes::Kept,
            ..route("", path)
        };
        let covers = |earlier: &Matcher, later: &Matcher| first_cover(&[earlier], later).is_some();
        assert!(!covers(&kept(prefix("/a")), &route("", prefix("/a"))));
        assert!(covers(&route("", prefix("/a")), &kept(prefix("/a/b"))));
        assert!(covers(&kept(prefix("/")), &route("", prefix("/a"))));
        let exact = PathMatch::Exact("/a".to_owned());
        assert!(!covers(&kept(exact.clone()), &route("", exact)));
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

    /// Every pair of hosts, paths and listeners below stands in some of these files.
    #[test]
    fn the_files_find_what_a_look_at_each_earlier_route_finds() {
        let hosts = [
            "",
            "a.b.c",
            "b.c",
            "*.b.c",
            "*.c",
            "*.a.b.c",
            "b.c a.b.c",
            "x.c *.b.c",
        ];
        let regex = |text| PathMatch::Regex(PathRegex::parse(text).unwrap());
        let paths = [
            PathMatch::Any,
            prefix("/"),
            prefix("/a"),
            prefix("/a/"),
            prefix("/a/b"),
            prefix("/ab"),
            PathMatch::Exact("/a".to_owned()),
            PathMatch::Exact("/a/b".to_owned()),
            PathMatch::Exact("/".to_owned()),
            regex("^/a"),
            regex("b$"),
        ];
        let mut all = Vec::new();
        for host in hosts {
            for path in &paths {
                for listener in [None, Some(0), Some(1)].map(|found| found.map(ListenerId::new)) {
                    for slashes in [Slashes::Merged, Slashes::Kept] {
                        let mut matcher = route(host, path.clone());
                        (matcher.listener, matcher.slashes) = (listener, slashes);
                        all.push(matcher);
                    }
                }
            }
        }
        // xorshift64: the same files each run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut covered = 0;
        for _ in 0..400 {
            let mut files = Coverage::default();
            let mut earlier: Vec<&Matcher> = Vec::new();
            for _ in 0..12 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let matcher = &all[(state % all.len() as u64) as usize];
                let found = files.first_cover(matcher);
                assert_eq!(
                    found,
                    first_cover(&earlier, matcher),
                    "{matcher:?} in {earlier:#?}"
                );
                covered += usize::from(found.is_some());
                files.add(matcher);
                earlier.push(matcher);
            }
        }
        assert!(covered > 500, "only {covered} were covered");
    }
}
