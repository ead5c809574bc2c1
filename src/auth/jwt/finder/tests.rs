use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn token(text: &str) -> Presented {
    Presented::Token(text.as_bytes().into())
}

fn find(finder: Finder, fields: &[(&'static str, &str)], target: &str) -> Presented {
    Finders(vec![finder]).find(&headers(fields), target.as_bytes())
}

#[test]
fn a_bearer_token_is_the_only_authorization() {
    for (fields, wanted) in [
        (&["Bearer abc"][..], token("abc")),
        (&["bearer   abc  "], token("abc")),
        (&["BEARER abc def"], token("abc def")),
        (&["Basic abc"], Presented::Nothing),
        (&["Bearerabc"], Presented::Nothing),
        (&["Bearer\tabc"], Presented::Nothing),
        (&["Bearer"], Presented::Nothing),
        (&["Bearer "], Presented::Nothing),
        (&["Bea"], Presented::Nothing),
        (&[], Presented::Nothing),
        (&["Bearer abc", "Bearer abc"], Presented::Several),
        (&["Basic abc", "Bearer abc"], Presented::Several),
    ] {
        let fields: Vec<_> = fields
            .iter()
            .map(|value| ("authorization", *value))
            .collect();
        assert_eq!(find(Finder::Bearer, &fields, "/"), wanted, "{fields:?}");
    }
}

#[test]
fn a_cookie_is_found_among_others() {
    let cookie = || Finder::Cookie("session".to_owned());
    for (fields, wanted) in [
        (&["session=abc"][..], token("abc")),
        (&["a=1; session=abc; b=2"], token("abc")),
        (&["a=1", "session=\"abc\""], token("abc")),
        (&["session=abc; session=abc"], token("abc")),
        (&["session=abc; session=def"], Presented::Several),
        (&["session=abc", "session=def"], Presented::Several),
        (&["session=; Session=abc; xsession=abc"], Presented::Nothing),
        (&["session"], Presented::Nothing),
    ] {
        let fields: Vec<_> = fields.iter().map(|value| ("cookie", *value)).collect();
        assert_eq!(find(cookie(), &fields, "/"), wanted, "{fields:?}");
    }
}

#[test]
fn an_argument_is_found_once() {
    let argument = || Finder::Query("token".to_owned());
    for (target, wanted) in [
        ("/a?token=abc", token("abc")),
        ("/a?x=1&token=%61bc", token("abc")),
        ("/a?token=abc&token=abc", token("abc")),
        ("/a?token=abc&TOKEN=def", Presented::Several),
        ("/a?token=", Presented::Nothing),
        ("/a", Presented::Nothing),
        ("/token=abc", Presented::Nothing),
    ] {
        assert_eq!(find(argument(), &[], target), wanted, "{target}");
    }
    let long = format!("/?token={}", "a".repeat(LONGEST + 1));
    assert_eq!(find(argument(), &[], &long), Presented::TooLong);
}

#[test]
fn the_first_place_that_has_a_token_decides() {
    let finders = Finders(vec![
        Finder::Cookie("session".to_owned()),
        Finder::Bearer,
        Finder::Query("token".to_owned()),
        Finder::Subprotocol,
    ]);
    let bearer = ("authorization", "Bearer b");
    let offer = ("sec-websocket-protocol", "bearer, s");
    for (fields, target, wanted) in [
        (&[("cookie", "session=c"), bearer][..], "/?token=q", "c"),
        (&[("cookie", "other=c"), bearer, offer], "/?token=q", "b"),
        (&[offer], "/?token=q", "q"),
        (&[offer], "/", "s"),
    ] {
        let found = finders.find(&headers(fields), target.as_bytes());
        assert_eq!(found, token(wanted), "{fields:?} {target}");
    }
    // Also if that is one token too many.
    let fields = [("cookie", "session=c; session=d"), bearer];
    let found = finders.find(&headers(&fields), b"/");
    assert_eq!(found, Presented::Several);
}

#[test]
fn debug_output_keeps_the_token() {
    assert_eq!(format!("{:?}", token("abc")), "Token(…)");
}

proptest! {
    /// What is left of a target has no argument of the name, and the others in their order.
    #[test]
    fn nothing_of_a_token_is_left(target in "/[a-c]{0,3}(\\?[tokenx=&%6f+]{0,30})?") {
        let finders = Finders(vec![Finder::Query("token".to_owned())]);
        let rest = query::target_without(target.as_bytes(), finders.arguments());
        let rest = rest.unwrap_or_else(|| target.clone().into_bytes());
        prop_assert_eq!(finders.find(&HeaderMap::new(), &rest), Presented::Nothing);
        prop_assert_eq!(query::target_without(&rest, finders.arguments()), None);
    }
}
