//! What is told of the traffic: the access log.

pub mod access_log;
