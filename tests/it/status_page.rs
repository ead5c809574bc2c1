//! The status page: what it may, and who may not. What it shows is in `tests/long/status_page.py`.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Client, Config, Origin, Prusik};

#[tokio::test]
async fn the_page_comes_without_the_token_and_nothing_else_does() {
    let origin = Origin::chat().await;
    let server = origin.address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-for-this-test\n").expect("it can be written");
    let admin = format!(
        "admin: {{ listen: \"127.0.0.1:0\", token_file: {} }}",
        token.display()
    );
    let prusik = Prusik::start(Config::to(&[&origin]).top(admin)).await;
    let address = prusik.admin();
    let mut client = Client::connect(address).await;
    let mut get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        client.ask(request).await
    };
    let page = get("/").await;
    assert_eq!(page.status(), 200);
    assert_eq!(page.fields("content-type"), ["text/html; charset=utf-8"]);
    let policy = page.fields("content-security-policy").join("");
    let nonce = policy
        .split("'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next())
        .expect("a nonce");
    for tag in ["style", "script"] {
        let opening = format!("<{tag} nonce=\"{nonce}\">");
        assert!(page.text().contains(&opening), "{opening}");
    }
    assert!(policy.contains("default-src 'none'"), "{policy}");
    // Nothing from elsewhere, and no other page looks like it.
    for outside in ["http://", "https://", "//cdn", "src=", "href="] {
        let own = page.text().replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(outside), "{outside}");
    }
    let again = get("/").await;
    assert!(!again.text().contains(nonce), "a nonce is used once");
    assert_eq!(get("/api/v1/status").await.status(), 401);
    assert_eq!(get("/metrics").await.status(), 401);

    let enable = format!("/api/v1/upstreams/backend/servers/{server}/enable");
    let post = |fields: &str| {
        format!(
            "POST {enable} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer \
             a-token-for-this-test\r\nContent-Length: 2\r\n{fields}\r\n{{}}"
        )
    };
    for (fields, status) in [
        (String::new(), 200),
        (format!("Origin: http://{address}\r\n"), 403),
        (
            format!("Origin: http://{address}\r\nX-Requested-With: prusik\r\n"),
            200,
        ),
        (
            "Origin: http://evil.test\r\nX-Requested-With: prusik\r\n".to_owned(),
            403,
        ),
    ] {
        let mut client = Client::connect(address).await;
        let answer = client.ask(post(&fields)).await;
        assert_eq!(answer.status(), status, "{fields:?}: {}", answer.text());
    }
    // The proxy's own listeners know nothing of it.
    let proxied = Client::connect(prusik.public()).await.get("/").await;
    assert_eq!(proxied.text(), server.to_string());
}

/// DNS rebinding: a page of somebody else's, whose name was pointed at this address.
#[tokio::test]
async fn who_comes_by_a_name_gets_nothing() {
    let origin = Origin::chat().await;
    let config = Config::to(&[&origin]).top("admin: { listen: \"127.0.0.1:0\" }");
    let prusik = Prusik::start(config).await;
    let address = prusik.admin();
    let port = address.port();
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/sessions"] {
        for (host, is_taken) in [
            ("evil.test".to_owned(), false),
            (format!("evil.test:{port}"), false),
            (format!("127.0.0.1.evil.test:{port}"), false),
            (format!("localhost:{port}"), true),
            (address.to_string(), true),
        ] {
            let mut client = Client::connect(address).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let status = client.ask(request).await.status();
            assert_eq!(status == 200, is_taken, "{path} for {host}: {status}");
        }
    }
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_alone() {
    let origin = Origin::chat().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("admin.sock");
    let admin = format!("admin: {{ listen: \"unix:{}\" }}", socket.display());
    let _prusik = Prusik::start(Config::to(&[&origin]).top(admin)).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::connect_unix(&socket).await;
    for (host, expected) in [("localhost", 200), ("prusik.example", 403)] {
        let request = format!("GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(client.ask(request).await.status(), expected, "{host}");
    }
}
