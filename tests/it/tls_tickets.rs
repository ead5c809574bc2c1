//! Session tickets: on which nodes a client resumes with `ticket_keys`, what rotating them does,
//! and where a ticket is worth nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::support;
use crate::support::{
    Answer, Authority, Config, Origin, Outcome, Pair, Prusik, TlsClient, Wire, certificates,
    tls_connect, within,
};
use rustls::ClientConfig;
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::version::{TLS12, TLS13};
use tokio::task::spawn_blocking;

const NAME: &str = "chat.test";

/// A server behind some nodes, which have the same certificate.
struct Site {
    authority: Authority,
    pair: Pair,
    origin: Origin,
}

impl Site {
    async fn new() -> Self {
        let authority = Authority::new();
        Self {
            pair: authority.issue("chat", &[NAME]),
            authority,
            origin: Origin::start(|_| Answer::text("hello")).await,
        }
    }

    /// A file beside the certificates.
    fn file(&self, name: &str) -> PathBuf {
        self.authority.file().with_file_name(name)
    }

    /// A file of `ticket_keys`.
    fn key(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.file(name);
        fs::write(&file, bytes).expect("the file is written");
        file
    }

    fn config(&self, ticket_keys: &[&Path], more: &str) -> Config {
        let ticket_keys: Vec<String> = ticket_keys
            .iter()
            .map(|file| format!("\"{}\"", file.display()))
            .collect();
        let ticket_keys = format!("ticket_keys: [{}]", ticket_keys.join(", "));
        let certificates = certificates(&[&self.pair]);
        Config::to(&[&self.origin]).tls(format!("{certificates}, {ticket_keys}{more}"))
    }

    async fn node(&self, ticket_keys: &[&Path]) -> Prusik {
        Prusik::start(self.config(ticket_keys, "")).await
    }

    /// A client for each version, which has never been here.
    fn clients(&self) -> [Arc<ClientConfig>; 2] {
        [&TLS12, &TLS13].map(|version| self.authority.client().only(version).config())
    }

    fn client_ca(&self) -> String {
        format!(", client_ca: \"{}\"", self.authority.file().display())
    }
}

/// A request by a connection of its own: whether its TLS session was resumed. The client keeps the
/// tickets that it gets, for any node.
async fn visit(client: &Arc<ClientConfig>, node: &Prusik) -> HandshakeKind {
    try_visit(client, node).await.expect("it is let in")
}

