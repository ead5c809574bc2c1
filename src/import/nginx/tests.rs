//! The files in `tests/import`. `PRUSIK_BLESS=1` writes what is expected anew.

use super::*;
use crate::config::Action;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

fn expected(name: &str) {
    let path = Path::new(FOLDER).join(format!("{name}.conf"));
    let tree = includes::load(&path, &includes::Disk).unwrap();
    let (document, notes) = document::document(&tree, &path).unwrap();
    let left_out = notes.iter().filter(|note| note.kind == Kind::LeftOut);
    let mut text = document.write();
    for note in left_out {
        text.push_str(&format!("\n# {}", note.message().replace('\n', "\n#")));
    }
    let text = text.replace(FOLDER, "/etc/nginx") + "\n";
    let golden = Path::new(FOLDER).join(format!("{name}.yaml"));
    if std::env::var_os("PRUSIK_BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let golden = std::fs::read_to_string(golden).unwrap();
    assert_eq!(text, golden, "{name}.yaml: see PRUSIK_BLESS above");
}

#[test]
fn a_chat_with_its_pages() {
    expected("chat");
}

#[test]
fn a_single_page_application_with_an_api_and_a_socket() {
    expected("spa");
}

#[test]
fn an_edge_with_tls_limits_and_a_password() {
    expected("edge");
}

#[test]
fn socket_io_as_documented() {
    expected("socketio");
}

#[test]
fn a_sidecar_with_an_auth_server_and_rewrites() {
    expected("sidecar");
}

#[test]
fn what_is_no_file_of_servers_is_an_error() {
    let error = |text: &str| import_text("f", text).unwrap_err().to_string();
    assert!(error("events {}").starts_with("f: there is no server block"));
    assert!(error("server { listen 80 }").starts_with("f:1:10: \"listen\" is not ended"));
    assert!(error("server { listen 443 quic; }").starts_with("f:1:10: there is no address"));
}

/// The text's YAML, which `check` has passed, and what was left out.
fn imported(text: &str) -> (String, Vec<String>) {
    let imported = import_text("f", text).unwrap();
    (imported.text, imported.left_out)
}

#[test]
fn what_is_internal_is_so_below_too() {
    let (yaml, _) = imported(
        "server { location /i/ { internal; location /i/x { proxy_pass http://127.0.0.1:1; } } }",
    );
    assert!(!yaml.contains("upstream: "), "{yaml}");
}

#[test]
fn nobody_is_believed_whom_nginx_does_not_believe() {
    let server = "server { listen 1; location / { proxy_pass http://127.0.0.1:1; } }";
    let from = "set_real_ip_from 10.0.0.0/8;";
    for (header, is_trusted) in [
        ("real_ip_header X-Forwarded-For;", true),
        ("real_ip_header CF-Connecting-IP;", false),
        ("", false),
    ] {
        let (yaml, left_out) = imported(&format!("{from} {header} {server}"));
        assert_eq!(yaml.contains("\ntrusted_proxies: "), is_trusted, "{yaml}");
        let is_said = left_out
            .iter()
            .any(|line| format!("{line:?}").contains("X-Forwarded-For"));
        assert_eq!(is_said, !is_trusted, "{header}: {left_out:?}");
    }
    let of_one = format!("real_ip_header X-Forwarded-For; {server} server {{ {from} listen 2; }}");
    let said = format!("{:?}", imported(&of_one).1);
    assert!(said.contains("hold for all servers"), "{said}");
}

#[test]
fn who_cannot_be_kept_out_closes_the_route() {
    for protection in [
        "satisfy any; allow 10.0.0.1; deny all; auth_basic x; auth_basic_user_file y;",
        "allow 10.0.0.1; deny 10.0.0.0/8;",
        "access_by_lua_block { check() }",
        "auth_jwt x;",
        "ssl_crl x.pem;",
        "if ($http_x_key = \"\") { return 403; }",
        "if ($request_method !~ ^(GET|HEAD)$) { return 405; }",
        "if ($blocked) { return 403; }",
    ] {
        for text in [
            format!("server {{ location / {{ {protection} proxy_pass http://127.0.0.1:1; }} }}"),
            format!("server {{ {protection} location / {{ proxy_pass http://127.0.0.1:1; }} }}"),
        ] {
            let (yaml, left_out) = imported(&text);
            assert!(yaml.contains("respond: { status: 403 }"), "{text}\n{yaml}");
            assert!(!yaml.contains("upstream: "), "{text}\n{yaml}");
            assert!(!left_out.is_empty(), "{text}");
        }
    }
}

/// nginx refuses these requests. Here nothing of the file may serve them.
#[test]
fn what_keeps_out_where_no_route_can_say_it_closes_what_would_serve_instead() {
    for (closed, path) in [
        (
            "location / { try_files $uri @app; } location @app { deny all; PASS }",
            "/",
        ),
        (
            "location / { try_files $uri @app; } location @app { return 403; PASS }",
            "/",
        ),
        (
            "location / { try_files $uri @app; } location @app { auth_jwt x; PASS }",
            "/",
        ),
        (
            "location ~ ^/(?!open)a { deny all; } location / { PASS }",
            "/about",
        ),
        (
            "location ~ ^/(a+)\\1 { deny all; } location / { PASS }",
            "/aa",
        ),
        ("location ~ ^/a { location ~ b$ { deny all; } PASS }", "/ab"),
        (
            "location /a/ { PASS } location ~ (/|x)b$ { internal; }",
            "/a/b",
        ),
        (
            "if ($http_authorization = \"\") { rewrite ^ /login redirect; } location / { PASS }",
            "/",
        ),
        (
            "if ($needs) { return 302 /login; } location / { PASS }",
            "/",
        ),
        ("include /none/protection.conf; location / { PASS }", "/"),
        ("location / { include /none/protection.conf; PASS }", "/"),
        (
            "auth_basic $realm; auth_basic_user_file /none; location / { PASS }",
            "/",
        ),
    ] {
        let text =
            format!("map $cookie_session $needs {{ \"\" 1; }} server {{ listen 1; {closed} }}",);
        let text = text.replace("PASS", "proxy_pass http://127.0.0.1:2;");
        let (yaml, left_out) = imported(&text);
        let config = config::check("f", &yaml, Extent::File).unwrap();
        let found = config
            .routes
            .iter()
            .find(|route| route.matcher.path.matches(path));
        let is_proxied = found.is_some_and(|route| matches!(route.action, Action::Proxy { .. }));
        assert!(!is_proxied, "{text}\n{yaml}");
        assert!(!left_out.is_empty(), "{text}");
    }
}

#[test]
fn a_server_whose_names_no_route_can_have_closes_the_one_that_answers_instead() {
    let open =
        "server { listen 1; server_name a.test; location / { proxy_pass http://127.0.0.1:2; } }";
    for name in ["~^admin", "www.*"] {
        let (yaml, left_out) = imported(&format!(
            "{open} server {{ listen 1; server_name {name}; deny all; }}"
        ));
        let routes = yaml.split_once("routes:").unwrap().1;
        assert!(
            routes.contains("- match: { host: a.test }\n    upstream:"),
            "{yaml}"
        );
        assert_eq!(routes.matches("upstream:").count(), 1, "{yaml}");
        assert!(routes.contains("- respond: { status: 403 }"), "{yaml}");
        assert!(
            left_out
                .iter()
                .any(|line| line.contains("closed for names")),
            "{left_out:?}"
        );
    }
}

#[test]
fn the_first_of_two_servers_with_a_name_answers_for_it() {
    let (yaml, _) = imported(
        "server { listen 1; server_name a.test; return 200 first; }
         server { listen 1; server_name a.test b.test; return 200 second; }",
    );
    assert!(!yaml.contains("host: [a.test, b.test]"), "{yaml}");
    assert!(yaml.contains("match: { host: b.test }"), "{yaml}");
}

/// Each line is a change that the file cannot say otherwise, and that requests would notice.
#[test]
fn what_changes_for_requests_is_said() {
    for (inner, said) in [
        ("set $up http://127.0.0.1:2; proxy_pass $up/x;", "query"),
        ("proxy_pass http://127.0.0.1:2$uri;", "query"),
        ("set $args a=b; PASS", "query"),
        ("rewrite ^/a/(.*)$ /b/$1? break; PASS", "query"),
        (
            "rewrite ^/a/(.*)$ /b/$1 break; proxy_pass http://127.0.0.1:2/c;",
            "keep their beginning",
        ),
        (
            "rewrite ^/a/(.*)$ /b/$1 break; proxy_set_header X $uri; PASS",
            "no variable $uri",
        ),
        ("proxy_redirect default; PASS", "a Location"),
        ("try_files /x =404; PASS", "has no files"),
    ] {
        let inner = inner.replace("PASS", "proxy_pass http://127.0.0.1:2;");
        let (_, left_out) = imported(&format!("server {{ location / {{ {inner} }} }}"));
        assert!(
            left_out.iter().any(|line| line.contains(said)),
            "{inner}: {left_out:?}"
        );
    }
    let (yaml, _) = imported(
        "server { location / { set $up http://127.0.0.1:2; proxy_pass $up/x$is_args$args; } }",
    );
    assert!(
        yaml.contains("rewrite: { regex: \"^.*$\", to: /x }"),
        "{yaml}"
    );
    let (yaml, _) = imported(
        "server { location / { rewrite ^ /x break; proxy_pass http://127.0.0.1:2$request_uri; } }",
    );
    assert!(!yaml.contains("rewrite:"), "{yaml}");
}

/// Where nginx has a page or another location for a status that a route here answers by itself.
#[test]
fn what_stands_in_for_an_answer_of_its_own_is_said() {
    for (inner, is_said) in [
        ("deny all; error_page 403 = @app;", true),
        ("deny all; error_page 404 /a.html;", false),
        ("return 410; error_page 410 /gone.html;", true),
        ("return 301 /a; error_page 404 /a.html;", false),
        (
            "if ($scheme = http) { return 403; } error_page 403 =200 /a.html; proxy_pass http://127.0.0.1:2;",
            true,
        ),
        (
            "limit_except GET { deny all; } error_page 403 /a.html; proxy_pass http://127.0.0.1:2;",
            true,
        ),
    ] {
        let (yaml, left_out) = imported(&format!(
            "server {{ listen 127.0.0.1:1; location /a {{ {inner} }}
               location @app {{ proxy_pass http://127.0.0.1:2; }} }}"
        ));
        let said = left_out.iter().any(|said| said.contains("error_page"));
        assert_eq!(said, is_said, "{inner}: {yaml}");
    }
}

#[test]
fn a_location_that_cannot_be_served_lets_nothing_through_to_a_wider_one() {
    for inner in [
        "fastcgi_pass 127.0.0.1:9000;",
        "root /srv;",
        "alias /srv/;",
        "proxy_pass http://$where;",
        "proxy_pass http://unix:/run/a.sock:/;",
        "content_by_lua_block { }",
        "internal;",
    ] {
        let (yaml, _) = imported(&format!(
            "server {{ location /x/ {{ {inner} }} location / {{ proxy_pass http://127.0.0.1:1; }} }}"
        ));
        let at = yaml.find("match: { path_prefix: /x/ }\n    respond: ");
        assert!(at.is_some(), "{inner}\n{yaml}");
    }
}

#[test]
fn tuning_is_no_loss_and_what_is_off_is_none_either() {
    let (_, left_out) = imported(
        "sendfile on; gzip off; proxy_cache off; server { tcp_nopush on; access_log off;
         location / { proxy_buffering off; proxy_pass http://127.0.0.1:1; } }",
    );
    assert_eq!(left_out, Vec::<String>::new());
    let (_, left_out) = imported("frobnicate on; server { return 204; }");
    assert_eq!(
        left_out,
        ["f:1:1: left out: frobnicate on;\n  hint: this import does not know it"]
    );
}

#[test]
fn groups_that_nobody_can_use_or_name_make_no_file_that_is_refused() {
    for text in [
        "upstream a { server 127.0.0.1:2 down; } server { location / { proxy_pass http://a; } }",
        "upstream \"a b\" { server 127.0.0.1:2; } server { return 204; }",
        "upstream a { server 127.0.0.1:2 down; server 127.0.0.1:3 backup; } server { return 204; }",
        "upstream App { server 127.0.0.1:2; } server { location / { proxy_pass http://app; } }",
    ] {
        imported(text);
    }
    let (yaml, left_out) = imported(
        "map $http_x $arg_user { a b; } upstream a { server 127.0.0.1:2; hash $arg_user; }
         server { return 204; }",
    );
    assert!(!yaml.contains("hash_key"), "{yaml}");
    assert_eq!(left_out.len(), 2, "{left_out:?}");
}

/// Each is written so that `check` passes it, or is left out.
#[test]
fn no_value_of_nginx_makes_a_file_that_is_refused() {
    for inner in [
        "auth_basic x; auth_basic_user_file /none; proxy_set_header X-User $remote_user;",
        "auth_request_set $who $upstream_http_x; proxy_set_header X-User $who;",
        "auth_request /ask; auth_basic x; auth_basic_user_file /none;
         auth_request_set $who $upstream_http_x; proxy_set_header X-User $who;",
        "auth_request /socket;",
        "auth_request /variable;",
        "limit_req zone=slow; limit_req zone=fast burst=7;",
        "error_page 404 /a.html; error_page 500 502 503 504 /b.html; error_page 502 /c;",
        "proxy_intercept_errors on; error_page 502 =200 /a.html;",
        "proxy_next_upstream error timeout http_502 http_503 non_idempotent;",
        "rewrite ^/(?<name>.*)$ /a/$name break;",
        "rewrite ^/(.*)$ /a/../$1 break;",
        "rewrite ^/(.*)$ /$1x$2 break;",
        "rewrite ^/(?!x)(.*)$ /$1 break;",
    ] {
        imported(&format!(
            "limit_req_zone $http_authorization zone=slow:1m rate=1r/m;
             limit_req_zone $remote_addr zone=fast:1m rate=100r/s; root /none;
             server {{ listen 127.0.0.1:1; location / {{ {inner} proxy_pass http://127.0.0.1:2; }}
               location = /ask {{ proxy_pass http://127.0.0.1:3/; proxy_read_timeout 0; }}
               location = /socket {{ proxy_pass http://unix:/run/a.sock; }}
               location = /variable {{ proxy_pass http://127.0.0.1:3/?$request_uri; }} }}"
        ));
    }
    for sticky in [
        "sticky;",
        "sticky cookie a expires=1h domain=.a.test path=/ secure samesite=none;",
        "sticky cookie __Host-a expires=max samesite=none;",
        "sticky cookie a/b expires=10ms;",
        "sticky route $cookie_a; ip_hash;",
    ] {
        imported(&format!(
            "upstream a {{ server 127.0.0.1:2; server 127.0.0.1:3; {sticky} }}
             server {{ location / {{ proxy_pass http://a; }} }}"
        ));
    }
}
