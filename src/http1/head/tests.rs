use super::*;

fn check(head: &str) -> Result<Option<ValidHead>, u16> {
    HeadCheck::default()
        .feed(head.as_bytes())
        .map_err(|rejection| rejection.status.as_u16())
}

fn framing(fields: &str) -> Result<Framing, u16> {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let sound = check(&head)?.expect("the head is whole");
    assert_eq!(sound.end, head.len());
    Ok(sound.framing)
}

#[test]
fn a_sound_head_says_where_it_ends_and_what_follows() {
    assert_eq!(framing("Accept: */*"), Ok(Framing::None));
    assert_eq!(framing("Content-Length: 0"), Ok(Framing::None));
    assert_eq!(framing("content-LENGTH:\t17 "), Ok(Framing::Length(17)));
    assert_eq!(framing("Transfer-Encoding: Chunked"), Ok(Framing::Chunked));
    assert_eq!(framing("X-Empty:\r\nX: caf\u{e9} \t x"), Ok(Framing::None));
}

#[test]
fn the_host_is_the_targets_in_any_spelling() {
    for (target, host, status) in [
        ("http://a:80/", "a", None),
        ("http://A/", "a:", None),
        ("wss://a/", "a:443", None),
        ("ws://a/", "a:443", Some(400)),
        ("https://a:80/", "a", Some(400)),
        ("http://a/", "b", Some(400)),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(check(&head).err(), status, "{head}");
    }
}

#[test]
fn cutting_changes_nothing() {
    for head in [
        "\r\nGET http://a:80/x HTTP/1.1\r\nHost: \t a:80\t\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\tb: c\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let whole = check(head);
        assert_ne!(whole, Ok(None));
        for cut in 0..head.len() {
            let mut check = HeadCheck::default();
            let first = check.feed(&head.as_bytes()[..cut]);
            let found = match first {
                Ok(None) => check.feed(head.as_bytes()),
                found => found,
            };
            let found = found.map_err(|rejection| rejection.status.as_u16());
            assert_eq!(found, whole, "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn what_no_request_begins_with_is_refused_before_its_blank_line() {
    for start in [
        "\x16\x03\x01\x02",
        "GET /\r\n",
        "\n",
        "\r\n\r\n",
        "PRI * HTTP/2.0\r\n",
        "a\0",
    ] {
        assert!(check(start).is_err(), "{start:?}");
    }
    assert_eq!(check(&"a".repeat(LINE_MAX + 1)), Err(414));
    let long = format!(
        "GET / HTTP/1.1\r\nX: {}",
        "a".repeat(HeadLimits::default().size)
    );
    assert_eq!(check(&long), Err(431));
    let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(FIELDS_MAX + 1));
    assert_eq!(check(&many), Err(431));
}

#[test]
fn a_head_that_is_not_whole_is_awaited() {
    for start in [
        "",
        "G",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a\r",
        "\r",
    ] {
        assert_eq!(check(start), Ok(None), "{start:?}");
    }
}

#[test]
fn the_log_gets_what_there_is_of_a_refused_request() {
    assert_eq!(asked(b"TRACE /x HTTP/1.1\r\n"), (&b"TRACE"[..], &b"/x"[..]));
    assert_eq!(asked(b"\r\nGET"), (&b"GET"[..], &b""[..]));
    assert_eq!(asked(b""), (&b""[..], &b""[..]));
}

/// Pieces of which heads are made, sound and not.
const PIECES: [&str; 24] = [
    "GET / HTTP/1.1\r\n",
    "POST http://a/ HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
    "X: y",
    " ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    ":",
    "\0",
    "\x7f",
    "caf\u{e9}",
    "GET",
    "/",
    "\"",
    "?",
    "HTTP/1.1",
    "\r\n\r\n",
];

proptest::proptest! {
    #[test]
    fn a_head_cut_anywhere_meets_the_same_verdict(
        pieces in proptest::collection::vec(0..PIECES.len(), 1..12),
        cut: usize,
    ) {
        let head: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        let head = head.as_bytes();
        let cut = cut % (head.len() + 1);
        let whole = HeadCheck::default().feed(head);
        let mut check = HeadCheck::default();
        let in_two = match check.feed(&head[..cut]) {
            Ok(None) => check.feed(head),
            found => found,
        };
        // A line that is not whole yet may be refused for another of its faults.
        proptest::prop_assert!(whole == in_two || whole.is_err() && in_two.is_err());
        if let Ok(Some(sound)) = whole {
            let text = &head[..sound.end];
            proptest::prop_assert!(text.ends_with(b"\r\n\r\n"));
            let returns = text.iter().filter(|byte| **byte == b'\r').count();
            let pairs = text.windows(2).filter(|pair| pair == b"\r\n").count();
            let feeds = text.iter().filter(|byte| **byte == b'\n').count();
            proptest::prop_assert!(returns == pairs && feeds == pairs);
        }
    }
}

#[test]
fn a_head_without_its_body_keeps_everything_else() {
    let head = b"POST /content-length: HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 9\r\nExpect: \
        100-continue\r\nX-Content-Length: 9\r\n\r\n";
    let left = b"POST /content-length: HTTP/1.1\r\nHost: a\r\nX-Content-Length: 9\r\n\r\n";
    assert_eq!(without_body(head), left);
}
