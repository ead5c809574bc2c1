//! A PROXY header: any bytes, cut anywhere. Cutting changes no verdict, what is read has the length
//! that is said, and what is sent for it is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prusik::forward::proxy_protocol::{Header, LONGEST, Preamble, Source, Version, parse};

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (bytes, cut) = input;
    let cut = cut % (bytes.len() + 1);
    let whole = parse(&bytes);
    match parse(&bytes[..cut]) {
        Ok(None) => {}
        found => assert_eq!(found, whole),
    }
    let Ok(Some((header, length))) = whole else {
        // Nobody waits for more than this.
        assert!(whole.is_err() || bytes.len() < LONGEST);
        return;
    };
    assert!(length <= bytes.len() && length <= LONGEST);
    assert_eq!(parse(&bytes[..length]), whole);
    let Header::Proxied(ends) = header else {
        return;
    };
    for version in [Version::V1, Version::V2] {
        let source = Source::Client(ends);
        let sent = Preamble { version, source }.to_bytes();
        let (header, length) = parse(&sent).expect("it is one").expect("and whole");
        assert_eq!(length, sent.len());
        let Header::Proxied(read) = header else {
            panic!("it names somebody");
        };
        assert_eq!(read.peer.ip().to_canonical(), ends.peer.ip().to_canonical());
        assert_eq!(read.local.ip().to_canonical(), ends.local.ip().to_canonical());
        assert_eq!(read.peer.port(), ends.peer.port());
    }
});
