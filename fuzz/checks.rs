//! What must hold of anything that comes from outside and is text: shared by the fuzz targets and by
//! `tests/corpora.rs`, which replays `fuzz/seeds/`.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method};
use prusik::config;
use prusik::forward::client_address::{ClientAddress, TrustedProxies};
use prusik::forward::template::{RequestVariables, Template};
use prusik::hygiene::target;
use prusik::route::{HostPattern, PathRegex, lenient, normalise};

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
        authority: None,
        scheme: "http",
        client_subject: None,
        local: Some(([127, 0, 0, 1], 9090).into()),
        peer: Some(peer),
        client: ClientAddress::Ip(peer.ip()),
        request_id: &HeaderValue::from_static("7"),
    };
    let mut out = Vec::new();
    template.render(&request, &mut out);
    assert!(HeaderValue::from_bytes(&out).is_ok() || !is_value(source.as_bytes()));
}

/// Forwarding fields: nobody but a trusted peer makes a client another than who has connected.
pub fn client_address(bytes: &[u8]) {
    let headers = fields(bytes.split(|byte| *byte == b'\n'));
    let peer: SocketAddr = ([192, 0, 2, 7], 41_000).into();
    let nobody = TrustedProxies::default();
    let found = ClientAddress::find(Some(peer), &headers, &nobody);
    assert_eq!(found, ClientAddress::Ip(peer.ip()));
    let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
    for trusted in [
        TrustedProxies(everybody.to_vec()),
        TrustedProxies(vec!["192.0.2.0/24".parse().expect("a network")]),
    ] {
        if let ClientAddress::Ip(address) = ClientAddress::find(Some(peer), &headers, &trusted) {
            assert_eq!(address, address.to_canonical());
        }
    }
}

/// A target, and patterns that it may be compared with, a line each.
pub fn route(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let sent = lines.next().unwrap_or_default();
    if target::authority_of(b"GET", sent) == Ok(None) && sent.starts_with(b"/") {
        let path = sent.split(|byte| *byte == b'?').next().unwrap_or_default();
        let normal = normalise(path);
        assert!(normal.starts_with('/'), "{normal}");
        assert_eq!(normalise(&*normal), normal, "normal is normal");
        assert!(
            !normal.contains("//") && !normal.contains("/../"),
            "{normal}"
        );
        if let Ok(Some(read)) = lenient(&normal) {
            assert!(read.starts_with('/'), "{read}");
        }
    }
    for line in lines {
        let pattern = String::from_utf8_lossy(line);
        if let Ok(pattern) = HostPattern::parse(&pattern) {
            pattern.matches("chat.example.com");
        }
        // Nothing is compared: a pattern may be made to be slow to build, not to run.
        let _ = PathRegex::parse(&pattern.chars().take(64).collect::<String>());
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
