//! APR1, Apache's variant of MD5-crypt. No maintained crate has it.

use md5::{Digest, Md5};

const MAGIC: &[u8] = b"$apr1$";

/// A thousand rounds over password and salt, as `apr_md5_encode` of Apache's portable runtime has
/// them.
pub fn apr1(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner = digest(&[password, salt, password]);
    let mut outer = Md5::new();
    for part in [password, MAGIC, salt] {
        outer.update(part);
    }
    for start in (0..password.len()).step_by(inner.len()) {
        outer.update(&inner[..inner.len().min(password.len() - start)]);
    }
    // Each bit of the length adds a zero or the first byte of the password.
    let mut length = password.len();
    while length > 0 {
        outer.update(if length & 1 == 1 {
            &[0]
        } else {
            &password[..1]
        });
        length >>= 1;
    }
    let mut result: [u8; 16] = outer.finalize().into();
    for round in 0..1000 {
        let (first, last) = match round % 2 {
            0 => (&result[..], password),
            _ => (password, &result[..]),
        };
        let salt = if round % 3 == 0 { &[][..] } else { salt };
        let again = if round % 7 == 0 { &[][..] } else { password };
        result = digest(&[first, salt, again, last]);
    }
    result
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}
