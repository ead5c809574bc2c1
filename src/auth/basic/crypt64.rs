//! The base 64 of `crypt`: three bytes in an order that each scheme has of its own become four
//! digits, the lowest six bits first.

const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

pub fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/')
}

/// As MD5-crypt and APR1 write their digest.
pub fn of_md5(digest: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(22);
    for [high, middle, low] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        append([digest[high], digest[middle], digest[low]], 4, &mut out);
    }
    append([0, 0, digest[11]], 2, &mut out);
    out
}

/// As SHA-256-crypt writes its digest.
pub fn of_sha256(digest: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(43);
    let [mut high, mut middle, mut low] = [0, 10, 20];
    for _ in 0..10 {
        append([digest[high], digest[middle], digest[low]], 4, &mut out);
        [high, middle, low] = [low + 1, high + 1, middle + 1];
    }
    append([0, digest[31], digest[30]], 3, &mut out);
    out
}

/// As SHA-512-crypt writes its digest.
pub fn of_sha512(digest: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(86);
    let [mut high, mut middle, mut low] = [0, 21, 42];
    for _ in 0..21 {
        append([digest[high], digest[middle], digest[low]], 4, &mut out);
        [high, middle, low] = [middle + 1, low + 1, high + 1];
    }
    append([0, 0, digest[63]], 2, &mut out);
    out
}

fn append([high, middle, low]: [u8; 3], digits: usize, out: &mut Vec<u8>) {
    let mut bits = u32::from_be_bytes([0, high, middle, low]);
    for _ in 0..digits {
        out.push(DIGITS[(bits & 0x3f) as usize]);
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes of known passwords are compared in `hash.rs`.
    #[test]
    fn each_byte_of_a_digest_counts() {
        for at in 0..64 {
            let mut digest = [0; 64];
            digest[at] = 0xff;
            assert_ne!(of_sha512(&digest), of_sha512(&[0; 64]), "{at}");
            if let Some((first, _)) = digest.split_first_chunk::<32>().filter(|_| at < 32) {
                assert_ne!(of_sha256(first), of_sha256(&[0; 32]), "{at}");
            }
            if let Some((first, _)) = digest.split_first_chunk::<16>().filter(|_| at < 16) {
                assert_ne!(of_md5(first), of_md5(&[0; 16]), "{at}");
            }
        }
        assert_eq!(of_sha512(&[0; 64]), [b'.'; 86]);
        assert!(of_sha256(&[0xa5; 32]).into_iter().all(is_digit));
    }
}
