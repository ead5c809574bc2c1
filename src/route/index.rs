//! Finds the first route that matches, without comparing with all of them.
//!
//! Routes are indexed by the part that can be looked up: the exact path, else the prefix, each
//! below the host of the route. A request is looked up by its host, by each suffix of the host and
//! without a host, and there by its path and each prefix of the path. So the number of look-ups is
//! that of its segments and labels, however many routes there are, and none is longer than the
//! indexed keys, however long a client makes a path or host. Only regular expressions are tried one
//! by one, and only those before the best route found so far.

use std::collections::HashMap;

use super::matcher::{HostPattern, Matcher, PathMatch, RequestKey, plain_host};

#[derive(Debug, Default)]
pub struct RouteIndex {
    matchers: Vec<Matcher>,
    any_host: PathFiles,
    exact_hosts: HashMap<String, PathFiles>,
    /// By the suffix after `*.`.
    wildcard_hosts: HashMap<String, PathFiles>,
    longest_suffix: usize,
}

/// Route numbers in rising order, by the part of the path that is known.
#[derive(Debug, Default)]
struct PathFiles {
    exact: HashMap<String, Vec<usize>>,
    /// Without the final slash: `/IMS` and `/IMS/` have the same key.
    prefix: HashMap<String, Vec<usize>>,
    longest_prefix: usize,
    /// Regular expressions, and routes for any path.
    other: Vec<usize>,
}

impl RouteIndex {
    /// A route's number is its index in `matchers`.
    pub fn build<'m>(matchers: impl IntoIterator<Item = &'m Matcher>) -> Self {
        let mut index = Self::default();
        for (number, matcher) in matchers.into_iter().enumerate() {
            if matcher.hosts.is_empty() {
                index.any_host.add(&matcher.path, number);
            }
            for host in &matcher.hosts {
                let files = match host {
                    HostPattern::Exact(name) => index.exact_hosts.entry(name.clone()).or_default(),
                    HostPattern::Wildcard(suffix) => {
                        index.longest_suffix = index.longest_suffix.max(suffix.len());
                        index.wildcard_hosts.entry(suffix.clone()).or_default()
                    }
                };
                files.add(&matcher.path, number);
            }
            index.matchers.push(matcher.clone());
        }
        index
    }

    /// The lowest number of a route that matches.
    pub fn lookup(&self, request: &RequestKey<'_>) -> Option<usize> {
        self.lookup_counting(request, &mut 0)
    }

    /// `tried`: counts the routes that were compared with the request.
    fn lookup_counting(&self, request: &RequestKey<'_>, tried: &mut usize) -> Option<usize> {
        let host = plain_host(request.host);
        let mut best = None;
        let mut look_into = |file: Option<&Vec<usize>>| {
            for &number in file.into_iter().flatten() {
                if best.is_some_and(|best| best <= number) {
                    break;
                }
                *tried += 1;
                // The host is that of the file.
                if self.matchers[number].matches_beside_host(request) {
                    best = Some(number);
                    break;
                }
            }
        };
        // A wildcard means at least one label, so a leading dot has none. Hashing longer suffixes
        // would take time quadratic in what a client sends.
        let suffixes = host
            .match_indices('.')
            .filter(|(at, _)| *at > 0)
            .map(|(at, _)| &host[at + 1..])
            .filter(|suffix| suffix.len() <= self.longest_suffix);
        let files = self
            .exact_hosts
            .get(&*host)
            .into_iter()
            .chain(suffixes.filter_map(|suffix| self.wildcard_hosts.get(suffix)))
            .chain([&self.any_host]);
        for files in files {
            look_into(files.exact.get(request.path));
            if !files.prefix.is_empty() {
                for prefix in prefixes(request.path, files.longest_prefix) {
                    look_into(files.prefix.get(prefix));
                }
            }
            look_into(Some(&files.other));
        }
        best
    }
}

impl PathFiles {
    fn add(&mut self, path: &PathMatch, number: usize) {
        let file = match path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathMatch::Prefix(prefix) if prefix == "/" => &mut self.other,
            PathMatch::Prefix(prefix) => {
                let key = prefix.strip_suffix('/').unwrap_or(prefix);
                self.longest_prefix = self.longest_prefix.max(key.len());
                self.prefix.entry(key.to_owned()).or_default()
            }
            PathMatch::Any | PathMatch::Regex(_) => &mut self.other,
        };
        file.push(number);
    }
}

