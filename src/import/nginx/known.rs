//! The directives that are not translated one by one: what tunes something that is not here, and
//! what has no equivalent. A directive in none of these lists is one that nobody here knows.

use super::includes::UNREAD;
use super::levels::Levels;
use super::notes::Note;
use super::tree::Directive;

/// Directives that are translated where they hold.
const TRANSLATED: &[&str] = &[
    "access_log",
    "add_header",
    "allow",
    "auth_basic",
    "auth_basic_user_file",
    "auth_request",
    "auth_request_set",
    "client_header_timeout",
    "client_max_body_size",
    "default_type",
    "deny",
    "error_page",
    "events",
    "http",
    "http2",
    "http2_max_concurrent_streams",
    "if",
    "internal",
    "keepalive_timeout",
    "large_client_header_buffers",
    "limit_conn",
    "limit_conn_zone",
    "limit_except",
    "limit_req",
    "limit_req_zone",
    "limit_zone",
    "listen",
    "location",
    "log_format",
    "map",
    "merge_slashes",
    "more_clear_headers",
    "more_set_headers",
    "proxy_bind",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_intercept_errors",
    "proxy_next_upstream",
    "proxy_next_upstream_tries",
    "proxy_pass",
    "proxy_protocol",
    "proxy_read_timeout",
    "proxy_set_header",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_name",
    "proxy_ssl_server_name",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_verify",
    "real_ip_header",
    "real_ip_recursive",
    "return",
    "rewrite",
    "root",
    "alias",
    "index",
    "satisfy",
    "send_timeout",
    "server",
    "server_name",
    "set",
    "set_real_ip_from",
    "ssl",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_session_ticket_key",
    "ssl_verify_client",
    "try_files",
    "upstream",
    "worker_processes",
    "worker_shutdown_timeout",
    "fastcgi_pass",
    "uwsgi_pass",
    "scgi_pass",
    "grpc_pass",
    "memcached_pass",
    "stub_status",
];

