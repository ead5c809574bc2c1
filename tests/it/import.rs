//! `prusik import nginx`: files of nginx become files of prusik that pass `check`, and requests go
//! where nginx sends them. `tests/long/imports.py` compares with a real nginx.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::support::{Answer, Client, Origin, Prusik, Session, handshake, prusik};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The files of `tests/import`, with what they name beside them.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().expect("it is in the folder")).expect("it is ours");
        fs::copy(root.join(from), to).expect("it is ours");
    };
    for name in ["chat", "spa", "edge", "socketio", "sidecar"] {
        copy(&format!("import/{name}.conf"), &format!("{name}.conf"));
    }
    copy("import/edge.d/backend.conf", "edge.d/backend.conf");
    for name in ["chat.example.com.pem", "chat.example.com.key"] {
        copy(&format!("shipped/tls/{name}"), &format!("tls/{name}"));
    }
    fs::create_dir(folder.path().join("pages")).expect("it is ours");
    fs::write(folder.path().join("pages/sorry.html"), "sorry\n").expect("it is ours");
    fs::write(
        folder.path().join("htpasswd"),
        "anna:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n",
    )
    .expect("it is ours");
    folder
}

fn import(path: &Path) -> Output {
    prusik(&["import", "nginx", path.to_str().expect("it is text")])
}

