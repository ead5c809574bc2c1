//! The goodbye of a session that we end: what passes now, which side is told when, and how long
//! anybody is waited for.
//!
//! It is a value: no socket and no clock. Its owner (the relay, or the tunnel) tells it what
//! happens, asks it before each read of a direction what to do with what comes, and sets a timer to
//! the durations that it hands out.
//!
//! The client is told first, and what it answers goes on to the server: so nothing is lost that it
//! had sent before it read our Close frame, and both sides see a closing handshake.
//!
//! ```text
//!   begin ─┬─ a side has sent a Close frame already ──► Theirs: everything passes
//!          └─ no side has ──► Ours: each direction is in a state of its own
//!
//!   to the client
//!
//!     (the client broke the framing)              (all other occasions)
//!        ServerFinishes ────────────────────────────────► Due ──────────────► Told
//!        everything passes,      the server ends or      the frame   at the   nothing passes
//!        up to the server's      breaks the framing,     that is     next
//!        own Close frame         or the time is up       passing     boundary
//!
//!   to the server
//!
//!     (orders, limits, a server given up)         (nobody waits for the client's answer)
//!        AwaitsClient ──────────────────────────────────► Due ──────────────► Told
//!        everything passes,      the client ends,        the frame   at the   nothing passes
//!        up to the client's      or the time is up       that is     next
//!        own Close frame                                 passing     boundary
//!
//!   the time
//!
//!        First ── CLOSE_WAIT is over ──► Last ── LAST_WAIT is over ──► the session is cut
//! ```
//!
//! Three ways lead out of every state: both sides have said and got all ([`Goodbye::is_over`]),
//! both have ended, or the time is up, at the latest after [`CLOSE_WAIT`] and then [`LAST_WAIT`].

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::direction::Direction;
use crate::websocket::frames::FrameScanner;

/// How long the client may take to answer our Close frame.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How long the server may, once it was told because the client did not answer.
pub const LAST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Goodbye {
    words: Words,
    patience: Patience,
}

/// Who says the Close frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Words {
    /// The two were saying goodbye already: they get the time for it, and no word from us.
    Theirs,
    Ours {
        code: u16,
        to_client: ToClient,
        to_server: ToServer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToClient {
    /// The client broke the framing or a limit, and hears what its server says to what came before.
    /// The server has been told (or is about to be), and its answer is the last word to the client.
    ServerFinishes,
    /// It is told at the next boundary of the server's frames.
    Due,
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToServer {
    /// The client's answer is what tells the server.
    AwaitsClient,
    /// It is told at the next boundary of the client's frames.
    Due,
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Patience {
    /// When the time is up, whoever was not told yet is told.
    First,
    /// When the time is up, nothing more can be done.
    Last,
}

/// Why we end the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// By an order, or because of a limit in time.
    Asked,
    /// The direction's sender broke the framing, or sent a message that is too large.
    FramingBroke(Direction),
    /// The direction's receiver takes nothing any more, and was given up.
    GivenUp(Direction),
}

/// What a side of the session has said and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub says: Says,
    /// Its end was read: it sends nothing more.
    pub has_ended: bool,
    pub takes: Takes,
    /// Nothing waits here for it.
    pub has_got_all: bool,
}

/// How far the frames of a side have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Frames,
    /// Its Close frame has begun to pass.
    Closing,
    /// Its Close frame has passed in full.
    Closed,
    /// Frames that nobody can read: nothing more of it counts.
    Broken,
}

/// Whether anything can still go to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    More,
    /// It was told that the other side has ended.
    NoMore,
    /// It has gone, or takes nothing. Whether it says anything more is not waited for.
    Nothing,
}

/// Where the bytes that have passed in a direction have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Between two frames: one of ours may be put in.
    Boundary,
    InFrame,
    /// Behind the last frame that was sound. Nothing can pass here, but a frame of ours may.
    Broken,
}

/// What is to be done next in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Pass(Limit),
    /// A Close frame with this code goes in. It is asked for once, and counts as said.
    Say(u16),
    /// What comes is read and forgotten.
    Discard,
}