/// With the reason why nothing needs to stand in their place.
const NO_MEANING: &[(&[&str], &str)] = &[
    (
        &[
            "sendfile",
            "sendfile_max_chunk",
            "tcp_nopush",
            "tcp_nodelay",
            "aio",
            "directio",
            "output_buffers",
            "postpone_output",
            "reset_timedout_connection",
            "lingering_close",
            "lingering_time",
            "lingering_timeout",
            "multi_accept",
            "accept_mutex",
            "accept_mutex_delay",
            "use",
            "worker_connections",
            "worker_rlimit_nofile",
            "worker_rlimit_core",
            "worker_cpu_affinity",
            "worker_priority",
            "worker_aio_requests",
            "timer_resolution",
            "pcre_jit",
            "thread_pool",
            "working_directory",
            "debug_points",
            "lock_file",
            "variables_hash_max_size",
            "variables_hash_bucket_size",
            "server_names_hash_max_size",
            "server_names_hash_bucket_size",
            "types_hash_max_size",
            "types_hash_bucket_size",
            "map_hash_max_size",
            "map_hash_bucket_size",
            "proxy_headers_hash_max_size",
            "proxy_headers_hash_bucket_size",
            "connection_pool_size",
            "request_pool_size",
            "client_body_buffer_size",
            "client_body_in_file_only",
            "client_body_in_single_buffer",
            "client_body_temp_path",
            "client_header_buffer_size",
            "open_file_cache",
            "open_file_cache_valid",
            "open_file_cache_min_uses",
            "open_file_cache_errors",
            "http2_recv_buffer_size",
            "http2_chunk_size",
            "http2_max_requests",
            "http2_idle_timeout",
            "http2_push",
            "http2_push_preload",
            "http2_max_field_size",
            "http2_max_header_size",
            "keepalive_requests",
            "keepalive_time",
            "keepalive_disable",
            "zone",
            "keepalive_min_timeout",
        ],
        "tuning without a meaning here",
    ),
    (
        &[
            "proxy_buffering",
            "proxy_request_buffering",
            "proxy_buffers",
            "proxy_buffer_size",
            "proxy_busy_buffers_size",
            "proxy_max_temp_file_size",
            "proxy_temp_file_write_size",
            "proxy_temp_path",
            "proxy_http_version",
            "proxy_socket_keepalive",
            "proxy_force_ranges",
            "proxy_ignore_client_abort",
            "proxy_ignore_headers",
            "chunked_transfer_encoding",
            "subrequest_output_buffer_size",
        ],
        "bodies are streamed as they come, by HTTP/1.1",
    ),
    (
        &[
            "ssl_protocols",
            "ssl_ciphers",
            "ssl_prefer_server_ciphers",
            "ssl_conf_command",
            "ssl_ecdh_curve",
            "ssl_dhparam",
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "ssl_buffer_size",
            "ssl_early_data",
            "ssl_engine",
            "ssl_stapling",
            "ssl_stapling_verify",
            "ssl_stapling_file",
            "ssl_stapling_responder",
            "ssl_trusted_certificate",
            "ssl_verify_depth",
            "proxy_ssl_protocols",
            "proxy_ssl_ciphers",
            "proxy_ssl_session_reuse",
            "proxy_ssl_verify_depth",
            "proxy_ssl_conf_command",
        ],
        "TLS 1.2 and 1.3 with safe ciphers, and sessions in tickets",
    ),
    (
        &["user", "daemon", "master_process", "env", "pid"],
        "the service's matter: see systemd/prusik.service and server.pid_file",
    ),
    (
        &[
            "error_log",
            "log_not_found",
            "log_subrequest",
            "open_log_file_cache",
            "rewrite_log",
        ],
        "errors go to stderr: RUST_LOG says how much",
    ),
    (
        &[
            "server_tokens",
            "server_name_in_redirect",
            "port_in_redirect",
            "absolute_redirect",
            "ignore_invalid_headers",
            "underscores_in_headers",
            "recursive_error_pages",
            "msie_padding",
            "msie_refresh",
        ],
        "prusik has no such habit",
    ),
    (
        &["load_module", "resolver_timeout", "resolver"],
        "names are looked up again and again, by the system's resolv.conf",
    ),
    (
        &[
            "types",
            "charset",
            "charset_types",
            "override_charset",
            "source_charset",
            "etag",
            "if_modified_since",
            "max_ranges",
            "disable_symlinks",
            "autoindex_exact_size",
            "autoindex_localtime",
            "autoindex_format",
        ],
        "the servers' matter: prusik serves no files",
    ),
    (
        &[
            "gzip_types",
            "gzip_comp_level",
            "gzip_min_length",
            "gzip_vary",
            "gzip_proxied",
            "gzip_buffers",
            "gzip_http_version",
            "gzip_disable",
            "gzip_static",
            "gunzip",
            "brotli_types",
            "brotli_comp_level",
            "brotli_min_length",
            "brotli_static",
            "brotli_buffers",
            "brotli_window",
        ],
        "prusik does not compress",
    ),
    (
        &[
            "limit_conn_status",
            "limit_conn_log_level",
            "limit_req_status",
            "limit_req_log_level",
        ],
        "over a limit prusik answers 429, or 503 for all clients together, and logs it",
    ),
    (
        &[
            "client_body_timeout",
            "proxy_next_upstream_timeout",
            "proxy_send_timeout",
            "proxy_limit_rate",
        ],
        "limits.idle, limits.stall and the route's timeouts bound it",
    ),
];

