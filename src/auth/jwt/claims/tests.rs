use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn check(rules: &Rules, claims: Value) -> Result<Option<SystemTime>, Refused> {
    let Value::Object(claims) = claims else {
        panic!("claims are a mapping");
    };
    rules.check(&claims, at(NOW))
}

fn requires(name: &str, required: Required) -> Rules {
    Rules {
        require: vec![(name.to_owned(), required)],
        ..Rules::default()
    }
}

fn one_of(values: Value) -> Required {
    match values {
        Value::Array(values) => Required::OneOf(values),
        value => Required::OneOf(vec![value]),
    }
}

#[test]
fn a_token_is_valid_between_nbf_and_exp() {
    let rules = Rules::default();
    assert_eq!(check(&rules, json!({})), Ok(None));
    let valid = json!({ "nbf": NOW, "exp": NOW + 1 });
    assert_eq!(check(&rules, valid), Ok(Some(at(NOW + 1))));
    for exp in [
        json!(NOW),
        json!(NOW - 1),
        json!(0),
        json!(NOW as f64 - 0.5),
    ] {
        assert_eq!(check(&rules, json!({ "exp": exp })), Err(Refused::Expired));
    }
    for nbf in [json!(NOW + 1), json!(NOW as f64 + 0.5)] {
        assert_eq!(check(&rules, json!({ "nbf": nbf })), Err(Refused::NotYet));
    }
}

#[test]
fn leeway_moves_both_ends() {
    let rules = Rules {
        leeway: Duration::from_secs(30),
        ..Rules::default()
    };
    let expires = check(&rules, json!({ "exp": NOW - 29, "nbf": NOW + 30 }));
    assert_eq!(expires, Ok(Some(at(NOW + 1))));
    let expired = check(&rules, json!({ "exp": NOW - 30 }));
    assert_eq!(expired, Err(Refused::Expired));
    let early = check(&rules, json!({ "nbf": NOW + 31 }));
    assert_eq!(early, Err(Refused::NotYet));
}

#[test]
fn a_date_that_is_none_lets_nobody_in() {
    for date in [
        json!("1900000000"),
        json!(-1),
        json!(-1.5),
        json!(1e300),
        json!(null),
        json!(true),
        json!([NOW + 1]),
        json!({}),
    ] {
        for claim in ["exp", "nbf"] {
            let checked = check(&Rules::default(), json!({ claim: date }));
            assert_eq!(checked, Err(Refused::Dates), "{claim}: {date}");
        }
    }
}

#[test]
fn an_end_that_no_clock_reaches_is_none() {
    let rules = Rules {
        leeway: Duration::from_secs(30),
        ..Rules::default()
    };
    // The last moment that the clock can show.
    let last = json!({ "exp": i64::MAX });
    assert_eq!(check(&rules, last), Ok(None));
}

#[test]
fn issuer_and_audience_must_be_named() {
    let rules = Rules {
        issuers: vec!["https://a".to_owned(), "https://b".to_owned()],
        audiences: vec!["chat".to_owned(), "video".to_owned()],
        ..Rules::default()
    };
    for (issuer, audience, outcome) in [
        (json!("https://a"), json!("chat"), Ok(None)),
        (json!("https://b"), json!(["mail", "video"]), Ok(None)),
        (json!("https://c"), json!("chat"), Err(Refused::Issuer)),
        (json!("https://a/"), json!("chat"), Err(Refused::Issuer)),
        (json!(["https://a"]), json!("chat"), Err(Refused::Issuer)),
        (json!(null), json!("chat"), Err(Refused::Issuer)),
        (json!("https://a"), json!("mail"), Err(Refused::Audience)),
        (json!("https://a"), json!([]), Err(Refused::Audience)),
        (
            json!("https://a"),
            json!([["chat"]]),
            Err(Refused::Audience),
        ),
        (
            json!("https://a"),
            json!({ "chat": 1 }),
            Err(Refused::Audience),
        ),
        (json!("https://a"), json!(null), Err(Refused::Audience)),
    ] {
        let claims = json!({ "iss": issuer, "aud": audience });
        assert_eq!(check(&rules, claims.clone()), outcome, "{claims}");
    }
    assert_eq!(check(&rules, json!({})), Err(Refused::Issuer));
}

