//! The files in `tests/import`, with every key that prusik has. `PRUSIK_BLESS=1` writes what is
//! expected anew.

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/import");

fn expected(name: &str) {
    let path = Path::new(FOLDER).join(format!("{name}.conf"));
    let tree = includes::load(&path, &includes::Disk).unwrap();
    let (document, notes) = document::document(&tree, &path, Features::ALL).unwrap();
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
    assert!(error("server { listen 443 quic; }").starts_with("f: there is no address"));
}

/// The text's YAML, which `check` has passed, and what was left out.
fn imported(text: &str) -> (String, Vec<String>) {
    let imported = import_text("f", text).unwrap();
    (imported.text, imported.left_out)
}

#[test]
fn who_cannot_be_kept_out_closes_the_route() {
    for protection in [
        "satisfy any; allow 10.0.0.1; deny all; auth_basic x; auth_basic_user_file y;",
        "allow 10.0.0.1; deny 10.0.0.0/8;",
        "access_by_lua_block { check() }",
        "auth_jwt x;",
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
fn this_build_has_every_key_that_an_import_writes() {
    assert_eq!(Features::of_this_build(), Features::ALL);
}
