//! How many words the known directives take, and which: what nginx refuses is an error here too.
//!
//! Without a `;` the next directive becomes words of the one before it, and whom it keeps out would
//! come in. An unreadable time or number would be the default.

use std::ops::RangeInclusive;

use super::error::ImportError;
use super::tree::Directive;
use super::{known, units};

const MANY: usize = usize::MAX;

/// Those that take another number of words than one. `server` is looked at where it stands.
const COUNTS: &[(RangeInclusive<usize>, &[&str])] = &[
    (
        0..=0,
        &["internal", "least_conn", "ip_hash", "ntlm", "flv", "mp4"],
    ),
    (0..=1, &["stub_status", "fair"]),
    (0..=2, &["random"]),
    (
        0..=MANY,
        &["check", "health_check", "sticky", "check_http_expect_alive"],
    ),
    (
        1..=2,
        &[
            "auth_jwt",
            "expires",
            "geoip_city",
            "geoip_country",
            "hash",
            "keepalive_disable",
            "keepalive_timeout",
            "least_time",
            "open_file_cache",
            "proxy_bind",
            "proxy_cookie_domain",
            "proxy_cookie_path",
            "proxy_redirect",
            "queue",
            "return",
            "ssl_session_cache",
            "user",
            "zone",
        ],
    ),
    (
        1..=3,
        &[
            "image_filter",
            "js_import",
            "limit_req",
            "proxy_store_access",
        ],
    ),
    (
        1..=4,
        &[
            "client_body_temp_path",
            "proxy_cookie_flags",
            "proxy_temp_path",
        ],
    ),
    (
        1..=MANY,
        &[
            "access_log",
            "addition_types",
            "auth_jwt_require",
            "brotli_types",
            "charset_types",
            "dav_methods",
            "error_log",
            "gzip_disable",
            "gzip_proxied",
            "gzip_types",
            "index",
            "listen",
            "more_clear_headers",
            "more_set_headers",
            "proxy_cache_bypass",
            "proxy_cache_methods",
            "proxy_cache_use_stale",
            "proxy_cache_valid",
            "proxy_ignore_headers",
            "proxy_next_upstream",
            "proxy_no_cache",
            "proxy_ssl_protocols",
            "resolver",
            "server_name",
            "ssl_protocols",
            "ssl_stapling_responder",
            "sub_filter_types",
            "worker_cpu_affinity",
            "xslt_stylesheet",
        ],
    ),
    (
        2..=2,
        &[
            "auth_request_set",
            "brotli_buffers",
            "gzip_buffers",
            "large_client_header_buffers",
            "limit_conn",
            "limit_conn_zone",
            "lua_shared_dict",
            "output_buffers",
            "perl_set",
            "proxy_buffers",
            "proxy_set_header",
            "proxy_ssl_conf_command",
            "set",
            "ssl_conf_command",
            "sub_filter",
        ],
    ),
    (
        2..=3,
        &[
            "add_header",
            "add_trailer",
            "js_set",
            "rewrite",
            "thread_pool",
        ],
    ),
    (
        2..=MANY,
        &["error_page", "log_format", "proxy_cache_path", "try_files"],
    ),
    (3..=3, &["limit_zone"]),
    (3..=4, &["limit_req_zone"]),
];

/// Those with a block, and the words before it.
const BLOCKS: &[(RangeInclusive<usize>, &[&str])] = &[
    (
        0..=0,
        &["events", "http", "mail", "server", "stream", "types"],
    ),
    (1..=1, &["geoip2", "match", "upstream"]),
    (1..=2, &["geo", "location"]),
    (1..=MANY, &["if", "limit_except"]),
    (2..=2, &["map", "split_clients"]),
];

const TIMES: [&str; 8] = [
    "client_body_timeout",
    "client_header_timeout",
    "keepalive_timeout",
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "send_timeout",
    "worker_shutdown_timeout",
];

const NUMBERS: [&str; 3] = [
    "http2_max_concurrent_streams",
    "keepalive",
    "proxy_next_upstream_tries",
];

