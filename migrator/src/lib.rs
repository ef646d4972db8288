//! Deciding and moving. placeholder
pub mod driver;
