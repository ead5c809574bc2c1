//! From the text to the file's shape: a tree of places, then what serde makes of it, with every
//! error.

pub mod cursor;
pub mod decode;
pub mod reader;
pub mod tree;
