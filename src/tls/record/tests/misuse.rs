//! What a peer must not do, and which alert tells it so.

use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::AlertDescription;

use super::super::alert::{Alert, FATAL};
use super::super::suite::{ContentType, TAG, header, nonce};
use super::*;

/// A peer without scruples: it has the keys of rustls's side, and seals what the test wants.
struct Liar(Box<Record>);

impl Liar {
    /// Its keys are what the other side receives with, so it plays the other role.
    fn opposite(ours: &RecordStream<Memory>) -> Self {
        let (mut record, _) = ours.save().open().unwrap();
        std::mem::swap(&mut record.tx, &mut record.rx);
        Self(record)
    }

    fn sends(&mut self, ours: &mut RecordStream<Memory>, kind: ContentType, content: &[u8]) {
        let mut sealed = Vec::new();
        self.0.tx.seal(kind, content, &mut sealed).unwrap();
        ours.socket_mut().inbound.extend(sealed);
    }
}

impl Liar {
    /// A record of TLS 1.3 with exactly this inside: content, type and padding.
    fn seals_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let half = &mut self.0.tx;
        let key = UnboundKey::new(half.suite.aead(), half.key()).unwrap();
        let nonce = Nonce::assume_unique_for_key(nonce(half.iv(), half.seq()));
        let mut sealed = inner.to_vec();
        let header = header(ContentType::ApplicationData, inner.len() + TAG);
        let tag = LessSafeKey::new(key)
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut sealed)
            .unwrap();
        half.set_seq(half.seq() + 1);
        [&header, &sealed[..], tag.as_ref()].concat()
    }
}

fn alert_of(peer: &mut Peer, ours: &mut RecordStream<Memory>) -> AlertDescription {
    let error = ours.read_error();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    assert!(ours.is_at_end(), "then it is over");
    assert!(!ours.can_be_saved());
    match peer.error(ours) {
        rustls::Error::AlertReceived(alert) => alert,
        other => panic!("{other}"),
    }
}

#[test]
fn forbidden_messages_end_the_connection_with_the_right_alert() {
    use ContentType::{Alert as Warning, ApplicationData, Handshake};
    const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];
    let cases: [(ContentType, &[u8], AlertDescription); 9] = [
        // A value that KeyUpdate does not have, one of another length, one with something behind.
        (
            Handshake,
            &[24, 0, 0, 1, 2],
            AlertDescription::IllegalParameter,
        ),
        (
            Handshake,
            &[24, 0, 0, 2, 0, 0],
            AlertDescription::DecodeError,
        ),
        (
            Handshake,
            &[24, 0, 0, 1, 0, 24],
            AlertDescription::UnexpectedMessage,
        ),
        // Finished, and nothing at all.
        (
            Handshake,
            &[20, 0, 0, 1, 0],
            AlertDescription::UnexpectedMessage,
        ),
        (Handshake, &[], AlertDescription::UnexpectedMessage),
        // An alert of three bytes, and a warning that TLS 1.3 does not have.
        (Warning, &[1, 0, 0], AlertDescription::DecodeError),
        (Warning, &[1, 100], AlertDescription::DecodeError),
        (Warning, &[], AlertDescription::DecodeError),
        // Data in the middle of a message: the first half comes before it.
        (ApplicationData, b"x", AlertDescription::UnexpectedMessage),
    ];
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        for (kind, content, expected) in cases {
            let (mut peer, mut ours) = Peer::pair(variant);
            let mut liar = Liar::opposite(&ours);
            if kind == ApplicationData {
                liar.sends(&mut ours, Handshake, &KEY_UPDATE[..2]);
            }
            liar.sends(&mut ours, kind, content);
            assert_eq!(
                alert_of(&mut peer, &mut ours),
                expected,
                "{kind:?} {content:?}"
            );
        }
        let (mut peer, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        let ticket = [4, 0, 0, 1, 7];
        liar.sends(&mut ours, Handshake, &ticket);
        match variant.role {
            Role::Client => assert!(ours.hears().is_empty(), "a late ticket is skipped"),
            Role::Server => {
                let alert = alert_of(&mut peer, &mut ours);
                assert_eq!(alert, AlertDescription::UnexpectedMessage);
            }
        }
    }
}

#[test]
fn messages_may_be_cut_over_records_and_moves() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        let (_, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        let mut message = vec![4, 0, 0, 100];
        message.resize(104, 9);
        let messages = match variant.role {
            Role::Client => [&message[..], &[24, 0, 0, 1, 1]].concat(),
            Role::Server => vec![24, 0, 0, 1, 1],
        };
        for byte in messages {
            liar.sends(&mut ours, ContentType::Handshake, &[byte]);
            assert!(ours.hears().is_empty());
            ours = ours.moved();
        }
        liar.0.tx.step().unwrap();
        liar.sends(
            &mut ours,
            ContentType::ApplicationData,
            b"with the next key",
        );
        assert_eq!(ours.hears(), b"with the next key");
        assert!(ours.record_mut().owes_update);
    }
}

/// As Java's does for what it receives, if its limit is small.
#[test]
fn a_peer_that_only_listens_may_change_its_key_again_and_again() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        let (mut peer, mut ours) = Peer::pair(variant);
        for _ in 0..100 {
            peer.updates_key(&mut ours);
            assert!(ours.hears().is_empty());
            ours.says(WORDS);
            assert_eq!(peer.hears(&mut ours), WORDS);
        }
    }
}

