//! Checks a server's answer: the framing must have one reading, and the status must exist.

use http::{HeaderMap, StatusCode, Version, header};
use itertools::Itertools;

use super::framing;

/// More interim answers than this carry no information.
pub const INTERIM_MAX: u8 = 16;

/// Why a client may not get this answer. For an answer without a body (RFC 9110 section 8.6, RFC
/// 9112 section 6.1) the framing is not checked: see [`has_no_framing`].
pub fn check(
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), &'static str> {
    if status.as_u16() >= 600 {
        return Err("the server's status is beyond 599");
    }
    if has_no_framing(status) {
        return Ok(());
    }
    match headers.get_all(header::CONTENT_LENGTH).iter().at_most_one() {
        Ok(None) => {}
        Ok(Some(length)) if framing::length(length.as_bytes()).is_ok() => {}
        _ => return Err("the server's Content-Length is not one number"),
    }
    match headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .at_most_one()
    {
        Ok(None) => Ok(()),
        Ok(Some(encoding)) if framing::is_chunked(encoding.as_bytes()).is_ok() => match version {
            Version::HTTP_11 => Ok(()),
            _ => Err("the server sent a Transfer-Encoding in HTTP/1.0"),
        },
        _ => Err("the server's Transfer-Encoding is not chunked alone"),
    }
}

/// Whether an answer may have neither `Content-Length` nor `Transfer-Encoding`.
pub fn has_no_framing(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn is_sound(status: u16, version: Version, fields: &[(HeaderName, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        check(StatusCode::from_u16(status).unwrap(), version, &headers).is_ok()
    }

    #[test]
    fn framing_must_be_readable_in_one_way() {
        const LENGTH: HeaderName = header::CONTENT_LENGTH;
        const ENCODING: HeaderName = header::TRANSFER_ENCODING;
        for (sound, version, fields) in [
            (true, Version::HTTP_11, &[][..]),
            (true, Version::HTTP_10, &[(LENGTH, "5")]),
            (true, Version::HTTP_11, &[(ENCODING, "chunked")]),
            (false, Version::HTTP_11, &[(LENGTH, "5"), (LENGTH, "5")]),
            (false, Version::HTTP_11, &[(LENGTH, "5, 5")]),
            (false, Version::HTTP_11, &[(ENCODING, "gzip, chunked")]),
            (
                false,
                Version::HTTP_11,
                &[(ENCODING, "chunked"), (ENCODING, "chunked")],
            ),
            (false, Version::HTTP_10, &[(ENCODING, "chunked")]),
        ] {
            assert_eq!(is_sound(200, version, fields), sound, "{fields:?}");
        }
        assert!(is_sound(204, Version::HTTP_11, &[(LENGTH, "5, 6")]));
        assert!(!is_sound(600, Version::HTTP_11, &[]));
    }
}
