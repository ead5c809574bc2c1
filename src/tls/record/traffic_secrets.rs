//! The traffic secrets of one TLS 1.3 connection, as rustls tells them during its handshake. From
//! them all later keys follow (RFC 8446 section 7.2), which rustls does not give away.

use parking_lot::Mutex;
use rustls::KeyLog;
use zeroize::Zeroizing;

use super::suite::Role;

/// The names of the two secrets that count, among those of NSS's key log.
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// Each secret in a buffer that is overwritten when it is dropped. Both are empty in TLS 1.2.
#[derive(Default)]
pub struct TrafficSecrets(Mutex<Both>);

#[derive(Default)]
struct Both {
    client: Zeroizing<Vec<u8>>,
    server: Zeroizing<Vec<u8>>,
}

impl TrafficSecrets {
    /// Calls `use_them` with the secret of what this role sends, and of what it receives.
    pub fn with<T>(&self, role: Role, use_them: impl FnOnce(&[u8], &[u8]) -> T) -> T {
        let both = self.0.lock();
        match role {
            Role::Client => use_them(&both.client, &both.server),
            Role::Server => use_them(&both.server, &both.client),
        }
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let mut both = self.0.lock();
        match label {
            CLIENT => both.client = Zeroizing::new(secret.to_vec()),
            SERVER => both.server = Zeroizing::new(secret.to_vec()),
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

impl std::fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrafficSecrets(..)")
    }
}
