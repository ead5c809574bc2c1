use serde_json::json;

use super::super::issuer::{Issuer, base64url, jwks};
use super::*;

fn parse(content: &str) -> Result<KeySet, KeysError> {
    KeySet::parse(content.as_bytes(), Secrets::Taken)
}

fn algorithms(keys: &KeySet) -> Vec<&[Algorithm]> {
    let lists = keys.keys.iter().map(|key| &key.validation.algorithms[..]);
    lists.collect()
}

fn all() -> [Issuer; 5] {
    [
        Issuer::rsa("r"),
        Issuer::p256("p"),
        Issuer::p384("q"),
        Issuer::ed25519("e"),
        Issuer::secret("s"),
    ]
}

#[test]
fn a_key_has_the_algorithms_of_its_type() {
    let issuers = all();
    let keys = parse(&jwks(&issuers.each_ref())).unwrap();
    assert_eq!(algorithms(&keys), [RSA, EC_256, EC_384, ED, SECRET]);
    for issuer in &issuers[..4] {
        let [one] = &parse(&issuer.pem()).unwrap().keys[..] else {
            panic!("one key in PEM");
        };
        let of_jwk = keys
            .keys
            .iter()
            .find(|key| key.id.as_deref() == Some(issuer.id));
        let of_jwk = &of_jwk.unwrap().validation.algorithms;
        assert_eq!(one.validation.algorithms, *of_jwk);
        assert_eq!(one.id, None);
    }
    // One key may stand alone.
    let alone = parse(&issuers[0].jwk().to_string()).unwrap();
    assert_eq!(algorithms(&alone), [RSA]);
}

#[test]
fn what_is_not_used_of_a_set_is_said() {
    let issuers = all();
    assert!(
        parse(&jwks(&issuers.each_ref()))
            .unwrap()
            .left_out()
            .is_empty()
    );
    let crowd: Vec<_> = (0..9).map(|_| Issuer::p256("k").jwk()).collect();
    let keys = parse(&json!({ "keys": crowd }).to_string()).unwrap();
    let said = keys.left_out().join("\n");
    assert!(
        said.contains("the first 8 of the 9 keys for ES256"),
        "{said}"
    );
    assert_eq!(keys.count(), 9);
}

#[test]
fn an_alg_in_the_key_set_is_the_only_one() {
    let mut jwk = Issuer::rsa("r").jwk();
    jwk["alg"] = "PS384".into();
    let keys = parse(&jwk.to_string()).unwrap();
    assert_eq!(algorithms(&keys), [[Algorithm::PS384]]);
    for wrong in ["HS256", "ES256", "RSA-OAEP", "none", "nonsense"] {
        jwk["alg"] = wrong.into();
        let error = parse(&jwk.to_string()).unwrap_err();
        assert!(matches!(error, KeysError::NoKey(_)), "{wrong}: {error}");
    }
}

#[test]
fn a_public_key_never_checks_an_hmac() {
    let issuers = all();
    let mut sets: Vec<_> = issuers[..4].iter().map(Issuer::pem).collect();
    sets.push(jwks(&issuers[..4].iter().collect::<Vec<_>>()));
    for set in sets {
        let keys = parse(&set).unwrap();
        for hmac in SECRET {
            assert_eq!(keys.candidates(*hmac, None).count(), 0, "{set}");
        }
    }
}

#[test]
fn keys_are_found_by_id_and_algorithm() {
    let [one, other] = [Issuer::p256("one"), Issuer::p256("other")];
    let keys = parse(&jwks(&[&one, &other, &Issuer::rsa("one")])).unwrap();
    let count = |algorithm, id| keys.candidates(algorithm, id).count();
    assert_eq!(count(Algorithm::ES256, Some("one")), 1);
    assert_eq!(count(Algorithm::RS256, Some("one")), 1);
    assert_eq!(count(Algorithm::ES256, None), 2);
    assert_eq!(count(Algorithm::ES256, Some("One")), 0);
    assert_eq!(count(Algorithm::ES384, Some("one")), 0);
    assert!(keys.has("other") && !keys.has("another"));
    // A key without an id may be meant.
    let keys = parse(&one.pem()).unwrap();
    assert_eq!(keys.candidates(Algorithm::ES256, Some("any")).count(), 1);
}

