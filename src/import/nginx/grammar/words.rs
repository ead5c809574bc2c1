//! The words themselves: values and options that a directive cannot have.

use super::super::error::ImportError;
use super::super::tree::Directive;
use super::super::{known, units};
use super::{KEEPING, missing};
use crate::route::METHODS;

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
const LISTEN: [&str; 19] = [
    "accept_filter=",
    "backlog=",
    "bind",
    "default",
    "default_server",
    "deferred",
    "fastopen=",
    "http2",
    "ipv6only=",
    "multipath",
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

pub fn words(directive: &mut Directive) -> Result<(), ImportError> {
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
        (name, [word, ..]) if NUMBERS.contains(&name) => first(&[*word], "a number", is_number),
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
            NEXT_UPSTREAM.contains(&&*word.to_ascii_lowercase())
        }),
        ("limit_except", words) => first(words, "a method", |word| {
            METHODS.contains(&word.to_ascii_uppercase().as_str())
        }),
        ("location", [sign, _]) => first(&[*sign], "=, ^~, ~ or ~*", |word| {
            ["=", "^~", "~", "~*"].contains(&word)
        }),
        ("error_page", [codes @ .., _]) => first(codes, "a status", |word| {
            is_number(word) || word.starts_with('=')
        }),
        ("access_log", [_, _, words @ ..]) => first(words, "an option of the log", |word| {
            word.contains('=') || word == "gzip"
        }),
        ("limit_req", words) => first(words, "zone=, burst=, nodelay or delay=", |word| {
            ["nodelay", "off"].contains(&word) || word.contains('=')
        }),
        ("limit_req_zone", [_, words @ ..]) => first(words, "a rate, such as rate=10r/s", |word| {
            word.strip_prefix("rate=").is_none_or(|rate| {
                let number = rate.strip_suffix("r/s").or(rate.strip_suffix("r/m"));
                number.is_some_and(is_number)
            })
        }),
        // In these the words may be anything.
        ("log_format" | "more_set_headers" | "sub_filter" | "add_header" | "if" | "set", _) => None,
        (_, [_, words @ ..]) if words.iter().any(|word| KEEPING.contains(word)) => {
            first(words, "a word of it", |word| !KEEPING.contains(&word))
        }
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