/// With the reason why the file cannot say it.
const LEFT_OUT: &[(&[&str], &str)] = &[
    (
        &["gzip", "brotli", "zstd"],
        "prusik does not compress: let the servers do it",
    ),
    (
        &[
            "proxy_cache",
            "proxy_cache_path",
            "proxy_cache_valid",
            "proxy_cache_key",
            "proxy_cache_bypass",
            "proxy_no_cache",
            "proxy_cache_use_stale",
            "proxy_cache_lock",
            "proxy_cache_methods",
            "proxy_cache_min_uses",
            "proxy_cache_revalidate",
            "proxy_cache_background_update",
            "proxy_cache_lock_timeout",
            "proxy_store",
            "proxy_store_access",
            "slice",
        ],
        "prusik has no cache",
    ),
    (
        &[
            "expires",
            "autoindex",
            "random_index",
            "dav_methods",
            "flv",
            "mp4",
            "image_filter",
            "xslt_stylesheet",
            "ssi",
            "sub_filter",
            "sub_filter_once",
            "sub_filter_types",
            "addition_types",
            "add_before_body",
            "add_after_body",
            "add_trailer",
        ],
        "prusik changes no bodies, and serves no files",
    ),
    (
        &["stream", "mail"],
        "prusik proxies HTTP and WebSockets alone",
    ),
    (
        &["geo", "geoip2", "geoip_country", "geoip_city"],
        "no variables from addresses",
    ),
    (
        &["split_clients"],
        "no variables by shares: a weighted upstream may do",
    ),
    (
        &["limit_rate", "limit_rate_after"],
        "answers are not slowed down",
    ),
    (
        &["mirror", "mirror_request_body"],
        "requests are not copied",
    ),
    (
        &["proxy_redirect"],
        "a Location of the server passes unchanged",
    ),
    (
        &[
            "proxy_cookie_domain",
            "proxy_cookie_path",
            "proxy_cookie_flags",
        ],
        "cookies of servers pass unchanged",
    ),
    (
        &[
            "proxy_method",
            "proxy_pass_request_headers",
            "proxy_pass_request_body",
            "proxy_set_body",
            "proxy_pass_header",
            "proxy_ssl_crl",
            "proxy_ssl_password_file",
            "ssl_password_file",
        ],
        "prusik has no such setting",
    ),
    (
        &[
            "js_content",
            "js_import",
            "js_set",
            "js_include",
            "js_path",
            "perl",
            "perl_modules",
            "perl_set",
            "perl_require",
            "lua_package_path",
            "lua_shared_dict",
            "lua_package_cpath",
            "lua_code_cache",
            "lua_ssl_trusted_certificate",
        ],
        "prusik runs no scripts",
    ),
    (
        &["http3", "http3_hq", "quic_retry", "quic_gso", "ssl_quic"],
        "prusik speaks HTTP/1.1 and HTTP/2",
    ),
    (
        &["ssl_reject_handshake"],
        "the first certificate is for all other names",
    ),
    (&["include"], "this file cannot be read here"),
    (
        &["health_check", "match"],
        "write health_check in the upstream",
    ),
];

/// Directives that keep somebody out. Where one of them cannot be said, the route is closed.
const PROTECTING: &[&str] = &[
    "auth_jwt",
    "auth_ldap",
    "auth_pam",
    "auth_digest",
    "access_by_lua",
    "access_by_lua_block",
    "access_by_lua_file",
    "secure_link_secret",
    "ssl_crl",
    "ssl_ocsp",
];

fn find(list: &[(&[&str], &'static str)], name: &str) -> Option<&'static str> {
    let found = list.iter().find(|(names, _)| names.contains(&name));
    found.map(|(_, why)| *why)
}

/// What is to be said of a directive. `None`: somebody translates it.
pub fn note(directive: &Directive) -> Option<Note> {
    let name = directive.name.as_str();
    if name == "include" && UNREAD.iter().any(|file| directive.arg(0).ends_with(file)) {
        return Some(Note::no_meaning(
            directive,
            "the servers' matter: prusik serves no files",
        ));
    }
    // Who turns a thing off that is not there has what was asked for.
    let is_off =
        matches!(directive.arg(0), "off" | "0" | "none" | "default") && directive.args.len() == 1;
    if TRANSLATED.contains(&name) {
        return None;
    }
    if let Some(why) = find(NO_MEANING, name) {
        return Some(Note::no_meaning(directive, why));
    }
    if let Some(why) = find(LEFT_OUT, name) {
        return Some(match is_off {
            true => Note::no_meaning(directive, why),
            false => Note::left_out(directive, why),
        });
    }
    let why = if name.contains("_by_lua") || name.starts_with("lua_") {
        "prusik runs no scripts"
    } else if ["fastcgi_", "uwsgi_", "scgi_", "grpc_", "memcached_"]
        .iter()
        .any(|of| name.starts_with(of))
    {
        return Some(Note::no_meaning(
            directive,
            "servers are reached by HTTP alone",
        ));
    } else if name.starts_with("auth_jwt") {
        "write auth.jwt into the route"
    } else if PROTECTING.contains(&name) {
        "prusik has no such protection"
    } else {
        "this import does not know it"
    };
    Some(Note::left_out(directive, why))
}

/// Whether a directive that nothing here can say keeps somebody out.
pub fn protects(levels: &Levels<'_>) -> bool {
    let mut held = PROTECTING.iter().filter_map(|name| levels.last(name));
    held.any(|directive| directive.arg(0) != "off")
}

#[cfg(test)]
mod tests;
