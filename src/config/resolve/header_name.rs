//! Which names a header may have.

use crate::config::error::ConfigError;
use crate::config::file::cursor::Cursor;

pub fn bad_name(name: &str, at: Cursor<'_>) -> ConfigError {
    at.key_error(format!("\"{name}\" cannot be the name of a header"))
        .hint("names have letters, digits and dashes, such as X-Real-IP")
}
