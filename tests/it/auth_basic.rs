//! `auth.basic`: who is in the file comes in with the right password, and nobody else does.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use crate::support::{
    Answer, Client, Config, Frame, Origin, Outcome, Prusik, RawSession, Response, check,
    client_frame, handshake, handshake_with, metrics_of, status_of,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Passwords: `s3cret`, each by another scheme.
const USERS: &str = "\
# the staff
bcrypt:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK
sha256:$5$rounds=1400$anotherlongsalts$tNaRfLGMb.6s3f8.nLeLTkFjqrLXTzCkfokbcd7Lf07
apr1:$apr1$rqXexS6Z$aZPrT61zTCW5Lnamo2wYn/:with a comment
";

/// A file of users, in a folder of its own.
struct UsersFile(TempDir);

impl UsersFile {
    fn new(content: &str) -> Self {
        let file = Self(tempfile::tempdir().expect("a temporary folder"));
        file.write(content);
        file
    }

    fn write(&self, content: &str) {
        fs::write(self.path(), content).expect("the file can be written");
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("htpasswd")
    }

    fn auth(&self) -> String {
        auth(&self.path())
    }
}

fn auth(file: &Path) -> String {
    format!(
        "auth: {{ basic: {{ users: \"{}\", realm: 'the \"staff\"' }} }}",
        file.display()
    )
}

fn authorization(user: &str, password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {encoded}")
}

async fn ask(prusik: &Prusik, field: &str) -> Response {
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
    Client::connect(prusik.public()).await.ask(request).await
}

async fn login(prusik: &Prusik, user: &str, password: &str) -> u16 {
    ask(prusik, &authorization(user, password)).await.status()
}

#[tokio::test]
async fn the_right_password_lets_in_and_goes_on_to_the_server() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let users = UsersFile::new(USERS);
    let prusik = Prusik::start(Config::to(&[&origin]).route(users.auth())).await;
    for user in ["bcrypt", "sha256", "apr1"] {
        // The second time by what is known of the first.
        for _ in 0..2 {
            assert_eq!(login(&prusik, user, "s3cret").await, 200, "{user}");
            assert_eq!(login(&prusik, user, "s3cre").await, 401, "{user}");
        }
    }
    let served = origin.received();
    assert_eq!(served.len(), 6);
    let field = authorization("bcrypt", "s3cret");
    assert!(served[0].has_line(&field), "{}", served[0].head);
}

#[tokio::test]
async fn anybody_else_is_asked_who_it_is() {
    let origin = Origin::chat().await;
    let users = UsersFile::new(USERS);
    let config = Config::to(&[&origin])
        .route("name: app")
        .route(users.auth())
        .top(ADMIN);
    let prusik = Prusik::start(config).await;
    let twice = format!(
        "{}\r\n{}",
        authorization("apr1", "s3cret"),
        authorization("apr1", "s3cret")
    );
    for (field, reason) in [
        ("X-Nothing: 1".to_owned(), "missing"),
        ("Authorization: Bearer abc".to_owned(), "missing"),
        ("Authorization: Basic !".to_owned(), "invalid"),
        (authorization("apr1", "guess"), "invalid"),
        (authorization("nobody", "s3cret"), "invalid"),
        (authorization("", "s3cret"), "invalid"),
        (authorization("APR1", "s3cret"), "invalid"),
        (authorization("apr1", ""), "invalid"),
        (authorization("apr1", "s3cret\0"), "invalid"),
        (authorization("apr1", &"x".repeat(40_000)), "invalid"),
        (authorization("# the staff", ""), "invalid"),
        (twice, "invalid"),
    ] {
        let answer = ask(&prusik, &field).await;
        assert_eq!(answer.status(), 401, "{field:.60}");
        let challenge = answer.field("www-authenticate");
        let wanted = "Basic realm=\"the \\\"staff\\\"\", charset=\"UTF-8\"";
        assert_eq!(challenge, Some(wanted), "{field:.60}");
        let entry = prusik.access_log().pop();
        assert!(entry.is_none_or(|entry| !entry.to_string().contains("s3cret")));
        let counted = format!("prusik_auth_refused_total{{route=\"app\",reason=\"{reason}\"}}");
        assert!(metrics_of(&prusik).await.contains(&counted), "{reason}");
    }
    assert_eq!(
        Client::connect(prusik.public())
            .await
            .ask(handshake("/"))
            .await
            .status(),
        401
    );
    assert!(origin.received().is_empty());
    let metrics = metrics_of(&prusik).await;
    for count in ["reason=\"missing\"} 3", "reason=\"invalid\"} 10"] {
        assert!(metrics.contains(count), "{count} in {metrics}");
    }
    let entry = prusik
        .wait_log("a wrong password", |entry| {
            let said = entry["error"].as_str().unwrap_or_default();
            said.contains("the name or the password is not right")
        })
        .await;
    assert_eq!(entry["status"], 401);
    assert!(!prusik.stderr().contains("s3cret"));
}

