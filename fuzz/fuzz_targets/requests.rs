//! A request's head and a chunked body: any bytes, cut anywhere. Cutting changes no verdict, and a
//! head that is found sound is one to Pingora's parser too, with the same end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prusik::http1::chunked::ChunkScanner;
use prusik::http1::head::HeadCheck;
use prusik::http1::target;

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (bytes, cut) = input;
    let cut = cut % (bytes.len() + 1);

    let whole = HeadCheck::default().feed(&bytes);
    let mut check = HeadCheck::default();
    let in_two = match check.feed(&bytes[..cut]) {
        Ok(None) => check.feed(&bytes),
        found => found,
    };
    match (&whole, &in_two) {
        // A line that is not whole yet may be refused for another of its faults.
        (Err(_), Err(_)) => {}
        _ => assert_eq!(whole, in_two),
    }
    if let Ok(Some(sound)) = whole {
        let mut head = bytes[..sound.end].to_vec();
        if let Some(odd) = sound.odd {
            let encoded = target::encode_odd(&head[odd.clone()]);
            head.splice(odd, encoded);
        }
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let parsed = httparse::Request::new(&mut fields).parse(&head);
        assert_eq!(parsed, Ok(httparse::Status::Complete(head.len())));
    }

    let mut whole = ChunkScanner::default();
    let length = whole.feed(&bytes);
    let mut scanner = ChunkScanner::default();
    let in_two = scanner
        .feed(&bytes[..cut])
        .and_then(|first| Ok(first + scanner.feed(&bytes[first..])?));
    assert_eq!(length, in_two);
});
