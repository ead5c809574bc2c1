use std::time::SystemTime;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::claims::Rules;
use super::super::issuer::{Issuer, jwks};
use super::super::refused::Refused;
use super::super::verify::verify;
use super::*;
use crate::auth::endpoint::Endpoint;

/// Serves one answer after the other, and the last one again and again.
async fn key_server(answers: Vec<String>) -> KeySource {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        while let Ok((mut client, _)) = listener.accept().await {
            let body = match answers.peek() {
                Some(last) => last.clone(),
                None => return,
            };
            if answers.len() > 1 {
                answers.next();
            }
            let _ = client.read(&mut [0; 1024]).await;
            let status = if body.is_empty() {
                "500 Down"
            } else {
                "200 OK"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = client.write_all((head + &body).as_bytes()).await;
        }
    });
    KeySource::Url {
        endpoint: Endpoint {
            uri: url.parse().unwrap(),
            tls: None,
        },
        refresh: Duration::from_secs(300),
    }
}

fn outcome(store: &KeyStore, issuer: &Issuer) -> Result<(), Refused> {
    let keys = store.keys().ok_or(Refused::NoKeys)?;
    let token = issuer.sign("ES256", &json!({}));
    let now = SystemTime::now();
    verify(token.as_bytes(), &keys, &Rules::default(), now).map(|_| ())
}

#[tokio::test]
async fn a_token_of_a_new_key_has_the_keys_fetched_once() {
    let [old, new] = [Issuer::p256("old"), Issuer::p256("new")];
    let source = key_server(vec![jwks(&[&old]), jwks(&[&old, &new])]).await;
    let stores = KeyStores::new([Some(&source), None, Some(&source)].into_iter(), None);
    let [Some(store), None, Some(same)] = &stores.of_routes[..] else {
        panic!("one for each route that asks for tokens");
    };
    assert!(Arc::ptr_eq(store, same));
    assert_eq!(outcome(store, &old), Err(Refused::NoKeys));
    assert!(store.what_is_missing().is_some());
    stores.warm_up().await;
    store.begin();
    assert_eq!(outcome(store, &old), Ok(()));
    assert_eq!(store.what_is_missing(), None);
    assert_eq!(outcome(store, &new), Err(Refused::UnknownKey));
    assert!(store.look_again().await);
    assert_eq!(outcome(store, &new), Ok(()));
    assert!(!store.look_again().await, "once a minute");
}

#[tokio::test]
async fn keys_stay_when_they_cannot_be_renewed() {
    let issuer = Issuer::p256("k");
    for bad in ["", "no keys", r#"{"keys": []}"#] {
        let source = key_server(vec![jwks(&[&issuer]), bad.to_owned()]).await;
        let stores = KeyStores::new([Some(&source)].into_iter(), None);
        stores.warm_up().await;
        let store = &stores.all[0];
        store.begin();
        assert!(store.look_again().await);
        assert!(store.schedule.lock().has_failed(), "{bad:?}");
        assert_eq!(outcome(store, &issuer), Ok(()));
    }
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_a_url() {
    let issuer = Issuer::p256("k");
    let source = key_server(vec![jwks(&[&issuer]), String::new()]).await;
    let before = KeyStores::new([Some(&source)].into_iter(), None);
    before.warm_up().await;
    let same = KeyStores::new([Some(&source)].into_iter(), Some(&before));
    assert!(Arc::ptr_eq(&before.all[0], &same.all[0]));
    let KeySource::Url { endpoint, .. } = source else {
        panic!("it is a URL");
    };
    let other = KeySource::Url {
        endpoint,
        refresh: Duration::from_secs(60),
    };
    let next = KeyStores::new([Some(&other)].into_iter(), Some(&before));
    assert!(!Arc::ptr_eq(&before.all[0], &next.all[0]));
    assert_eq!(outcome(&next.all[0], &issuer), Ok(()));
}

#[tokio::test]
async fn a_warm_up_that_is_given_up_is_a_failure_and_is_followed_by_another_try() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let endpoint = Endpoint {
        uri: uri.parse().unwrap(),
        tls: None,
    };
    let source = KeySource::Url {
        endpoint,
        refresh: Duration::from_secs(300),
    };
    let stores = KeyStores::new([Some(&source)].into_iter(), None);
    tokio::select! {
        () = stores.warm_up() => panic!("nobody answers"),
        accepted = listener.accept() => drop(accepted),
    }
    let schedule = stores.all[0].schedule.lock();
    assert!(schedule.has_failed() && schedule.due().is_some());
}

#[tokio::test]
async fn a_store_ends_with_its_configuration() {
    let source = key_server(vec![jwks(&[&Issuer::p256("k")])]).await;
    let stores = KeyStores::new([Some(&source)].into_iter(), None);
    stores.warm_up().await;
    let gone = Arc::downgrade(&stores.all[0]);
    stores.all[0].begin();
    drop(stores);
    assert!(gone.upgrade().is_none());
}
