//! A token among the subprotocols of a handshake (`Sec-WebSocket-Protocol: bearer, TOKEN, chat`),
//! which is the only field that a script in a browser can fill.

use http::{HeaderMap, HeaderValue, header};

/// What a client has offered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The word before the token, as the client has written it.
    pub bearer: Option<&'a [u8]>,
    /// More than one only if the client has written `bearer` more than once.
    pub tokens: Vec<&'a [u8]>,
    /// What is meant for the server.
    pub rest: Vec<&'a [u8]>,
}

impl<'a> Offer<'a> {
    /// What follows the word `bearer` is a token.
    pub fn read(headers: &'a HeaderMap) -> Self {
        let fields = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
        let lists = fields.iter().map(HeaderValue::as_bytes);
        let mut items = lists
            .flat_map(|list| list.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|item| !item.is_empty());
        let mut offer = Self::default();
        while let Some(item) = items.next() {
            if item.eq_ignore_ascii_case(b"bearer") {
                offer.bearer = Some(item);
                offer.tokens.extend(items.next());
            } else {
                offer.rest.push(item);
            }
        }
        offer
    }

    /// The field for the server. `None`: it gets none.
    pub fn field(&self) -> Option<HeaderValue> {
        let list = self.rest.join(&b", "[..]);
        HeaderValue::from_bytes(&list)
            .ok()
            .filter(|_| !list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_follows_the_word_and_the_rest_is_the_servers() {
        for (fields, bearer, tokens, rest) in [
            (&["bearer, abc"][..], Some("bearer"), &["abc"][..], None),
            (&["bearer,abc,chat"], Some("bearer"), &["abc"], Some("chat")),
            (
                &["v2, Bearer, abc", "chat"],
                Some("Bearer"),
                &["abc"],
                Some("v2, chat"),
            ),
            (&["bearer", "abc"], Some("bearer"), &["abc"], None),
            (&["chat, bearer"], Some("bearer"), &[], Some("chat")),
            (&["bearer, a, bearer, b"], Some("bearer"), &["a", "b"], None),
            (&["chat, v2"], None, &[], Some("chat, v2")),
            (&[" , ,"], None, &[], None),
            (&[], None, &[], None),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                let value = HeaderValue::from_static(field);
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, value);
            }
            let offer = Offer::read(&headers);
            assert_eq!(offer.bearer, bearer.map(str::as_bytes), "{fields:?}");
            let tokens: Vec<_> = tokens.iter().map(|token| token.as_bytes()).collect();
            assert_eq!(offer.tokens, tokens, "{fields:?}");
            assert_eq!(offer.field(), rest.map(HeaderValue::from_static));
        }
    }
}