#[test]
fn what_a_peer_may_do_a_few_times_it_may_not_do_for_ever() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        let (mut peer, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        for round in 0..40 {
            liar.sends(&mut ours, ContentType::Handshake, &[24, 0, 0, 1, 1]);
            liar.0.tx.step().unwrap();
            if round < 32 {
                assert!(ours.hears().is_empty());
            }
        }
        // One answer for all.
        let alert = alert_of(&mut peer, &mut ours);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);

        let (mut peer, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        for _ in 0..33 {
            liar.sends(&mut ours, ContentType::ApplicationData, b"");
        }
        let alert = alert_of(&mut peer, &mut ours);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}

/// RFC 5246 section 7.2.2.
#[test]
fn another_handshake_is_refused_once_and_then_it_is_over() {
    for variant in VARIANTS.into_iter().filter(|variant| !variant.is_1_3()) {
        let (mut peer, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        let hello: &[u8] = match variant.role {
            Role::Client => &[0, 0, 0, 0],
            Role::Server => &[1, 0, 0, 3, 7, 7, 7],
        };
        liar.sends(&mut ours, ContentType::Handshake, hello);
        assert!(ours.hears().is_empty());
        assert!(
            !ours.socket_mut().outbound.is_empty(),
            "it hears so at once"
        );
        ours = ours.moved();
        ours.says(WORDS);
        // rustls takes the warning, and what follows.
        assert_eq!(peer.hears(&mut ours), WORDS);
        liar.sends(&mut ours, ContentType::Handshake, hello);
        let alert = alert_of(&mut peer, &mut ours);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_bit_that_has_changed_a_replay_or_another_order_is_noticed() {
    for variant in VARIANTS {
        let (mut peer, mut ours) = Peer::pair(variant);
        let saved = ours.save();
        peer.write(WORDS);
        let sealed = peer.sealed();
        for bit in 0..sealed.len() * 8 {
            let (mut record, _) = saved.open().unwrap();
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let is_whole = record.length_of(&changed) == Ok(Some(changed.len()));
            let is_good = is_whole && record.open(&mut changed).is_ok();
            assert!(!is_good, "{variant:?} {bit}");
        }
        ours.socket_mut().inbound.extend(sealed);
        assert_eq!(ours.hears(), WORDS);
        let (mut peer, mut ours) = Peer::pair(variant);
        peer.says(&mut ours, b"first");
        let first = ours.socket_mut().inbound.clone();
        assert_eq!(ours.hears(), b"first");
        ours.socket_mut().inbound.extend(first);
        let alert = alert_of(&mut peer, &mut ours);
        assert_eq!(alert, AlertDescription::BadRecordMac);
    }
}

#[test]
fn records_that_are_not_sealed_or_too_long_or_of_no_kind_are_refused() {
    for variant in VARIANTS {
        let change = [20, 3, 3, 0, 1, 1];
        let plain_alert = [21, 3, 3, 0, 2, 1, 0];
        let too_long = [23, 3, 3, 0x50, 0];
        let no_kind = [99, 3, 3, 0, 50];
        let other_version = [23, 2, 0, 0, 50];
        let http = *b"GET / HTTP/1.1\r\n\r\n";
        let cases: [(&[u8], AlertDescription); 6] = [
            (&change, AlertDescription::UnexpectedMessage),
            (
                &plain_alert,
                match variant.is_1_3() {
                    true => AlertDescription::UnexpectedMessage,
                    false => AlertDescription::BadRecordMac,
                },
            ),
            (&too_long, AlertDescription::RecordOverflow),
            (&no_kind, AlertDescription::UnexpectedMessage),
            (&other_version, AlertDescription::DecodeError),
            (&http, AlertDescription::DecodeError),
        ];
        for (bytes, expected) in cases {
            let (mut peer, mut ours) = Peer::pair(variant);
            // What has come before is good, and comes first.
            peer.says(&mut ours, WORDS);
            ours.socket_mut().inbound.extend(bytes);
            assert_eq!(ours.hears_at_most(100), WORDS);
            assert_eq!(
                alert_of(&mut peer, &mut ours),
                expected,
                "{variant:?} {bytes:?}"
            );
        }
    }
}

#[test]
fn an_alert_of_the_peers_ends_the_connection_and_is_not_answered() {
    for variant in VARIANTS {
        let (_, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        let alert = [FATAL, Alert::InternalError as u8];
        liar.sends(&mut ours, ContentType::Alert, &alert);
        let error = ours.read_error();
        assert!(error.to_string().contains("alert 80"), "{error}");
        assert!(ours.socket_mut().outbound.is_empty());
    }
}

/// RFC 8446 section 5.4. Neither rustls nor OpenSSL pads by itself.
#[test]
fn padding_is_taken_off_and_nothing_but_padding_refused() {
    for variant in VARIANTS.into_iter().filter(|variant| variant.is_1_3()) {
        let (mut peer, mut ours) = Peer::pair(variant);
        let mut liar = Liar::opposite(&ours);
        let padded = [
            b"padded",
            &[ContentType::ApplicationData as u8][..],
            &[0; 100],
        ]
        .concat();
        ours.socket_mut().inbound.extend(liar.seals_inner(&padded));
        assert_eq!(ours.hears(), b"padded");
        ours.socket_mut().inbound.extend(liar.seals_inner(&[0; 50]));
        let alert = alert_of(&mut peer, &mut ours);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}
