//! What must hold of anything that comes from outside: shared by the fuzz targets and by
//! `tests/it/corpora.rs`, which replays `fuzz/seeds/`.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, HeaderValue, Method, header};
use prusik::affinity::AffinityKey;
use prusik::affinity::cookie::{Cookie, SameSite, Secure};
use prusik::auth::jwt::finder::{Finder, Finders, Presented};
use prusik::auth::jwt::query::target_without;
use prusik::auth::jwt::subprotocol::Offer;
use prusik::config;
use prusik::forward::client_address::{ClientAddress, ClientField, TrustedProxies};
use prusik::forward::proxy_protocol::{
    AddrPair, Header, LONGEST, Preamble, PreambleClient, Version, parse,
};
use prusik::forward::template::{RequestVariables, Template};
use prusik::http1::target;
use prusik::import::nginx;
use prusik::lifecycle::upgrade::protocol::Message;
use prusik::lifecycle::upgrade::protocol::frame::{
    Beside, Decoded, Framing, decode, encode, read_header,
};
use prusik::route::{
    Coverage, HostPattern, ListenerId, Matcher, PathMatch, PathRegex, RequestKey, RouteIndex,
    Slashes, first_cover, lenient, normalise, normalise_with,
};
use prusik::tls::record::{RecordStream, Saved};
use prusik::websocket::frames::FrameScanner;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::io::{AsyncRead, ReadBuf};

/// A file is taken or refused, and each refusal names a place in it.
pub fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match config::parse("FILE", text) {
        Ok(config) => {
            assert!(!config.listeners.is_empty());
            config.warnings();
        }
        Err(errors) => {
            let said = errors.to_string();
            assert!(said.starts_with("FILE"), "{said}");
        }
    }
}

/// A file of nginx is imported or refused, and what is written is never what `check` refuses.
pub fn import(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match nginx::import_text("FILE", text) {
        Ok(imported) => assert!(!imported.text.is_empty()),
        Err(nginx::Failure::File(error)) => {
            let said = error.to_string();
            assert!(said.starts_with("FILE"), "{said}");
        }
        Err(nginx::Failure::Invalid(errors)) => panic!("{errors}"),
    }
}

/// A message of the hand-over, in either framing: an error, or one that comes out of its own bytes
/// as it was, with parsers that can go on.
pub fn hand_over(bytes: &[u8]) {
    for framing in [Framing::First, Framing::Second] {
        let Some((head, body)) = bytes.split_at_checked(framing.header_len()) else {
            continue;
        };
        let Ok(Decoded::Frame(frame)) =
            read_header(framing, head).and_then(|header| decode(&header, body))
        else {
            continue;
        };
        let beside = Beside {
            to_client: &frame.to_client,
            to_server: &frame.to_server,
            client_tls: &frame.client_tls.0,
            server_tls: &frame.server_tls.0,
            tickets: &frame.tickets.0,
            affinity: &frame.affinity.0,
        };
        let again = encode(Framing::Second, &frame.message, beside, 0).expect("it has been read");
        let (head, body) = again.split_at(Framing::Second.header_len());
        let header = read_header(Framing::Second, head).expect("our own header");
        let again = decode(&header, body).expect("our own message");
        assert_eq!(again, Decoded::Frame(frame.clone()));
        if let Message::Session { session, .. } = frame.message {
            for leg in [session.client, session.server] {
                if let Some(mut scanner) = FrameScanner::from_state(leg.scanner.into()) {
                    scanner.feed(bytes);
                    assert!(scanner.held().len() <= 14);
                }
            }
        }
    }
}

/// The first line is a template, the others are fields of the request it is made from.
pub fn template(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let source = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let Ok(template) = Template::parse(&source) else {
        return;
    };
    assert_eq!(template.as_str(), source);
    let headers = fields(lines);
    let peer: SocketAddr = ([127, 0, 0, 1], 41_000).into();
    let request = RequestVariables {
        headers: &headers,
        method: &Method::GET,
        target: b"/path?userId=42&x",
        path: None,
        authority: None,
        scheme: "http",
        client_subject: None,
        local: Some(([127, 0, 0, 1], 9090).into()),
        peer: Some(peer),
        client: ClientAddress::Ip(peer.ip()),
        server: None,
        caller: None,
        request_id: &HeaderValue::from_static("7"),
    };
    let mut out = Vec::new();
    template.render(&request, &mut out);
    assert!(HeaderValue::from_bytes(&out).is_ok() || !is_value(source.as_bytes()));
}

