use proptest::prelude::*;

use super::*;

const FIRST_FRAME: usize = 2 + 4 + 5;

/// A text of 5 bytes, a binary of 300 in two frames with a ping between, a long one, a Close.
fn stream() -> Vec<u8> {
    let mut bytes = vec![0x81, 0x80 | 5, 9, 8, 7, 6];
    bytes.extend(b"hello");
    bytes.extend([0x02, 0x80 | 126, 0, 200, 1, 2, 3, 4]);
    bytes.extend([7; 200]);
    bytes.extend([0x89, 0x80, 1, 2, 3, 4]);
    bytes.extend([0x80, 0x80 | 100, 9, 9, 9, 9]);
    bytes.extend([8; 100]);
    bytes.extend([0x82, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70, 1, 1, 1, 1]);
    bytes.extend(vec![5; 70_000]);
    bytes.extend(close_to_server(4003, [0xaa, 0x55, 1, 2]));
    bytes
}

fn scanner() -> FrameScanner {
    FrameScanner::new(Sender::Client, false)
}

#[test]
fn messages_and_close_code_are_the_same_wherever_the_stream_is_cut() {
    let bytes = stream();
    let mut whole = scanner();
    whole.feed(&bytes);
    assert_eq!(whole.messages(), 3);
    assert_eq!(whole.close_code(), Some(CloseCode::Code(4003)));
    assert!(whole.at_boundary());
    for cut in (0..400).chain(bytes.len() - 20..bytes.len()) {
        let mut scanner = scanner();
        scanner.feed(&bytes[..cut]);
        scanner.feed(&bytes[cut..]);
        assert_eq!(scanner.messages(), 3, "cut at {cut}");
        assert_eq!(
            scanner.close_code(),
            Some(CloseCode::Code(4003)),
            "cut at {cut}"
        );
        assert!(scanner.at_boundary(), "cut at {cut}");
    }
    let mut bytewise = scanner();
    for byte in bytes.chunks(1) {
        bytewise.feed(byte);
    }
    assert_eq!(bytewise.messages(), 3);
    assert_eq!(bytewise.close_code(), Some(CloseCode::Code(4003)));
}

#[test]
fn what_is_sound_and_what_is_held_add_up_to_the_stream_however_it_is_cut() {
    let mut bytes = stream();
    let closed = bytes.len();
    bytes.extend([0x81, 0x80, 1, 2, 3, 4]);
    for size in [1, 2, 3, 7, 13, 1000] {
        let mut scanner = scanner();
        let mut passed = Vec::new();
        for piece in bytes.chunks(size) {
            let held = scanner.held().to_vec();
            let Fed { sound } = scanner.feed(piece);
            if sound > 0 {
                passed.extend(held);
                passed.extend(&piece[..sound]);
            }
        }
        assert!(passed == bytes[..closed], "pieces of {size}");
        assert!(scanner.held().is_empty());
        assert!(scanner.is_closed());
        assert_eq!(scanner.messages(), 3);
    }
}

