//! What all exchanges share: the present configuration, the log, the sessions.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::generation::Generation;
use crate::observe::access_log::AccessLog;
use crate::phase::PhaseWatch;
use crate::session::MoveWatch;
use crate::session::drain::Drains;
use crate::session::registry::Registry;

/// Pingora's phases are in [`super::gateway`].
pub struct Gateway {
    pub(super) current: Arc<ArcSwap<Generation>>,
    pub(super) log: Arc<AccessLog>,
    pub(super) sessions: Arc<Registry>,
    pub(super) drains: Arc<Drains>,
    pub(super) phase: PhaseWatch,
    pub(super) moves: MoveWatch,
}

impl Gateway {
    pub fn new(
        current: Arc<ArcSwap<Generation>>,
        log: Arc<AccessLog>,
        sessions: Arc<Registry>,
        drains: Arc<Drains>,
        (phase, moves): (PhaseWatch, MoveWatch),
    ) -> Self {
        Self {
            current,
            log,
            sessions,
            drains,
            phase,
            moves,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.phase.now().is_draining()
    }
}