/// Forwarding fields: nobody but a trusted peer makes a client another than who has connected, and
/// what a client writes in front of what proxies wrote changes nothing.
pub fn client_address(bytes: &[u8]) {
    let headers = fields(bytes.split(|byte| *byte == b'\n'));
    let peer: SocketAddr = ([192, 0, 2, 7], 41_000).into();
    let nobody = TrustedProxies::default();
    let found = ClientAddress::find(Some(peer), &headers, &nobody, ClientField::Either);
    assert_eq!(found, ClientAddress::Ip(peer.ip()));

    let proxies = TrustedProxies(vec!["192.0.2.0/24".parse().expect("a network")]);
    let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
    for trusted in [&TrustedProxies(everybody.to_vec()), &proxies] {
        let ClientAddress::Ip(found) =
            ClientAddress::find(Some(peer), &headers, trusted, ClientField::Either)
        else {
            panic!("the peer is an address");
        };
        assert_eq!(found, found.to_canonical());
        let pretended = IpAddr::from([198, 51, 100, 66]);
        let pretence = pretend(&headers, pretended);
        let believed = ClientAddress::find(Some(peer), &pretence, trusted, ClientField::Either);
        // When all others are trusted proxies, it is the client that the first of them names.
        let is_named = trusted.contains(found) && believed == ClientAddress::Ip(pretended);
        assert!(believed == ClientAddress::Ip(found) || is_named);
    }
}

/// The fields as they are when the client has sent one that names somebody else.
fn pretend(headers: &HeaderMap, pretended: IpAddr) -> HeaderMap {
    let (name, entry) = match headers.contains_key("x-forwarded-for") {
        true => ("x-forwarded-for", pretended.to_string()),
        false => ("forwarded", format!("for={pretended}")),
    };
    let mut pretence = headers.clone();
    pretence.remove(name);
    pretence.append(name, entry.parse().expect("a value"));
    for value in headers.get_all(name) {
        pretence.append(name, value.clone());
    }
    pretence
}

/// A target, and fields in which tokens may be: the first place that has one decides, and what is
/// taken out of a request is not found in it again.
pub fn token(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut headers = fields(lines);
    let places = [
        Finder::Bearer,
        Finder::Cookie("session".to_owned()),
        Finder::Query("token".to_owned()),
        Finder::Subprotocol,
    ];
    let alone = places
        .clone()
        .map(|place| Finders(vec![place]).find(&headers, target));
    let decides = alone.iter().find(|found| **found != Presented::Nothing);
    let all = Finders(places.to_vec());
    assert_eq!(
        Some(&all.find(&headers, target)),
        decides.or(Some(&Presented::Nothing))
    );

    let [.., query, offered] = places.map(|place| Finders(vec![place]));
    let rest = target_without(target, query.arguments()).unwrap_or_else(|| target.to_vec());
    assert!(rest.len() <= target.len());
    assert_eq!(query.find(&headers, &rest), Presented::Nothing);
    assert_eq!(target_without(&rest, query.arguments()), None);
    let path = |target: &[u8]| {
        target
            .split(|byte| *byte == b'?')
            .next()
            .map(<[u8]>::to_vec)
    };
    assert_eq!(path(&rest), path(target));

    let rest = Offer::read(&headers).field();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(rest) = rest {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
    }
    assert_eq!(offered.find(&headers, target), Presented::Nothing);
}

