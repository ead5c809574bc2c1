//! A server behind the proxy: records what it is sent, answers as the test wants, and can die and
//! come back on the same address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::process;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::PatternCheck;
use super::answer::{Answer, Then};
use super::eventually;
use super::wire::{Framing, Head, Wire};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub head: Head,
    /// Empty when the origin only checks bodies.
    pub body: Vec<u8>,
    pub body_length: u64,
    pub trailers: String,
    /// The number of the connection it came on, from 1.
    pub connection: usize,
}

impl Deref for Received {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Received {
    pub fn wants_upgrade(&self) -> bool {
        self.field("upgrade").is_some()
    }
}

/// When an origin reads a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bodies {
    Keep,
    /// Compared with the pattern as they come.
    Check,
    /// Answered at the head.
    Ignore,
}

type Answering = dyn Fn(&Received) -> Answer + Send + Sync;

struct Shared {
    address: SocketAddr,
    answering: Box<Answering>,
    bodies: Bodies,
    tls: Option<TlsAcceptor>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    sessions: AtomicUsize,
    /// The codes of the Close frames that clients have sent.
    closes: Mutex<Vec<u16>>,
}

pub struct Origin {
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Origin {
    /// Answers each request, its body read, with what `answering` makes of it.
    pub async fn start(answering: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(Bodies::Keep, answering).await
    }

    /// As [`Origin::start`], on an address of the test's choice.
    pub async fn start_on(
        address: SocketAddr,
        answering: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = listen_on(address).await;
        Self::on(listener, Bodies::Keep, Box::new(answering))
    }

    /// As [`Origin::start`], by TLS.
    pub async fn secure(
        tls: Arc<ServerConfig>,
        answering: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listening(
            listen(),
            Bodies::Keep,
            Some(tls.into()),
            Box::new(answering),
        )
    }

    /// As [`Origin::secure`], on an address of the test's choice.
    pub async fn secure_on(
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        answering: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = listen_on(address).await;
        Self::listening(
            listener,
            Bodies::Keep,
            Some(tls.into()),
            Box::new(answering),
        )
    }

    /// Answers at once, and reads no body.
    pub async fn hasty(answering: impl Fn(&Received) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(Bodies::Ignore, answering).await
    }

    /// Compares each request's body with the pattern.
    pub async fn checking() -> Self {
        Self::with(Bodies::Check, |received| {
            Answer::text(&received.body_length.to_string())
        })
        .await
    }

    /// A chat server: WebSockets are echoed, pages say which server this is.
    pub async fn chat() -> Self {
        let listener = listen();
        let address = listener.local_addr().expect("it is bound");
        let answering = move |received: &Received| match received.wants_upgrade() {
            true => Answer::upgrade(received),
            false => Answer::text(&address.to_string()),
        };
        Self::on(listener, Bodies::Keep, Box::new(answering))
    }

    async fn with(
        bodies: Bodies,
        answering: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::on(listen(), bodies, Box::new(answering))
    }

    fn on(listener: TcpListener, bodies: Bodies, answering: Box<Answering>) -> Self {
        Self::listening(listener, bodies, None, answering)
    }

    fn listening(
        listener: TcpListener,
        bodies: Bodies,
        tls: Option<TlsAcceptor>,
        answering: Box<Answering>,
    ) -> Self {
        let origin = Self {
            shared: Arc::new(Shared {
                address: listener.local_addr().expect("it is bound"),
                answering,
                bodies,
                tls,
                received: Mutex::default(),
                connections: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                sessions: AtomicUsize::new(0),
                closes: Mutex::default(),
            }),
            serving: Mutex::new(None),
        };
        origin.serve(listener);
        origin
    }

    fn serve(&self, listener: TcpListener) {
        let serving = tokio::spawn(serve(listener, self.shared.clone()));
        *lock(&self.serving) = Some(serving);
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Every request so far, in the order of their ends.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The one request that this origin has had.
    pub fn only_request(&self) -> Received {
        let received = self.received();
        assert_eq!(received.len(), 1, "one request, not {received:?}");
        received[0].clone()
    }

    /// Waits until it works on a request of this target.
    pub async fn has_got(&self, target: &str) {
        eventually(format!("the server works on {target}"), async || {
            let received = self.received();
            received.iter().any(|request| request.target() == target)
        })
        .await;
    }

    /// Connections accepted since the start.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(SeqCst)
    }

    /// WebSocket sessions that live now.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(SeqCst)
    }

    /// The codes of the Close frames that sessions got from their clients.
    pub fn closes(&self) -> Vec<u16> {
        lock(&self.shared.closes).clone()
    }

    /// As when the process is killed: the listener and every socket close at once.
    pub async fn kill(&self) {
        let serving = lock(&self.serving).take();
        if let Some(serving) = serving {
            serving.abort();
            // Ends with the abort, which is what is waited for.
            let _ = serving.await;
        }
        eventually("the killed origin is gone", async || self.open() == 0).await;
    }

