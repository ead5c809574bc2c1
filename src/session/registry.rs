//! The sessions that live now, so that all of them can be told to end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::traffic::Traffic;

#[derive(Debug, Default)]
pub struct Registry {
    live: Mutex<HashMap<u64, Arc<Traffic>>>,
    next: AtomicU64,
}

/// One live session; it leaves the registry when this is dropped.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    number: u64,
}

impl Registry {
    pub fn register(self: &Arc<Self>, traffic: Arc<Traffic>) -> Registered {
        let number = self.next.fetch_add(1, Relaxed);
        self.live().insert(number, traffic);
        Registered {
            registry: self.clone(),
            number,
        }
    }

    pub fn len(&self) -> usize {
        self.live().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks every session to say goodbye with this close code.
    pub fn end_all(&self, code: u16) {
        for traffic in self.live().values() {
            traffic.ask_to_end(code);
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<Traffic>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.live().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_there_until_its_guard_goes_and_can_be_asked_to_end() {
        let registry = Arc::new(Registry::default());
        let traffic = Arc::new(Traffic::default());
        let guard = registry.register(traffic.clone());
        assert_eq!(registry.len(), 1);
        registry.end_all(1012);
        assert_eq!(traffic.asked_to_end(), Some(1012));
        drop(guard);
        assert!(registry.is_empty());
    }
}