/// A frame as a client might send it: its first byte, a length, and room for the form of it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        0..3_usize,
        0..126_usize,
        126..300_usize,
        65_530..65_600_usize
    ];
    (0..4_u8, length, any::<[u8; 4]>()).prop_map(|(kind, length, mask)| {
        let (opcode, length) = match kind {
            0 => (TEXT, length),
            1 => (BINARY, length),
            2 => (PING, length.min(125)),
            _ => (PONG, length.min(125)),
        };
        let mut bytes = vec![FIN | opcode];
        match length {
            0..126 => bytes.push(MASKED | length as u8),
            126..65_536 => {
                bytes.push(MASKED | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(MASKED | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.resize(bytes.len() + length, 0x5a);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_split_of_any_stream_passes_unchanged_and_counts_right(
        frames in prop::collection::vec(frame(), 0..12),
        code in prop::option::of(1000..1004_u16),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        sizes in prop::collection::vec(1..5000_usize, 1..20),
    ) {
        let mut bytes = frames.concat();
        if let Some(code) = code {
            bytes.extend(close_to_server(code, [5, 6, 7, 8]));
        }
        let passes = bytes.len();
        if code.is_some() {
            bytes.extend(behind);
        }
        let mut scanner = scanner();
        let (mut passed, mut rest) = (Vec::new(), &bytes[..]);
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            let held = scanner.held().to_vec();
            let Fed { sound } = scanner.feed(piece);
            if sound > 0 {
                passed.extend(held);
                passed.extend(&piece[..sound]);
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(passed == bytes[..passes]);
        prop_assert_eq!(scanner.close_code(), code.map(CloseCode::Code));
        prop_assert_eq!(scanner.is_closed(), code.is_some());
        let is_message = |frame: &&Vec<u8>| frame[0] & 0x0f < CLOSE;
        prop_assert_eq!(scanner.messages() as usize, frames.iter().filter(is_message).count());
        prop_assert!(scanner.at_boundary());
        prop_assert!(scanner.is_consistent());
    }

    #[test]
    fn no_bytes_make_the_scanner_panic_or_pass_what_it_has_not_read(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..300_usize,
    ) {
        for sender in [Sender::Client, Sender::Server] {
            let mut scanner = FrameScanner::new(sender, bytes.len() % 2 == 0);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            for piece in [first, second] {
                prop_assert!(scanner.feed(piece).sound <= piece.len());
                prop_assert!(scanner.is_consistent());
            }
        }
    }
}

#[test]
fn inside_a_frame_is_no_boundary() {
    let mut scanner = FrameScanner::new(Sender::Server, false);
    scanner.feed(&[0x81]);
    assert!(!scanner.at_boundary());
    assert!(scanner.between_frames());
    scanner.feed(&[3, b'a', b'b']);
    assert!(!scanner.at_boundary());
    assert!(!scanner.between_frames());
    scanner.feed(b"c");
    assert!(scanner.at_boundary());
}

#[test]
fn what_is_left_of_a_frame_ends_at_its_boundary() {
    let bytes = stream();
    for cut in 1..FIRST_FRAME {
        let mut scanner = scanner();
        scanner.feed(&bytes[..cut]);
        assert_eq!(
            scanner.left_of_frame(&bytes[cut..]),
            FIRST_FRAME - cut,
            "{cut}"
        );
    }
    assert_eq!(scanner().left_of_frame(&bytes), 0);
}

#[test]
fn a_close_without_code_is_told_from_none() {
    let mut scanner = FrameScanner::new(Sender::Server, false);
    assert_eq!(scanner.close_code(), None);
    scanner.feed(&[0x88, 0]);
    assert_eq!(scanner.close_code(), Some(CloseCode::Absent));
    assert!(scanner.is_closed());
}

#[test]
fn a_close_code_is_held_until_it_is_whole() {
    let mut frame = close_to_server(3000, [0xaa, 0x55, 1, 2]).to_vec();
    // And a reason of two bytes.
    frame[1] += 2;
    frame.extend([b'o' ^ 1, b'k' ^ 2]);
    for cut in 1..8 {
        let mut scanner = scanner();
        assert_eq!(scanner.feed(&frame[..cut]).sound, 0, "{cut}");
        assert_eq!(scanner.held(), &frame[..cut]);
        assert_eq!(scanner.feed(&frame[cut..9]).sound, 9 - cut);
        assert_eq!(scanner.close_code(), Some(CloseCode::Code(3000)));
        assert!(!scanner.is_closed());
        assert_eq!(scanner.feed(&frame[9..]).sound, 1);
        assert!(scanner.is_closed());
    }
}

#[test]
fn close_codes_that_are_not_defined_pass() {
    for code in [1000, 1004, 1014, 1016, 2999, 3000, 4999, 5000, 65_535] {
        let mut scanner = FrameScanner::new(Sender::Server, false);
        assert_eq!(scanner.feed(&close_to_client(code)).sound, 4);
        assert_eq!(scanner.close_code(), Some(CloseCode::Code(code)));
    }
}

#[test]
fn broken_framing_stops_the_scanner_and_is_no_boundary() {
    for broken in [
        &[0x83, 0][..],                           // an opcode that is reserved
        &[0x88, 126, 0, 200],                     // a control frame that is too long
        &[0x09, 0],                               // and one in fragments
        &[0x82, 127, 255, 0, 0, 0, 0, 0, 0, 0],   // a length with its highest bit set
        &[0x82, 126, 0, 125],                     // one that would fit into less
        &[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], // and another
        &[0xc1, 0],                               // a reserved bit
        &[0x80, 0],                               // a continuation of nothing
        &[0x81, 0x80, 0, 0, 0, 0],                // masked, by a server
        &[0x88, 1, 3],                            // a Close frame with half a code
        &[0x88, 2, 0x03, 0xe7],                   // with 999,
        &[0x88, 9, 0x03, 0xed],                   // 1005 and the first bytes of a reason,
        &[0x88, 2, 0x03, 0xee],                   // 1006,
        &[0x88, 2, 0x03, 0xf7],                   // 1015
    ] {
        let mut scanner = FrameScanner::new(Sender::Server, false);
        assert_eq!(scanner.feed(&[0x82, 1, 7]).sound, 3);
        assert_eq!(scanner.feed(broken).sound, 0, "{broken:?}");
        scanner.feed(&[0x81, 0, 0x81, 0]);
        assert!(scanner.is_broken(), "{broken:?}");
        assert!(!scanner.at_boundary(), "{broken:?}");
        assert_eq!(scanner.messages(), 1, "{broken:?}");
    }
    let mut client = scanner();
    client.feed(&[0x81, 0]);
    assert!(client.is_broken(), "a client must mask");
    let mut fragments = FrameScanner::new(Sender::Server, false);
    fragments.feed(&[0x01, 0, 0x81, 0]);
    assert!(fragments.is_broken(), "a message within another");
}

#[test]
fn with_an_extension_reserved_bits_and_opcodes_pass() {
    let mut scanner = FrameScanner::new(Sender::Server, true);
    assert_eq!(scanner.feed(&[0xc1, 0, 0x83, 0]).sound, 4);
    assert!(!scanner.is_broken());
}

#[test]
fn a_reason_is_cut_where_a_letter_ends() {
    assert_eq!(close_with_reason(1013, "later"), b"\x88\x07\x03\xf5later");
    let long = close_with_reason(4403, &"\u{e9}".repeat(100));
    assert_eq!((long[1], long.len()), (2 + 122, 4 + 122));
    assert!(str::from_utf8(&long[4..]).is_ok());
}
