//! Where the keys of `auth.jwt` come from: fetched, kept, renewed, over reloads and upgrades.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::issuer::{Issuer, jwks};
use crate::support::{
    Answer, Authority, Client, Config, Origin, Outcome, Prusik, ServiceManager, eventually,
    free_address,
};

const ADMIN: &str = "admin: { listen: \"127.0.0.1:0\" }";

/// Serves a key set, which the test may replace. An empty one is an answer of 500.
struct KeyServer {
    origin: Origin,
    set: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(set: String) -> Self {
        let set = Arc::new(Mutex::new(set));
        let asked = Arc::<AtomicUsize>::default();
        let (shown, count) = (set.clone(), asked.clone());
        let origin = Origin::start(move |_| {
            count.fetch_add(1, SeqCst);
            let set = shown.lock().expect("nobody panics").clone();
            match set.is_empty() {
                true => Answer::status(500, &[], ""),
                false => Answer::text(&set),
            }
        })
        .await;
        Self { origin, set, asked }
    }

    fn serve(&self, set: String) {
        *self.set.lock().expect("nobody panics") = set;
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    fn route(&self, more: &str) -> String {
        let address = self.origin.address();
        format!("auth: {{ jwt: {{ keys: \"http://{address}/jwks.json\", {more} }} }}")
    }
}

async fn status(prusik: &Prusik, token: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n");
    Client::connect(prusik.public())
        .await
        .ask(request)
        .await
        .status()
}

#[tokio::test]
async fn without_keys_nobody_comes_in_and_they_are_fetched_as_soon_as_they_can_be() {
    let (origin, issuer) = (Origin::chat().await, Issuer::p256("k"));
    let keys = KeyServer::start(String::new()).await;
    let config = Config::to(&[&origin]).route(keys.route("refresh: 1s"));
    let prusik = Prusik::start(config).await;
    assert!(
        prusik.stderr().contains("status 500"),
        "{}",
        prusik.stderr()
    );
    let token = issuer.sign("ES256", &json!({}));
    assert_eq!(status(&prusik, &token).await, 503);
    let entry = prusik.wait_log("503", |entry| entry["status"] == 503).await;
    assert_eq!(entry["error"], "the keys for tokens are not there yet");
    keys.serve(jwks(&[&issuer]));
    eventually("the keys are there", async || {
        status(&prusik, &token).await == 200
    })
    .await;
    prusik.wait_stderr("1 in use").await;

    // Those that are there stay.
    keys.serve(String::new());
    prusik.wait_stderr("could not be renewed").await;
    assert_eq!(status(&prusik, &token).await, 200);
    keys.serve("{\"keys\": []}".to_owned());
    let asked = keys.asked();
    eventually("it is asked again", async || keys.asked() > asked).await;
    assert_eq!(status(&prusik, &token).await, 200);
    // And a key that is taken out of the set counts no more.
    keys.serve(jwks(&[&Issuer::p256("next")]));
    eventually("the key is gone", async || {
        status(&prusik, &token).await == 401
    })
    .await;
}

#[tokio::test]
async fn a_token_of_a_new_key_is_let_in_and_strangers_cause_one_fetch_a_minute() {
    let (origin, old, new) = (
        Origin::chat().await,
        Issuer::p256("old"),
        Issuer::p256("new"),
    );
    let keys = KeyServer::start(jwks(&[&old])).await;
    let config = Config::to(&[&origin]).route(keys.route("refresh: 1h"));
    let prusik = Prusik::start(config).await;
    assert_eq!(keys.asked(), 1);
    keys.serve(jwks(&[&old, &new]));
    assert_eq!(status(&prusik, &new.sign("ES256", &json!({}))).await, 200);
    assert_eq!(keys.asked(), 2);
    for id in ["a", "b", "c", "d"] {
        let stranger = Issuer::p256(id).sign("ES256", &json!({}));
        assert_eq!(status(&prusik, &stranger).await, 401);
    }
    assert_eq!(keys.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlast_a_reload_and_an_upgrade() {
    let (origin, issuer) = (Origin::chat().await, Issuer::p256("k"));
    let keys = KeyServer::start(jwks(&[&issuer])).await;
    let config = |more: &str| Config::to(&[&origin]).top(ADMIN).route(keys.route(more));
    let mut prusik = Prusik::start_own(config("")).await;
    let token = issuer.sign("ES256", &json!({}));
    assert_eq!(status(&prusik, &token).await, 200);
    keys.serve(String::new());
    for more in ["leeway: 5s", "refresh: 1h"] {
        assert_eq!(prusik.reload_with(config(more)).await, Outcome::Done);
        assert_eq!(status(&prusik, &token).await, 200, "{more}");
    }
    assert!(
        prusik.stderr().contains("route \"any\": auth changed"),
        "{}",
        prusik.stderr()
    );
    // The new process cannot fetch them.
    prusik.upgrade().await;
    assert_eq!(status(&prusik, &token).await, 200);
    prusik.wait_stderr("1 of the process before in use").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlast_a_restart() {
    let (origin, issuer, manager) = (
        Origin::chat().await,
        Issuer::p256("k"),
        ServiceManager::new(),
    );
    let keys = KeyServer::start(jwks(&[&issuer])).await;
    let top = format!(
        "admin: {{ listen: \"unix:{}/admin.sock\" }}",
        manager.folder().display()
    );
    let config = Config::to(&[&origin]).top(top).route(keys.route(""));
    let mut prusik = manager.start(&config).await;
    let token = issuer.sign("ES256", &json!({}));
    assert_eq!(status(&prusik, &token).await, 200);
    keys.serve(String::new());
    assert_eq!(manager.begin_restart(&prusik), "");
    assert_eq!(prusik.exit_code().await, Some(0), "{}", prusik.stderr());
    prusik = manager.start(&config).await;
    assert_eq!(status(&prusik, &token).await, 200, "{}", prusik.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlast_a_take_over() {
    let (origin, issuer) = (Origin::chat().await, Issuer::p256("k"));
    let keys = KeyServer::start(jwks(&[&issuer])).await;
    let shared = tempfile::tempdir().expect("a temporary folder");
    let top = format!(
        "server: {{ hand_over: \"unix:{}/hand-over.sock\" }}",
        shared.path().display()
    );
    let config = Config::to(&[&origin]).top(top).route(keys.route(""));
    let Some(before) = Prusik::start_as_pid_1(config.clone()).await else {
        return;
    };
    let token = issuer.sign("ES256", &json!({}));
    assert_eq!(status(&before, &token).await, 200);
    keys.serve(String::new());
    let next = Prusik::start_taking_over(&config)
        .await
        .expect("there was the right before");
    assert_eq!(status(&next, &token).await, 200, "{}", next.stderr());
}

#[tokio::test]
async fn keys_that_are_not_used_are_told_with_the_reason() {
    let (origin, issuer) = (Origin::chat().await, Issuer::p256("k"));
    let mut other = Issuer::p384("enc").jwk();
    other["use"] = "enc".into();
    let set = json!({ "keys": [issuer.jwk(), other] }).to_string();
    let keys = KeyServer::start(set).await;
    let prusik = Prusik::start(Config::to(&[&origin]).route(keys.route("leeway: 1s"))).await;
    prusik.wait_stderr("1 in use").await;
    prusik
        .wait_stderr("not used: key \"enc\" is not for signatures")
        .await;
}

#[tokio::test]
async fn all_who_come_with_a_new_key_at_once_wait_for_its_fetch() {
    let origin = Origin::chat().await;
    for round in 0..5 {
        let (old, new) = (Issuer::p256("old"), Issuer::p256("new"));
        let keys = KeyServer::start(jwks(&[&old])).await;
        let config = Config::to(&[&origin]).route(keys.route("refresh: 1h"));
        let prusik = Prusik::start(config).await;
        keys.serve(jwks(&[&old, &new]));
        let token = new.sign("ES256", &json!({}));
        let statuses = join_all((0..30).map(|_| status(&prusik, &token))).await;
        assert_eq!(statuses, [200; 30], "round {round}");
        assert_eq!(keys.asked(), 2);
    }
}

#[tokio::test]
async fn keys_are_fetched_by_tls_from_who_proves_its_name() {
    let (origin, issuer) = (Origin::chat().await, Issuer::rsa("k"));
    let (authority, other) = (Authority::new(), Authority::new());
    let token = issuer.sign("RS256", &json!({}));
    let address = free_address();
    let ip = address.ip().to_string();
    for (names, ca, wanted) in [
        (&ip[..], &authority, 200),
        (&ip, &other, 503),
        ("id.test", &authority, 503),
    ] {
        let pair = authority.issue("id", &[names]);
        let (set, tls) = (jwks(&[&issuer]), authority.server(&pair, false));
        let keys = Origin::secure_on(address, tls, move |_| Answer::text(&set)).await;
        let ca = ca.file();
        let route = format!(
            "auth: {{ jwt: {{ keys: \"https://{address}/jwks.json\", ca: \"{}\" }} }}",
            ca.display()
        );
        let prusik = Prusik::start(Config::to(&[&origin]).route(route)).await;
        assert_eq!(status(&prusik, &token).await, wanted, "{names}");
        assert_eq!(
            prusik.stderr().contains("TLS to "),
            wanted == 503,
            "{}",
            prusik.stderr()
        );
        keys.kill().await;
    }
}

#[tokio::test]
async fn a_file_is_looked_at_again_if_refresh_says_so() {
    let (origin, old, new) = (
        Origin::chat().await,
        Issuer::p256("old"),
        Issuer::p256("new"),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("jwks.json");
    fs::write(&file, jwks(&[&old])).expect("it is ours");
    let route = format!(
        "auth: {{ jwt: {{ keys: \"{}\", refresh: 1s }} }}",
        file.display()
    );
    let prusik = Prusik::start(Config::to(&[&origin]).route(route)).await;
    let [old_token, new_token] = [&old, &new].map(|issuer| issuer.sign("ES256", &json!({})));
    assert_eq!(status(&prusik, &old_token).await, 200);
    fs::write(&file, "half of a new on").expect("it is ours");
    prusik.wait_stderr("could not be renewed").await;
    assert_eq!(status(&prusik, &old_token).await, 200);
    fs::write(&file, jwks(&[&new])).expect("it is ours");
    eventually("the new key counts", async || {
        status(&prusik, &new_token).await == 200
    })
    .await;
    assert_eq!(status(&prusik, &old_token).await, 401);
}
