//! A listener, a route and a server that one case after the other has for itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use uuid::Uuid;

use super::case::{CANARY, Case, Expect, Request, Response, bytes};
use crate::support::{Framing, Head, Response as Got, Wire};

/// Side by side: most of a case is waiting.
pub const LANES: usize = 8;

/// For an answer, or for the end: only a case that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

const ORDINARY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nattacked";
const TO_CANARY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary";

pub struct Lane {
    address: SocketAddr,
    server: Arc<Mutex<Server>>,
}

/// What the recording server is to do, and what it has got.
#[derive(Debug, Default)]
struct Server {
    answer: Vec<u8>,
    closes: bool,
    bytes: usize,
    requests: Vec<Seen>,
}

/// A whole request; the fields as they stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    line: String,
    fields: Vec<String>,
    body: Vec<u8>,
}

pub fn configuration(lanes: &[Lane]) -> String {
    let (mut listeners, mut upstreams, mut routes) = (String::new(), String::new(), String::new());
    for (number, lane) in lanes.iter().enumerate() {
        let name = format!("lane-{number}");
        listeners += &format!("  - {{ listen: \"127.0.0.1:0\", name: {name} }}\n");
        upstreams += &format!(
            "  {name}: {{ servers: [\"{}\"], attempts: 1 }}\n",
            lane.address
        );
        let user = "headers: { request: { set: { X-User: nobody }, remove: [X-Debug] } }";
        for (conditions, action) in [
            (
                ", path_prefix: /forbidden",
                "respond: { status: 403 }".to_owned(),
            ),
            (
                ", path: /deep/secret",
                "respond: { status: 403 }".to_owned(),
            ),
            (
                ", host: internal.test",
                "respond: { status: 403 }".to_owned(),
            ),
            (
                ", path_prefix: /app",
                format!("strip_prefix: /app, upstream: {name}"),
            ),
            (", path_prefix: /user", format!("upstream: {name}, {user}")),
            ("", format!("upstream: {name}")),
        ] {
            routes += &format!("  - {{ match: {{ listener: {name}{conditions} }}, {action} }}\n");
        }
    }
    format!("listeners:\n{listeners}upstreams:\n{upstreams}routes:\n{routes}")
}

impl Lane {
    pub async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("the kernel has a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Arc::new(Mutex::new(Server::default()));
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { serve(stream, &server).await });
            }
        });
        Self { address, server }
    }

    /// The statuses that the client has got, or what was not as it must be.
    pub async fn run(&mut self, proxy: SocketAddr, case: &Case) -> Result<Vec<u16>, String> {
        let attack = case.attack();
        *lock(&self.server) = Server {
            answer: attack.answered.unwrap_or_else(|| ORDINARY.into()),
            closes: case.closes,
            ..Server::default()
        };
        let mut sent = attack.sent;
        if !case.alone {
            sent.extend(CANARY.as_bytes());
        }
        let connected = Wire::connect(proxy).await;
        let mut client = connected.map_err(|error| format!("no connection: {error}"))?;
        // A refusal may come before all is sent.
        let _ = client.send(&sent).await;
        if case.alone {
            let _ = client.finish().await;
        }
        let met = self.meet(&mut client, proxy, case).await;
        met.map_err(|fault| {
            let server = lock(&self.server);
            format!("{fault}\n    the server got {:?}", server.requests)
        })
    }

    async fn meet(
        &self,
        client: &mut Wire,
        proxy: SocketAddr,
        case: &Case,
    ) -> Result<Vec<u16>, String> {
        let mut statuses = Vec::new();
        let mut canary_follows = true;
        match &case.expect {
            Expect::Refused(status) | Expect::Cut(status) => {
                let got = response(client).await?;
                same("status", &got.status(), status)?;
                same("Connection", &got.fields("connection"), &vec!["close"])?;
                says_nothing_of_the_request(&got)?;
                statuses.push(*status);
                canary_follows = false;
            }
            Expect::Answered(status) => {
                let got = response(client).await?;
                same("status", &got.status(), status)?;
                statuses.push(*status);
            }
            Expect::Reaches(_) => {
                let got = response(client).await?;
                same("status", &got.status(), &200)?;
                statuses.push(200);
            }
            Expect::Gets(wanted) => {
                compare(client, wanted).await?;
                statuses.push(wanted.status);
                canary_follows = !wanted.closed;
            }
            Expect::Breaks(wanted) => {
                let head = head(client).await?;
                same("status", &head.status(), &wanted.status)?;
                let mut body = Vec::new();
                loop {
                    match within("more or the end", client.some()).await? {
                        Ok(part) if !part.is_empty() => body.extend(part),
                        _ => break,
                    }
                }
                same("body", &body, &bytes(&wanted.body))?;
                statuses.push(wanted.status);
                canary_follows = false;
            }
        }
        if canary_follows && !case.alone {
            let got = response(client).await?;
            let got = (got.status(), got.text());
            same("the canary's answer", &got, &(200, "canary".to_owned()))?;
            statuses.push(200);
        }
        // Nothing may follow, whether prusik closes the connection or the client says it is done.
        let _ = client.finish().await;
        if let Ok(rest) = within("the end", client.some()).await? {
            same(
                "behind the last answer",
                &String::from_utf8_lossy(&rest),
                &"".into(),
            )?;
        }
        self.compare_requests(proxy, case, canary_follows && !case.alone)?;
        Ok(statuses)
    }

    fn compare_requests(
        &self,
        proxy: SocketAddr,
        case: &Case,
        canary_follows: bool,
    ) -> Result<(), String> {
        let server = lock(&self.server);
        if matches!(case.expect, Expect::Refused(_)) {
            same("bytes at the server", &server.bytes, &0)?;
        }
        let mut wanted = Vec::new();
        match &case.expect {
            Expect::Refused(_) | Expect::Cut(_) | Expect::Answered(_) => {}
            Expect::Reaches(request) => wanted.push(request_of(case, request)),
            // What reached the server is the subject of others.
            Expect::Gets(_) | Expect::Breaks(_) => wanted.extend(plain(proxy, &server.requests)),
        }
        wanted.truncate(1);
        if canary_follows {
            wanted.push(Seen {
                line: "GET /canary HTTP/1.1".to_owned(),
                fields: vec!["Host: canary.test".to_owned()],
                body: Vec::new(),
            });
        }
        let got = plain(proxy, &server.requests);
        match got == wanted {
            true => Ok(()),
            false => Err(format!("the server was to get {wanted:?}")),
        }
    }
}

