//! What an auth server has answered.

use super::*;

#[test]
fn what_only_the_auth_server_may_say_no_client_says() {
    let mut headers = HeaderMap::new();
    for name in ["x-user", "x_user", "x-team", "x-role"] {
        headers.insert(name, HeaderValue::from_static("root"));
    }
    let mut answer = HeaderMap::new();
    for (name, value) in [("x-user", "alice"), ("x-role", "agent")] {
        answer.insert(name, HeaderValue::from_static(value));
    }
    let cookies = vec![HeaderValue::from_static("sid=2")];
    let caller = Caller {
        answer,
        cookies,
        ..Caller::default()
    };
    let arrived = RequestVariables {
        client: ClientAddress::Unix,
        headers: &headers,
        method: &Method::GET,
        target: b"/",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: None,
        peer: None,
        server: None,
        caller: Some(&caller),
        request_id: &REQUEST,
    };
    let answered = ["X-User", "X-Team"].map(|name| (name.parse().unwrap(), name.to_owned()));
    let options = ForwardingOptions {
        forwarded: Forwarded::Off,
        trust: Trust::Untrusted,
        field: ClientField::Either,
        answered: &answered,
    };
    let mut out = headers.clone();
    request_headers(&mut out, &arrived, &HeaderRules::default(), options);
    let value = |name: &str| out.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(value("x-user"), Some("alice"));
    assert_eq!((value("x_user"), value("x-team")), (None, None));
    assert_eq!(value("x-role"), Some("root"));
    let mut response = HeaderMap::new();
    let (rules, ok) = (HeaderRules::default(), StatusCode::OK);
    response_headers(&mut response, StatusCode::EARLY_HINTS, &arrived, &rules);
    assert!(!response.contains_key("set-cookie"));
    response_headers(&mut response, ok, &arrived, &rules);
    assert_eq!(response["set-cookie"], "sid=2");
}
