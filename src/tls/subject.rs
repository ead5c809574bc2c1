//! What is known of a client from its certificate: its end, and its subject in one line, like
//! nginx's `$ssl_client_s_dn`: RFC 2253 in OpenSSL's form (`CN=app,OU=chat,O=Example`), because
//! applications compare with that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate};

/// A client's certificate, which was verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificate {
    /// Empty: it cannot be read.
    pub subject: Box<str>,
    /// When it stops being valid (`notAfter`).
    pub expires: Option<SystemTime>,
}

/// What is known from this certificate. Nothing, if it cannot be read.
pub fn of(certificate: &CertificateDer<'_>) -> ClientCertificate {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return ClientCertificate::default();
    };
    // One that ends before 1970 has ended.
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    ClientCertificate {
        subject: line(&parsed).into(),
        expires: UNIX_EPOCH.checked_add(Duration::from_secs(expires)),
    }
}

fn line(parsed: &X509Certificate<'_>) -> String {
    // The most specific name is last in the certificate and first in the line.
    let names: Vec<String> = parsed
        .subject()
        .iter_rdn()
        .map(|name| {
            let parts: Vec<String> = name.iter().map(attribute).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("+")
        })
        .collect();
    names.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// OpenSSL's short names for the attributes that subjects contain.
const SHORT: [(&str, &str); 20] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    match SHORT.iter().find(|(id, _)| *id == kind) {
        Some((_, short)) => match text(value) {
            Some(text) => format!("{short}={}", escaped(&text)),
            None => format!("{short}={}", dumped(value)),
        },
        // An attribute without a name is shown as its encoding (RFC 2253 section 2.4).
        None => format!("{kind}={}", dumped(value)),
    }
}

fn text(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => String::from_utf8(bytes.to_vec()).ok(),
        Tag::T61String => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => {
            let units = bytes.chunks_exact(2);
            let units = units.map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// RFC 2253 section 2.4, with everything but printable ASCII as `\XX`, so that it fits in a header.
fn escaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    for (index, &byte) in bytes.iter().enumerate() {
        let is_first = index == 0;
        let is_last = index + 1 == bytes.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if is_first => out.push_str("\\#"),
            b' ' if is_first || is_last => out.push_str("\\ "),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

/// The value's encoding in hexadecimal.
fn dumped(value: &Any<'_>) -> String {
    let mut der = vec![value.tag().0 as u8];
    match value.data.len() {
        short @ 0..128 => der.push(short as u8),
        long => {
            let length = long.to_be_bytes();
            let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            der.push(0x80 | length.len() as u8);
            der.extend_from_slice(length);
        }
    }
    der.extend_from_slice(value.data);
    let digits = der.iter().map(|byte| format!("{byte:02X}"));
    format!("#{}", digits.collect::<String>())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// What `openssl x509 -noout -subject -nameopt RFC2253` says of the same certificate.
    #[test]
    fn a_subject_with_everything_that_must_be_escaped_reads_as_openssl_has_it() {
        let certificate = CertificateDer::from_pem_slice(include_bytes!("subject.pem")).unwrap();
        assert_eq!(
            &*of(&certificate).subject,
            r##"1.2.3.4=#0C09736F6D657468696E67,emailAddress=a@b.c,UID=u1+CN=app 1,L=A\\B=ctd\C3\A9,OU=\ both ends\ ,O=\#M\C3\BCller\, S\C3\B6hne\; \"\<A\+B\>\",C=DE"##
        );
    }

    #[test]
    fn a_certificate_that_cannot_be_read_says_nothing() {
        let certificate = CertificateDer::from(b"no certificate".to_vec());
        assert_eq!(of(&certificate), ClientCertificate::default());
    }

    #[test]
    fn what_would_break_a_header_is_escaped() {
        assert_eq!(escaped("a\r\nb\u{1F512}"), r"a\0D\0Ab\F0\9F\94\92");
        assert_eq!(escaped(" "), r"\ ");
    }
}