    /// Listens again, on the same address.
    pub async fn restart(&self) {
        self.serve(listen_on(self.shared.address).await);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(serving) = lock(&self.serving).take() {
            serving.abort();
        }
    }
}

/// Each origin has a loopback address of its own: a port that a killed one left cannot be taken
/// by another test before it comes back.
pub(super) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes may run side by side: no two of them have the same 127.x.y.
    let net = process::id() % (250 * 250);
    let octets = [
        net / 250 + 2,
        net % 250 + 1,
        NEXT.fetch_add(1, SeqCst) % 250 + 1,
    ];
    let [x, y, z] = octets.map(|octet| octet as u8);
    Ipv4Addr::new(127, x, y, z)
}

/// For a server that is played by hand.
pub fn listen() -> TcpListener {
    let listener = std::net::TcpListener::bind((own_address(), 0)).expect("a free port");
    listener.set_nonblocking(true).expect("it can be set");
    TcpListener::from_std(listener).expect("inside the runtime")
}

/// Where nobody listens.
pub fn free_address() -> SocketAddr {
    free_port_on(own_address())
}

/// Where nobody listens now: below the ports that the kernel gives to connections, so that none of
/// those takes it before the test does.
pub fn free_port_on(address: Ipv4Addr) -> SocketAddr {
    loop {
        let port: u16 = rand::random_range(10_000..31_000);
        if is_free((address, port).into()) {
            return (address, port).into();
        }
    }
}

/// Whether nobody listens there. Found without listening: a program that another test starts at
/// this moment holds our sockets too until its exec, and would go on listening.
pub fn is_free(address: SocketAddr) -> bool {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
    let socket = socket.expect("a descriptor");
    socket.set_reuse_address(true).expect("it can be set");
    socket.bind(&address.into()).is_ok()
}

/// Waits while a program that is just being started holds the socket that listened there before.
async fn listen_on(address: SocketAddr) -> TcpListener {
    let mut listener = None;
    eventually(format!("{address} is free"), async || {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => listener = Some(bound.expect("it can be bound")),
        }
        listener.is_some()
    })
    .await;
    listener.expect("it was awaited")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of a number of live things.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let _open = Counted::new(&shared.open);
            let number = shared.connections.fetch_add(1, SeqCst) + 1;
            // How a connection ends is the proxy's business, and the test's to check.
            let _ = converse(stream, number, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut wire = match &shared.tls {
        Some(tls) => Wire::new(tls.accept(stream).await?),
        None => Wire::new(stream),
    };
    while let Some(head) = wire.head().await? {
        let received = read_request(&mut wire, head, connection, shared).await?;
        lock(&shared.received).push(received.clone());
        let answer = (shared.answering)(&received);
        let then = answer.then;
        answer.give(&mut wire).await?;
        match then {
            Then::Next => {}
            Then::Close => break,
            Then::Hang => while !wire.some().await?.is_empty() {},
            Then::Echo => {
                let _session = Counted::new(&shared.sessions);
                let (stream, early) = wire.into_parts();
                let socket =
                    WebSocketStream::from_partially_read(stream, early, Role::Server, None).await;
                return echo(socket, shared).await.map_err(io::Error::other);
            }
        }
    }
    Ok(())
}

async fn read_request(
    wire: &mut Wire,
    head: Head,
    connection: usize,
    shared: &Shared,
) -> io::Result<Received> {
    let framing = match shared.bodies {
        Bodies::Ignore => Framing::Length(0),
        Bodies::Keep | Bodies::Check => Framing::of_request(&head),
    };
    if head.field("expect") == Some("100-continue") && framing != Framing::Length(0) {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let (mut body, mut check, mut body_length) = (Vec::new(), PatternCheck::default(), 0);
    let trailers = wire
        .body(framing, |part| {
            body_length += part.len() as u64;
            match shared.bodies {
                Bodies::Check => check.feed(part),
                Bodies::Keep | Bodies::Ignore => body.extend_from_slice(part),
            }
        })
        .await?;
    Ok(Received {
        head,
        body,
        body_length,
        trailers,
        connection,
    })
}

/// Sends back what it gets, with a word or two that it obeys.
async fn echo(
    mut socket: WebSocketStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    shared: &Shared,
) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        match message? {
            Message::Text(text) if text == "whoami" => {
                let address = shared.address.to_string();
                socket.send(Message::text(address)).await?;
            }
            Message::Text(text) if text.starts_with("close ") => {
                let code = text["close ".len()..].parse().unwrap_or(1000);
                let frame = CloseFrame {
                    code: CloseCode::from(code),
                    reason: "as asked".into(),
                };
                socket.close(Some(frame)).await?;
            }
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            Message::Close(frame) => {
                let code = frame.map_or(1005, |frame| frame.code.into());
                lock(&shared.closes).push(code);
            }
            _ => {}
        }
    }
    Ok(())
}