#[tokio::test]
async fn a_session_opens_with_a_password() {
    let origin = Origin::chat().await;
    let users = UsersFile::new(USERS);
    let prusik = Prusik::start(Config::to(&[&origin]).route(users.auth())).await;
    let field = authorization("apr1", "s3cret");
    let request = handshake_with("/", &[&field]);
    let mut session = RawSession::open(prusik.public(), request).await;
    session.send(client_frame(1, b"hello")).await;
    assert_eq!(session.frame().await, Frame::text("hello"));
}

#[tokio::test]
async fn a_reload_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let users = UsersFile::new(USERS);
    let config = Config::to(&[&origin]).route(users.auth());
    let prusik = Prusik::start(&config).await;
    assert_eq!(login(&prusik, "apr1", "s3cret").await, 200);
    // Another password for the same name: what is known of the old one counts no more.
    users.write("apr1:$apr1$abcdefgh$3/s4KHCR6dIA9hkIHjgoM/\n");
    assert_eq!(login(&prusik, "apr1", "s3cret").await, 200);
    assert_eq!(prusik.reload().await, Outcome::Done);
    assert_eq!(login(&prusik, "apr1", "s3cret").await, 401);
    assert_eq!(login(&prusik, "bcrypt", "s3cret").await, 401);
    let long = "a much longer password than sixteen bytes, which is more than one block";
    assert_eq!(login(&prusik, "apr1", long).await, 200);
    users.write("apr1:open sesame\n");
    let Outcome::Refused(said) = prusik.reload().await else {
        panic!("the file is bad");
    };
    assert!(said.contains("htpasswd, line 1"), "{said}");
    assert!(!said.contains("sesame"), "{said}");
    assert_eq!(login(&prusik, "apr1", long).await, 200);
}

/// A file of the tool that people use for it, if the machine has it.
#[tokio::test]
async fn files_of_htpasswd_and_openssl_are_understood() {
    let mut lines = String::new();
    for (user, scheme) in [("a", "-apr1"), ("b", "-5"), ("c", "-6")] {
        let made = Command::new("openssl")
            .args(["passwd", scheme, "pass wörd"])
            .output();
        let Ok(made) = made else { continue };
        let hash = String::from_utf8(made.stdout).expect("a hash is ASCII");
        lines.push_str(&format!("{user}:{hash}"));
    }
    for (user, arguments) in [("d", ["-nbB", "-C5"]), ("e", ["-nbm", "-nbm"])] {
        let made = Command::new("htpasswd")
            .args(arguments)
            .args([user, "pass wörd"])
            .output();
        let Ok(made) = made else { continue };
        lines.push_str(&String::from_utf8(made.stdout).expect("a line is ASCII"));
    }
    let names: Vec<&str> = lines
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    if names.iter().all(|name| name.is_empty()) {
        return;
    }
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let users = UsersFile::new(&lines);
    let prusik = Prusik::start(Config::to(&[&origin]).route(users.auth())).await;
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        assert_eq!(login(&prusik, name, "pass wörd").await, 200, "{lines}");
        assert_eq!(login(&prusik, name, "pass word").await, 401, "{lines}");
    }
}