/// A target, the host that is asked for, and routes, a line each: `HOST PATH`, in which `-` is any,
/// `=/x` exact, `~x` a regular expression and all else a prefix.
pub fn route(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let sent = lines.next().unwrap_or_default();
    if target::authority_of(b"GET", sent) != Ok(None) || !sent.starts_with(b"/") {
        return;
    }
    let path = sent.split(|byte| *byte == b'?').next().unwrap_or_default();
    let normal = normalise(path);
    assert!(normal.starts_with('/'), "{normal}");
    assert_eq!(normalise(&*normal), normal, "normal is normal");
    assert!(
        !normal.contains("//") && !normal.contains("/../"),
        "{normal}"
    );
    if let Ok(path) = str::from_utf8(path) {
        let kept = normalise_with(path, Slashes::Kept);
        assert!(kept.starts_with('/') && !kept.contains("/../"), "{kept}");
        assert_eq!(
            normalise_with(&kept, Slashes::Kept),
            kept,
            "normal is normal"
        );
    }
    if let Ok(Some(read)) = lenient(&normal) {
        assert!(read.starts_with('/'), "{read}");
    }

    let host = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let matchers: Vec<Matcher> = lines.take(16).filter_map(matcher).collect();
    let headers = HeaderMap::new();
    let request = RequestKey {
        listener: ListenerId::new(0),
        host: &host,
        path: &normal,
        slashes: None,
        method: &Method::GET,
        headers: &headers,
    };
    let serves: Vec<bool> = matchers
        .iter()
        .map(|alone| RouteIndex::build([alone]).lookup(&request).is_some())
        .collect();
    let first = serves.iter().position(|serves| *serves);
    assert_eq!(RouteIndex::build(&matchers).lookup(&request), first);
    let all: Vec<&Matcher> = matchers.iter().collect();
    let mut coverage = Coverage::default();
    for (number, later) in all.iter().enumerate() {
        let cover = first_cover(&all[..number], later);
        assert_eq!(coverage.first_cover(later), cover, "{later:?}");
        coverage.add(later);
        if let Some(cover) = cover {
            let is_taken = serves[..=cover].contains(&true);
            assert!(is_taken || !serves[number], "{later:?} is not covered");
        }
    }
}

fn matcher(line: &[u8]) -> Option<Matcher> {
    let line = str::from_utf8(line).ok()?;
    let (host, path) = line.split_once(' ')?;
    let is_normal = |path: &str| path.starts_with('/') && normalise(path) == path;
    let path = match path.split_at_checked(1)? {
        ("-", "") => PathMatch::Any,
        // One that is slow to build finds nothing that a short one does not.
        ("~", pattern) if pattern.len() <= 64 => PathMatch::Regex(PathRegex::parse(pattern).ok()?),
        ("=", exact) if is_normal(exact) => PathMatch::Exact(exact.to_owned()),
        _ if is_normal(path) => PathMatch::Prefix(path.to_owned()),
        _ => return None,
    };
    Some(Matcher {
        listener: None,
        hosts: match host {
            "-" => Vec::new(),
            hosts => {
                let hosts = hosts.split(',').map(HostPattern::parse);
                hosts.collect::<Result<_, _>>().ok()?
            }
        },
        path,
        slashes: Slashes::Merged,
        headers: Vec::new(),
        methods: Vec::new(),
    })
}

/// A PROXY header: cutting changes no verdict, what is read has the length that is said, and what
/// is sent for it is read as the same.
pub fn proxy_header(bytes: &[u8]) {
    let whole = parse(bytes);
    // Nobody waits for more than this.
    assert!(whole != Ok(None) || bytes.len() < LONGEST);
    for cut in (0..bytes.len()).step_by(bytes.len() / 128 + 1) {
        match parse(&bytes[..cut]) {
            Ok(None) => {}
            found => assert_eq!(found, whole, "cut at {cut}"),
        }
    }
    let Ok(Some((header, length))) = whole else {
        return;
    };
    assert!(length <= bytes.len() && length <= LONGEST);
    assert_eq!(parse(&bytes[..length]), whole);
    let Header::Proxied(ends) = header else {
        return;
    };
    for version in [Version::V1, Version::V2] {
        let client = PreambleClient::Client(ends);
        let sent = Preamble { version, client }.to_bytes();
        let (header, length) = parse(&sent).expect("it is one").expect("and whole");
        assert_eq!(length, sent.len());
        let Header::Proxied(read) = header else {
            panic!("it names somebody");
        };
        let plain = |ends: AddrPair| [ends.peer, ends.local].map(|end| end.ip().to_canonical());
        assert_eq!(plain(read), plain(ends));
        assert_eq!(read.peer.port(), ends.peer.port());
    }
}

