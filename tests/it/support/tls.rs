//! Certificates made for a test, clients and servers that use them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Client, Config, Origin, Prusik, Session, Wire, within};

/// Issues certificates, as files in a folder of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    folder: TempDir,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        // Two of one name would pass for each other until the signature is checked.
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("Test authority {}", NUMBER.fetch_add(1, SeqCst));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("the file is written");
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            folder,
        }
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// For servers of these names, in `FILE.pem` and `FILE.key`. Writes over what is there.
    pub fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_with(file, names, |_| {})
    }

    pub fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let key = KeyPair::generate().expect("a key");
        self.issue_for(key, file, names, change)
    }

    /// With a key of another kind than usual.
    pub fn issue_ed25519(&self, file: &str, names: &[&str]) -> Pair {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        self.issue_for(key, file, names, |_| {})
    }

    fn issue_for(
        &self,
        key: KeyPair,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names that can be certified");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair {
            cert: self.folder.path().join(format!("{file}.pem")),
            key: self.folder.path().join(format!("{file}.key")),
        };
        fs::write(&pair.cert, certificate.pem()).expect("the file is written");
        fs::write(&pair.key, key.serialize_pem()).expect("the file is written");
        pair
    }

    /// A client that trusts it.
    pub fn client(&self) -> TlsClient {
        TlsClient {
            roots: Arc::new(self.roots()),
            identity: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            provider: provider(),
        }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("sound");
        roots
    }

    /// For an [`super::Origin`] with this certificate; `asks`: its clients need one of ours too.
    pub fn server(&self, pair: &Pair, asks: bool) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has them");
        let builder = match asks {
            true => {
                let roots = Arc::new(self.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .expect("sound");
                builder.with_client_cert_verifier(verifier)
            }
            false => builder.with_no_client_auth(),
        };
        let config = builder
            .with_single_cert(pair.chain(), pair.private_key())
            .expect("a matching pair");
        Arc::new(config)
    }
}

impl Pair {
    /// An entry of `certificates`.
    pub fn yaml(&self) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        format!("{{ cert: \"{cert}\", key: \"{key}\" }}")
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(&self.cert)
            .expect("the file is there")
            .map(|certificate| certificate.expect("PEM"))
            .collect()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).expect("the file is there")
    }

    /// In place of another, which keeps its paths.
    pub fn put_at(&self, other: &Pair) {
        put(&self.cert, &other.cert);
        put(&self.key, &other.key);
    }
}

fn put(from: &Path, to: &Path) {
    fs::copy(from, to).expect("the file is written");
}

#[derive(Debug, Clone)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
    identity: Option<Pair>,
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: Arc<CryptoProvider>,
}

impl TlsClient {
    /// Signatures by servers; those in certificates are verified as ever.
    pub fn knowing_only(mut self, scheme: SignatureScheme) -> Self {
        let mut provider = (*self.provider).clone();
        let known = &mut provider.signature_verification_algorithms;
        let only = known.mapping.iter().filter(|(known, _)| *known == scheme);
        known.mapping = only.copied().collect::<Vec<_>>().leak();
        self.provider = Arc::new(provider);
        self
    }

    /// Shows this certificate to who asks.
    pub fn with(mut self, pair: &Pair) -> Self {
        self.identity = Some(pair.clone());
        self
    }

    /// Speaks only this version.
    pub fn only(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&self.versions)
            .expect("the provider has them")
            .with_root_certificates(self.roots.clone());
        Arc::new(match &self.identity {
            Some(pair) => builder
                .with_client_auth_cert(pair.chain(), pair.private_key())
                .expect("a matching pair"),
            None => builder.with_no_client_auth(),
        })
    }

    pub async fn try_connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        connect(&self.config(), address, name).await
    }

    /// Over a connection that is there.
    pub async fn over(&self, socket: TcpStream, name: &str) -> TlsStream<TcpStream> {
        let stream = shake_hands(&self.config(), socket, name).await;
        stream.unwrap_or_else(|error| panic!("TLS with {name}: {error}"))
    }

    /// A whole handshake; panics when the server is not what its name says.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> Client {
        let stream = self.try_connect(address, name).await;
        Client {
            wire: Wire::new(stream.unwrap_or_else(|error| panic!("TLS with {name}: {error}"))),
        }
    }

    /// The certificate that is served under this name, and nothing else of the connection.
    pub async fn certificate(&self, address: SocketAddr, name: &str) -> CertificateDer<'static> {
        let stream = self.try_connect(address, name).await.expect("a handshake");
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().expect("servers have one");
        chain[0].clone().into_owned()
    }
}

/// Keeps what the configuration remembers: sessions to resume.
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    shake_hands(config, socket, name).await
}

async fn shake_hands(
    config: &Arc<ClientConfig>,
    socket: TcpStream,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = TlsConnector::from(config.clone());
    within("a TLS handshake", connector.connect(name, socket)).await
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The listener's key, with these.
pub fn certificates(pairs: &[&Pair]) -> String {
    let entries: Vec<String> = pairs.iter().map(|pair| pair.yaml()).collect();
    format!("certificates: [{}]", entries.join(", "))
}

/// A chat server behind a listener with a certificate for `chat.test`.
pub struct SecureChat {
    pub authority: Authority,
    pub pair: Pair,
    origin: Origin,
}

impl SecureChat {
    pub async fn start() -> (Self, Prusik) {
        Self::start_with(|config| config).await
    }

    pub async fn start_with(change: impl FnOnce(Config) -> Config) -> (Self, Prusik) {
        let authority = Authority::new();
        let pair = authority.issue("chat", &["chat.test"]);
        let origin = Origin::chat().await;
        let chat = Self {
            authority,
            pair,
            origin,
        };
        let prusik = Prusik::start(change(chat.config())).await;
        (chat, prusik)
    }

    pub fn config(&self) -> Config {
        Config::to(&[&self.origin]).tls(certificates(&[&self.pair]))
    }

    pub async fn session(&self, prusik: &Prusik) -> Session {
        let client = self.authority.client();
        let stream = client.try_connect(prusik.public(), "chat.test").await;
        Session::over(stream.expect("a handshake"), "/")
            .await
            .expect("a session")
    }
}