#[tokio::test]
async fn comparisons_stop_no_other_traffic_and_a_known_password_costs_nothing() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    // Each comparison takes some hundredths of a second.
    let slow = "slow:$2y$08$abcdefghijklmnopqrstuuzi5E8Fg0yjKgTc5PCHx2LCyJ0fp5n/G\n";
    let users = UsersFile::new(&format!("{USERS}{slow}"));
    let closed = format!(
        "{{ match: {{ path: /closed }}, upstream: backend, {} }}",
        users.auth()
    );
    let config = Config::to(&[&origin]).first(closed);
    let prusik = Prusik::start(config).await;
    let address = prusik.public();
    let ask = move |user: &'static str, password: String| async move {
        let field = authorization(user, &password);
        let request = format!("GET /closed HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
        Client::connect(address).await.ask(request).await.status()
    };
    assert_eq!(ask("apr1", "s3cret".to_owned()).await, 200);
    let guesses: Vec<_> = (0..40)
        .map(|guess| tokio::spawn(ask("slow", format!("guess {guess}"))))
        .collect();
    let started = Instant::now();
    // Both are answered while guesses are compared.
    assert_eq!(status_of(address, "/open").await, 200);
    assert_eq!(ask("apr1", "s3cret".to_owned()).await, 200);
    let took = started.elapsed();
    let still = guesses.iter().filter(|guess| !guess.is_finished()).count();
    assert!(still > 0 || took > Duration::from_secs(2), "{took:?}");
    for guess in guesses {
        // On a busy machine the last ones have to wait for too long.
        let status = guess.await.expect("it ends");
        assert!(matches!(status, 401 | 503), "{status}");
    }
}

