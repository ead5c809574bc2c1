//! `listen`: the sockets of all servers, and which servers share one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::notes::Note;
use super::tree::Directive;

/// The size of `sockaddr_un`'s path without the final zero.
const UNIX_PATH_MAX: usize = 107;

/// What one `listen` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// As prusik writes it.
    pub address: String,
    pub is_tls: bool,
    pub http2: bool,
    pub proxy_protocol: bool,
    pub is_default: bool,
}

/// A socket with the servers on it, by their numbers, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub address: String,
    pub is_tls: bool,
    pub http2: bool,
    pub proxy_protocol: bool,
    pub servers: Vec<usize>,
    /// Who answers for names that nobody has.
    pub default: usize,
}

/// The sockets of a `server` block.
pub fn listens(server: &Directive, notes: &mut Vec<Note>) -> Vec<Listen> {
    let mut listens = Vec::new();
    for directive in server.each("listen") {
        listens.extend(listen(directive, notes));
    }
    if server.each("listen").next().is_none() {
        listens.push(Listen {
            address: "0.0.0.0:80".to_owned(),
            is_tls: false,
            http2: false,
            proxy_protocol: false,
            is_default: false,
        });
    }
    let has = |name: &str| server.each(name).any(|directive| directive.arg(0) == "on");
    for listen in &mut listens {
        // `ssl on;` of old files.
        listen.is_tls |= has("ssl");
        listen.http2 |= has("http2");
    }
    listens
}

fn listen(directive: &Directive, notes: &mut Vec<Note>) -> Vec<Listen> {
    let words = directive.args.get(1..).unwrap_or_default();
    let has = |word: &str| words.iter().any(|found| found == word);
    if has("quic") {
        notes.push(Note::left_out(directive, "prusik speaks no HTTP/3"));
        return Vec::new();
    }
    let Some(mut addresses) = addresses(directive.arg(0)) else {
        let why = "write the address of this machine to listen on";
        notes.push(Note::left_out(directive, why));
        return Vec::new();
    };
    if has("ipv6only=off") && addresses[0].starts_with("[::]:") {
        addresses.push(addresses[0].replace("[::]", "0.0.0.0"));
    }
    let known = [
        "ssl",
        "http2",
        "proxy_protocol",
        "default_server",
        "default",
        "ipv6only",
        "bind",
        "quic",
    ];
    let is_known = |word: &String| known.contains(&word.split('=').next().unwrap_or_default());
    if let Some(word) = words.iter().find(|word| !is_known(word)) {
        let why = format!("{word} is tuning without a meaning here");
        notes.push(Note::no_meaning(directive, why));
    }
    let listen = |address| Listen {
        address,
        is_tls: has("ssl"),
        http2: has("http2"),
        proxy_protocol: has("proxy_protocol"),
        is_default: has("default_server") || has("default"),
    };
    addresses.into_iter().map(listen).collect()
}

/// `80`, `*:80`, `10.0.0.1`, `[::]:80`, `localhost:80`, `unix:/path`.
fn addresses(text: &str) -> Option<Vec<String>> {
    if text.starts_with("unix:/") && text.len() <= "unix:".len() + UNIX_PATH_MAX {
        return Some(vec![text.to_owned()]);
    }
    if let Ok(port) = text.parse::<u16>() {
        return Some(vec![format!("0.0.0.0:{port}")]);
    }
    let text = text
        .replacen("*:", "0.0.0.0:", 1)
        .replacen("localhost", "127.0.0.1", 1);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(vec![address.to_string()]);
    }
    let text = text.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = match text {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        text => text.parse().ok()?,
    };
    Some(vec![SocketAddr::new(address, 80).to_string()])
}

