//! Which keys this build's own `check` takes, of those that not every build has.

use crate::config::{self, Config, ConfigErrors};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `match.host` as a list.
    pub host_list: bool,
    pub rewrite: bool,
    pub basic: bool,
    pub forward: bool,
    pub requests_per_second: bool,
    pub body_size: bool,
    pub errors: bool,
    pub retry_on: bool,
    pub affinity: bool,
}

impl Features {
    #[cfg(test)]
    pub const ALL: Self = Self {
        host_list: true,
        rewrite: true,
        basic: true,
        forward: true,
        requests_per_second: true,
        body_size: true,
        errors: true,
        retry_on: true,
        affinity: true,
    };

    /// Asks the resolver itself.
    pub fn of_this_build() -> Self {
        let route = |key: &str| is_known("", key);
        let upstream = |key: &str| is_known(key, "");
        Self {
            host_list: probe("", "match: { host: [a.test, b.test] }").is_ok(),
            rewrite: route("rewrite: { regex: \"^/a(.*)$\", to: \"/b$1\" }"),
            basic: route("auth: { basic: { users: /dev/null, realm: x } }"),
            forward: route("auth: { forward: { url: \"http://127.0.0.1:3/x\" } }"),
            requests_per_second: route(
                "requests_per_second: { rate: 1, burst: 1, key: $remote_addr }",
            ),
            body_size: route("body_size: 1MiB"),
            errors: route("errors: { 502: /dev/null }"),
            retry_on: upstream("retry_on: [connect, 502]"),
            affinity: upstream("affinity: { cookie: a }"),
        }
    }
}

/// A key is known unless the decoder refuses it: what is said of its value is another matter.
fn is_known(upstream: &str, route: &str) -> bool {
    match probe(upstream, route) {
        Ok(_) => true,
        Err(errors) => !errors.to_string().contains("unknown key"),
    }
}

fn probe(upstream: &str, route: &str) -> Result<Config, ConfigErrors> {
    let text = format!(
        "listeners: [{{ listen: 127.0.0.1:1 }}]\n\
         upstreams:\n  u:\n    servers: [127.0.0.1:2]\n    {upstream}\n\
         routes:\n  - upstream: u\n    {route}\n"
    );
    config::parse("probe", &text)
}