#[tokio::test]
async fn where_too_many_passwords_wait_the_next_is_told_to_come_back() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let slow = "slow:$2y$08$abcdefghijklmnopqrstuuzi5E8Fg0yjKgTc5PCHx2LCyJ0fp5n/G\n";
    let users = UsersFile::new(slow);
    let prusik = Prusik::start(Config::to(&[&origin]).route(users.auth())).await;
    let address = prusik.public();
    let guesses: Vec<_> = (0..600)
        .map(|guess| {
            tokio::spawn(async move {
                let field = authorization("slow", &format!("guess {guess}"));
                let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n");
                Client::connect(address).await.ask(request).await.status()
            })
        })
        .collect();
    let mut busy = 0;
    for guess in guesses {
        match guess.await.expect("it ends") {
            401 => {}
            503 => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert!(busy > 0);
    prusik
        .wait_log("a refusal", |entry| {
            let said = entry["error"].as_str().unwrap_or_default();
            said.contains("too many passwords wait to be compared")
        })
        .await;
    assert!(origin.received().is_empty());
}

#[tokio::test]
async fn basic_comes_before_forward_and_both_must_pass() {
    let origin = Origin::start(|_| Answer::text("hello")).await;
    let keeper = Origin::start(|question| match question.field("cookie") {
        Some(_) => Answer::text("in"),
        None => Answer::status(403, &[], "no cookie"),
    })
    .await;
    let users = UsersFile::new(USERS);
    let config = Config::to(&[&origin]).route(format!(
        "auth: {{ forward: {{ url: \"http://{}/\" }}, basic: {{ users: \"{}\" }} }}",
        keeper.address(),
        users.path().display()
    ));
    let prusik = Prusik::start(config).await;
    let right = authorization("apr1", "s3cret");
    let answer = ask(&prusik, "Cookie: sid=1").await;
    assert_eq!(answer.status(), 401);
    let challenge = answer.field("www-authenticate");
    assert_eq!(
        challenge,
        Some("Basic realm=\"restricted\", charset=\"UTF-8\"")
    );
    assert!(keeper.received().is_empty());
    assert_eq!(ask(&prusik, &right).await.status(), 403);
    let both = format!("{right}\r\nCookie: sid=1");
    assert_eq!(ask(&prusik, &both).await.status(), 200);
    assert_eq!(origin.received().len(), 1);
}

fn errors_of(auth: &str) -> String {
    let output = check(&format!(
        "listeners: [{{ listen: 127.0.0.1:9090 }}]\n\
         upstreams: {{ chat: {{ servers: [127.0.0.1:9080] }} }}\n\
         routes:\n  - name: app\n    upstream: chat\n    {auth}\n"
    ));
    assert_eq!(output.status.code(), Some(78), "{auth}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_file_is_told_line_by_line_with_remedies() {
    let users = UsersFile::new(
        "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbob:s3cret\ncarol:rqXexS6ZhobKA\n\
         dave:$1$salt$qJH7.N4xYta3aEG/dfqo/0\nerin\nfrank:$apr1$x$tMwYqBfQwi3FYAr0aJc8M/\n\
         frank:$apr1$x$tMwYqBfQwi3FYAr0aJc8M/\n",
    );
    let said = errors_of(&users.auth());
    for (line, what) in [
        (1, "SHA-1 without a salt"),
        (2, "DES or plain text"),
        (3, "DES or plain text"),
        (4, "MD5-crypt"),
        (5, "no colon"),
        (7, "a second time, after line 6"),
    ] {
        let place = format!("route \"app\": {}, line {line}: ", users.path().display());
        let found = said.lines().find(|said| said.contains(&place));
        let found = found.unwrap_or_else(|| panic!("nothing of line {line} in {said}"));
        assert!(found.contains("prusik.yaml:6:29: "), "{found}");
        assert!(found.contains(what), "{found}");
    }
    assert!(
        said.contains("hint: make a new one: htpasswd -B FILE alice"),
        "{said}"
    );
    // What stands where a password stands is not shown.
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn what_is_wrong_with_basic_is_told_with_a_remedy() {
    let empty = UsersFile::new("# nobody\n");
    let path = empty.path().display().to_string();
    for (auth, what) in [
        (
            "auth: {}".to_owned(),
            "\"auth\" of route \"app\" asks for nothing",
        ),
        ("auth:".to_owned(), "\"auth\" in route \"app\" has no value"),
        ("auth: { basic: {} }".to_owned(), "names no file of users"),
        ("auth: { basic: }".to_owned(), "has no value"),
        ("auth: { basik: { users: x } }".to_owned(), "basik"),
        (
            "auth: { basic: { users: /nonexistent/htpasswd } }".to_owned(),
            "cannot read /nonexist",
        ),
        (empty.auth(), "there is no user in it"),
        (
            format!("auth: {{ basic: {{ users: \"{path}\", realm: \"a\\nb\" }} }}"),
            "a realm has no control characters",
        ),
        (
            "auth: { basic: { users: . } }".to_owned(),
            "not a regular file",
        ),
    ] {
        let said = errors_of(&auth);
        assert!(said.contains(what), "{auth}: {said}");
        assert!(
            said.contains("hint: ") || what.contains("regular"),
            "{auth}: {said}"
        );
    }
}

#[test]
fn what_is_wrong_with_forward_is_told_with_a_remedy() {
    let url = "url: \"http://127.0.0.1:4181/\"";
    for (keys, what) in [
        ("", "has no \"url\""),
        ("url: 127.0.0.1:4181", "is not where a server can be asked"),
        (
            "url: \"ftp://a.test/\"",
            "is not where a server can be asked",
        ),
        (
            "url: \"http://me:secret@a.test/\"",
            "is not where a server can be asked",
        ),
        (
            "url: \"http://a.test:0/\"",
            "is not where a server can be asked",
        ),
        (
            "url: \"http://a.test:418100/\"",
            "is not where a server can be asked",
        ),
        (
            "url: \"http://a.test/#x\"",
            "is not where a server can be asked",
        ),
        (
            "url: \"https://-/\", ca: /nonexistent/ca.pem",
            "cannot read /nonexistent/ca.pem",
        ),
        (&format!("{url}, ca: ca.pem"), "\"ca\" has no effect"),
        (&format!("{url}, timeout: 0s"), "timeout"),
        (
            &format!("{url}, request_headers: [Host]"),
            "\"Host\" cannot be a header of a question",
        ),
        (
            &format!("{url}, request_headers: [\"a b\"]"),
            "cannot be the name of a header",
        ),
        (
            &format!("{url}, response_headers: [X-A, x-a]"),
            "\"x-a\" is there twice",
        ),
        (
            &format!("{url}, response_headers: [\"*\"]"),
            "\"*\" names no header",
        ),
        ("url: \"http://$host/verify\"", "write it without variables"),
        (
            &format!("{url}, response_headers: [Set-Cookie]"),
            "\"Set-Cookie\" is the client's",
        ),
        (
            &format!("{url}, response_headers: [Content-Length]"),
            "\"Content-Length\" cannot be given to a server",
        ),
        (&format!("{url}, cache: 5s"), "cache"),
    ] {
        let said = errors_of(&format!("auth: {{ forward: {{ {keys} }} }}"));
        assert!(said.contains(what), "{keys}: {said}");
    }
}
