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
//!     (its credential has expired)
//!        AwaitsClient ──────────────────────────────────► Due ──────────────► Told
//!        as above, as long as    as above                nothing     at a     nothing passes
//!        the credential is good                          passes      boundary
//!
//!   the time
//!
//!        First ── CLOSE_WAIT is over ──► Last ── LAST_WAIT is over ──► the session is cut
//!
//!        (of a credential that expires, what is left of it takes the place of CLOSE_WAIT)
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

/// How long the server may take, if it is told only because the client did not answer.
pub const LAST_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Goodbye {
    words: Words,
    patience: Patience,
}

/// Who says the Close frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Words {
    /// Both sides had begun to say goodbye before us. They get time to finish; we send nothing.
    Theirs,
    Ours {
        code: u16,
        to_client: ToClient,
        to_server: ToServer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToClient {
    /// The client broke the framing or a limit. It still gets what its server answers to earlier
    /// messages. The server is told now, and its answer is the last that the client gets.
    ServerFinishes,
    /// The client is told at the next boundary of the server's frames.
    Due,
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ToServer {
    /// The client's answer is passed on, and tells the server.
    AwaitsClient {
        then: Rest,
    },
    /// The server is told at the next boundary of the client's frames.
    Due(Rest),
    Told,
}

/// What becomes of the client's frame that is passing when the server is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rest {
    Passes,
    /// The client has no right any more to say anything. The server may see the session cut.
    Stays,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Patience {
    /// When the time is up, each side that was not told yet is told.
    First,
    /// When the time is up, the session is cut.
    Last,
}

/// Why we end the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// An order was given, or a time limit was reached.
    Asked,
    /// The client's credential ends, and is good for so long yet.
    Expired(Duration),
    /// The sender of this direction broke the framing, or sent a message that is too large.
    FramingBroke(Direction),
    /// The receiver of this direction takes nothing any more, and was given up.
    GivenUp(Direction),
}

/// What a side of the session has said and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub says: Says,
    /// The end of its data was read: this side sends nothing more.
    pub has_ended: bool,
    pub takes: Takes,
    /// No data waits to be sent to this side.
    pub has_got_all: bool,
}

/// How far the frames of a side have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Frames,
    /// Its Close frame has begun to pass, but is not complete.
    Closing,
    /// Its Close frame has passed completely.
    Closed,
    /// It has sent frames that nobody can read: all that follows is ignored.
    Broken,
}

/// Whether anything can still go to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    More,
    /// The side was told that the other side has ended.
    NoMore,
    /// The side is gone, or takes nothing. Nobody waits for what it may still say.
    Nothing,
}

/// Where in the frames the bytes stand that have passed in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Between two frames: a frame of ours may be inserted here.
    Boundary,
    InFrame,
    /// After the last frame that was sound. No bytes pass any more, but a frame of ours may.
    Broken,
}

/// What is to be done next in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Pass(Limit),
    /// Insert a Close frame with this code. This is returned once, and counts as done.
    Say(u16),
    /// Read what comes, and drop it.
    Discard,
}

/// How many of the bytes that come may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    All,
    /// No byte after the end of the frame that is passing.
    Frame,
}