/// How much of what comes may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    All,
    /// Not a byte behind the frame that is passing.
    Frame,
}

/// What to do when the time that was handed out is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUp {
    /// Wait for so long again: what is [next](Goodbye::next) has changed.
    Again(Duration),
    /// The session ends at once.
    Cut,
}

impl Says {
    pub fn of(scanner: &FrameScanner) -> Self {
        match scanner.close_code() {
            Some(_) if scanner.is_closed() => Self::Closed,
            Some(_) => Self::Closing,
            None if scanner.is_broken() => Self::Broken,
            None => Self::Frames,
        }
    }
}

impl Side {
    fn has_said_close(&self) -> bool {
        matches!(self.says, Says::Closing | Says::Closed)
    }

    fn has_closed(&self) -> bool {
        self.says == Says::Closed
    }

    /// Whether nothing more that it says is waited for.
    fn is_done(&self) -> bool {
        self.has_ended
            || matches!(self.says, Says::Closed | Says::Broken)
            || self.takes == Takes::Nothing
    }
}

impl Goodbye {
    /// Returns how long to wait before [`Goodbye::time_is_up`].
    pub fn begin(code: u16, occasion: Occasion, client: Side, server: Side) -> (Self, Duration) {
        let (to_client, to_server, patience) = match occasion {
            Occasion::FramingBroke(Direction::ToServer) if server.takes == Takes::More => {
                let to_client = if server.has_ended {
                    ToClient::Due
                } else {
                    ToClient::ServerFinishes
                };
                (to_client, ToServer::Due, Patience::First)
            }
            Occasion::FramingBroke(_) | Occasion::GivenUp(Direction::ToClient) => {
                (ToClient::Due, ToServer::Due, Patience::Last)
            }
            // The client cannot answer any more.
            Occasion::Asked | Occasion::GivenUp(Direction::ToServer) if client.has_ended => {
                (ToClient::Due, ToServer::Due, Patience::Last)
            }
            Occasion::Asked | Occasion::GivenUp(Direction::ToServer) => {
                (ToClient::Due, ToServer::AwaitsClient, Patience::First)
            }
        };
        let words = if client.has_said_close() || server.has_said_close() {
            Words::Theirs
        } else {
            Words::Ours {
                code,
                to_client,
                to_server,
            }
        };
        let wait = match occasion {
            // There is no answer of the client to wait for.
            Occasion::GivenUp(Direction::ToClient) => LAST_WAIT,
            _ => CLOSE_WAIT,
        };
        (Self { words, patience }, wait)
    }

    /// For an owner that can put in a frame to the server at one moment only: the one when the
    /// client is told (see [`Goodbye::tell_server_now`]). When the time is up the session is cut,
    /// as there is no way left to tell the server.
    pub fn begin_with_one_moment(code: u16, client: Side, server: Side) -> (Self, Duration) {
        let (goodbye, wait) = Self::begin(code, Occasion::Asked, client, server);
        let words = match goodbye.words {
            Words::Theirs => Words::Theirs,
            Words::Ours { .. } => Words::Ours {
                code,
                to_client: ToClient::Due,
                to_server: ToServer::AwaitsClient,
            },
        };
        let patience = Patience::Last;
        (Self { words, patience }, wait)
    }

    /// What the direction does next. Not to be asked where nothing can pass anyway: its receiver
    /// takes nothing more, or its sender has said Close (RFC 6455 section 5.5.1).
    pub fn next(&mut self, direction: Direction, position: Position) -> Next {
        let Words::Ours {
            code,
            to_client,
            to_server,
        } = &mut self.words
        else {
            return Next::Pass(Limit::All);
        };
        let all = Next::Pass(Limit::All);
        let frame = Next::Pass(Limit::Frame);
        match direction {
            Direction::ToClient => match (*to_client, position) {
                (ToClient::ServerFinishes, _) => all,
                (ToClient::Due, Position::InFrame) => frame,
                (ToClient::Due, Position::Boundary | Position::Broken) => {
                    *to_client = ToClient::Told;
                    Next::Say(*code)
                }
                (ToClient::Told, _) => Next::Discard,
            },
            Direction::ToServer => match (*to_server, position) {
                (ToServer::AwaitsClient, Position::Broken) => Next::Discard,
                (ToServer::AwaitsClient, Position::Boundary | Position::InFrame) => all,
                (ToServer::Due, Position::InFrame) => frame,
                (ToServer::Due, Position::Boundary | Position::Broken) => {
                    *to_server = ToServer::Told;
                    Next::Say(*code)
                }
                (ToServer::Told, _) => Next::Discard,
            },
        }
    }

