//! The permits of a connection that carries several requests at a time.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::{Bounds, Full, Limiter, Permit};

/// Counts as many permits as there are requests, and one if there is none: the connection's own
/// permit serves the first request, and stays after the last one.
#[derive(Debug)]
pub struct SharedPermit {
    limiter: Arc<Limiter>,
    state: Mutex<State>,
    own: Permit,
}

#[derive(Debug, Default)]
struct State {
    /// How many requests are under way.
    carried: usize,
    /// Permits in addition to the connection's own: one less than there are requests.
    more: Vec<Permit>,
}

impl SharedPermit {
    /// `own`: the permit that the connection has taken for itself.
    pub fn new(own: Permit) -> Arc<Self> {
        Arc::new(Self {
            limiter: own.limiter.clone(),
            state: Mutex::default(),
            own,
        })
    }

    /// Takes one more request, or returns the reason against it.
    pub fn carry(self: &Arc<Self>, bounds: &Bounds) -> Result<StreamPermit, Full> {
        let mut state = self.lock();
        if state.carried > 0 {
            let permit = self.limiter.enter(self.own.client, bounds)?;
            self.limiter.note_shared(1);
            state.more.push(permit);
        }
        state.carried += 1;
        Ok(StreamPermit(self.clone()))
    }

    fn end_one(&self) {
        let mut state = self.lock();
        state.carried -= 1;
        if state.more.pop().is_some() {
            self.limiter.note_shared(-1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// One request of such a connection. It is counted until it is dropped.
#[derive(Debug)]
pub struct StreamPermit(Arc<SharedPermit>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.end_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ClientKey;
    use super::*;

    fn bounds(all: usize, per_client: usize) -> Bounds {
        Bounds {
            all: Some(all),
            per_client: Some(per_client),
            ..Bounds::default()
        }
    }

    #[test]
    fn a_connection_counts_as_many_as_it_carries_and_as_one_at_least() {
        let limiter = Arc::new(Limiter::default());
        let client = Some(ClientKey::of([192, 0, 2, 1].into()));
        let bounds = bounds(9, 3);
        let shared = SharedPermit::new(limiter.enter(client, &bounds).unwrap());
        let count = || (limiter.taken(), limiter.connections());
        assert_eq!(count(), (1, 1));
        let first = shared.carry(&bounds).unwrap();
        assert_eq!(count(), (1, 1));
        let second = shared.carry(&bounds).unwrap();
        let third = shared.carry(&bounds).unwrap();
        assert_eq!(count(), (3, 1));
        assert_eq!(shared.carry(&bounds).unwrap_err(), Full::Client);
        assert_eq!(limiter.enter(client, &bounds).unwrap_err(), Full::Client);
        drop(first);
        assert_eq!(count(), (2, 1));
        let fourth = shared.carry(&bounds).unwrap();
        assert_eq!(count(), (3, 1));
        drop((second, third, fourth));
        assert_eq!(count(), (1, 1));
        drop(shared);
        assert_eq!(count(), (0, 0));
        assert_eq!(limiter.counts(), []);
    }

    #[test]
    fn requests_outlive_their_connection_and_leave_nothing() {
        let limiter = Arc::new(Limiter::default());
        let bounds = bounds(2, 2);
        let shared = SharedPermit::new(limiter.enter(None, &bounds).unwrap());
        let requests = [(); 2].map(|()| shared.carry(&bounds).unwrap());
        assert_eq!(shared.carry(&bounds).unwrap_err(), Full::All);
        drop(shared);
        assert_eq!(limiter.taken(), 2);
        drop(requests);
        assert_eq!((limiter.taken(), limiter.connections()), (0, 0));
    }
}
