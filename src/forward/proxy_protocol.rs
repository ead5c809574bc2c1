//! The PROXY protocol, versions 1 and 2: a header before the first byte that names the client.
//!
//! Pure: bytes in, a header out, and the other way round. The parser is strict, because a byte that
//! is wrongly taken for a part of the header is lost from the client's request. Only the addresses
//! are used: additional fields of version 2 (TLVs) are skipped.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddrPair {
    /// The end that connects.
    pub peer: SocketAddr,
    /// The end that it connects to.
    pub local: SocketAddr,
}

/// The content of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The connection is made for another one.
    Proxied(AddrPair),
    /// The connection is the proxy's own (`LOCAL`), or its client is not known (`UNKNOWN`, a unix
    /// socket).
    Own,
}

/// These bytes are not a header, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Longer than any real header: one of version 2 with all defined fields is shorter.
pub const LONGEST: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;

/// The limit of the specification, including the line end.
const LONGEST_V1: usize = 107;

/// `bytes`: all that has come. Returns the header and its length. `None`: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    if bytes.starts_with(SIGNATURE) {
        return parse_v2(bytes);
    }
    let whole = |start: &[u8]| start.starts_with(&bytes[..bytes.len().min(start.len())]);
    match bytes.starts_with(b"PROXY ") {
        true => parse_v1(bytes),
        false if whole(SIGNATURE) || whole(b"PROXY ") => Ok(None),
        false => Err(Malformed),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let head = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(line_feed) = memchr::memchr(b'\n', head) else {
        return match bytes.len() < LONGEST_V1 {
            true => Ok(None),
            false => Err(Malformed),
        };
    };
    let line = head[..line_feed].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        Some("TCP4") => Header::Proxied(ends::<Ipv4Addr>(&mut words)?),
        Some("TCP6") => Header::Proxied(ends::<Ipv6Addr>(&mut words)?),
        // The rest of the line must be ignored.
        Some("UNKNOWN") => return Ok(Some((Header::Own, line_feed + 1))),
        _ => return Err(Malformed),
    };
    match words.next() {
        None => Ok(Some((header, line_feed + 1))),
        Some(_) => Err(Malformed),
    }
}

fn ends<'a, T: std::str::FromStr + Into<IpAddr>>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<AddrPair, Malformed> {
    let mut address = || -> Result<IpAddr, Malformed> {
        let address: T = words
            .next()
            .ok_or(Malformed)?
            .parse()
            .map_err(|_| Malformed)?;
        Ok(address.into())
    };
    let (peer, local) = (address()?, address()?);
    let mut port = || -> Result<u16, Malformed> {
        let word = words.next().ok_or(Malformed)?;
        let is_plain = word.bytes().all(|byte| byte.is_ascii_digit());
        let is_canonical = is_plain && (word == "0" || !word.starts_with('0'));
        word.parse().ok().filter(|_| is_canonical).ok_or(Malformed)
    };
    let (peer_port, local_port) = (port()?, port()?);
    Ok(AddrPair {
        peer: (peer, peer_port).into(),
        local: (local, local_port).into(),
    })
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        // If it is wrong already, no more bytes are needed.
        return match bytes.get(SIGNATURE.len()) {
            Some(0x20 | 0x21) | None => Ok(None),
            Some(_) => Err(Malformed),
        };
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_own = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    let (family, protocol) = (fixed[13] >> 4, fixed[13] & 0xf);
    let addresses = match (family, protocol) {
        (0, 0) => 0,
        (1, 1 | 2) => 12,
        (2, 1 | 2) => 36,
        (3, 1 | 2) => 216,
        // A `LOCAL` header need not contain addresses (section 2.2).
        _ if is_own => 0,
        _ => return Err(Malformed),
    };
    if FIXED + length > LONGEST || (!is_own && length < addresses) {
        return Err(Malformed);
    }
    let Some(block) = rest.get(..length) else {
        return Ok(None);
    };
    let header = match fixed[13] {
        _ if is_own => Header::Own,
        0x11 => Header::Proxied(binary::<4, Ipv4Addr>(block)?),
        0x21 => Header::Proxied(binary::<16, Ipv6Addr>(block)?),
        // The addresses of datagrams and unix sockets are not those of a TCP peer.
        _ => Header::Own,
    };
    Ok(Some((header, FIXED + length)))
}

/// Reads source, destination and their ports.
fn binary<const N: usize, T: From<[u8; N]> + Into<IpAddr>>(
    block: &[u8],
) -> Result<AddrPair, Malformed> {
    let address = |at: usize| -> Result<IpAddr, Malformed> {
        let bytes = block.get(at..at + N).ok_or(Malformed)?;
        let bytes: [u8; N] = bytes.try_into().map_err(|_| Malformed)?;
        Ok(T::from(bytes).into())
    };
    let port = |at: usize| match block.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed),
    };
    Ok(AddrPair {
        peer: (address(0)?, port(2 * N)?).into(),
        local: (address(N)?, port(2 * N + 2)?).into(),
    })
}

/// The version of the header to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    V1,
    V2,
}

/// Whom a connection to a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreambleClient {
    /// Nobody: it is a health check.
    Own,
    /// A client on a unix socket.
    Unknown,
    Client(AddrPair),
}

/// The header before the first byte to a server. Equal values are equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Preamble {
    pub version: Version,
    pub client: PreambleClient,
}

impl Preamble {
    pub fn to_bytes(self) -> Vec<u8> {
        match self.version {
            Version::V1 => self.text(),
            Version::V2 => self.binary(),
        }
    }

    fn text(self) -> Vec<u8> {
        let PreambleClient::Client(ends) = self.client else {
            return b"PROXY UNKNOWN\r\n".to_vec();
        };
        let (peer, local) = of_one_family(ends);
        let family = match peer {
            IpAddr::V4(_) => "TCP4",
            IpAddr::V6(_) => "TCP6",
        };
        let ports = (ends.peer.port(), ends.local.port());
        format!("PROXY {family} {peer} {local} {} {}\r\n", ports.0, ports.1).into_bytes()
    }

    fn binary(self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        let ends = match self.client {
            PreambleClient::Own => {
                bytes.extend([0x20, 0, 0, 0]);
                return bytes;
            }
            PreambleClient::Unknown => {
                bytes.extend([0x21, 0, 0, 0]);
                return bytes;
            }
            PreambleClient::Client(ends) => ends,
        };
        match of_one_family(ends) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => {
                bytes.extend([0x21, 0x11, 0, 12]);
                bytes.extend(peer.octets());
                bytes.extend(local.octets());
            }
            (peer, local) => {
                bytes.extend([0x21, 0x21, 0, 36]);
                bytes.extend(mapped(peer).octets());
                bytes.extend(mapped(local).octets());
            }
        }
        bytes.extend(ends.peer.port().to_be_bytes());
        bytes.extend(ends.local.port().to_be_bytes());
        bytes
    }
}

/// A header can hold addresses of one family only.
fn of_one_family(ends: AddrPair) -> (IpAddr, IpAddr) {
    let (peer, local) = (
        ends.peer.ip().to_canonical(),
        ends.local.ip().to_canonical(),
    );
    match peer.is_ipv4() == local.is_ipv4() {
        true => (peer, local),
        false => (mapped(peer).into(), mapped(local).into()),
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests;