/// Servers by their sockets. A narrow address beside the wide one of its port is the wide one:
/// the kernel gives prusik only one of the two.
pub fn sockets(servers: &[Vec<Listen>], mut narrowed: impl FnMut(usize, &str)) -> Vec<Socket> {
    let all: Vec<String> = servers
        .iter()
        .flatten()
        .map(|listen| listen.address.clone())
        .collect();
    let mut sockets: Vec<Socket> = Vec::new();
    // Whether each has a server for all of its addresses.
    let mut has_whole: Vec<bool> = Vec::new();
    for (number, listens) in servers.iter().enumerate() {
        for listen in listens {
            let address = match wide_of(&listen.address) {
                Some(wide) if all.contains(&wide) => {
                    narrowed(number, &listen.address);
                    wide
                }
                _ => listen.address.clone(),
            };
            let found = sockets.iter().position(|socket| socket.address == address);
            let found = found.unwrap_or_else(|| {
                sockets.push(Socket {
                    address,
                    is_tls: false,
                    http2: false,
                    proxy_protocol: false,
                    servers: Vec::new(),
                    default: number,
                });
                has_whole.push(false);
                sockets.len() - 1
            });
            let socket = &mut sockets[found];
            socket.is_tls |= listen.is_tls;
            socket.http2 |= listen.http2;
            socket.proxy_protocol |= listen.proxy_protocol;
            // A default of fewer addresses is none of all.
            let is_whole = listen.address == socket.address;
            if is_whole && (listen.is_default || !has_whole[found]) {
                socket.default = number;
            }
            has_whole[found] |= is_whole;
            if socket.servers.last() != Some(&number) {
                socket.servers.push(number);
            }
        }
    }
    sockets
}

/// The address that means all addresses of the machine, for one that means fewer.
pub fn wide_of(address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    let wide: IpAddr = match address.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (wide != address.ip()).then(|| SocketAddr::new(wide, address.port()).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::syntax::parse;
    use super::*;

    fn of(text: &str) -> (Vec<Listen>, Vec<Note>) {
        let text = format!("server {{ {text} }}");
        let tree = parse(&Arc::from("f"), &text).unwrap();
        let mut notes = Vec::new();
        (listens(&tree[0], &mut notes), notes)
    }

    #[test]
    fn a_listen_is_an_address() {
        for (text, addresses) in [
            ("", &["0.0.0.0:80"][..]),
            ("listen 9090;", &["0.0.0.0:9090"]),
            ("listen *:81; listen [::]:81;", &["0.0.0.0:81", "[::]:81"]),
            ("listen 10.0.0.1;", &["10.0.0.1:80"]),
            ("listen [::1];", &["[::1]:80"]),
            ("listen localhost:7;", &["127.0.0.1:7"]),
            ("listen [::]:80 ipv6only=off;", &["[::]:80", "0.0.0.0:80"]),
            ("listen unix:/run/a.sock;", &["unix:/run/a.sock"]),
            ("listen example.com:80;", &[]),
            ("listen 443 quic reuseport;", &[]),
        ] {
            let (listens, _) = of(text);
            let found: Vec<_> = listens
                .iter()
                .map(|listen| listen.address.as_str())
                .collect();
            assert_eq!(found, addresses, "{text}");
        }
    }

    #[test]
    fn words_behind_it_count() {
        let (listens, notes) = of("listen 443 ssl http2 default_server reuseport;");
        assert!(listens[0].is_tls && listens[0].http2 && listens[0].is_default);
        assert!(notes[0].comment().contains("reuseport"));
        let (listens, _) = of("listen 443 ssl; http2 on;");
        assert!(listens[0].http2);
    }

    #[test]
    fn servers_share_sockets_and_the_first_is_the_default() {
        let servers = [
            "listen 80;",
            "listen 80; listen 127.0.0.1:80; listen 81 default_server;",
            "listen 81;",
        ];
        let servers: Vec<_> = servers.iter().map(|text| of(text).0).collect();
        let mut narrowed = Vec::new();
        let sockets = sockets(&servers, |server, address| {
            narrowed.push((server, address.to_owned()))
        });
        let shown: Vec<_> = sockets
            .iter()
            .map(|socket| {
                (
                    socket.address.as_str(),
                    socket.servers.as_slice(),
                    socket.default,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [("0.0.0.0:80", &[0, 1][..], 0), ("0.0.0.0:81", &[1, 2], 1)]
        );
        assert_eq!(narrowed, [(1, "127.0.0.1:80".to_owned())]);
    }
}