#[test]
fn a_token_is_not_tried_with_hundreds_of_keys() {
    let issuers: Vec<_> = (0..20).map(|_| Issuer::p256("same")).collect();
    let keys = parse(&jwks(&issuers.iter().collect::<Vec<_>>())).unwrap();
    assert_eq!(keys.count(), 20);
    for id in [None, Some("same")] {
        assert_eq!(keys.candidates(Algorithm::ES256, id).count(), TRIED);
    }
}

#[test]
fn what_is_not_for_signatures_is_left_out() {
    let good = Issuer::p256("good");
    let with = |key: &str, value: Value| {
        let mut jwk = Issuer::p256("bad").jwk();
        jwk[key] = value;
        jwk
    };
    let rsa = |bits: usize| {
        let mut modulus = vec![0xff; bits / 8];
        modulus.insert(0, 0);
        json!({ "kty": "RSA", "n": base64url(modulus), "e": "AQAB" })
    };
    for bad in [
        with("use", "enc".into()),
        with("key_ops", json!(["sign"])),
        with("crv", "P-521".into()),
        with("crv", "P-384".into()),
        with("crv", "secp256k1".into()),
        with("x", "AAAA".into()),
        with("x", "not base64url!".into()),
        with("kty", "unheard of".into()),
        with("kty", 7.into()),
        rsa(1024),
        rsa(16384),
        json!({ "kty": "RSA", "e": "AQAB" }),
        json!({ "kty": "oct", "k": base64url([7; 31]) }),
        json!({ "kty": "oct", "k": "" }),
        json!("a text"),
    ] {
        let alone = parse(&json!({ "keys": [bad] }).to_string());
        assert!(matches!(alone, Err(KeysError::NoKey(_))), "{bad}");
        let beside = parse(&json!({ "keys": [bad, good.jwk()] }).to_string());
        assert_eq!(beside.unwrap().count(), 1, "{bad}");
    }
    for fine in [
        with("use", "sig".into()),
        with("key_ops", json!(["sign", "verify"])),
        with("x5c", json!(["whatever"])),
        rsa(2048),
        rsa(8192),
        json!({ "kty": "oct", "k": base64url([7; 32]) }),
    ] {
        let alone = parse(&json!({ "keys": [fine] }).to_string());
        assert_eq!(alone.unwrap().count(), 1, "{fine}");
    }
}

#[test]
fn a_secret_counts_in_a_file_only() {
    let set = jwks(&[&Issuer::secret("s")]);
    assert_eq!(parse(&set).unwrap().count(), 1);
    let error = KeySet::parse(set.as_bytes(), Secrets::Left).unwrap_err();
    assert!(error.to_string().contains("only be in a file"), "{error}");
}

#[test]
fn what_holds_no_keys_is_told_with_a_remedy() {
    let private = include_str!("../../../../tests/it/support/rsa.pem");
    for (content, wanted) in [
        ("", "is neither a JWKS nor PEM"),
        ("a secret", "is neither a JWKS nor PEM"),
        ("[]", "is neither a JWKS nor PEM"),
        ("{", "is no JWKS: EOF"),
        ("{}", "is no JWKS: it has no \"keys\""),
        ("{\"keys\": {}}", "is no JWKS: its \"keys\" is no list"),
        ("{\"keys\": []}", "has no key that can be used"),
        (private, "holds a private key"),
        (
            "-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n",
            "holds no public key in PEM",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "cannot be used: ",
        ),
        ("-----BEGIN PUBLIC KEY-----\n", "cannot be used: "),
    ] {
        let error = parse(content).unwrap_err();
        assert!(
            error.to_string().starts_with(wanted),
            "{content:?}: {error}"
        );
        assert!(!error.remedy().is_empty());
    }
}

#[test]
fn debug_output_keeps_the_keys() {
    let issuer = Issuer::secret("s");
    let keys = parse(&jwks(&[&issuer])).unwrap();
    assert_eq!(format!("{keys:?}"), "KeySet(1)");
}