/// For `/a/b`: the whole path, the empty prefix, and `/a`, but none longer than `longest`. A final
/// slash ends a segment.
fn prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let whole = (!path.ends_with('/') && path.len() <= longest).then_some(path);
    let cuts = path
        .match_indices('/')
        .map(|(at, _)| at)
        .take_while(move |at| *at <= longest);
    whole.into_iter().chain(cuts.map(|at| &path[..at]))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::super::matcher::ListenerId;
    use super::*;
    use crate::route::{PathRegex, Slashes};

    /// xorshift64: the same tables each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
            texts[self.below(texts.len())]
        }

        fn path(&mut self) -> String {
            let depth = 1 + self.below(3);
            let mut path: String = (0..depth)
                .map(|_| format!("/{}", self.one_of(&["a", "b", "ab", "c"])))
                .collect();
            if self.below(4) == 0 {
                path.push('/');
            }
            path
        }

        fn matcher(&mut self) -> Matcher {
            let hosts = (0..self.below(4).saturating_sub(1)).map(|_| match self.below(2) {
                0 => HostPattern::Exact(self.one_of(&["a.b.c", "b.c", "x.c"]).to_owned()),
                _ => HostPattern::Wildcard(self.one_of(&["b.c", "c"]).to_owned()),
            });
            let hosts = hosts.collect();
            let path = match self.below(5) {
                0 => PathMatch::Exact(self.path()),
                1 => {
                    PathMatch::Regex(PathRegex::parse(self.one_of(&["^/a/b", "c$", "ab"])).unwrap())
                }
                2 if self.below(8) == 0 => PathMatch::Any,
                3 if self.below(8) == 0 => PathMatch::Prefix("/".to_owned()),
                _ => PathMatch::Prefix(self.path()),
            };
            let methods = if self.below(5) == 0 {
                vec![Method::POST]
            } else {
                Vec::new()
            };
            let headers = match self.below(6) {
                0 => vec![(HeaderName::from_static("x-a"), "1".to_owned())],
                _ => Vec::new(),
            };
            let listener = (self.below(4) == 0).then(|| ListenerId::new(self.below(2)));
            Matcher {
                listener,
                hosts,
                path,
                slashes: Slashes::Merged,
                headers,
                methods,
            }
        }
    }

    #[test]
    fn the_index_finds_what_a_scan_of_all_routes_finds() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut found = 0;
        for _ in 0..300 {
            let count = 1 + random.below(30);
            let matchers: Vec<_> = (0..count).map(|_| random.matcher()).collect();
            let index = RouteIndex::build(&matchers);
            for _ in 0..40 {
                let path = random.path();
                let mut headers = HeaderMap::new();
                if random.below(2) == 0 {
                    headers.insert("x-a", HeaderValue::from_static("1"));
                }
                let method = if random.below(3) == 0 {
                    Method::POST
                } else {
                    Method::GET
                };
                let request = RequestKey {
                    listener: ListenerId::new(random.below(2)),
                    host: random.one_of(&["a.b.c", "B.C:80", "x.c", "z.z.c", "other", "c", ".b.c"]),
                    path: &path,
                    slashes: None,
                    method: &method,
                    headers: &headers,
                };
                let host = plain_host(request.host);
                let scan = matchers.iter().position(|m| m.matches(&request, &host));
                assert_eq!(index.lookup(&request), scan, "{request:?} in {matchers:#?}");
                found += usize::from(scan.is_some());
            }
        }
        assert!(found > 1000, "only {found} requests matched anything");
    }

    #[test]
    fn among_a_thousand_routes_only_a_few_are_compared() {
        let matchers: Vec<_> = (0..1000)
            .map(|n| Matcher {
                listener: None,
                hosts: vec![HostPattern::Exact(format!("host-{}.example.com", n % 100))],
                path: PathMatch::Prefix(format!("/app-{}", n / 100)),
                slashes: Slashes::Merged,
                headers: Vec::new(),
                methods: Vec::new(),
            })
            .collect();
        let index = RouteIndex::build(&matchers);
        let headers = HeaderMap::new();
        let request = RequestKey {
            listener: ListenerId::new(0),
            host: "host-42.example.com",
            path: "/app-7/some/page",
            slashes: None,
            method: &Method::GET,
            headers: &headers,
        };
        let mut tried = 0;
        assert_eq!(index.lookup_counting(&request, &mut tried), Some(742));
        assert_eq!(tried, 1);
    }

    #[test]
    fn no_prefix_longer_than_the_longest_filed_is_looked_up() {
        let path = "/a".repeat(30_000);
        assert_eq!(prefixes(&path, 4).collect::<Vec<_>>(), ["", "/a", "/a/a"]);
        assert_eq!(prefixes("/a/b", 4).collect::<Vec<_>>(), ["/a/b", "", "/a"]);
        assert_eq!(prefixes("/a/b/", 4).collect::<Vec<_>>(), ["", "/a", "/a/b"]);
    }
}
