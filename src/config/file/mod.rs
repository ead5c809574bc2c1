//! From the text to the types of the file: a tree with positions, then what serde makes of it, with
//! every error.

pub mod cursor;
pub mod decode;
pub mod reader;
pub mod tree;
