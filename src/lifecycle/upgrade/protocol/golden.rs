//! The messages that each released version has sent, byte for byte:
//! `tests/golden/hand_over/VERSION/`. They must be understood as long as upgrades from that version
//! work, and that version must understand what it is sent.
//!
//! The files were recorded from the released binary.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::frame::{Beside, Decoded, Frame, Framing, decode, encode, read_header};
use super::*;

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/hand_over")
        .join(version)
}

fn recorded(version: &str, name: &str) -> Value {
    let file = folder(version).join(name).with_extension("json");
    serde_json::from_slice(&fs::read(&file).unwrap()).unwrap()
}

fn understood(framing: Framing, bytes: &[u8]) -> Message {
    read(framing, bytes).message
}

fn read(framing: Framing, bytes: &[u8]) -> Frame {
    let (head, body) = bytes.split_at(framing.header_len());
    let header = read_header(framing, head).unwrap();
    match decode(&header, body).unwrap() {
        Decoded::Frame(frame) => *frame,
        unknown => panic!("{unknown:?}"),
    }
}

fn framed(json: &Value) -> Vec<u8> {
    let json = serde_json::to_vec(json).unwrap();
    let lengths = [json.len() as u32, 0, 0].map(u32::to_be_bytes);
    [lengths.concat(), json].concat()
}

fn message(name: &str) -> Message {
    understood(Framing::First, &framed(&recorded("0.1.0", name)))
}

/// Every field of the recording is in our message, with the same value.
fn assert_says(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let found = ours
                    .get(key)
                    .unwrap_or_else(|| panic!("{at} lacks {key:?}"));
                assert_says(found, value, &format!("{at}.{key}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_says(ours, theirs, &format!("{at}[{index}]"));
            }
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{at}"),
    }
}

#[test]
fn what_0_1_0_has_sent_is_understood_and_sent_back_to_it_as_it_was() {
    let files = fs::read_dir(folder("0.1.0")).unwrap();
    let mut seen = 0;
    for file in files {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let theirs = recorded("0.1.0", name);
        let sent = encode(Framing::First, &message(name), Beside::default(), 0).unwrap();
        let ours: Value = serde_json::from_slice(&sent[Framing::First.header_len()..]).unwrap();
        assert_says(&ours, &theirs, name);
        seen += 1;
    }
    assert!(seen >= 12, "{seen} files");
}

#[test]
fn the_frame_of_0_1_0_is_read_byte_for_byte() {
    for (name, expected) in [("adopted", 1), ("refused", 2)] {
        let bytes = fs::read(folder("0.1.0").join(name).with_extension("frame")).unwrap();
        assert_eq!(understood(Framing::First, &bytes).number(), Some(expected));
    }
}

/// In every version Ready and Go use the first framing, and say which framing follows.
#[test]
fn what_0_2_0_has_sent_is_understood_and_sent_again_with_all_of_it() {
    let mut seen = 0;
    for file in fs::read_dir(folder("0.2.0")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let framing = match name {
            "ready" | "go" => Framing::First,
            _ => Framing::Second,
        };
        let theirs = fs::read(&path).unwrap();
        let sent = read(framing, &theirs);
        let descriptors = match &sent.message {
            Message::Session { .. } => 2,
            Message::Idle { .. } => 1,
            _ => 0,
        };
        let beside = Beside {
            to_client: &sent.to_client,
            to_server: &sent.to_server,
            ..Beside::default()
        };
        let ours = encode(framing, &sent.message, beside, descriptors).unwrap();
        assert_eq!(read(framing, &ours), sent, "{name}");
        assert_says(&json_of(framing, &ours), &json_of(framing, &theirs), name);
        if framing == Framing::Second {
            assert_eq!(ours[4..16], theirs[4..16], "the header of {name}");
        }
        seen += 1;
    }
    assert!(seen >= 16, "{seen} files");
}

fn json_of(framing: Framing, bytes: &[u8]) -> Value {
    let body = &bytes[framing.header_len()..];
    let json = match framing {
        Framing::First => body,
        // The JSON is the first section, after its tag and length.
        Framing::Second => {
            let length = u32::from_be_bytes(body[4..8].try_into().unwrap());
            &body[8..][..length as usize]
        }
    };
    serde_json::from_slice(json).unwrap()
}

#[test]
fn what_0_1_0_does_not_say_has_its_default() {
    let Message::Ready(ready) = message("ready") else {
        panic!("not Ready");
    };
    assert_eq!(ready.protocol, wire::FIRST);
    let Message::Go(go) = message("go") else {
        panic!("not Go");
    };
    assert_eq!(go.protocol, wire::FIRST);
    assert!(go.drains.is_empty());
    assert_eq!(go.known[0].1.servers.len(), 1);
    let Message::Session { number, session } = message("session-half-a-header") else {
        panic!("not a session");
    };
    assert_eq!(number, 3);
    assert_eq!(session.client.scanner.header_len, 3);
    assert_eq!(session.identity.request_id.as_deref(), Some("not-a-uuid"));
    assert_eq!((session.pinged, session.unheard), (None, None));
    let Message::Idle { idle, .. } = message("idle") else {
        panic!("not an idle connection");
    };
    assert!(idle.name.is_none() && idle.proxied.is_some());
}

#[test]
fn a_reason_from_days_to_come_is_kept_as_it_is() {
    let drain = serde_json::json!({
        "reason": { "tenant_gone": "acme" }, "code": 1012,
        "window": { "secs": 1, "nanos": 0 }, "deadline": { "secs": 2, "nanos": 0 },
    });
    let drain: wire::RunningDrain = serde_json::from_value(drain).unwrap();
    assert!(matches!(drain.reason, wire::DrainReason::Other(_)));
}
