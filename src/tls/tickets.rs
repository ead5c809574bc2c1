//! Session tickets, which are sealed with keys from the listener's `ticket_keys`, or with those
//! that the process makes itself. Both outlast a reload; the process's own can go to another
//! process by [`export`] and [`import`].
//!
//! rustls resumes a session of mTLS without checking the client's certificate again. So the keys of
//! a listener depend on the authorities that it trusts for clients, wherever they come from: a
//! ticket from a listener without client certificates is useless on one with them, and tickets of
//! a removed authority become invalid.

mod key;
mod rotation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::{Authorities, FileError, files};
use key::{LIFETIME, TicketKey};
use rotation::Rotation;

pub use key::TrustId;

/// As many as nginx asks for, and more than any key that is derived from them needs.
const SECRET_MIN: usize = 48;

/// The keys that this process makes itself.
static OWN: Rotation = Rotation::new();

/// The content of a file of `ticket_keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(Arc<Zeroizing<Vec<u8>>>);

impl TicketSecret {
    /// Every byte counts, also a line's end at the end: the files of all nodes must be the same.
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let content = Zeroizing::new(files::read(file)?);
        if content.len() < SECRET_MIN {
            return Err(FileError::ShortSecret {
                file: file.to_owned(),
                length: content.len(),
                least: SECRET_MIN,
            });
        }
        Ok(Self(Arc::new(content)))
    }
}

/// Hides the secret, because `Debug` output goes to logs.
impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// The secrets of the process's own keys, for the process that takes over. They are secret: they
/// open every ticket that this process has sealed.
pub fn export() -> Zeroizing<Vec<u8>> {
    OWN.export(UnixTime::now())
}

/// Goes on with the keys of the process that this one takes over from. What does not come from an
/// [`export`] is ignored: the clients of then need a full handshake, nothing else.
pub fn import(bytes: &[u8]) {
    if let Err(error) = OWN.import(UnixTime::now(), bytes) {
        log::debug!("the ticket keys of the old process are not taken: {error}");
    }
}

/// For a listener that trusts these authorities for clients. Without `secrets`: keys of the
/// process's own.
pub(super) fn sealer(
    secrets: &[TicketSecret],
    client_ca: Option<&Authorities>,
) -> Arc<dyn ProducesTickets> {
    let trust = TrustId::of(client_ca);
    match secrets {
        [] => Arc::new(AtPresent(OwnKeys {
            rotation: &OWN,
            trust,
        })),
        secrets => Arc::new(AtPresent(FileKeys::new(secrets, trust))),
    }
}

/// Keys, and a time that the tests hand in.
trait SealsTickets: fmt::Debug + Send + Sync {
    fn seal(&self, now: UnixTime, session: &[u8]) -> Option<Vec<u8>>;
    fn open(&self, now: UnixTime, ticket: &[u8]) -> Option<Vec<u8>>;
}

/// The same with the present time, as rustls asks for it.
struct AtPresent<K>(K);

impl<K: fmt::Debug> fmt::Debug for AtPresent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: SealsTickets> ProducesTickets for AtPresent<K> {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        lifetime()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.0.seal(UnixTime::now(), session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.open(UnixTime::now(), ticket)
    }
}

/// Derived from files. The first one seals.
#[derive(Debug)]
struct FileKeys(Vec<TicketKey>);

impl FileKeys {
    fn new(secrets: &[TicketSecret], trust: TrustId) -> Self {
        let derive = |secret: &TicketSecret| TicketKey::derive(&secret.0, trust);
        Self(secrets.iter().map(derive).collect())
    }
}

impl SealsTickets for FileKeys {
    fn seal(&self, now: UnixTime, session: &[u8]) -> Option<Vec<u8>> {
        self.0.first()?.seal(now, session)
    }

    fn open(&self, now: UnixTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let named = self.0.iter().find(|key| key.is_named_by(ticket))?;
        named.open(now, ticket)
    }
}

/// Made by a process, and changed every few hours.
struct OwnKeys<'a> {
    rotation: &'a Rotation,
    trust: TrustId,
}

impl SealsTickets for OwnKeys<'_> {
    fn seal(&self, now: UnixTime, session: &[u8]) -> Option<Vec<u8>> {
        self.rotation
            .sealing_key(now, self.trust)?
            .seal(now, session)
    }

    fn open(&self, now: UnixTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let key = self.rotation.opening_key(now, self.trust, ticket)?;
        key.open(now, ticket)
    }
}

impl fmt::Debug for OwnKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKeys(…)")
    }
}

/// In seconds, as clients are told.
fn lifetime() -> u32 {
    u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
}
