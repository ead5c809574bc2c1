//! The words of other proxies, so that operators who use one are told prusik's word.

/// Values of `balance` and similar keys.
const WORDS: [(&str, &str); 8] = [
    ("least_conn", "least_sessions"),
    ("leastconn", "least_sessions"),
    ("ip_hash", "consistent_hash, and hash_key: $remote_addr"),
    (
        "hash",
        "consistent_hash, and a hash_key such as $arg_userId",
    ),
    ("source", "consistent_hash, and hash_key: $remote_addr"),
    ("random", "two_choices"),
    ("roundrobin", "round_robin"),
    ("rr", "round_robin"),
];

/// Keys. Most are nginx's directives and their parameters.
const KEYS: [(&str, &str); 64] = [
    (
        "access_log_format",
        "write access_log: { format: combined }, or json",
    ),
    (
        "add_header",
        "write headers: { response: { add: { NAME: VALUE } } } in the route",
    ),
    (
        "auth_basic",
        "prusik asks for no passwords: let the server do it",
    ),
    (
        "backend",
        "write upstream: NAME in a route, and the servers in upstreams",
    ),
    (
        "backends",
        "write upstreams: { NAME: { servers: [127.0.0.1:9080] } }",
    ),
    ("bind", "write listen: 0.0.0.0:9090"),
    ("check", "write health_check: { type: tcp }"),
    (
        "client_header_timeout",
        "write limits: { header_timeout: 10s } in the listener",
    ),
    (
        "client_max_body_size",
        "write limits: { body_size: 20MiB } in the listener",
    ),
    (
        "clusters",
        "write upstreams: { NAME: { servers: [127.0.0.1:9080] } }",
    ),
    (
        "default_server",
        "the first route that matches serves: put the one for all hosts last",
    ),
    (
        "down",
        "take the server out of the file, or `prusik drain UPSTREAM/ADDRESS` while prusik runs",
    ),
    ("endpoints", "write servers: [127.0.0.1:9080]"),
    (
        "error_log",
        "errors go to stderr; the environment's RUST_LOG says how much",
    ),
    (
        "error_page",
        "write errors: { 502: sorry.html } in the route",
    ),
    ("events", "nothing is to be set there: leave it out"),
    (
        "fail_timeout",
        "write eject: { failures: 5, within: 10s, for: 30s } in the upstream",
    ),
    (
        "frontend",
        "write listeners: [{ listen: 0.0.0.0:9090 }], and routes",
    ),
    (
        "frontends",
        "write listeners: [{ listen: 0.0.0.0:9090 }], and routes",
    ),
    ("healthcheck", "write health_check: { type: tcp }"),
    (
        "http",
        "write listeners, upstreams and routes at the top of the file",
    ),
    (
        "http2",
        "write it in the listener's tls: { certificates: […], http2: true }",
    ),
    (
        "include",
        "one file holds all; what repeats can be an anchor in a key that begins with x-",
    ),
    ("inter", "write health_check: { interval: 2s }"),
    (
        "ip_hash",
        "write balance: consistent_hash and hash_key: $remote_addr in the upstream",
    ),
    (
        "keepalive_timeout",
        "write limits: { idle: 75s } in the listener",
    ),
    (
        "least_conn",
        "write balance: least_sessions in the upstream",
    ),
    (
        "limit_req",
        "write requests_per_second: { rate: 50, burst: 100 } in the route",
    ),
    (
        "location",
        "write a route: { match: { path_prefix: /chat }, upstream: NAME }",
    ),
    (
        "locations",
        "write routes: [{ match: { path_prefix: /chat }, upstream: NAME }]",
    ),
    (
        "map",
        "a handshake is known as one: nothing is to be set for $http_upgrade",
    ),
    (
        "max_conns",
        "write max_sessions: 1000 in the server's entry",
    ),
    (
        "max_fails",
        "write eject: { failures: 5, within: 10s, for: 30s } in the upstream",
    ),
    (
        "maxconn",
        "write max_sessions in a server's entry, or limits: { connections: … } in a listener",
    ),
    ("pid", "write server: { pid_file: /run/prusik/prusik.pid }"),
    (
        "port",
        "the port is part of the address, such as 0.0.0.0:9090",
    ),
    (
        "proxy_connect_timeout",
        "write timeouts: { connect: 5s } in the route",
    ),
    (
        "proxy_hide_header",
        "write headers: { response: { remove: [NAME] } } in the route",
    ),
    (
        "proxy_http_version",
        "servers are asked by HTTP/1.1: leave it out",
    ),
    (
        "proxy_next_upstream",
        "write retry_on: [connect, 503, timeout] in the upstream",
    ),
    (
        "proxy_next_upstream_tries",
        "write attempts: 3 in the upstream",
    ),
    (
        "proxy_pass",
        "write upstream: NAME, and the servers in upstreams",
    ),
    (
        "proxy_read_timeout",
        "write timeouts: { response: 60s, idle: 60s } for requests, websocket: { idle: 1h } for sessions",
    ),
    (
        "proxy_send_timeout",
        "write timeouts: { idle: 60s } for requests, websocket: { idle: 1h } for sessions",
    ),
    (
        "proxy_set_header",
        "write headers: { request: { set: { NAME: VALUE } } } in the route",
    ),
    (
        "real_ip_header",
        "write trusted_proxies: [10.0.0.0/8] at the top of the file",
    ),
    (
        "return",
        "write redirect: { to: /new, status: 301 } or respond: { status: 410 }",
    ),
    (
        "rewrite",
        "write rewrite: { regex: ^/v1/(.*)$, to: /api/$1 } or redirect: { to: /new } in the route",
    ),
    ("root", "prusik serves no files: name an upstream that does"),
    (
        "server_name",
        "write match: { host: chat.example.com }, or a list of hosts, in each route",
    ),
    (
        "server_names",
        "write match: { host: chat.example.com }, or a list of hosts, in each route",
    ),
    (
        "services",
        "write upstreams: { NAME: { servers: [127.0.0.1:9080] } }",
    ),
    (
        "set_real_ip_from",
        "write trusted_proxies: [10.0.0.0/8] at the top of the file",
    ),
    (
        "ssl",
        "write tls: { certificates: [{ cert: chain.pem, key: key.pem }] }",
    ),
    (
        "ssl_certificate",
        "write tls: { certificates: [{ cert: chain.pem, key: key.pem }] }",
    ),
    (
        "ssl_certificate_key",
        "write tls: { certificates: [{ cert: chain.pem, key: key.pem }] }",
    ),
    (
        "ssl_client_certificate",
        "write tls: { client_ca: clients.pem } in the listener",
    ),
    (
        "sticky",
        "write balance: consistent_hash and a hash_key such as $cookie_session",
    ),
    (
        "try_files",
        "prusik serves no files: name an upstream that does",
    ),
    (
        "upgrade",
        "a handshake is known as one: nothing is to be set for it",
    ),
    (
        "worker_connections",
        "write limits: { connections: 10000 } in the listener",
    ),
    (
        "worker_processes",
        "write server: { threads: 4 }, or leave it out: one for each core",
    ),
    (
        "worker_shutdown_timeout",
        "write server: { drain: { window: 30s, deadline: 60s } }",
    ),
    ("zone", "the counts are the whole process's: leave it out"),
];

/// prusik's word for a value.
pub fn word(theirs: &str) -> Option<String> {
    let found = WORDS.iter().find(|(word, _)| *word == theirs);
    found.map(|(_, ours)| format!("write {ours}"))
}

/// The key in prusik's file for a key of another proxy.
pub fn key(theirs: &str) -> Option<&'static str> {
    let position = KEYS.binary_search_by_key(&theirs, |(key, _)| key).ok()?;
    Some(KEYS[position].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_others_is_found() {
        for (theirs, hint) in KEYS {
            assert_eq!(key(theirs), Some(hint), "the keys stand in order");
        }
        assert_eq!(key("listen"), None);
        assert_eq!(
            word("ip_hash").map(|hint| hint.contains("consistent_hash")),
            Some(true)
        );
    }
}