#[test]
fn a_required_claim_has_one_of_the_values() {
    for (required, claim, is_met) in [
        (json!("agent"), json!("agent"), true),
        (json!("agent"), json!("Agent"), false),
        (json!("agent"), json!(["user", "agent"]), true),
        (json!(["agent", "admin"]), json!("admin"), true),
        (json!(["agent", "admin"]), json!(["x", "admin"]), true),
        (json!(["agent", "admin"]), json!(["x"]), false),
        (json!(["agent", "admin"]), json!([]), false),
        (json!("agent"), json!("agent admin"), false),
        (json!("agent"), json!({ "agent": true }), false),
        (json!("agent"), json!(null), false),
        (json!(7), json!(7), true),
        (json!(7), json!(7.0), true),
        (json!(7), json!("7"), false),
        (json!(7), json!(7.5), false),
        (json!("true"), json!(true), false),
        (json!(false), json!(false), true),
        (json!(false), json!(0), false),
        (json!([true, "yes"]), json!(true), true),
    ] {
        let rules = requires("role", one_of(required.clone()));
        let checked = check(&rules, json!({ "role": claim }));
        assert_eq!(checked.is_ok(), is_met, "{required} of {claim}");
        assert!(is_met || checked == Err(Refused::Claims));
    }
    let rules = requires("role", one_of(json!("agent")));
    assert_eq!(check(&rules, json!({})), Err(Refused::Claims));
}

#[test]
fn a_scope_is_a_list_of_words() {
    let rules = requires("scope", one_of(json!(["chat:write", "admin"])));
    for (scope, is_met) in [
        (json!("chat:read chat:write"), true),
        (json!("chat:read"), false),
        (json!("chat:writer"), false),
        (json!(["chat:write"]), true),
    ] {
        let checked = check(&rules, json!({ "scope": scope }));
        assert_eq!(checked.is_ok(), is_met, "{scope}");
    }
}

#[test]
fn true_asks_that_a_claim_is_given() {
    for (claim, is_met) in [
        (json!(true), true),
        (json!("a text"), true),
        (json!(1), true),
        (json!(["x"]), true),
        (json!(false), false),
        (json!("false"), false),
        (json!(""), false),
        (json!("0"), false),
        (json!(0), false),
        (json!([]), false),
        (json!({}), false),
        (json!(null), false),
    ] {
        let rules = requires("email_verified", Required::Given);
        let checked = check(&rules, json!({ "email_verified": claim }));
        assert_eq!(checked.is_ok(), is_met, "{claim}");
    }
    let rules = requires("exp", Required::Given);
    assert_eq!(check(&rules, json!({})), Err(Refused::Claims));
    assert!(check(&rules, json!({ "exp": NOW + 1 })).is_ok());
}

#[test]
fn a_claim_that_is_there_twice_is_none() {
    let read = |text: &str| serde_json::from_str::<Claims>(text);
    assert!(read(r#"{"role": "user", "name": "x"}"#).is_ok());
    assert!(read(r#"{"role": "user", "role": "admin"}"#).is_err());
    assert!(read(r#"{"role": "user", "r\u006fle": "admin"}"#).is_err());
    assert!(read(r#"["role"]"#).is_err());
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z ]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(Value::from)
    })
}

proptest! {
    /// Whatever claims are, nobody comes in after the moment that is told as the end.
    #[test]
    fn who_is_let_in_is_so_until_the_end_only(exp in value(), nbf in value(), leeway in 0_u64..100) {
        let rules = Rules { leeway: Duration::from_secs(leeway), ..Rules::default() };
        let Value::Object(claims) = json!({ "exp": exp, "nbf": nbf }) else { unreachable!() };
        if let Ok(Some(expires)) = rules.check(&claims, at(NOW)) {
            prop_assert!(expires > at(NOW));
            prop_assert_eq!(rules.check(&claims, expires), Err(Refused::Expired));
        }
    }
}
