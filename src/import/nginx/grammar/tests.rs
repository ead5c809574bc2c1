use std::sync::Arc;

use super::super::syntax::parse;
use super::*;

fn said(text: &str) -> Option<String> {
    let text = format!("server {{ location / {{ {text} }} }}");
    let mut tree = parse(&Arc::from("f"), &text).unwrap();
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
        "if ($a) { deny all; }",
        "server { limit_except GET { deny all; } }",
        "dney all;",
        "Deny all;",
        "auth_bsic x;",
        "limit_except GTE { deny all; }",
        "location == /adm { deny all; }",
        "location /a { } location /a { deny all; }",
        "auth_basic x; auth_basic off;",
        "error_log /x warn internal;",
    ] {
        assert!(said(text).is_some(), "{text}");
    }
    for text in [
        "keepalive_timeout 65 60; internal; stub_status; stub_status on;",
        "listen 80; listen [::]:80 ipv6only=on reuseport; listen unix:/run/1; listen 10.0.0.1;",
        "upstream a { server b weight=2; server c backup; keepalive 8; hash $x consistent; }",
        "access_log /a main buffer=1k if=$x; access_log off; error_page 502 =200 /x; server { }",
        "SomeModule a b c d; other { anything here; } include x;",
        "open_log_file_cache max=1000 inactive=20s valid=1m min_uses=2; keepalive 32 local;",
        "proxy_next_upstream ERROR Timeout; limit_req off; disable_symlinks on from=/srv;",
        "types { text/html html htm; } map $a $b { hostnames; default 0; ~x 1; }",
        "access_by_lua_block { x() }",
    ] {
        assert_eq!(said(text), None, "{text}");
    }
    let mut tree = parse(&Arc::from("f"), "satisfy ANY; proxy_ssl_verify On;").unwrap();
    check(&mut tree).unwrap();
    assert_eq!((tree[0].arg(0), tree[1].arg(0)), ("any", "on"));
}
