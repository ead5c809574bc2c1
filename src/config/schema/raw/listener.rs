//! `listeners`: where clients connect.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AcceptProxy, Limits};
use crate::config::schema::units::{OffOr, Section, switch, switch_schema, word, word_schema};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `0.0.0.0:9090`, `[::]:9090` or `unix:/run/prusik/web.sock`. Port 0: any free one.
    #[schemars(required)]
    #[schemars(extend("examples" = ["0.0.0.0:9090"]))]
    pub listen: Option<String>,
    /// Name for logs and for `match.listener`. Default: the address.
    #[schemars(extend("examples" = ["public"]))]
    pub name: Option<String>,
    /// Whether each connection begins with a PROXY header that says who the client is. An upgrade
    /// takes in a change.
    #[serde(default, deserialize_with = "word")]
    #[schemars(schema_with = "word_schema::<AcceptProxy>", extend("default" = "off"))]
    pub proxy_protocol: Option<AcceptProxy>,
    /// TLS with clients. Default: plain text.
    pub tls: Option<OffOr<ListenerTls>>,
    /// What clients may take.
    pub limits: Option<Section<Limits>>,
}

/// Files are read again at each reload; certificates and private keys are PEM.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Chosen by the name that a client asks for (SNI); the first is for all other names.
    #[schemars(required, length(min = 1))]
    pub certificates: Option<Vec<Section<CertificatePair>>>,
    /// Authorities for clients: one without a certificate by any of them is refused. Default: no
    /// certificate is asked for.
    #[schemars(extend("examples" = ["/etc/prusik/tls/clients.pem"]))]
    pub client_ca: Option<String>,
    /// Files of at least 48 random bytes each, for session tickets: the first seals new ones, each
    /// opens its own. With the same files on all nodes a client resumes its TLS session on any of
    /// them. Default: keys that the process makes itself, and changes every six hours.
    #[schemars(length(min = 1))]
    #[schemars(extend("examples" = [["/etc/prusik/tls/tickets/new.key", "/etc/prusik/tls/tickets/old.key"]]))]
    pub ticket_keys: Option<Vec<String>>,
    /// HTTP/2 with clients that offer it, WebSocket over it (RFC 8441) included.
    #[serde(default, deserialize_with = "switch")]
    #[schemars(schema_with = "switch_schema", extend("default" = false, "examples" = [true]))]
    pub http2: Option<bool>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// File with the certificate, and behind it those that lead to its authority.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/etc/prusik/tls/chat.example.com.pem"]))]
    pub cert: Option<String>,
    /// File with its private key, not encrypted.
    #[schemars(required)]
    #[schemars(extend("examples" = ["/etc/prusik/tls/chat.example.com.key"]))]
    pub key: Option<String>,
}