fn request_of(case: &Case, request: &Request) -> Seen {
    let host = || vec!["Host: test".to_owned()];
    let as_sent = || case.line().into_iter().map(char::from).collect();
    let mut fields = request.fields.clone().unwrap_or_else(host);
    fields.sort();
    Seen {
        line: request.line.clone().unwrap_or_else(as_sent),
        fields,
        body: bytes(&request.body),
    }
}

/// Without what prusik says of the client, when it says that, once, and it is true.
fn plain(proxy: SocketAddr, requests: &[Seen]) -> Vec<Seen> {
    let mut requests = requests.to_vec();
    for request in &mut requests {
        let host = request
            .fields
            .iter()
            .find_map(|field| field.strip_prefix("Host: "));
        let mut said = vec![
            "X-Forwarded-For: 127.0.0.1".to_owned(),
            "X-Real-IP: 127.0.0.1".to_owned(),
            "X-Forwarded-Proto: http".to_owned(),
            format!("X-Forwarded-Port: {}", proxy.port()),
        ];
        let host = host.filter(|host| !host.is_empty());
        said.extend(host.map(|host| format!("X-Forwarded-Host: {host}")));
        for line in said {
            match request.fields.iter().position(|field| *field == line) {
                Some(place) => drop(request.fields.remove(place)),
                None => request.fields.push(format!("no {line}")),
            }
        }
        let id = |field: &String| {
            field
                .strip_prefix("X-Request-Id: ")
                .is_some_and(|id| Uuid::try_parse(id).is_ok())
        };
        match request.fields.iter().position(id) {
            Some(place) => drop(request.fields.remove(place)),
            None => request.fields.push("no X-Request-Id".to_owned()),
        }
        request.fields.sort();
    }
    requests
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    let output = timeout(PATIENCE, future).await;
    output.map_err(|_| format!("not within {PATIENCE:?}: {what}"))
}

async fn head(client: &mut Wire) -> Result<Head, String> {
    match within("an answer", client.head()).await? {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err("the connection ended without an answer".to_owned()),
        Err(error) => Err(format!("no answer: {error}")),
    }
}

