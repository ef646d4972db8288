//! Requests: from a client's connection to an instance and back.
//!
//! # Flow
//! [`accept`] takes connections and gives each to [`forward`], our `ProxyHttp`: [`harden`] refuses
//! what is ambiguous, the table says where the request goes, Pingora carries it there, and the
//! tally of the request is closed when the answer has gone out.

pub(crate) mod accept;
mod context;
mod forward;
mod harden;
pub(crate) mod headers;
#[cfg(test)]
mod tests;
mod workers;

pub(crate) use context::Connection;
pub(crate) use forward::Forwarder;
