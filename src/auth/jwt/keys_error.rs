//! Why keys cannot be used, and what to do about it.

/// Why keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("is neither a JWKS nor PEM")]
    Neither,
    #[error("is no JWKS: {0}")]
    NoJwks(String),
    #[error("holds no public key in PEM")]
    NoPem,
    #[error("holds a private key")]
    Private,
    #[error("cannot be used: {0}")]
    Broken(String),
    #[error("has no key that can be used{}", list(.0))]
    NoKey(Vec<String>),
}

fn list(whys: &[String]) -> String {
    match whys {
        [] => String::new(),
        whys => format!(": {}", whys.join("; ")),
    }
}

impl KeysError {
    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Neither | Self::NoJwks(_) => {
                "a JWKS is JSON such as {\"keys\": [{\"kty\": \"RSA\", …}]}"
            }
            Self::NoPem => {
                "a key begins with -----BEGIN PUBLIC KEY-----, as `openssl pkey -pubout` writes it"
            }
            Self::Private => "name the public one: openssl pkey -in KEY -pubout",
            Self::Broken(_) => "write it anew",
            Self::NoKey(_) => {
                "there must be one of RSA (2048 bits and more), EC (P-256, P-384), Ed25519, or oct \
                 (32 bytes and more) in a file"
            }
        }
    }
}