    /// The code to tell the server at once instead of waiting for the client's answer, if the
    /// client was told and this is a boundary of what goes to the server. It counts as said, unless
    /// [`Goodbye::server_took_nothing`] follows. `None`: the client's answer tells the server.
    pub fn tell_server_now(&mut self, position: Position) -> Option<u16> {
        match &mut self.words {
            Words::Ours {
                code,
                to_client: ToClient::Told,
                to_server: to_server @ ToServer::AwaitsClient,
            } if position == Position::Boundary => {
                *to_server = ToServer::Told;
                Some(*code)
            }
            _ => None,
        }
    }

    /// [`Goodbye::tell_server_now`] asked for a Close frame, and not a byte of it went.
    pub fn server_took_nothing(&mut self) {
        if let Words::Ours { to_server, .. } = &mut self.words {
            *to_server = ToServer::AwaitsClient;
        }
    }

    /// The direction's sender has ended its side.
    pub fn ended(&mut self, direction: Direction) {
        match (&mut self.words, direction) {
            (Words::Theirs, Direction::ToServer) => self.patience = Patience::Last,
            (Words::Ours { to_server, .. }, Direction::ToServer) => {
                if *to_server == ToServer::AwaitsClient {
                    *to_server = ToServer::Due;
                    self.patience = Patience::Last;
                }
            }
            (Words::Ours { to_client, .. }, Direction::ToClient) => to_client.wait_no_longer(),
            (Words::Theirs, Direction::ToClient) => {}
        }
    }

    /// The direction's sender broke the framing. (That a client which was to answer did is seen by
    /// the [`Position`]: nothing more of it passes, and the server is told when the time is up.)
    pub fn framing_broke(&mut self, direction: Direction) {
        if direction == Direction::ToClient
            && let Words::Ours { to_client, .. } = &mut self.words
            && *to_client == ToClient::ServerFinishes
        {
            *to_client = ToClient::Due;
            self.patience = Patience::Last;
        }
    }

    /// The duration that was handed out last has passed.
    pub fn time_is_up(&mut self) -> TimeUp {
        if self.patience == Patience::Last {
            return TimeUp::Cut;
        }
        self.patience = Patience::Last;
        if let Words::Ours {
            to_client,
            to_server,
            ..
        } = &mut self.words
        {
            to_client.wait_no_longer();
            if *to_server == ToServer::AwaitsClient {
                *to_server = ToServer::Due;
            }
        }
        TimeUp::Again(LAST_WAIT)
    }

    /// Whether the session may end: each side has got its Close frame, ours or the other side's,
    /// and neither has anything more to say.
    pub fn is_over(&self, client: Side, server: Side) -> bool {
        let Words::Ours {
            to_client,
            to_server,
            ..
        } = self.words
        else {
            return have_parted(client, server);
        };
        let client_knows =
            to_client == ToClient::Told || client.takes != Takes::More || server.has_closed();
        let server_knows =
            to_server == ToServer::Told || server.takes != Takes::More || client.has_closed();
        let have_said_all = client_knows && server_knows && client.is_done() && server.is_done();
        have_parted(client, server) || have_said_all && client.has_got_all && server.has_got_all
    }
}

/// Whether the two have ended the session by themselves.
pub fn have_parted(client: Side, server: Side) -> bool {
    let have_got_all = client.has_got_all && server.has_got_all;
    let have_ended = client.has_ended && server.has_ended;
    have_got_all && (have_ended || client.has_closed() && server.has_closed())
}

impl ToClient {
    /// Whatever the server still has to say.
    fn wait_no_longer(&mut self) {
        if *self == Self::ServerFinishes {
            *self = Self::Due;
        }
    }
}
