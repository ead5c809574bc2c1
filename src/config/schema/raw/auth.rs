//! `auth` of a route: who may come in.

mod jwt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::schema::units::Section;
pub use jwt::{Jwt, RequiredValue};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A signed token (JWT) lets a request in.
    pub jwt: Option<Section<Jwt>>,
}