/// Written in any case. `optional` and `optional_no_ca` are looked at where they hold.
const SWITCHES: [&str; 9] = [
    "http2",
    "merge_slashes",
    "proxy_intercept_errors",
    "proxy_ssl_server_name",
    "proxy_ssl_verify",
    "real_ip_recursive",
    "satisfy",
    "ssl",
    "ssl_verify_client",
];

const NEXT_UPSTREAM: [&str; 13] = [
    "error",
    "http_403",
    "http_404",
    "http_429",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "invalid_header",
    "non_idempotent",
    "off",
    "timeout",
    "updating",
];

/// Words of `listen`; what has a value ends with `=`.
const LISTEN: [&str; 18] = [
    "accept_filter=",
    "backlog=",
    "bind",
    "default",
    "default_server",
    "deferred",
    "fastopen=",
    "http2",
    "ipv6only=",
    "proxy_protocol",
    "quic",
    "rcvbuf=",
    "reuseport",
    "setfib=",
    "sndbuf=",
    "so_keepalive=",
    "spdy",
    "ssl",
];

/// Refuses what nginx refuses, and writes switches in small letters.
pub fn check(tree: &mut [Directive]) -> Result<(), ImportError> {
    for directive in tree {
        count(directive)?;
        words(directive)?;
        match directive.name.as_str() {
            "map" | "geo" | "split_clients" => entries(directive)?,
            // Lines of their own kind.
            "types" | "match" | "geoip2" => {}
            _ => {
                if let Some(block) = &mut directive.block {
                    check(block)?;
                }
            }
        }
    }
    Ok(())
}

fn count(directive: &Directive) -> Result<(), ImportError> {
    let name = directive.name.as_str();
    let of = |table: &[(RangeInclusive<usize>, &[&str])]| {
        let found = table.iter().find(|(_, names)| names.contains(&name));
        found.map(|(range, _)| range.clone())
    };
    let (block, plain) = (of(BLOCKS), of(COUNTS));
    let is_known = known::is_known(name);
    let allowed = match (&directive.block, block, plain) {
        (Some(_), Some(range), _) => range,
        // A server of an upstream.
        (None, Some(_), _) if name == "server" => 1..=MANY,
        (None, Some(_), _) => {
            let error = ImportError::at(&directive.place, format!("\"{name}\" has no block"));
            return Err(error.hint("write { … } behind it instead of ;"));
        }
        (Some(_), None, _) if is_known && !name.ends_with("_by_lua_block") => {
            let error = ImportError::at(&directive.place, format!("\"{name}\" takes no block"));
            return Err(error.hint(missing(&directive.args)));
        }
        (None, None, Some(range)) => range,
        (None, None, None) if is_known => 1..=1,
        (_, None, _) => return Ok(()),
    };
    let number = directive.args.len();
    if allowed.contains(&number) {
        return Ok(());
    }
    let wanted = match (*allowed.start(), *allowed.end()) {
        (least, MANY) => format!("{least} or more"),
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let what = format!("\"{name}\" takes {wanted} of words, and has {number}");
    let hint = match number > *allowed.end() {
        true => missing(&directive.args[(*allowed.end()).max(1).min(number) - 1..]),
        false => "nginx's documentation says which".to_owned(),
    };
    Err(ImportError::at(&directive.place, what).hint(hint))
}

/// Where the `;` may be missing.
fn missing(words: &[String]) -> String {
    let next = words.iter().find(|word| known::is_known(word));
    match next {
        Some(next) => format!("is the ; missing before \"{next}\"?"),
        None => "is a ; missing?".to_owned(),
    }
}

/// The lines of a table have a key and a value.
fn entries(table: &Directive) -> Result<(), ImportError> {
    const ALONE: [&str; 5] = [
        "hostnames",
        "volatile",
        "ranges",
        "proxy_recursive",
        "include",
    ];
    for line in table.inner() {
        let is_alone = ALONE.contains(&line.name.as_str());
        let number = line.args.len();
        if number > 1 || number == 0 && !is_alone || line.block.is_some() {
            let what = format!("a line of \"{}\" is a key and a value", table.name);
            return Err(ImportError::at(&line.place, what).hint("end each line with ;"));
        }
    }
    Ok(())
}

fn words(directive: &mut Directive) -> Result<(), ImportError> {
    let name = directive.name.as_str();
    if SWITCHES.contains(&name) {
        for word in &mut directive.args {
            word.make_ascii_lowercase();
        }
    }
    let args: Vec<&str> = directive.args.iter().map(String::as_str).collect();
    let wrong = wrong_value(name, &args).or_else(|| wrong_option(name, &args));
    let Some((word, wanted)) = wrong else {
        return Ok(());
    };
    let hint = match directive.args.iter().any(|word| known::is_known(word)) {
        true => missing(&directive.args),
        false => format!("write {wanted}"),
    };
    let what = format!("\"{name}\" has \"{word}\", which is not {wanted}");
    Err(ImportError::at(&directive.place, what).hint(hint))
}

/// A word that is none of the directive's, and what would be one.
type Wrong<'w> = Option<(&'w str, &'static str)>;

fn is_number(word: &str) -> bool {
    word.parse::<u64>().is_ok()
}

/// The first of the words that does not fit.
fn first<'w>(words: &[&'w str], wanted: &'static str, fits: impl Fn(&str) -> bool) -> Wrong<'w> {
    let wrong = words.iter().find(|word| !fits(word));
    wrong.map(|word| (*word, wanted))
}

