//! Servers by name: resolved to all their addresses, again and again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::support;
use crate::support::{Answer, Origin, Prusik, free_port_on, get, status_of};

fn config(upstream: &str) -> String {
    format!(
        "listeners: [{{ listen: 127.0.0.1:0, name: public }}]
upstreams: {{ named: {upstream} }}
routes: [{{ match: {{ path_prefix: / }}, upstream: named }}]
"
    )
}

/// An address that the name `localhost` leads to.
fn local() -> SocketAddr {
    free_port_on(Ipv4Addr::LOCALHOST)
}

#[tokio::test]
async fn a_name_in_the_hosts_file_serves() {
    let origin = Origin::start_on(local(), |_| Answer::text("by name")).await;
    let port = origin.address().port();
    for upstream in [
        format!("{{ servers: ['localhost:{port}'] }}"),
        format!("{{ discover: {{ dns: 'localhost:{port}', refresh: 1s }} }}"),
    ] {
        let prusik = Prusik::start(&config(&upstream)).await;
        prusik.wait_stderr(&format!("localhost:{port} is ")).await;
        assert_eq!(
            get(prusik.public(), "/").await.text(),
            "by name",
            "{upstream}"
        );
    }
}

#[tokio::test]
async fn a_start_with_an_unknown_name_works_and_says_so() {
    let prusik = Prusik::start(&config("{ servers: ['no-such-host.invalid:80'] }")).await;
    prusik
        .wait_stderr("no-such-host.invalid:80 could not be resolved yet (")
        .await;
    assert_eq!(status_of(prusik.public(), "/").await, 503);
}

/// Needs a private copy of the hosts file, and so the right to make a mount namespace.
#[tokio::test]
async fn addresses_are_followed_as_they_change_and_the_last_answer_is_kept() {
    let one = Origin::start_on(local(), |_| Answer::text("one")).await;
    let port = one.address().port();
    // The second address of the name: the same port on another loopback address.
    let two = Origin::start_on((IpAddr::from([127, 0, 0, 2]), port).into(), |_| {
        Answer::text("two")
    })
    .await;
    let upstream =
        format!("{{ discover: {{ dns: 'chat.test:{port}', refresh: 200ms, hold: 1s }} }}");
    let Some(prusik) = Prusik::start_with_hosts(&config(&upstream), "127.0.0.1 chat.test\n").await
    else {
        return eprintln!("skipped: no right to make a mount namespace");
    };
    let answers = async || {
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(get(prusik.public(), "/").await.text());
        }
        seen.sort();
        seen.dedup();
        seen
    };
    support::eventually("the first address serves", async || {
        answers().await == ["one"]
    })
    .await;
    prusik.write_hosts("127.0.0.1 chat.test\n127.0.0.2 chat.test\n");
    support::eventually("both serve", async || answers().await == ["one", "two"]).await;
    prusik.write_hosts("127.0.0.2 chat.test\n");
    support::eventually("the second is left", async || answers().await == ["two"]).await;
    prusik.write_hosts("# nobody\n");
    prusik.wait_stderr("keeping the last answer").await;
    assert_eq!(answers().await, ["two"]);
    drop(two);
}

/// What a name means is known only once it is resolved.
#[tokio::test]
async fn a_name_that_leads_to_the_admin_api_reaches_nobody() {
    for (listen, name) in [
        ("127.0.0.1", "admin.test"),
        ("127.0.0.1", "mapped.test"),
        ("0.0.0.0", "admin.test"),
    ] {
        let port = local().port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "secret\n").expect("it is ours");
        let admin = format!(
            "admin: {{ listen: '{listen}:{port}', token_file: {} }}\n",
            token.display()
        );
        let upstream = format!("{{ servers: ['{name}:{port}'] }}");
        let hosts = "127.0.0.1 admin.test\n::ffff:127.0.0.1 mapped.test\n";
        let config = admin + &config(&upstream);
        let Some(prusik) = Prusik::start_with_hosts(&config, hosts).await else {
            return eprintln!("skipped: no right to make a mount namespace");
        };
        prusik
            .wait_stderr("is the address of admin and is left out")
            .await;
        assert_eq!(status_of(prusik.public(), "/healthz").await, 503);
    }
}
