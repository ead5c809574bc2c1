//! Which server a client belongs to: by a cookie of ours that names it, or by the value of a
//! header that an answer has brought.
//!
//! ```text
//!   cookie   upstream and address of a server ──HMAC──► tag ──► Set-Cookie ──► Cookie ──► tag
//!   header   a server's answer: value ──SHA-256──► fingerprint, server   (a bounded table)
//!            a request with the same value ──SHA-256──► fingerprint ──► server
//! ```

pub mod cookie;
mod key;
mod learned;

pub use key::{AffinityKey, SECRET_MIN, ServerTag};
pub use learned::{Binding, Fingerprint, Learned};
