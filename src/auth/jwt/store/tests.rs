use std::time::SystemTime;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::claims::Rules;
use super::super::fetch::Endpoint;
use super::super::issuer::{Issuer, jwks};
use super::super::refused::Refused;
use super::super::verify::verify;
use super::*;

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
    let stores = stores([Some(&source), None, Some(&source)].into_iter(), &[]);
    let [Some(store), None, Some(same)] = &stores[..] else {
        panic!("one for each route that asks for tokens");
    };
    assert!(Arc::ptr_eq(store, same));
    assert_eq!(outcome(store, &old), Err(Refused::NoKeys));
    assert!(store.what_is_missing().is_some());
    warm_up(&stores).await;
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
        let stores = stores([Some(&source)].into_iter(), &[]);
        warm_up(&stores).await;
        let store = stores[0].as_ref().unwrap();
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
    let before = stores([Some(&source)].into_iter(), &[]);
    warm_up(&before).await;
    let same = stores([Some(&source)].into_iter(), &before);
    let [Some(old), Some(new)] = [&before[0], &same[0]] else {
        panic!("both ask for tokens");
    };
    assert!(Arc::ptr_eq(old, new));
    let KeySource::Url { endpoint, .. } = source else {
        panic!("it is a URL");
    };
    let other = KeySource::Url {
        endpoint,
        refresh: Duration::from_secs(60),
    };
    let next = stores([Some(&other)].into_iter(), &before);
    let next = next[0].as_ref().unwrap();
    assert!(!Arc::ptr_eq(old, next));
    assert_eq!(outcome(next, &issuer), Ok(()));
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
    let stores = stores([Some(&source)].into_iter(), &[]);
    tokio::select! {
        () = warm_up(&stores) => panic!("nobody answers"),
        accepted = listener.accept() => drop(accepted),
    }
    let schedule = stores[0].as_ref().unwrap().schedule.lock();
    assert!(schedule.has_failed() && schedule.due().is_some());
}

#[tokio::test]
async fn a_store_ends_with_its_configuration() {
    let source = key_server(vec![jwks(&[&Issuer::p256("k")])]).await;
    let stores = stores([Some(&source)].into_iter(), &[]);
    warm_up(&stores).await;
    let gone = Arc::downgrade(stores[0].as_ref().unwrap());
    stores[0].as_ref().unwrap().begin();
    drop(stores);
    assert!(gone.upgrade().is_none());
}
