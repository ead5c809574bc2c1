//! From a connection of rustls to a record layer of our own.

use std::io::{Read, Write};

use rustls::{
    CipherSuite, CommonState, Connection, ConnectionTrafficSecrets, ExtractedSecrets,
    ProtocolVersion,
};

use super::half::Half;
use super::layer::Record;
use super::suite::{Role, Suite, Version};
use super::traffic_secrets::TrafficSecrets;

/// A connection after its conversion.
#[derive(Debug)]
pub struct Converted {
    pub record: Box<Record>,
    /// Data that has come and was not read yet.
    pub plain: Vec<u8>,
    /// Records that the socket has not taken yet.
    pub sealed_out: Vec<u8>,
}

/// The state could not be taken out of rustls, and is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a TLS connection cannot leave rustls: {0}")]
pub struct NotConverted(&'static str);

/// Whether the handshake is over, and has agreed on what the record layer knows.
pub fn is_suited(connection: &CommonState) -> bool {
    known(connection).is_some()
}

/// Takes the connection out of rustls. It must be [suited](is_suited), and rustls must hold no part
/// of a record (see `tls/whole_records.rs`). `traffic`: what rustls has told of this connection's
/// traffic secrets.
pub fn convert(
    mut connection: Connection,
    traffic: &TrafficSecrets,
) -> Result<Converted, NotConverted> {
    let (version, suite) = known(&connection).ok_or(NotConverted("it is not suited"))?;
    let role = match &connection {
        Connection::Client(_) => Role::Client,
        Connection::Server(_) => Role::Server,
    };
    let Ok(state) = connection.process_new_packets() else {
        return Err(NotConverted("it has failed already"));
    };
    // An answer to a KeyUpdate is queued where only a write brings it out. Without it, our first
    // record would be sealed with a key that the peer does not expect.
    let _ = connection.writer().write(&[]);
    let mut sealed_out = Vec::new();
    while connection.wants_write() {
        let written = connection.write_tls(&mut sealed_out);
        if !written.is_ok_and(|written| written > 0) {
            return Err(NotConverted("rustls does not give its records away"));
        }
    }
    let mut plain = vec![0; state.plaintext_bytes_to_read()];
    if connection.reader().read_exact(&mut plain).is_err() {
        return Err(NotConverted("rustls does not give its data away"));
    }
    let received_close = state.peer_has_closed();
    let secrets = connection.dangerous_extract_secrets();
    let Ok(ExtractedSecrets { tx, rx }) = secrets else {
        return Err(NotConverted("rustls does not give its keys away"));
    };
    let mut record = Record::empty(role, version, suite);
    let is_filled = traffic.with(role, |ours, theirs| {
        fill(&mut record.tx, tx, ours) && fill(&mut record.rx, rx, theirs)
    });
    if !is_filled {
        return Err(NotConverted("the keys do not follow from their secrets"));
    }
    record.received_close = received_close;
    Ok(Converted {
        record,
        plain,
        sealed_out,
    })
}

fn known(connection: &CommonState) -> Option<(Version, Suite)> {
    let known = version_of(connection).zip(suite_of(connection));
    known.filter(|_| !connection.is_handshaking())
}

fn version_of(connection: &CommonState) -> Option<Version> {
    match connection.protocol_version()? {
        ProtocolVersion::TLSv1_2 => Some(Version::Tls12),
        ProtocolVersion::TLSv1_3 => Some(Version::Tls13),
        _ => None,
    }
}

fn suite_of(connection: &CommonState) -> Option<Suite> {
    use CipherSuite::*;
    match connection.negotiated_cipher_suite()?.suite() {
        TLS13_AES_128_GCM_SHA256
        | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Some(Suite::Aes128Gcm),
        TLS13_AES_256_GCM_SHA384
        | TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Some(Suite::Aes256Gcm),
        TLS13_CHACHA20_POLY1305_SHA256
        | TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        | TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Suite::ChaCha20Poly1305),
        _ => None,
    }
}

/// How many keys the two sides may have gone through before the conversion.
const UPDATES_MAX: usize = 1 << 16;

/// Returns whether the half has its keys. In TLS 1.3 they must follow from the first secret of the
/// direction, which proves our derivation for this connection: the next keys will be right too.
fn fill(half: &mut Half, (seq, keys): (u64, ConnectionTrafficSecrets), secret: &[u8]) -> bool {
    use ConnectionTrafficSecrets::*;
    let (Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv }) = keys
    else {
        return false;
    };
    let (key, iv) = (key.as_ref(), iv.as_ref());
    if half.version == Version::Tls12 {
        return half.fill(key, iv, &[], seq);
    }
    if !half.fill(key, iv, secret, seq) || half.derive().is_err() {
        return false;
    }
    for _ in 0..UPDATES_MAX {
        if half.key() == key && half.iv() == iv {
            half.set_seq(seq);
            return true;
        }
        if half.step().is_err() {
            return false;
        }
    }
    false
}