async fn try_visit(client: &Arc<ClientConfig>, node: &Prusik) -> io::Result<HandshakeKind> {
    let stream = tls_connect(client, node.public(), NAME).await?;
    let kind = stream.get_ref().1.handshake_kind();
    let mut wire = Wire::new(stream);
    // The tickets of TLS 1.3 come with what is read.
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    match within("an answer", wire.head()).await? {
        Some(_) => Ok(kind.expect("the handshake is over")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[tokio::test]
async fn a_client_resumes_on_every_node_with_the_same_keys() {
    let site = Site::new().await;
    let key = site.key("one.key", [1; 48]);
    let other = site.key("other.key", [2; 48]);
    let copy = site.key("copy.key", [1; 48]);
    let here = site.node(&[&key]).await;
    let there = site.node(&[&copy]).await;
    let elsewhere = site.node(&[&other]).await;
    for client in site.clients() {
        assert_eq!(visit(&client, &here).await, Full);
        assert_eq!(visit(&client, &there).await, Resumed);
        assert_eq!(visit(&client, &here).await, Resumed);
        assert_eq!(visit(&client, &elsewhere).await, Full);
    }
}

#[tokio::test]
async fn rotating_keeps_tickets_until_their_key_is_removed() {
    let site = Site::new().await;
    let old = site.key("old.key", [1; 48]);
    let new = site.key("new.key", [2; 48]);
    let node = site.node(&[&old]).await;
    let [stays, goes] = [site.clients(), site.clients()];
    for client in stays.iter().chain(&goes) {
        assert_eq!(visit(client, &node).await, Full);
    }
    let both = site.config(&[&new, &old], "");
    assert_eq!(node.reload_with(both).await, Outcome::Done);
    node.wait_stderr("listener \"public\": tls changed").await;
    // With the ticket of the old key, for one of the new.
    for client in &stays {
        assert_eq!(visit(client, &node).await, Resumed);
    }
    let removed = site.config(&[&new], "");
    assert_eq!(node.reload_with(removed).await, Outcome::Done);
    for (stays, goes) in stays.iter().zip(&goes) {
        assert_eq!(visit(stays, &node).await, Resumed);
        assert_eq!(visit(goes, &node).await, Full);
    }
}

/// By the recipe of docs/operations.md: a key is known everywhere before a node seals with it.
#[tokio::test]
async fn nodes_with_the_files_of_yesterday_and_today_open_each_others_tickets() {
    let site = Site::new().await;
    let keys = [0, 1, 2, 3].map(|day| site.key(&format!("{day}.key"), [day; 48]));
    let [first, second, third, fourth] = &keys;
    let yesterday = site.node(&[second, third, first]).await;
    let today = site.node(&[third, fourth, second]).await;
    for client in site.clients() {
        assert_eq!(visit(&client, &yesterday).await, Full);
        assert_eq!(visit(&client, &today).await, Resumed);
        assert_eq!(visit(&client, &yesterday).await, Resumed);
    }
}

/// As a script does that puts the same file names on all nodes.
#[tokio::test]
async fn a_reload_reads_the_files_again() {
    let site = Site::new().await;
    let key = site.key("tickets.key", [1; 48]);
    let node = site.node(&[&key]).await;
    let clients = site.clients();
    for client in &clients {
        assert_eq!(visit(client, &node).await, Full);
    }
    assert_eq!(node.reload().await, Outcome::Done);
    node.wait_stderr("nothing changed").await;
    for client in &clients {
        assert_eq!(visit(client, &node).await, Resumed);
    }
    site.key("tickets.key", [2; 48]);
    assert_eq!(node.reload().await, Outcome::Done);
    node.wait_stderr("listener \"public\": tls changed").await;
    for client in &clients {
        assert_eq!(visit(client, &node).await, Full);
    }
}

/// The key without the files, and back, is a change of keys as well.
#[tokio::test]
async fn keys_of_files_and_the_processes_own_do_not_open_each_others_tickets() {
    let site = Site::new().await;
    let key = site.key("tickets.key", [1; 48]);
    let with = site.config(&[&key], "");
    let without = Config::to(&[&site.origin]).tls(certificates(&[&site.pair]));
    let node = Prusik::start(&with).await;
    let other = Prusik::start(&without).await;
    for client in site.clients() {
        assert_eq!(visit(&client, &node).await, Full);
        assert_eq!(node.reload_with(&without).await, Outcome::Done);
        assert_eq!(visit(&client, &node).await, Full);
        assert_eq!(visit(&client, &other).await, Full);
        assert_eq!(node.reload_with(&with).await, Outcome::Done);
        assert_eq!(visit(&client, &node).await, Full);
    }
}

/// The keys that the process makes itself go to the next one, unless keys must not leave it.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_outlast_an_upgrade() {
    let site = Site::new().await;
    for (tls_sessions, expected) in [("move", Resumed), ("tell", Full)] {
        let config = Config::to(&[&site.origin])
            .tls(certificates(&[&site.pair]))
            .top("admin: { listen: \"127.0.0.1:0\" }")
            .top(format!("server: {{ tls_sessions: {tls_sessions} }}"));
        let mut node = Prusik::start_own(config).await;
        for client in site.clients() {
            assert_eq!(visit(&client, &node).await, Full);
            for _ in 0..2 {
                node.upgrade().await;
                assert_eq!(visit(&client, &node).await, expected, "{tls_sessions}");
            }
        }
    }
}

/// rustls resumes without a look at the certificate.
#[tokio::test]
async fn the_same_keys_open_nothing_for_clients_of_other_authorities() {
    let site = Site::new().await;
    let key = site.key("tickets.key", [1; 48]);
    let open = site.node(&[&key]).await;
    let strict = site.config(&[&key], &site.client_ca());
    let stranger = Authority::new();
    let others = format!(", client_ca: \"{}\"", stranger.file().display());
    let others = Prusik::start(site.config(&[&key], &others)).await;
    let (strict, alike) = (Prusik::start(&strict).await, Prusik::start(&strict).await);
    for client in site.clients() {
        assert_eq!(visit(&client, &open).await, Full);
        assert!(try_visit(&client, &strict).await.is_err());
    }
    let certified = site.authority.issue("client", &["client.test"]);
    for version in [&TLS12, &TLS13] {
        let client: TlsClient = site.authority.client().with(&certified).only(version);
        let client = client.config();
        assert_eq!(visit(&client, &strict).await, Full);
        assert_eq!(visit(&client, &alike).await, Resumed);
        assert!(try_visit(&client, &others).await.is_err());
    }
}

#[tokio::test]
async fn a_bad_file_is_refused_by_name_and_the_keys_stay() {
    let site = Site::new().await;
    let key = site.key("tickets.key", [1; 48]);
    let copy = site.key("copy.key", [2; 48]);
    let node = site.node(&[&key, &copy]).await;
    let clients = site.clients();
    for client in &clients {
        visit(client, &node).await;
    }
    let cases: [(&dyn Fn(), &str, &str); 4] = [
        (
            &|| fs::remove_file(&key).unwrap(),
            "tickets.key: No such file",
            "relative to",
        ),
        (
            &|| fs::write(&key, [1; 47]).unwrap(),
            "tickets.key holds 47 bytes, and a ticket key has at least 48",
            "openssl rand",
        ),
        (
            &|| {
                fs::remove_file(&key).unwrap();
                fs::create_dir(&key).unwrap();
            },
            "tickets.key: not a regular file",
            "",
        ),
        (
            &|| {
                fs::remove_dir(&key).unwrap();
                fs::copy(&copy, &key).unwrap();
            },
            "copy.key holds the same key as ",
            "remove one of them",
        ),
    ];
    for (spoil, error, hint) in cases {
        spoil();
        let Outcome::Refused(said) = node.reload().await else {
            panic!("{error}: taken");
        };
        for part in ["listener \"public\"", "prusik.yaml:1:", error, hint] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        let file = node.folder().join("prusik.yaml");
        let checked = support::prusik(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(78));
        let checked = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.contains(error), "{checked}");
    }
    for client in &clients {
        assert_eq!(visit(client, &node).await, Resumed);
    }
}

/// A client that is not of rustls, and keeps its session in a file.
#[tokio::test]
async fn openssl_resumes_on_another_node_and_over_a_rotation() {
    if Command::new("openssl").arg("version").output().is_err() {
        return eprintln!("skipped: there is no openssl");
    }
    let site = Site::new().await;
    let old = site.key("old.key", [1; 48]);
    let new = site.key("new.key", [2; 48]);
    let here = site.node(&[&old]).await;
    let there = site.node(&[&old]).await;
    let resumes = async |node: &Prusik, (version, file): (&str, &str)| {
        let said = openssl(&site, node, version, &["-sess_in", file]).await;
        said.contains("\nReused, TLSv1.")
    };
    let first_visit = async |node: &Prusik, (version, file): (&str, &str)| {
        let said = openssl(&site, node, version, &["-sess_out", file]).await;
        assert!(said.contains("\nNew, TLSv1."), "{said}");
    };
    let earlier = [("-tls1_2", "earlier-1.2"), ("-tls1_3", "earlier-1.3")];
    for session in earlier {
        first_visit(&here, session).await;
        assert!(resumes(&here, session).await);
        assert!(resumes(&there, session).await);
    }
    let both = site.config(&[&new, &old], "");
    assert_eq!(there.reload_with(both).await, Outcome::Done);
    let later = [("-tls1_2", "later-1.2"), ("-tls1_3", "later-1.3")];
    for session in later {
        first_visit(&there, session).await;
    }
    for session in earlier.iter().chain(&later) {
        assert!(resumes(&there, *session).await);
    }
    let removed = site.config(&[&new], "");
    assert_eq!(there.reload_with(removed).await, Outcome::Done);
    for (earlier, later) in earlier.into_iter().zip(later) {
        assert!(resumes(&there, later).await);
        assert!(!resumes(&there, earlier).await);
    }
}

/// What `openssl s_client` says of a request. `session`: an option, and its file beside the
/// certificates.
async fn openssl(site: &Site, node: &Prusik, version: &str, session: &[&str; 2]) -> String {
    let [option, file] = session;
    let request = site.file("request");
    fs::write(
        &request,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .expect("the file is written");
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-ign_eof", "-verify_return_error", version])
        .args(["-servername", NAME])
        .args(["-connect", &node.public().to_string()])
        .arg("-CAfile")
        .arg(site.authority.file())
        .arg(option)
        .arg(site.file(file))
        .stdin(File::open(request).expect("it is there"));
    let output = within("openssl", spawn_blocking(move || command.output())).await;
    let output = output.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("hello"), "{said}\n{output:?}");
    said
}