fn fields<'b>(lines: impl Iterator<Item = &'b [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    headers
}

fn is_value(bytes: &[u8]) -> bool {
    HeaderValue::from_bytes(bytes).is_ok()
}

/// A TLS connection that has left rustls, and a peer that seals whatever it likes. The bytes are
/// taken for the state that another process sends, and then for records: a length, and what is
/// inside, content type and padding included. Nothing panics, and a state that is saved comes out
/// as it was.
pub fn tls_record(bytes: &[u8]) {
    let _ = RecordStream::restore(tokio::io::empty(), &Saved::from_bytes(bytes));
    let mut records = Vec::new();
    let (mut rest, mut number) = (bytes, 0_u64);
    while let Some((&length, more)) = rest.split_first() {
        let (inner, behind) = more.split_at(usize::from(length).min(more.len()));
        records.extend(sealed(inner, number));
        (rest, number) = (behind, number + 1);
    }
    let io = tokio::io::join(&records[..], tokio::io::sink());
    let mut stream = RecordStream::restore(io, &fresh_state()).expect("a sound state");
    let mut context = Context::from_waker(Waker::noop());
    let mut room = [0; 100];
    let mut heard = 0;
    loop {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut stream).poll_read(&mut context, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => heard += buf.filled().len(),
            _ => break,
        }
        let saved = stream.save();
        assert_eq!(
            RecordStream::restore((), &saved).expect("our own").save(),
            saved
        );
    }
    assert!(heard <= bytes.len());
}

const KEY: [u8; 16] = [7; 16];
const IV: [u8; 12] = [9; 12];

/// TLS 1.3 with AES-128-GCM as a server, by the format in `tls/record/saved.rs`.
fn fresh_state() -> Saved {
    let mut state = vec![1, 1, 1, 0, 0];
    state.extend([0; 13]);
    for _ in 0..2 {
        state.extend([0; 8]);
        state.extend(IV);
        state.extend(KEY);
        state.extend([5; 32]);
    }
    state.extend([0; 12]);
    Saved::from_bytes(&state)
}

fn sealed(inner: &[u8], number: u64) -> Vec<u8> {
    let mut nonce = IV;
    for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= number;
    }
    let [high, low] = (inner.len() as u16 + 16).to_be_bytes();
    let header = [23, 3, 3, high, low];
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).expect("16 bytes"));
    let mut sealed = inner.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(header),
        &mut sealed,
    )
    .expect("it is short");
    [&header[..], &sealed].concat()
}

/// `Cookie` fields, a line each: none of them is read as a tag that we would not write, and a
/// cookie of ours is found whatever else a client sends.
pub fn affinity(bytes: &[u8]) {
    let cookie = Cookie {
        name: "prusik".to_owned(),
        max_age: None,
        same_site: SameSite::Lax,
        secure: Secure::Auto,
    };
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("cookie", value);
        }
    }
    for tag in cookie.tags(&headers) {
        let text = format!("prusik={tag}");
        let is_sent = |field: &HeaderValue| {
            let mut windows = field.as_bytes().windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        assert!(headers.get_all("cookie").iter().any(is_sent), "{text}");
    }
    let key = AffinityKey::new(vec![7; 32].into()).expect("it is long enough");
    let ours = key.tag("chat", ([127, 0, 0, 1], 9080).into());
    let before = cookie.tags(&headers).count();
    let pair = cookie.set(ours, true);
    let pair = pair.split(';').next().unwrap_or_default();
    headers.append("cookie", pair.parse().expect("a value"));
    let mut tags = cookie.tags(&headers).skip(before);
    assert_eq!((tags.next(), tags.next()), (Some(ours), None));
}
