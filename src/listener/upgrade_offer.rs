//! Adds what Pingora's response heads lack: that the `Upgrade` field is for this connection.

/// Returns the head with an `upgrade` option in its `Connection` field, which Pingora writes by
/// itself (RFC 9110 section 7.8). `None`: the head has no such field, or would be larger than
/// `most`.
pub(super) fn offer_upgrade(head: &[u8], most: usize) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"\r\nConnection: ";
    const OPTION: &[u8] = b"Upgrade, ";
    if head.len() + OPTION.len() > most {
        return None;
    }
    let value = memchr::memmem::find(head, FIELD)? + FIELD.len();
    Some([&head[..value], OPTION, &head[value..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_stands_before_what_pingora_says_and_a_large_head_stays_as_it_is() {
        let head = b"HTTP/1.1 426 X\r\nConnection: close\r\n\r\n";
        let offered = offer_upgrade(head, 100).unwrap();
        assert_eq!(
            offered,
            b"HTTP/1.1 426 X\r\nConnection: Upgrade, close\r\n\r\n"
        );
        assert_eq!(offer_upgrade(head, head.len()), None);
        assert_eq!(offer_upgrade(b"HTTP/1.1 200 OK\r\n\r\n", 100), None);
    }
}
