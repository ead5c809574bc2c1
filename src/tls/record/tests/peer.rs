//! rustls as the peer of a connection that has left it, and a socket in memory between the two.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig,
    ServerConnection,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::suite::Role;
use super::super::*;
use crate::tls::PROVIDER;

/// What both sides agree on, and which of them is ours.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    pub suite: CipherSuite,
    pub role: Role,
}

impl Variant {
    pub fn is_1_3(self) -> bool {
        format!("{:?}", self.suite).starts_with("TLS13")
    }
}

pub const VARIANTS: [Variant; 12] = {
    use CipherSuite::*;
    let suites = [
        TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut all = [Variant {
        suite: suites[0],
        role: Role::Client,
    }; 12];
    let mut index = 0;
    while index < 12 {
        all[index] = Variant {
            suite: suites[index % 6],
            role: if index < 6 {
                Role::Client
            } else {
                Role::Server
            },
        };
        index += 1;
    }
    all
};

/// A socket: what the peer has sent, and what we have.
#[derive(Debug)]
pub struct Memory {
    pub inbound: Vec<u8>,
    pub outbound: Vec<u8>,
    /// How much more it takes before it would block.
    pub takes: usize,
    pub has_ended: bool,
}

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let memory = self.get_mut();
        if memory.inbound.is_empty() && !memory.has_ended {
            return Poll::Pending;
        }
        let part = memory.inbound.len().min(buf.remaining());
        buf.put_slice(&memory.inbound[..part]);
        memory.inbound.drain(..part);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let memory = self.get_mut();
        let part = buf.len().min(memory.takes);
        if part == 0 {
            return Poll::Pending;
        }
        memory.takes = memory.takes.saturating_sub(part);
        memory.outbound.extend_from_slice(&buf[..part]);
        Poll::Ready(Ok(part))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Our side, as a test handles it.
impl RecordStream<Memory> {
    pub fn socket_mut(&mut self) -> &mut Memory {
        &mut self.socket
    }

    /// The same in another process.
    pub fn moved(mut self) -> Self {
        let saved = self.save();
        let limit = self.record_mut().limit;
        let mut moved = Self::restore(self.socket, &saved).unwrap();
        moved.record_mut().limit = limit;
        moved
    }

    pub fn hears_at_most(&mut self, room: usize) -> Vec<u8> {
        let mut bytes = vec![0; room];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(self).poll_read(&mut nobody(), &mut buf) {
            Poll::Ready(read) => read.expect("a sound record"),
            Poll::Pending => {}
        }
        let length = buf.filled().len();
        bytes.truncate(length);
        bytes
    }

    /// Everything that has come.
    pub fn hears(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let part = self.hears_at_most(10_000);
            if part.is_empty() {
                return all;
            }
            all.extend(part);
        }
    }

    pub fn read_error(&mut self) -> io::Error {
        let mut bytes = [0; 100];
        match Pin::new(self).poll_read(&mut nobody(), &mut ReadBuf::new(&mut bytes)) {
            Poll::Ready(Err(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    pub fn is_at_end(&mut self) -> bool {
        let mut bytes = [0; 100];
        let mut buf = ReadBuf::new(&mut bytes);
        let polled = Pin::new(self).poll_read(&mut nobody(), &mut buf);
        matches!(polled, Poll::Ready(Ok(()))) && buf.filled().is_empty()
    }

    /// Returns how much was taken.
    pub fn offers(&mut self, words: &[u8]) -> usize {
        match Pin::new(self).poll_write(&mut nobody(), words) {
            Poll::Ready(taken) => taken.expect("it is open"),
            Poll::Pending => 0,
        }
    }

    pub fn try_says(&mut self, words: &[u8]) -> bool {
        match Pin::new(self).poll_write(&mut nobody(), words) {
            Poll::Ready(taken) => taken.is_ok(),
            Poll::Pending => panic!("it would block"),
        }
    }

    pub fn says(&mut self, mut words: &[u8]) {
        while !words.is_empty() {
            let taken = self.offers(words);
            assert!(taken > 0, "it would block");
            words = &words[taken..];
        }
    }

    pub fn refuses_more(&mut self) -> bool {
        let polled = Pin::new(self).poll_write(&mut nobody(), b"x");
        !matches!(polled, Poll::Ready(Ok(_)))
    }

    pub fn flushes(&mut self) {
        assert!(Pin::new(self).poll_flush(&mut nobody()).is_ready());
    }

    pub fn closes(&mut self) {
        assert!(Pin::new(self).poll_shutdown(&mut nobody()).is_ready());
    }
}

fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The other side.
pub struct Peer(pub Connection);

impl Peer {
    pub fn pair(variant: Variant) -> (Self, RecordStream<Memory>) {
        Self::pair_after(variant, |_, _| {})
    }

    /// `first`: what happens before the conversion.
    pub fn pair_after(
        variant: Variant,
        first: impl FnOnce(&mut Self, &mut Connection),
    ) -> (Self, RecordStream<Memory>) {
        let traffic = Arc::new(TrafficSecrets::default());
        let (client, server) = configs(variant.suite);
        let (mut client, mut server) = (client, server);
        match variant.role {
            Role::Client => {
                client.key_log = traffic.clone();
                client.enable_secret_extraction = true;
            }
            Role::Server => {
                server.key_log = traffic.clone();
                server.enable_secret_extraction = true;
            }
        }
        let name = ServerName::try_from("chat.test").unwrap();
        let client = ClientConnection::new(Arc::new(client), name)
            .unwrap()
            .into();
        let server = ServerConnection::new(Arc::new(server)).unwrap().into();
        let (peer, mut ours) = match variant.role {
            Role::Client => (server, client),
            Role::Server => (client, server),
        };
        let mut peer = Self(peer);
        while peer.0.is_handshaking() || ours.is_handshaking() || ours.wants_write() {
            peer.takes_from(&mut ours);
            peer.gives_to(&mut ours);
        }
        // Tickets that come behind the handshake.
        peer.gives_to(&mut ours);
        assert_eq!(
            ours.negotiated_cipher_suite().unwrap().suite(),
            variant.suite
        );
        first(&mut peer, &mut ours);
        assert!(is_suited(&ours));
        let converted = convert(ours, &traffic).unwrap();
        let socket = Memory {
            inbound: Vec::new(),
            outbound: Vec::new(),
            takes: usize::MAX,
            has_ended: false,
        };
        (peer, RecordStream::new(socket, converted, Vec::new()))
    }

    /// What the peer has sealed.
    pub fn sealed(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    pub fn gives_to(&mut self, rustls: &mut Connection) {
        feed(rustls, &self.sealed());
    }

    pub fn takes_from(&mut self, rustls: &mut Connection) {
        let mut sealed = Vec::new();
        while rustls.wants_write() {
            rustls.write_tls(&mut sealed).unwrap();
        }
        feed(&mut self.0, &sealed);
    }

    pub fn write(&mut self, words: &[u8]) {
        self.0.writer().write_all(words).unwrap();
    }

    pub fn says(&mut self, ours: &mut RecordStream<Memory>, words: &[u8]) {
        self.write(words);
        let sealed = self.sealed();
        ours.socket_mut().inbound.extend(sealed);
    }

    pub fn refresh(&mut self) {
        self.0.refresh_traffic_keys().unwrap();
    }

    pub fn updates_key(&mut self, ours: &mut RecordStream<Memory>) {
        self.refresh();
        let sealed = self.sealed();
        ours.socket_mut().inbound.extend(sealed);
    }

    pub fn updates_key_of(&mut self, rustls: &mut Connection) {
        self.refresh();
        self.gives_to(rustls);
    }

    pub fn closes(&mut self, ours: &mut RecordStream<Memory>) {
        self.0.send_close_notify();
        let sealed = self.sealed();
        ours.socket_mut().inbound.extend(sealed);
    }

    /// Everything that we have sent.
    pub fn hears(&mut self, ours: &mut RecordStream<Memory>) -> Vec<u8> {
        let mut heard = Vec::new();
        let sealed = std::mem::take(&mut ours.socket_mut().outbound);
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            self.0.read_tls(&mut rest).unwrap();
            let state = self.0.process_new_packets().expect("sound records");
            let mut part = vec![0; state.plaintext_bytes_to_read()];
            self.0.reader().read_exact(&mut part).unwrap();
            heard.extend(part);
        }
        heard
    }

    /// What rustls says of what we have sent.
    pub fn error(&mut self, ours: &mut RecordStream<Memory>) -> rustls::Error {
        let sealed = std::mem::take(&mut ours.socket_mut().outbound);
        self.0.read_tls(&mut &sealed[..]).unwrap();
        self.0.process_new_packets().expect_err("an error")
    }

    pub fn has_heard_close(&mut self, ours: &mut RecordStream<Memory>) -> bool {
        let sealed = std::mem::take(&mut ours.socket_mut().outbound);
        self.0.read_tls(&mut &sealed[..]).unwrap();
        let state = self.0.process_new_packets().expect("sound records");
        state.peer_has_closed()
    }
}

fn feed(connection: &mut Connection, mut sealed: &[u8]) {
    while !sealed.is_empty() {
        connection.read_tls(&mut sealed).unwrap();
        connection.process_new_packets().unwrap();
    }
}

fn configs(suite: CipherSuite) -> (ClientConfig, ServerConfig) {
    static ISSUED: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["chat.test".to_owned()]).unwrap());
    let mut provider = CryptoProvider::clone(&PROVIDER);
    provider.cipher_suites.retain(|one| one.suite() == suite);
    let provider = Arc::new(provider);
    let version = provider.cipher_suites[0].version();
    let mut roots = RootCertStore::empty();
    let certificate = ISSUED.cert.der().clone();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(ISSUED.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (client, server)
}
