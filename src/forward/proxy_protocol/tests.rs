use proptest::prelude::*;

use super::*;

fn ends(peer: &str, local: &str) -> AddrPair {
    AddrPair {
        peer: peer.parse().unwrap(),
        local: local.parse().unwrap(),
    }
}

fn proxied(peer: &str, local: &str) -> Header {
    Header::Proxied(ends(peer, local))
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

const BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x01, 0xbb];

#[test]
fn headers_of_both_versions_name_both_ends() {
    let v6 = "PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n";
    let mut block = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)
        .octets()
        .to_vec();
    block.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
    block.extend(&BLOCK[8..]);
    let of_v4 = proxied("192.0.2.1:4660", "198.51.100.2:443");
    let of_v6 = proxied("[2001:db8::1]:4660", "[2001:db8::2]:443");
    let more = [&BLOCK[..], &[4, 0, 1, 0]].concat();
    for (bytes, header) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n".to_vec(),
            of_v4,
        ),
        (v6.as_bytes().to_vec(), of_v6),
        (v2(0x21, 0x11, &BLOCK), of_v4),
        (v2(0x21, 0x11, &more), of_v4),
        (v2(0x21, 0x21, &block), of_v6),
        (b"PROXY UNKNOWN\r\n".to_vec(), Header::Own),
        (
            b"PROXY UNKNOWN 192.0.2.1 any thing\r\n".to_vec(),
            Header::Own,
        ),
        (v2(0x20, 0x00, &[]), Header::Own),
        (v2(0x20, 0x11, &BLOCK), Header::Own),
        (v2(0x21, 0x00, &[]), Header::Own),
        (v2(0x21, 0x31, &[b'/'; 216]), Header::Own),
        (v2(0x21, 0x12, &BLOCK), Header::Own),
    ] {
        let mut sent = bytes.clone();
        sent.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(parse(&sent), Ok(Some((header, bytes.len()))), "{bytes:?}");
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
    }
}

#[test]
fn what_is_not_exactly_a_header_is_none() {
    let long = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_V1));
    for text in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY \r\n",
        &long,
    ] {
        assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
    }
    for bytes in [
        v2(0x11, 0x11, &BLOCK),
        v2(0x22, 0x11, &BLOCK),
        v2(0x21, 0x41, &BLOCK),
        v2(0x21, 0x13, &BLOCK),
        v2(0x21, 0x11, &BLOCK[..11]),
        v2(0x21, 0x21, &BLOCK),
        v2(0x21, 0x11, &[0; LONGEST]),
    ] {
        assert_eq!(parse(&bytes), Err(Malformed), "{:?}", &bytes[12..16]);
    }
}

#[test]
fn what_is_sent_is_what_is_read() {
    let v4 = ends("192.0.2.1:4660", "198.51.100.2:443");
    let v6 = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
    let mixed = ends("192.0.2.1:1", "[2001:db8::2]:2");
    let as_v6 = ends("[::ffff:192.0.2.1]:1", "[2001:db8::2]:2");
    let on_v6_socket = ends("[::ffff:192.0.2.1]:4660", "[::ffff:198.51.100.2]:443");
    for version in [Version::V1, Version::V2] {
        for (client, header) in [
            (PreambleClient::Client(v4), Header::Proxied(v4)),
            (PreambleClient::Client(on_v6_socket), Header::Proxied(v4)),
            (PreambleClient::Client(v6), Header::Proxied(v6)),
            (PreambleClient::Client(mixed), Header::Proxied(as_v6)),
            (PreambleClient::Unknown, Header::Own),
            (PreambleClient::Own, Header::Own),
        ] {
            let bytes = Preamble { version, client }.to_bytes();
            assert_eq!(parse(&bytes), Ok(Some((header, bytes.len()))), "{client:?}");
        }
    }
    let own = Preamble {
        version: Version::V2,
        client: PreambleClient::Own,
    };
    assert_eq!(own.to_bytes()[12], 0x20, "LOCAL");
}

proptest! {
    #[test]
    fn bytes_that_are_cut_get_no_other_verdict(
        start in 0..4usize,
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let starts: [&[u8]; 4] = [b"", b"PROXY ", b"PROXY TCP4 1.2.3.4 5.6.7.8 ", SIGNATURE];
        bytes.splice(0..0, starts[start].iter().copied());
        let whole = parse(&bytes);
        let found = parse(&bytes[..cut.index(bytes.len() + 1)]);
        prop_assert!(found == Ok(None) || found == whole, "{:?} and {:?}", found, whole);
        if let Ok(Some((_, length))) = whole {
            prop_assert!(length <= bytes.len());
            prop_assert_eq!(parse(&bytes[..length]), whole);
        }
    }
}
