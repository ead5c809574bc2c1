//! Lists what a reload changes, so that the operator can see that it is the intended change.

use std::collections::{HashMap, HashSet};

use crate::config::{Config, Listener, Route, ServerAddress, Upstream, UpstreamServer};

/// Empty: the files have the same meaning.
pub fn between(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let sections = [
        ("server.drain", old.server.drain == new.server.drain),
        ("admin", old.admin == new.admin),
        ("access_log", old.access_log == new.access_log),
        ("tracing", old.tracing == new.tracing),
        (
            "trusted_proxies",
            old.trusted_proxies == new.trusted_proxies,
        ),
        ("client_address", old.client_address == new.client_address),
        (
            "server.tls_sessions",
            old.server.tls_sessions == new.server.tls_sessions,
        ),
    ];
    for (section, is_same) in sections {
        if !is_same {
            changes.push(format!("{section} changed"));
        }
    }
    changes.extend(listeners(&old.listeners, &new.listeners));
    compare(
        &mut changes,
        &old.upstreams,
        &new.upstreams,
        Upstream::describe,
    );
    compare(&mut changes, &old.routes, &new.routes, |route, other| {
        Route::describe(route, other, old, new)
    });
    let common = |routes: &[Route], others: &[Route]| -> Vec<String> {
        let names: HashSet<&str> = others.iter().map(|other| other.name.as_str()).collect();
        let is_there = |route: &&Route| names.contains(route.name.as_str());
        routes
            .iter()
            .filter(is_there)
            .map(|route| route.name.clone())
            .collect()
    };
    if common(&old.routes, &new.routes) != common(&new.routes, &old.routes) {
        changes.push("the order of the routes changed".to_owned());
    }
    changes
}

/// Both have the same addresses, because other addresses need an upgrade.
fn listeners(old: &[Listener], new: &[Listener]) -> Vec<String> {
    let mut rest: Vec<&Listener> = new.iter().collect();
    let mut changes = Vec::new();
    for listener in old {
        let same = |other: &&Listener| other.address == listener.address;
        let Some(at) = rest.iter().position(same) else {
            continue;
        };
        let other = rest.remove(at);
        let keys = [
            ("name", listener.name == other.name),
            ("tls", listener.tls == other.tls),
            ("limits", listener.limits == other.limits),
        ];
        changes.extend(changed(keys).map(|key| format!("listener {:?}: {key}", listener.name)));
    }
    changes
}

trait Named {
    const KIND: &str;

    fn name(&self) -> &str;
}

