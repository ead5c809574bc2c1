//! Session tickets. Their keys live as long as the process and change every few hours, so that
//! tickets stay valid after a reload.
//!
//! rustls resumes a session of mTLS without checking the client's certificate again. So listeners
//! share keys only if they trust the same authorities: a ticket from a listener without client
//! certificates is useless on one with them, and tickets of a removed authority become invalid.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::Error;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

use super::Authorities;

type Known = (Option<Authorities>, Arc<dyn ProducesTickets>);

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// The keys of listeners that trust these authorities for clients.
pub fn for_clients_of(
    authorities: Option<&Authorities>,
) -> Result<Arc<dyn ProducesTickets>, Error> {
    let mut known = KNOWN.lock();
    let same = known
        .iter()
        .find(|(others, _)| others.as_ref() == authorities);
    if let Some((_, tickets)) = same {
        return Ok(tickets.clone());
    }
    let tickets = Ticketer::new()?;
    known.push((authorities.cloned(), tickets.clone()));
    Ok(tickets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_trusts_the_same_authorities_has_the_same_keys() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/subject.pem");
        let read = || Authorities::read(file.as_ref()).unwrap();
        let ticket = for_clients_of(Some(&read())).unwrap();
        let sealed = ticket.encrypt(b"session").unwrap();
        let same = for_clients_of(Some(&read())).unwrap();
        assert_eq!(same.decrypt(&sealed).as_deref(), Some(&b"session"[..]));
        let nobodys = for_clients_of(None).unwrap();
        assert_eq!(nobodys.decrypt(&sealed), None);
    }
}
