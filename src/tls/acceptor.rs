//! TLS on a listener: which certificate a client gets, and what the client must show.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::record::TrafficSecrets;
use super::tickets::{self, TicketSecret, TrustId};
use super::whole_records::WholeRecords;
use super::{Authorities, HTTP_1_1, HTTP_2, PROVIDER, Pair, TlsStream, subject};
use crate::net::Socket;

/// The TLS settings of a listener, complete and checked. Equal ones have the same certificates
/// and the same keys for tickets.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    pairs: Vec<Pair>,
    client_ca: Option<Authorities>,
    ticket_keys: Vec<TicketSecret>,
    http2: bool,
}

impl Acceptor {
    /// The first of the pairs, of which at least one is needed, is for clients that name none of
    /// the others. With `client_ca`, a client must have a certificate issued by one of them.
    /// Without `ticket_keys` the keys of tickets are the process's own.
    pub fn new(
        pairs: Vec<Pair>,
        client_ca: Option<Authorities>,
        ticket_keys: Vec<TicketSecret>,
        http2: bool,
    ) -> Result<Self, Error> {
        let builder = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &client_ca {
            Some(authorities) => {
                let store = authorities.store();
                let verifier = WebPkiClientVerifier::builder_with_provider(store, PROVIDER.clone())
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&pairs)));
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        if http2 {
            config.alpn_protocols.insert(0, HTTP_2.to_vec());
        }
        config.ticketer = tickets::sealer(&ticket_keys, client_ca.as_ref());
        config.enable_secret_extraction = true;
        // Sessions that are remembered by id would be lost at each reload.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            config: Arc::new(config),
            pairs,
            client_ca,
            ticket_keys,
            http2,
        })
    }

    /// Does the handshake. The caller limits its time. Failures are common: port scanners, health
    /// checks, old clients.
    pub async fn accept(&self, socket: Socket) -> io::Result<TlsStream> {
        let traffic = Arc::new(TrafficSecrets::default());
        let mut config = ServerConfig::clone(&self.config);
        config.key_log = traffic.clone();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let stream = acceptor.accept(WholeRecords::new(socket)).await?;
        let (_, session) = stream.get_ref();
        let client = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| Arc::new(subject::of(certificate)));
        Ok(TlsStream::of_client(stream.into(), traffic, client))
    }

    /// Whether it demands client certificates, and from other authorities than `before`.
    pub fn asks_other_certificates_than(&self, before: &Self) -> bool {
        self.client_ca.is_some() && self.client_ca != before.client_ca
    }

    /// Names the authorities of which a client must have a certificate, the same in each process.
    /// `None`: it needs none.
    pub fn authorities(&self) -> Option<String> {
        let authorities = self.client_ca.as_ref()?;
        Some(TrustId::of(Some(authorities)).to_string())
    }

    /// Whether a client that has shown a certificate of [these authorities](Self::authorities) in
    /// another process has shown enough.
    pub fn asks_no_more_than(&self, shown: Option<&str>) -> bool {
        let asked = self.authorities();
        asked.is_none() || asked.as_deref() == shown
    }

    /// The first name of each certificate, and when the certificate expires.
    pub fn expiries(&self) -> impl Iterator<Item = (String, SystemTime)> {
        self.pairs.iter().map(Pair::expiry)
    }

    /// What an operator should know about the certificates.
    pub fn warnings(&self, now: SystemTime) -> impl Iterator<Item = String> {
        self.pairs.iter().filter_map(move |pair| pair.warning(now))
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        self.pairs == other.pairs
            && self.client_ca == other.client_ca
            && self.ticket_keys == other.ticket_keys
            && self.http2 == other.http2
    }
}

impl Eq for Acceptor {}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Acceptor").field(&self.pairs).finish()
    }
}

/// Chooses by the name that a client asks for (SNI): an exact name before a wildcard, then the
/// default. Several certificates for one name differ in the kind of key: the client gets the first
/// that it can verify.
#[derive(Debug)]
struct ByName {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// The first certificate, and those with other kinds of key for the same names.
    default: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn new(pairs: &[Pair]) -> Self {
        let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
        for pair in pairs {
            for name in &pair.names {
                let keys = by_name.entry(name.clone()).or_default();
                keys.push(pair.key.clone());
            }
        }
        let first = pairs.first();
        let is_like_first = |pair: &&Pair| {
            first.is_some_and(|first| {
                first.key.cert == pair.key.cert
                    || first.names.iter().any(|name| pair.names.contains(name))
            })
        };
        let default = pairs.iter().filter(is_like_first);
        Self {
            default: default.map(|pair| pair.key.clone()).collect(),
            by_name,
        }
    }

    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let found = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let exact = self.by_name.get(&name);
            exact.or_else(|| {
                // A wildcard stands for exactly one label (RFC 9525 section 6.3).
                let (_, rest) = name.split_once('.')?;
                self.by_name.get(&format!("*.{rest}"))
            })
        });
        found.unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.find(hello.server_name());
        let schemes = hello.signature_schemes();
        let usable = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        // If the client knows none of these kinds, rustls tells the client so.
        keys.iter().find(usable).or(keys.first()).cloned()
    }
}