/// Imports the text; returns the file and what was said on stderr.
fn imported(conf: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nginx.conf");
    fs::write(&path, conf).expect("it is ours");
    let output = import(&path);
    assert!(!output.stdout.is_empty(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn files_of_five_kinds_pass_check() {
    let folder = folder();
    for (name, code) in [
        ("chat", 0),
        ("spa", 1),
        ("edge", 1),
        ("socketio", 1),
        ("sidecar", 1),
    ] {
        let output = import(&folder.path().join(format!("{name}.conf")));
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {told}");
        assert_eq!(told.is_empty(), code == 0, "{name}: {told}");
        for line in told.lines() {
            let is_place = line.contains(".conf:") && line.contains(": left out: ");
            assert!(is_place || line.starts_with("  hint: "), "{line}");
        }
        let yaml = folder.path().join("prusik.yaml");
        fs::write(&yaml, &output.stdout).unwrap();
        let checked = prusik(&["check", yaml.to_str().unwrap()]);
        let said = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "{name}: {said}");
    }
}

#[test]
fn what_is_left_out_is_a_comment_at_its_place_and_a_line_on_stderr() {
    let (yaml, told) = imported(
        "server {\n listen 127.0.0.1:9;\n sendfile on;\n location /a/ {\n  expires 3d;\n  \
         proxy_pass http://127.0.0.1:1;\n }\n}",
    );
    let lines: Vec<&str> = yaml.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.contains("LEFT OUT"))
        .unwrap();
    assert!(lines[at].contains("nginx.conf:5: expires 3d; ("), "{yaml}");
    assert_eq!(lines[at + 1], "  - match: { path_prefix: /a/ }", "{yaml}");
    assert!(
        yaml.contains("nginx.conf:3: sendfile on; (tuning"),
        "{yaml}"
    );
    assert!(
        told.contains("nginx.conf:5:3: left out: expires 3d;\n  hint: "),
        "{told}"
    );
    assert!(!told.contains("sendfile"), "{told}");
}

#[test]
fn what_cannot_be_read_has_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nginx.conf");
    for (conf, place, what) in [
        (
            "server {\n listen 80\n}",
            ":2:2: ",
            "\"listen\" is not ended",
        ),
        ("server {", ":1:1: ", "the block of \"server\" has no end"),
        (
            "include more/*.conf;\nserver { }}",
            ":2:11: ",
            "unexpected \"}\"",
        ),
        ("events { }", ": ", "there is no server block"),
    ] {
        fs::write(&path, conf).unwrap();
        let output = import(&path);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        let told = text(&output.stderr);
        let begins = format!("{}{place}", path.display());
        assert!(told.starts_with(&begins) && told.contains(what), "{told}");
    }
    let output = import(&folder.path().join("none.conf"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("none.conf: cannot read: "));
    for arguments in [
        &["import"][..],
        &["import", "nginx"],
        &["import", "apache", "x"],
    ] {
        assert_eq!(prusik(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn files_that_are_not_here_are_told_and_nothing_is_lost() {
    let (yaml, told) = imported(
        "include gone.conf; server { listen 127.0.0.1:9 ssl; ssl_certificate /none/a.pem;
         ssl_certificate_key /none/a.key; return 204; }",
    );
    assert!(
        yaml.contains("{ cert: /none/a.pem, key: /none/a.key }"),
        "{yaml}"
    );
    assert!(told.contains("left out: include gone.conf;"), "{told}");
    assert!(
        told.contains("On this machine") && told.contains("/none/a.pem"),
        "{told}"
    );
}

/// An origin that answers with its name, and the target that it was asked for.
async fn named(name: &'static str) -> Origin {
    Origin::start(move |request| match request.wants_upgrade() {
        true => Answer::upgrade(&request.head),
        false => {
            let target = request
                .first_line()
                .split(' ')
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            Answer::text(&format!("{name} {target}"))
        }
    })
    .await
}

/// Runs the imported file, which has one listener.
async fn serve(yaml: &str) -> Prusik {
    let listen = "- listen: 127.0.0.1:0\n";
    assert_eq!(yaml.matches(listen).count(), 1, "{yaml}");
    Prusik::start(yaml.replace(listen, &format!("{listen}    name: public\n"))).await
}

/// The status and body, or where it leads.
async fn ask(prusik: &Prusik, host: &str, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    match answer.head.field("location") {
        Some(to) => format!("{} {to}", answer.status()),
        None => format!("{} {}", answer.status(), answer.text().trim()),
    }
}

#[tokio::test]
async fn requests_go_where_nginx_sends_them() {
    let (one, two) = (named("one").await, named("two").await);
    let (yaml, _) = imported(&format!(
        "upstream one {{ server {}; }} upstream two {{ server {}; }}
         server {{
           listen 127.0.0.1:0;
           location / {{ proxy_pass http://one; }}
           location = /app {{ return 200 exact; }}
           location /app {{ proxy_pass http://two; }}
           location /app/deep/ {{ proxy_pass http://one/; }}
           location ^~ /files/ {{ proxy_pass http://two; }}
           location ~ \\.png$ {{ return 302 /pictures$request_uri; }}
           location /secret/ {{ deny all; proxy_pass http://one; }}
           location /php/ {{ fastcgi_pass 127.0.0.1:9; }}
         }}",
        one.address(),
        two.address()
    ));
    let prusik = serve(&yaml).await;
    for (target, found) in [
        ("/", "200 one /"),
        ("/ap", "200 one /ap"),
        ("/app", "200 exact"),
        ("/app/", "200 two /app/"),
        ("/application", "200 two /application"),
        ("/app/deep", "301 /app/deep/"),
        ("/app/deep?a=1", "301 /app/deep/?a=1"),
        ("/app/deep/x?a=1", "200 one /x?a=1"),
        ("/app/a.png", "302 /pictures/app/a.png"),
        ("/files/a.png", "200 two /files/a.png"),
        ("/a.png?b", "302 /pictures/a.png?b"),
    ] {
        assert_eq!(ask(&prusik, "any.test", target).await, found, "{target}");
    }
    assert!(
        ask(&prusik, "any.test", "/secret/x")
            .await
            .starts_with("403 ")
    );
    assert!(ask(&prusik, "any.test", "/php/x").await.starts_with("501"));
}

#[tokio::test]
async fn hosts_find_their_server_and_others_the_default() {
    let (one, two) = (named("one").await, named("two").await);
    let (yaml, _) = imported(&format!(
        "server {{ listen 127.0.0.1:0; server_name a.test;
           location /only/ {{ proxy_pass http://{one}; }} }}
         server {{ listen 127.0.0.1:0; server_name *.b.test b.test;
           location / {{ proxy_pass http://{one}; }} }}
         server {{ listen 127.0.0.1:0 default_server; server_name _ x.b.test;
           location / {{ proxy_pass http://{two}; }} }}",
        one = one.address(),
        two = two.address()
    ));
    let prusik = serve(&yaml).await;
    for (host, target, found) in [
        ("a.test", "/only/x", "200 one /only/x"),
        ("B.test:80", "/x", "200 one /x"),
        ("y.b.test", "/x", "200 one /x"),
        ("x.b.test", "/x", "200 two /x"),
        ("other.test", "/only/x", "200 two /only/x"),
    ] {
        assert_eq!(ask(&prusik, host, target).await, found, "{host}{target}");
    }
    // A name that has its server comes to no other.
    assert!(ask(&prusik, "a.test", "/x").await.starts_with("404"));
}

#[tokio::test]
async fn servers_see_the_headers_that_nginx_sends() {
    let origin = named("one").await;
    let (yaml, told) = imported(&format!(
        "upstream app {{ server {}; }}
         server {{
           listen 127.0.0.1:0;
           proxy_set_header X-Above 1;
           location /plain {{ proxy_pass http://app; }}
           location /own {{
             proxy_set_header Host $host;
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
             proxy_set_header X-Agent $http_user_agent;
             proxy_set_header Accept-Encoding \"\";
             add_header X-Served-By prusik always;
             proxy_hide_header X-Powered-By;
             proxy_pass http://app;
           }}
         }}",
        origin.address()
    ));
    assert_eq!(told, "");
    let prusik = serve(&yaml).await;
    let fields =
        "Host: a.test:81\r\nUser-Agent: t\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 6.6.6.6";
    let mut client = Client::connect(prusik.public()).await;
    for target in ["/plain", "/own"] {
        let answer = client
            .ask(format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n"))
            .await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.head.field("x-served-by").is_some(), target == "/own");
    }
    let received = origin.received();
    let [plain, own] = [&received[0], &received[1]];
    for line in ["Host: app", "X-Above: 1", "Accept-Encoding: gzip"] {
        assert!(plain.has_line(line), "{line} in {}", plain.head);
    }
    for name in ["x-forwarded-proto", "x-forwarded-host", "x-real-ip"] {
        assert!(plain.fields(name).is_empty(), "{name} in {}", plain.head);
    }
    for line in [
        "Host: a.test",
        "X-Agent: t",
        "X-Forwarded-For: 6.6.6.6, 127.0.0.1",
    ] {
        assert!(own.has_line(line), "{line} in {}", own.head);
    }
    for name in ["x-above", "accept-encoding"] {
        assert!(own.fields(name).is_empty(), "{name} in {}", own.head);
    }
}

#[tokio::test]
async fn a_handshake_passes_where_nginx_passes_it() {
    let origin = Origin::chat().await;
    let (yaml, told) = imported(&format!(
        "map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
         server {{
           listen 127.0.0.1:0;
           location /ws {{
             proxy_pass http://{0};
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection $connection_upgrade;
             proxy_read_timeout 1h;
           }}
           location / {{ proxy_pass http://{0}; }}
         }}",
        origin.address()
    ));
    assert_eq!(told, "");
    assert!(yaml.contains("websocket: { idle: 1h }"), "{yaml}");
    let prusik = serve(&yaml).await;
    let mut session = Session::open(prusik.public(), "/ws/x").await;
    assert!(session.is_alive().await);
    let answer = Client::connect(prusik.public())
        .await
        .ask(handshake("/x"))
        .await;
    assert_eq!(answer.status(), 403);
}

#[tokio::test]
async fn a_path_is_rewritten_as_nginx_rewrites_it() {
    let origin = named("one").await;
    let (yaml, told) = imported(&format!(
        "server {{
           listen 127.0.0.1:0;
           location /v1/ {{ rewrite ^/v1/(.*)$ /api/$1 break; proxy_pass http://{0}; }}
           location /base/ {{ proxy_pass http://{0}/other/; }}
           location ~ ^/users/([0-9]+)$ {{ proxy_pass http://{0}/people/$1$is_args$args; }}
           location /app {{ proxy_pass http://{0}/; }}
         }}",
        origin.address()
    ));
    assert_eq!(told, "");
    let prusik = serve(&yaml).await;
    for (target, found) in [
        ("/v1/a?b", "200 one /api/a?b"),
        ("/base/a/b", "200 one /other/a/b"),
        ("/users/7?x=1", "200 one /people/7?x=1"),
        ("/application", "200 one /lication"),
        ("/app/x", "200 one /x"),
    ] {
        assert_eq!(ask(&prusik, "any.test", target).await, found, "{target}");
    }
}

#[tokio::test]
async fn an_auth_server_is_asked_and_its_answer_is_a_header() {
    let app = named("app").await;
    let auth = Origin::start(|request| match request.field("cookie") {
        Some(_) => Answer::status(200, &["X-User: anna"], ""),
        None => Answer::status(401, &[], ""),
    })
    .await;
    let (yaml, told) = imported(&format!(
        "server {{
           listen 127.0.0.1:0;
           location = /verify {{ internal; proxy_pass http://{}/check; }}
           location / {{
             auth_request /verify;
             auth_request_set $who $upstream_http_x_user;
             proxy_set_header X-User $who;
             proxy_pass http://{};
           }}
         }}",
        auth.address(),
        app.address()
    ));
    assert_eq!(told, "");
    let prusik = serve(&yaml).await;
    assert!(ask(&prusik, "a.test", "/x").await.starts_with("401"));
    let request = "GET /x HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\n\r\n";
    let answer = Client::connect(prusik.public()).await.ask(request).await;
    assert_eq!(answer.status(), 200);
    assert!(app.only_request().has_line("X-User: anna"));
}
