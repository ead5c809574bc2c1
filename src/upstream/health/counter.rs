//! When a server counts as down or up again. Pure: no clock, no sockets.

/// What the checks have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(usize)]
pub enum Health {
    /// No result yet. The configuration decides whether such a server gets traffic.
    #[default]
    Unchecked = 0,
    Up = 1,
    Down = 2,
}

impl Health {
    /// The inverse of `as usize`.
    pub fn from_code(code: usize) -> Self {
        match code {
            1 => Self::Up,
            2 => Self::Down,
            _ => Self::Unchecked,
        }
    }
}

/// A change that is logged for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The first check has passed.
    Up,
    /// Up again after being down.
    Recovered,
    Down,
}

/// Counts results in a row: `fall` failures take a server out, `rise` successes bring it back. The
/// very first result decides alone.
#[derive(Debug, Default)]
pub struct Counter {
    health: Health,
    /// How many results in a row contradict `health`.
    against: u32,
}

impl Counter {
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes over what another process found in many checks, if there is no result of our own yet.
    /// A failure of the next check then counts as one of `fall`.
    pub fn inherit(&mut self, was_up: bool, fall: u32) {
        match (self.health, was_up) {
            (Health::Unchecked, true) => self.health = Health::Up,
            (Health::Unchecked, false) => self.health = Health::Down,
            (Health::Down, true) if fall > 1 => {
                self.health = Health::Up;
                self.against = 1;
            }
            _ => {}
        }
    }

    pub fn observe(&mut self, passed: bool, rise: u32, fall: u32) -> Option<Transition> {
        let (needed, next, transition) = match (self.health, passed) {
            (Health::Up, true) | (Health::Down, false) => {
                self.against = 0;
                return None;
            }
            (Health::Unchecked, true) => (1, Health::Up, Transition::Up),
            (Health::Unchecked, false) => (1, Health::Down, Transition::Down),
            (Health::Up, false) => (fall, Health::Down, Transition::Down),
            (Health::Down, true) => (rise, Health::Up, Transition::Recovered),
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.health = next;
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(
            Counter::default().observe(false, 2, 3),
            Some(Transition::Down)
        );
        assert_eq!(Counter::default().observe(true, 2, 3), Some(Transition::Up));
    }

    #[test]
    fn fall_failures_in_a_row_take_a_server_out() {
        let mut counter = Counter::default();
        counter.observe(true, 2, 3);
        let seen: Vec<_> = [false, false, true, false, false, false]
            .map(|passed| counter.observe(passed, 2, 3))
            .into();
        assert_eq!(seen, [None, None, None, None, None, Some(Transition::Down)]);
    }

    #[test]
    fn what_is_inherited_stands_until_fall_failures_in_a_row() {
        let mut unchecked = Counter::default();
        unchecked.inherit(false, 3);
        assert_eq!(unchecked.health(), Health::Down);
        let mut failed_once = Counter::default();
        failed_once.observe(false, 2, 3);
        failed_once.inherit(true, 3);
        assert_eq!(failed_once.health(), Health::Up);
        assert_eq!(failed_once.observe(false, 2, 3), None);
        assert_eq!(failed_once.observe(false, 2, 3), Some(Transition::Down));
        // Here one failure is enough, and a success is no less.
        let mut strict = Counter::default();
        strict.observe(false, 2, 1);
        strict.inherit(true, 1);
        assert_eq!(strict.health(), Health::Down);
        let mut passed = Counter::default();
        passed.observe(true, 2, 3);
        passed.inherit(false, 3);
        assert_eq!(passed.health(), Health::Up);
    }

    #[test]
    fn rise_successes_in_a_row_bring_it_back() {
        let mut counter = Counter::default();
        counter.observe(false, 2, 3);
        let seen: Vec<_> = [true, false, true, true]
            .map(|passed| counter.observe(passed, 2, 3))
            .into();
        assert_eq!(seen, [None, None, None, Some(Transition::Recovered)]);
    }
}