async fn response(client: &mut Wire) -> Result<Got, String> {
    let head = head(client).await?;
    if head.fields("content-length").len() + head.fields("transfer-encoding").len() > 1 {
        return Err(format!("an answer that is framed twice: {head}"));
    }
    let mut body = Vec::new();
    let framing = Framing::of_response(&head, false);
    let read = client.body(framing, |part| body.extend_from_slice(part));
    match within("an answer's body", read).await? {
        Ok(trailers) => Ok(Got {
            head,
            body,
            trailers,
        }),
        Err(error) => Err(format!("{error} in the body of {head}")),
    }
}

/// A line of our own and known fields: nothing that the client has sent comes back to it.
fn says_nothing_of_the_request(got: &Got) -> Result<(), String> {
    let ours = [
        "allow",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "x-request-id",
    ];
    let names = got.lines().filter_map(|line| line.split_once(':'));
    let foreign = names.map(|(name, _)| name.to_ascii_lowercase());
    let foreign: Vec<_> = foreign
        .filter(|name| !ours.contains(&name.as_str()))
        .collect();
    same("fields that are not ours", &foreign, &Vec::new())?;
    let text = got.text();
    let is_ours = text.starts_with(&got.status().to_string())
        && text.lines().count() == 1
        && !["smuggled", "hello", "evil", "internal", "forbidden"]
            .iter()
            .any(|word| text.contains(word));
    // 403 is a configured answer without a body.
    same("a line of ours", &(is_ours || text.is_empty()), &true)
}

async fn compare(client: &mut Wire, wanted: &Response) -> Result<(), String> {
    for status in &wanted.interim {
        same("interim", &response(client).await?.status(), status)?;
    }
    let got = response(client).await?;
    same("status", &got.status(), &wanted.status)?;
    if wanted.status < 500 {
        let is_ours = |line: &&str| {
            ["Date: ", "Connection: ", "X-Request-Id: "]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let mut fields: Vec<_> = got.lines().filter(|line| !is_ours(line)).collect();
        fields.sort_unstable();
        let mut expected: Vec<_> = wanted.fields.iter().map(String::as_str).collect();
        expected.sort_unstable();
        same("fields", &fields, &expected)?;
        same("body", &got.body, &bytes(&wanted.body))?;
    }
    let connection = if wanted.closed { "close" } else { "keep-alive" };
    same("Connection", &got.fields("connection"), &vec![connection])
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    match got == wanted {
        true => Ok(()),
        false => Err(format!("{what}: {got:?}, not {wanted:?}")),
    }
}

fn lock(server: &Mutex<Server>) -> std::sync::MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads as RFC 9112 has it and nothing else, so that whatever else comes is seen.
async fn serve(mut stream: TcpStream, server: &Mutex<Server>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        while let Some((request, length)) = parse(&buffer) {
            buffer.drain(..length);
            let is_canary = request.line.contains(" /canary ");
            let (answer, closes) = {
                let mut server = lock(server);
                server.requests.push(request);
                match is_canary {
                    true => (TO_CANARY.as_bytes().to_vec(), false),
                    false => (server.answer.clone(), server.closes),
                }
            };
            stream.write_all(&answer).await?;
            if closes {
                return stream.shutdown().await;
            }
        }
        let read = stream.read_buf(&mut buffer).await?;
        lock(server).bytes += read;
        if read == 0 {
            return Ok(());
        }
    }
}

/// A whole request and its length.
fn parse(bytes: &[u8]) -> Option<(Seen, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    // Latin-1, so that no byte is lost.
    let head: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = head.split("\r\n").map(str::to_owned);
    let line = lines.next()?;
    let fields: Vec<String> = lines.collect();
    let value = |name: &str| {
        let named = fields.iter().filter_map(|field| field.split_once(':'));
        let mut named = named.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    };
    let mut at = end + 4;
    let mut body = Vec::new();
    if value("transfer-encoding") == Some("chunked") {
        loop {
            let length = find(&bytes[at..], b"\r\n")?;
            let size = str::from_utf8(&bytes[at..at + length]).ok()?;
            let size = usize::from_str_radix(size, 16).ok()?;
            at += length + 2;
            let chunk = bytes.get(at..at + size + 2)?;
            body.extend(chunk.strip_suffix(b"\r\n")?);
            at += size + 2;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = value("content-length") {
        let length: usize = length.parse().ok()?;
        body.extend(bytes.get(at..at + length)?);
        at += length;
    }
    Some((Seen { line, fields, body }, at))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}
