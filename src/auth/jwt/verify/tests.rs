use std::time::UNIX_EPOCH;

use serde_json::json;

use super::super::issuer::{Issuer, base64url, jwks};
use super::super::keys::Secrets;
use super::*;

fn set(issuers: &[&Issuer]) -> KeySet {
    KeySet::parse(jwks(issuers).as_bytes(), Secrets::Taken).unwrap()
}

fn outcome(token: &str, keys: &KeySet) -> Result<Verified, Refused> {
    verify(token.as_bytes(), keys, &Rules::default(), UNIX_EPOCH)
}

#[test]
fn each_algorithm_is_verified() {
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    for (issuer, algorithms) in [
        (Issuer::rsa("k"), &rsa[..]),
        (Issuer::p256("k"), &["ES256"]),
        (Issuer::p384("k"), &["ES384"]),
        (Issuer::ed25519("k"), &["EdDSA"]),
        (Issuer::secret("k"), &["HS256", "HS384", "HS512"]),
    ] {
        let keys = set(&[&issuer]);
        for algorithm in algorithms {
            let token = issuer.sign(algorithm, &json!({ "sub": "alice" }));
            let verified = outcome(&token, &keys);
            assert_eq!(verified.unwrap().claims["sub"], "alice", "{algorithm}");
            // Of the last characters of a signature not every change changes a bit.
            let mut broken = token.into_bytes();
            let at = broken.len() - 10;
            broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
            let broken = String::from_utf8(broken).unwrap();
            assert_eq!(
                outcome(&broken, &keys),
                Err(Refused::Signature),
                "{algorithm}"
            );
        }
    }
}

/// However many others may be any, and have no id.
#[test]
fn the_key_that_is_named_is_tried_first() {
    let named = Issuer::p256("named");
    let others: Vec<String> = (0..9).map(|_| jwks(&[&Issuer::p256("other")])).collect();
    let mut keys: Vec<Value> = Vec::new();
    for set in others.iter().chain([&jwks(&[&named])]) {
        let mut set: Value = serde_json::from_str(set).unwrap();
        let mut key = set["keys"][0].take();
        if key["kid"] == "other" {
            key.as_object_mut().unwrap().remove("kid");
        }
        keys.push(key);
    }
    let set = json!({ "keys": keys }).to_string();
    let keys = KeySet::parse(set.as_bytes(), Secrets::Taken).unwrap();
    assert_eq!(keys.count(), 10);
    assert!(outcome(&named.sign("ES256", &json!({})), &keys).is_ok());
}

#[test]
fn a_token_of_another_algorithm_than_it_says_is_refused() {
    let (rsa, p256) = (Issuer::rsa("k"), Issuer::p256("k"));
    let keys = set(&[&rsa, &p256]);
    for says in ["RS384", "PS256", "ES256"] {
        let header = json!({ "alg": says, "kid": "k" }).to_string();
        let message = format!("{}.{}", base64url(header), base64url("{}"));
        let signature = rsa.signature("RS256", message.as_bytes());
        let token = format!("{message}.{}", base64url(signature));
        assert_eq!(outcome(&token, &keys), Err(Refused::Signature), "{says}");
    }
}

#[test]
fn a_token_without_key_id_passes_if_one_key_fits() {
    let [one, other, stranger] = [Issuer::p256("a"), Issuer::p256("b"), Issuer::p256("b")];
    let keys = set(&[&one, &other]);
    let anonymous = |issuer: &Issuer| issuer.sign_with(r#"{"alg":"ES256"}"#, "{}");
    assert!(outcome(&anonymous(&one), &keys).is_ok());
    assert!(outcome(&anonymous(&other), &keys).is_ok());
    assert_eq!(
        outcome(&anonymous(&stranger), &keys),
        Err(Refused::Signature)
    );
    // The id of a key does not make another one of it.
    let token = stranger.sign("ES256", &json!({}));
    assert_eq!(outcome(&token, &keys), Err(Refused::Signature));
    let token = Issuer::p256("c").sign("ES256", &json!({}));
    assert_eq!(outcome(&token, &keys), Err(Refused::UnknownKey));
}

#[test]
fn what_is_no_token_is_refused_before_a_key_is_used() {
    let issuer = Issuer::p256("k");
    let keys = set(&[&issuer]);
    let good = issuer.sign("ES256", &json!({}));
    let long = good.clone() + &"A".repeat(LONGEST);
    assert_eq!(outcome(&long, &keys), Err(Refused::TooLong));
    let parts: Vec<&str> = good.split('.').collect();
    for bad in [
        "",
        ".",
        "..",
        "abc",
        &good[..good.len() / 4],
        &format!("{good}.x"),
        &format!(".{good}"),
        &format!("{good}="),
        &format!("{}.{}", parts[0], parts[1]),
        &format!("{} .{}.{}", parts[0], parts[1], parts[2]),
        &format!("{}.{}.{}", base64url("[]"), parts[1], parts[2]),
        &format!("{}.{}.{}", base64url("\u{1F511}"), parts[1], parts[2]),
    ] {
        let refused = outcome(bad, &keys).unwrap_err();
        assert_eq!(refused, Refused::Unreadable, "{bad}");
    }
}
