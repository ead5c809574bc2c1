//! How many words the known directives take, and which: what nginx refuses is an error here too.
//!
//! Without a `;` the next directive becomes words of the one before it, and whom it keeps out would
//! come in. An unreadable time or number would be the default.

mod words;

use std::ops::RangeInclusive;

use super::error::ImportError;
use super::known;
use super::tree::Directive;

const MANY: usize = usize::MAX;

/// Those that take another number of words than one. `server` is looked at where it stands.
const COUNTS: &[(RangeInclusive<usize>, &[&str])] = &[
    (
        0..=0,
        &["internal", "least_conn", "ip_hash", "ntlm", "flv", "mp4"],
    ),
    (0..=1, &["stub_status"]),
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
            "disable_symlinks",
            "keepalive",
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
            "open_log_file_cache",
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
    (3..=MANY, &["limit_req_zone"]),
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

/// Without the `;` before it, one of these is a word of another directive.
pub const KEEPING: [&str; 7] = [
    "allow",
    "auth_basic",
    "auth_request",
    "deny",
    "internal",
    "limit_except",
    "satisfy",
];

/// Refuses what nginx refuses, and writes switches in small letters.
pub fn check(tree: &mut [Directive]) -> Result<(), ImportError> {
    check_in("", tree)
}

fn check_in(outer: &str, block: &mut [Directive]) -> Result<(), ImportError> {
    for directive in block {
        context(outer, directive)?;
        count(directive)?;
        words::words(directive)?;
        match directive.name.as_str() {
            "map" | "geo" | "split_clients" => entries(directive)?,
            // Others' have lines of their own kind.
            "http" | "server" | "location" | "if" | "limit_except" | "upstream" | "events" => {
                if let Some(block) = &mut directive.block {
                    check_in(&directive.name, block)?;
                    duplicates(block)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What keeps somebody out does so where it may stand. A name that nobody knows may be meant for
/// one that does.
fn context(outer: &str, directive: &Directive) -> Result<(), ImportError> {
    let name = directive.name.as_str();
    let is_allowed = match name {
        // A file of a site has no block around its servers.
        "location" => matches!(outer, "server" | "location"),
        "limit_except" | "internal" => outer == "location",
        _ if KEEPING.contains(&name) => !matches!(outer, "if" | "upstream" | "events"),
        _ => true,
    };
    if !is_allowed {
        let what = format!("\"{name}\" cannot stand here");
        return Err(
            ImportError::at(&directive.place, what).hint("is a } missing, or one too many?")
        );
    }
    let meant = KEEPING
        .iter()
        .find(|known| !known::is_known(name) && is_slip(name, known));
    match meant {
        Some(known) => {
            let what = format!("nginx has no \"{name}\"");
            let hint = format!("did you mean \"{known}\"?");
            Err(ImportError::at(&directive.place, what).hint(hint))
        }
        None => Ok(()),
    }
}

/// Whether it is the other name but for a letter, two that have changed places, or their case.
fn is_slip(name: &str, known: &str) -> bool {
    strsim::osa_distance(&name.to_ascii_lowercase(), known) <= 1
}

/// Of two, nginx would take one, or refuse to start.
fn duplicates(block: &[Directive]) -> Result<(), ImportError> {
    const ONCE: [&str; 6] = [
        "auth_basic",
        "auth_basic_user_file",
        "auth_request",
        "internal",
        "proxy_pass",
        "satisfy",
    ];
    for (number, directive) in block.iter().enumerate() {
        let is_regex = directive.arg(0).starts_with('~');
        let is_same = |other: &&Directive| match directive.name.as_str() {
            "location" => other.name == "location" && other.args == directive.args && !is_regex,
            name => other.name == name && ONCE.contains(&name),
        };
        if block[..number].iter().any(|other| is_same(&other)) {
            let what = format!("\"{}\" is there twice", directive.text());
            return Err(ImportError::at(&directive.place, what).hint("remove one of the two"));
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
pub fn missing(words: &[String]) -> String {
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

#[cfg(test)]
mod tests;