/// What to do when the time that was given is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUp {
    /// Wait this long again: the result of [next](Goodbye::next) has changed.
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

    /// Whether we need not wait for this side to say anything more.
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
                (to_client, ToServer::Due(Rest::Passes), Patience::First)
            }
            Occasion::FramingBroke(_) | Occasion::GivenUp(Direction::ToClient) => {
                (ToClient::Due, ToServer::Due(Rest::Passes), Patience::Last)
            }
            Occasion::Expired(Duration::ZERO) => {
                (ToClient::Due, ToServer::Due(Rest::Stays), Patience::Last)
            }
            // The client has ended, so it cannot answer.
            _ if client.has_ended => (ToClient::Due, ToServer::Due(Rest::Passes), Patience::Last),
            Occasion::Expired(_) => {
                let to_server = ToServer::AwaitsClient { then: Rest::Stays };
                (ToClient::Due, to_server, Patience::First)
            }
            Occasion::Asked | Occasion::GivenUp(Direction::ToServer) => {
                let to_server = ToServer::AwaitsClient { then: Rest::Passes };
                (ToClient::Due, to_server, Patience::First)
            }
        };
        let is_theirs = client.has_said_close() || server.has_said_close();
        let words = if is_theirs {
            Words::Theirs
        } else {
            Words::Ours {
                code,
                to_client,
                to_server,
            }
        };
        let (patience, wait) = match occasion {
            // The client is given up, so no answer of it will come.
            Occasion::GivenUp(Direction::ToClient) => (patience, LAST_WAIT),
            // Who has no right to say more finishes nothing.
            Occasion::Expired(good_for) if is_theirs => (Patience::Last, good_for),
            Occasion::Expired(Duration::ZERO) => (patience, LAST_WAIT),
            Occasion::Expired(good_for) => (patience, good_for),
            _ => (patience, CLOSE_WAIT),
        };
        (Self { words, patience }, wait)
    }

    /// For an owner that can insert a frame to the server only at the moment when the client is
    /// told (see [`Goodbye::tell_server_now`]). When the time is up the session is cut, because the
    /// server cannot be told any more.
    pub fn begin_with_one_moment(code: u16, client: Side, server: Side) -> Self {
        let (goodbye, _) = Self::begin(code, Occasion::Asked, client, server);
        let words = match goodbye.words {
            Words::Theirs => Words::Theirs,
            Words::Ours { .. } => Words::Ours {
                code,
                to_client: ToClient::Due,
                to_server: ToServer::AwaitsClient { then: Rest::Passes },
            },
        };
        let patience = Patience::Last;
        Self { words, patience }
    }

    /// What the direction does next. Must not be asked when nothing can pass in this direction:
    /// when its receiver takes nothing more, or its sender has said Close (RFC 6455 section 5.5.1).
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
                (ToServer::AwaitsClient { .. }, Position::Broken) => Next::Discard,
                (ToServer::AwaitsClient { .. }, Position::Boundary | Position::InFrame) => all,
                (ToServer::Due(Rest::Passes), Position::InFrame) => frame,
                (ToServer::Due(Rest::Stays), Position::InFrame) => Next::Discard,
                (ToServer::Due(_), Position::Boundary | Position::Broken) => {
                    *to_server = ToServer::Told;
                    Next::Say(*code)
                }
                (ToServer::Told, _) => Next::Discard,
            },
        }
    }

    /// The code with which to tell the server now, without waiting for the client's answer. `Some`
    /// if the client was told and what goes to the server is at a boundary. It counts as sent,
    /// unless [`Goodbye::server_took_nothing`] follows. `None`: the client's answer tells the
    /// server.
    pub fn tell_server_now(&mut self, position: Position) -> Option<u16> {
        match &mut self.words {
            Words::Ours {
                code,
                to_client: ToClient::Told,
                to_server: to_server @ ToServer::AwaitsClient { .. },
            } if position == Position::Boundary => {
                *to_server = ToServer::Told;
                Some(*code)
            }
            _ => None,
        }
    }

    /// The Close frame of [`Goodbye::tell_server_now`] could not be sent, not even one byte of it.
    pub fn server_took_nothing(&mut self) {
        if let Words::Ours { to_server, .. } = &mut self.words {
            *to_server = ToServer::AwaitsClient { then: Rest::Passes };
        }
    }

    /// The sender of this direction has ended its side.
    pub fn ended(&mut self, direction: Direction) {
        match (&mut self.words, direction) {
            (Words::Theirs, Direction::ToServer) => self.patience = Patience::Last,
            (Words::Ours { to_server, .. }, Direction::ToServer) => {
                if let ToServer::AwaitsClient { then } = *to_server {
                    *to_server = ToServer::Due(then);
                    self.patience = Patience::Last;
                }
            }
            (Words::Ours { to_client, .. }, Direction::ToClient) => to_client.wait_no_longer(),
            (Words::Theirs, Direction::ToClient) => {}
        }
    }

    /// The sender of this direction broke the framing. (If it is a client from which we await an
    /// answer, the [`Position`] shows it: nothing more of it passes, and the server is told when
    /// the time is up.)
    pub fn framing_broke(&mut self, direction: Direction) {
        if direction == Direction::ToClient
            && let Words::Ours { to_client, .. } = &mut self.words
            && *to_client == ToClient::ServerFinishes
        {
            *to_client = ToClient::Due;
            self.patience = Patience::Last;
        }
    }

    /// The time that was given last has passed.
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
            if let ToServer::AwaitsClient { then } = *to_server {
                *to_server = ToServer::Due(then);
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

/// Whether the two sides have ended the session without us.
pub fn have_parted(client: Side, server: Side) -> bool {
    let have_got_all = client.has_got_all && server.has_got_all;
    let have_ended = client.has_ended && server.has_ended;
    have_got_all && (have_ended || client.has_closed() && server.has_closed())
}

impl ToClient {
    /// From now on, what the server may still say is not waited for.
    fn wait_no_longer(&mut self) {
        if *self == Self::ServerFinishes {
            *self = Self::Due;
        }
    }
}
