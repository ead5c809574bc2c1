//! TLS to the servers of an upstream: which name they must prove, and which authorities count.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::record::TrafficSecrets;
use super::whole_records::WholeRecords;
use super::{Authorities, HTTP_1_1, PROVIDER, Pair, TlsStream};
use crate::net::Socket;

/// Who is trusted to vouch for a server.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerTrust {
    Authorities(Authorities),
    /// Every server is accepted (`verify: false`).
    Anyone,
}

/// The TLS settings of an upstream, complete and checked.
pub struct Connector {
    number: u64,
    config: Arc<ClientConfig>,
    /// The name of the servers. `None`: each by its address.
    name: Option<ServerName<'static>>,
    trust: ServerTrust,
    pair: Option<Pair>,
    keys: &'static Keys,
}

/// The keys of the file by which an operator changes what a server must prove.
#[derive(Debug)]
pub(super) struct Keys {
    authorities: &'static str,
    name: &'static str,
}

/// Of an upstream.
pub(super) const OF_UPSTREAM: Keys = Keys {
    authorities: "tls.ca",
    name: "tls.sni",
};

/// Of what has a URL.
const OF_URL: Keys = Keys {
    authorities: "ca",
    name: "url",
};

impl Connector {
    pub fn new(
        name: Option<ServerName<'static>>,
        trust: ServerTrust,
        pair: Option<Pair>,
    ) -> Result<Self, Error> {
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match &trust {
            ServerTrust::Authorities(authorities) => {
                builder.with_root_certificates(authorities.store())
            }
            ServerTrust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone)),
        };
        let mut config = match &pair {
            Some(pair) => {
                let always = SingleCertAndKey::from(pair.key.clone());
                builder.with_client_cert_resolver(Arc::new(always))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.enable_secret_extraction = true;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: NEXT.fetch_add(1, Relaxed),
            config: Arc::new(config),
            name,
            trust,
            pair,
            keys: &OF_UPSTREAM,
        })
    }

    /// The same for a server that the file names by a URL.
    #[must_use]
    pub fn of_url(self) -> Self {
        Self {
            keys: &OF_URL,
            ..self
        }
    }

    /// Unique in this process: connections of two connectors are not exchangeable, even if their
    /// files are equal.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Does the handshake with the server at this address.
    pub async fn connect(&self, address: SocketAddr, socket: Socket) -> io::Result<TlsStream> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::IpAddress(address.ip().to_canonical().into()),
        };
        let traffic = Arc::new(TrafficSecrets::default());
        let mut config = ClientConfig::clone(&self.config);
        config.key_log = traffic.clone();
        let connector = TlsConnector::from(Arc::new(config));
        match connector.connect(name, WholeRecords::new(socket)).await {
            Ok(stream) => Ok(TlsStream::to_server(stream.into(), traffic)),
            Err(error) => Err(with_remedy(error, self.keys)),
        }
    }

    /// What an operator should know about the client certificate.
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        self.pair.as_ref()?.warning(now)
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.trust == other.trust && self.pair == other.pair
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector").field(&self.name).finish()
    }
}

const NO_TLS: &str = "does it speak TLS on this port?";

/// Adds what to do about the error, for the log line of a 502 or of a server that is down.
pub(super) fn with_remedy(error: io::Error, keys: &Keys) -> io::Error {
    let Keys { authorities, name } = keys;
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let remedy = match cause {
        Some(Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("name its authority's certificate in {authorities}")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("write a name that it is for in {name}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "renew the server's certificate".to_owned()
            }
            _ => "give the server a certificate that can be verified".to_owned(),
        },
        Some(Error::InvalidMessage(_)) => NO_TLS.to_owned(),
        Some(Error::AlertReceived(_)) => {
            format!("the server refused: it may want a client certificate, or another {name}")
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => NO_TLS.to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {remedy}"))
}

/// Encrypts without knowing the peer: signatures are checked, but not the name or the issuer.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}