fn wrong_value<'w>(name: &str, args: &[&'w str]) -> Wrong<'w> {
    match (name, args) {
        ("satisfy", words) => first(words, "any or all", |word| ["any", "all"].contains(&word)),
        ("ssl_verify_client", words) => {
            let modes = ["on", "off", "optional", "optional_no_ca"];
            first(words, "on, off or optional", |word| modes.contains(&word))
        }
        (name, words) if SWITCHES.contains(&name) => {
            first(words, "on or off", |word| ["on", "off"].contains(&word))
        }
        (name, words) if TIMES.contains(&name) => first(words, "a time, such as 60s", |word| {
            units::time(word).is_some()
        }),
        (name, words) if NUMBERS.contains(&name) => first(words, "a number", is_number),
        ("limit_conn", [_, words @ ..]) => first(words, "a number", is_number),
        ("worker_processes", words) => first(words, "a number or auto", |word| {
            is_number(word) || word == "auto"
        }),
        ("client_max_body_size", words) | ("large_client_header_buffers", [_, words @ ..]) => {
            first(words, "a size, such as 20m", |word| {
                units::size(word).is_some()
            })
        }
        _ => None,
    }
}

fn wrong_option<'w>(name: &str, args: &[&'w str]) -> Wrong<'w> {
    let begins = |word: &str, keys: &[&str]| keys.iter().any(|key| word.starts_with(key));
    match (name, args) {
        ("add_header" | "add_trailer", [_, _, words @ ..]) => {
            first(words, "always, or nothing", |word| word == "always")
        }
        ("rewrite", [_, _, words @ ..]) => {
            let flags = ["last", "break", "redirect", "permanent"];
            first(words, "last, break, redirect or permanent", |word| {
                flags.contains(&word)
            })
        }
        ("hash", [_, words @ ..]) => {
            first(words, "consistent, or nothing", |word| word == "consistent")
        }
        ("proxy_next_upstream", words) => first(words, "a reason to try the next server", |word| {
            NEXT_UPSTREAM.contains(&word)
        }),
        ("error_page", [codes @ .., _]) => first(codes, "a status", |word| {
            is_number(word) || word.starts_with('=')
        }),
        ("access_log", [_, _, words @ ..]) => first(words, "an option of the log", |word| {
            word.contains('=') || word == "gzip"
        }),
        ("limit_req", words) => first(words, "zone=, burst=, nodelay or delay=", |word| {
            word == "nodelay" || begins(word, &["zone=", "burst=", "delay="])
        }),
        ("limit_req_zone", [_, words @ ..]) => first(words, "a rate, such as rate=10r/s", |word| {
            word.strip_prefix("rate=").is_none_or(|rate| {
                let number = rate.strip_suffix("r/s").or(rate.strip_suffix("r/m"));
                number.is_some_and(is_number)
            })
        }),
        ("listen", [address, words @ ..]) => {
            let port = first(&[*address], "an address with a port up to 65535", has_port);
            port.or_else(|| first(words, "an option of a socket", is_of_listen))
        }
        _ => None,
    }
}