impl Named for Upstream {
    const KIND: &str = "upstream";

    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Route {
    const KIND: &str = "route";

    fn name(&self) -> &str {
        &self.name
    }
}

fn compare<T: Named>(
    changes: &mut Vec<String>,
    old: &[T],
    new: &[T],
    describe: impl Fn(&T, &T) -> Vec<String>,
) {
    let by_name = |all| -> HashMap<&str, &T> {
        let all: std::slice::Iter<'_, T> = all;
        all.map(|item| (item.name(), item)).collect()
    };
    let (before, after) = (by_name(old.iter()), by_name(new.iter()));
    for item in old {
        match after.get(item.name()) {
            None => changes.push(format!("{} {:?} removed", T::KIND, item.name())),
            Some(other) => {
                let details = describe(item, other);
                let line = |detail| format!("{} {:?}: {detail}", T::KIND, item.name());
                changes.extend(details.into_iter().map(line));
            }
        }
    }
    for item in new {
        if !before.contains_key(item.name()) {
            changes.push(format!("{} {:?} added", T::KIND, item.name()));
        }
    }
}

impl Upstream {
    fn describe(&self, new: &Upstream) -> Vec<String> {
        let mut details = Vec::new();
        let by_address = |upstream: &Upstream| -> HashMap<ServerAddress, UpstreamServer> {
            let servers = upstream.servers.iter();
            servers
                .map(|server| (server.address.clone(), server.clone()))
                .collect()
        };
        let (before, after) = (by_address(self), by_address(new));
        for server in &self.servers {
            match after.get(&server.address) {
                None => details.push(format!("server {} removed", server.address)),
                Some(other) if other != server => {
                    details.push(format!("server {} changed", server.address));
                }
                Some(_) => {}
            }
        }
        for server in &new.servers {
            if !before.contains_key(&server.address) {
                details.push(format!("server {} added", server.address));
            }
        }
        let keys = [
            ("balance", self.balance == new.balance),
            ("discover", self.discover == new.discover),
            ("affinity", self.affinity == new.affinity),
            ("tls", self.tls == new.tls),
            ("proxy_protocol", self.proxy_protocol == new.proxy_protocol),
            ("source", self.source == new.source),
            ("health_check", self.health_check == new.health_check),
            ("eject", self.eject == new.eject),
            ("slow_start", self.slow_start == new.slow_start),
            ("attempts", self.attempts == new.attempts),
            ("retry_on", self.retry_on == new.retry_on),
            ("keepalive", self.keepalive == new.keepalive),
            ("pacing", self.pacing == new.pacing),
            ("on_down", self.on_down == new.on_down),
            ("on_removed", self.on_removed == new.on_removed),
        ];
        details.extend(changed(keys));
        details
    }
}

impl Route {
    fn describe(&self, new: &Route, old_file: &Config, new_file: &Config) -> Vec<String> {
        use crate::config::Action;
        // The same upstream may have another number in the other file.
        let action = |route: &Route, file: &Config| match &route.action {
            Action::Proxy { upstream, path } => (
                Some((file.upstream(*upstream).name.clone(), path.clone())),
                None,
            ),
            other => (None, Some(other.clone())),
        };
        let headers = self.request_headers == new.request_headers
            && self.response_headers == new.response_headers;
        let keys = [
            ("match", self.matcher == new.matcher),
            ("action", action(self, old_file) == action(new, new_file)),
            ("allow or deny", self.access == new.access),
            ("auth", self.auth == new.auth),
            ("headers", headers),
            ("forwarded", self.forwarded == new.forwarded),
            ("timeouts", self.timeouts == new.timeouts),
            ("websocket", self.websocket == new.websocket),
            ("stream", self.stream == new.stream),
            ("errors", self.errors == new.errors),
            ("body_size", self.body_size == new.body_size),
            (
                "requests_per_second",
                self.requests_per_second == new.requests_per_second,
            ),
        ];
        changed(keys).collect()
    }
}

fn changed<const N: usize>(keys: [(&str, bool); N]) -> impl Iterator<Item = String> {
    keys.into_iter()
        .filter(|(_, is_same)| !is_same)
        .map(|(key, _)| format!("{key} changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(servers: &str, routes: &str) -> Config {
        with_listener("", servers, routes)
    }

    fn with_listener(keys: &str, servers: &str, routes: &str) -> Config {
        let text = format!(
            "listeners: [{{ listen: \"127.0.0.1:9090\"{keys} }}]\nupstreams:\n  chat: {{ servers: \
             [{servers}] }}\nroutes:\n{routes}"
        );
        crate::config::parse("test", &text).unwrap()
    }

    #[test]
    fn a_listener_is_named_with_what_changed_of_it() {
        let route = "  - { match: { path: /a }, upstream: chat }\n";
        let with = |keys| with_listener(keys, "127.0.0.1:1", route);
        let old = with(", name: public");
        let new = with(", name: web, limits: { idle: 5s }");
        assert_eq!(
            between(&old, &new),
            [
                "listener \"public\": name changed",
                "listener \"public\": limits changed"
            ]
        );
        assert_eq!(between(&old, &with(", name: public")), Vec::<String>::new());
    }

    #[test]
    fn each_change_is_an_item_and_the_same_file_is_none() {
        let old = config(
            "127.0.0.1:1, { address: 127.0.0.1:2, weight: 2 }",
            "  - { name: a, match: { path: /a }, upstream: chat }\n  - { name: b, match: { path: /b }, upstream: chat }\n",
        );
        assert_eq!(between(&old, &old), Vec::<String>::new());
        let new = config(
            "127.0.0.1:2, 127.0.0.1:3",
            "  - { name: b, match: { path: /b }, upstream: chat, websocket: off }\n  - { name: c, match: { path: /c }, upstream: chat }\n",
        );
        assert_eq!(
            between(&old, &new),
            [
                "upstream \"chat\": server 127.0.0.1:1 removed",
                "upstream \"chat\": server 127.0.0.1:2 changed",
                "upstream \"chat\": server 127.0.0.1:3 added",
                "route \"a\" removed",
                "route \"b\": websocket changed",
                "route \"c\" added",
            ]
        );
    }
}
