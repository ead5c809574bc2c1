//! The two directions of a session.

use super::traffic::ClosedBy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];

    /// The side that sends the bytes of this direction.
    pub fn sender(self) -> ClosedBy {
        match self {
            Self::ToServer => ClosedBy::Client,
            Self::ToClient => ClosedBy::Server,
        }
    }

    pub fn opposite(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}
