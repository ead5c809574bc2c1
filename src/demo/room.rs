//! The chat room that all chat servers of the demo share: everybody hears a message, whatever
//! server its speaker is on, and a client that was away for a moment catches up.
//!
//! It knows messages, but no connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// How many messages a returning client can catch up on.
const HISTORY: usize = 100;
/// How far a slow client may fall behind before it misses messages.
const BACKLOG: usize = 256;
/// Longer names are cut.
const NAME_LENGTH: usize = 40;

/// A message as the room sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "message")]
pub struct Message {
    /// Counted from 1 without gaps.
    pub seq: u64,
    /// The chat server that has the speaker's session.
    pub server: String,
    #[serde(flatten)]
    pub said: Said,
}

/// A message as a client sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The client's own mark, by which it recognises its message when that comes back.
    #[serde(default)]
    pub id: String,
    #[serde(default)]
    pub name: String,
    pub text: String,
}

#[derive(Debug)]
pub struct Room {
    /// Tells a client whether `seq` still belongs to the room that it knew.
    id: String,
    spoken: Mutex<Spoken>,
    listeners: broadcast::Sender<Arc<Message>>,
}

#[derive(Debug, Default)]
struct Spoken {
    last_seq: u64,
    history: VecDeque<Arc<Message>>,
}

impl Default for Room {
    fn default() -> Self {
        let opened = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: opened.map_or(0, |since| since.as_millis()).to_string(),
            spoken: Mutex::default(),
            listeners: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl Room {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Receives everything that is said from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Message>> {
        self.listeners.subscribe()
    }

    pub fn say(&self, server: &str, mut said: Said) {
        said.name = said.name.trim().chars().take(NAME_LENGTH).collect();
        let mut spoken = self.spoken.lock();
        spoken.last_seq += 1;
        let message = Arc::new(Message {
            seq: spoken.last_seq,
            server: server.to_owned(),
            said,
        });
        if spoken.history.len() == HISTORY {
            spoken.history.pop_front();
        }
        spoken.history.push_back(message.clone());
        // Sent under the lock, so that everybody gets messages in the order of `seq`. An error only
        // means that the room is empty.
        let _ = self.listeners.send(message);
    }

    /// The messages after the message `seq`, as far as they are kept.
    pub fn since(&self, seq: u64) -> Vec<Arc<Message>> {
        let spoken = self.spoken.lock();
        let later = spoken.history.iter().filter(|message| message.seq > seq);
        later.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        Said {
            id: String::new(),
            name: "Ann".into(),
            text: text.into(),
        }
    }

    #[test]
    fn who_was_away_catches_up_on_what_was_missed() {
        let room = Room::default();
        for text in ["one", "two", "three"] {
            room.say("a", said(text));
        }
        let missed: Vec<String> = room
            .since(1)
            .iter()
            .map(|message| message.said.text.clone())
            .collect();
        assert_eq!(missed, ["two", "three"]);
        assert!(room.since(3).is_empty());
    }

    #[test]
    fn the_room_forgets_the_oldest_first() {
        let room = Room::default();
        for number in 0..HISTORY + 10 {
            room.say("a", said(&number.to_string()));
        }
        let kept = room.since(0);
        assert_eq!(kept.len(), HISTORY);
        assert_eq!(kept[0].seq, 11);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let room = Room::default();
        room.say(
            "a",
            Said {
                name: "é".repeat(NAME_LENGTH + 1),
                ..said("hi")
            },
        );
        assert_eq!(room.since(0)[0].said.name.chars().count(), NAME_LENGTH);
    }
}
