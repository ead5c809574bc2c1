//! `auth` of a route: who may come in.

mod basic;
mod forward;
mod jwt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::Section;
pub use basic::Basic;
pub use forward::Forward;
pub use jwt::{Jwt, RequiredValue};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A name and a password let a request in.
    pub basic: Option<Section<Basic>>,
    /// A signed token (JWT) lets a request in.
    pub jwt: Option<Section<Jwt>>,
    /// Another server lets a request in.
    pub forward: Option<Section<Forward>>,
}
