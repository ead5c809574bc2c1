//! `auth` of a route: who may come in.

mod basic;
mod forward;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::Section;
pub use basic::Basic;
pub use forward::Forward;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A name and a password let a request in.
    pub basic: Option<Section<Basic>>,
    /// Another server lets a request in.
    pub forward: Option<Section<Forward>>,
}
