//! A connection on which HTTP/1.1 messages are read exactly as they are written, by either side.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The head of a request or response, byte for byte, without the blank line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head(String);

impl Head {
    pub fn first_line(&self) -> &str {
        self.0.split("\r\n").next().unwrap_or_default()
    }

    /// Every field line as it was written.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.split("\r\n").skip(1)
    }

    /// The values of all fields of that name, in order; the name's case does not matter.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The value of the one field of that name; `None` when there is none.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields(name);
        assert!(fields.len() < 2, "{name} is there more than once: {self}");
        fields.first().copied()
    }

    /// Whether a line stands there exactly like this.
    pub fn has_line(&self, line: &str) -> bool {
        self.lines().any(|found| found == line)
    }

    pub fn method(&self) -> &str {
        self.word(0)
    }

    pub fn target(&self) -> &str {
        self.word(1)
    }

    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_default()
    }

    fn word(&self, number: usize) -> &str {
        self.first_line().split(' ').nth(number).unwrap_or_default()
    }

    fn is_chunked(&self) -> bool {
        self.fields("transfer-encoding") == ["chunked"]
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a message's body is (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    pub fn of_request(head: &Head) -> Self {
        match head.is_chunked() {
            true => Self::Chunked,
            false => Self::Length(content_length(head).unwrap_or(0)),
        }
    }

    pub fn of_response(head: &Head, to_head_request: bool) -> Self {
        if to_head_request || matches!(head.status(), 100..=199 | 204 | 304) {
            return Self::Length(0);
        }
        match (head.is_chunked(), content_length(head)) {
            (true, _) => Self::Chunked,
            (false, Some(length)) => Self::Length(length),
            (false, None) => Self::UntilClose,
        }
    }
}

fn content_length(head: &Head) -> Option<u64> {
    head.field("content-length")?.parse().ok()
}

/// What may be read at once.
const CHUNK: usize = 64 * 1024;

pub struct Wire {
    stream: Box<dyn Duplex>,
    /// Read, not yet taken.
    buffer: Vec<u8>,
}

impl Wire {
    pub fn new(stream: impl Duplex + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
        }
    }

    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        // Tests say what is in a packet.
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(path).await?))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Ends our direction only.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// The next head; `None` when the connection ends before it begins.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 4);
                let head = String::from_utf8(head)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                return Ok(Some(Head(head)));
            }
            if !self.fill().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Hands the body over piece by piece; what it returns are the trailers, as written.
    pub async fn body(
        &mut self,
        framing: Framing,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<String> {
        match framing {
            Framing::Length(length) => self.take_exactly(length, &mut take).await?,
            Framing::UntilClose => {
                while !self.buffer.is_empty() || self.fill().await? {
                    take(&self.buffer);
                    self.buffer.clear();
                }
            }
            Framing::Chunked => loop {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(size, 16)
                    .map_err(|_| io::Error::other(format!("no chunk size: {line:?}")))?;
                if size == 0 {
                    break;
                }
                self.take_exactly(size, &mut take).await?;
                let end = self.line().await?;
                if !end.is_empty() {
                    return Err(io::Error::other(format!("behind a chunk: {end:?}")));
                }
            },
        }
        let mut trailers = String::new();
        if framing == Framing::Chunked {
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    break;
                }
                trailers.push_str(&line);
                trailers.push('\n');
            }
        }
        Ok(trailers)
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        self.take_exactly(length as u64, &mut |part: &[u8]| {
            bytes.extend_from_slice(part);
        })
        .await?;
        Ok(bytes)
    }

    /// Whatever comes next; nothing at the end of the connection.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// The connection itself, and what was read too early.
    pub fn into_parts(self) -> (Box<dyn Duplex>, Vec<u8>) {
        (self.stream, self.buffer)
    }

    async fn take_exactly(&mut self, length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.buffer.is_empty() && !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let part = self
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(CHUNK));
            take(&self.buffer[..part]);
            self.buffer.drain(..part);
            left -= part as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// False at the end of the connection.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(CHUNK);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}