/// Whether the port is one, as far as the address has digits for it.
fn has_port(address: &str) -> bool {
    let port = address.rsplit(':').next().unwrap_or_default();
    let is_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = port.parse::<u16>().is_ok();
    is_port || !is_digits || address.starts_with("unix:")
}

fn is_of_listen(word: &str) -> bool {
    LISTEN.iter().any(|known| match known.ends_with('=') {
        true => word.starts_with(known),
        false => word == *known,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    fn said(text: &str) -> Option<String> {
        let mut tree = parse(&Arc::from("f"), text).unwrap();
        check(&mut tree).err().map(|error| error.to_string())
    }

    #[test]
    fn a_directive_that_has_swallowed_the_next_is_an_error() {
        for (text, hint) in [
            ("proxy_pass http://a\n deny all;", "before \"deny\""),
            ("allow 10.0.0.1\n deny all;", "before \"deny\""),
            ("listen 80\n deny all;", "before \"deny\""),
            ("proxy_set_header A $b\n internal;", "before \"internal\""),
            ("add_header A b\n internal;", "before \"internal\""),
            ("rewrite ^ /x\n internal;", "before \"internal\""),
            ("keepalive_timeout 60\n internal;", "before \"internal\""),
            ("access_log /a main\n internal;", "before \"internal\""),
            ("error_page 404 /a\n deny all;", "before \"deny\""),
            ("limit_req zone=a\n deny all;", "before \"deny\""),
            ("internal\n deny all;", "before \"deny\""),
            ("sendfile on\n deny all;", "before \"deny\""),
            ("set $a b\n auth_basic x;", "before \"auth_basic\""),
            (
                "return 200\n location /x { deny all; }",
                "before \"location\"",
            ),
            ("map $a $b { a 1 b 2; }", "end each line"),
        ] {
            let said = said(text).unwrap_or_default();
            assert!(said.contains(hint), "{text}: {said}");
        }
    }

    #[test]
    fn values_that_nginx_refuses_are_errors_and_others_are_none() {
        for text in [
            "proxy_read_timeout 60parsecs;",
            "client_max_body_size 10x;",
            "listen 99999;",
            "listen 127.0.0.1:65536;",
            "proxy_ssl_verify yes;",
            "limit_req_zone $a zone=b:1m rate=fast;",
            "rewrite ^ /x forever;",
            "satisfy some;",
            "location /x;",
            "worker_processes many;",
        ] {
            assert!(said(text).is_some(), "{text}");
        }
        for text in [
            "keepalive_timeout 65 60; internal; stub_status; stub_status on;",
            "listen 80; listen [::]:80 ipv6only=on reuseport; listen unix:/run/1; listen 10.0.0.1;",
            "upstream a { server b weight=2; server c backup; keepalive 8; hash $x consistent; }",
            "access_log /a main buffer=1k if=$x; access_log off; error_page 502 =200 /x; server { }",
            "SomeModule a b c d; other { anything here; } include x;",
            "types { text/html html htm; } map $a $b { hostnames; default 0; ~x 1; }",
            "access_by_lua_block { x() }",
        ] {
            assert_eq!(said(text), None, "{text}");
        }
        let mut tree = parse(&Arc::from("f"), "satisfy ANY; proxy_ssl_verify On;").unwrap();
        check(&mut tree).unwrap();
        assert_eq!((tree[0].arg(0), tree[1].arg(0)), ("any", "on"));
    }
}
