//! The production transition function, explored with everything that may go wrong around it.
//!
//! [`worlds`] holds small worlds in which every invariant must hold, [`planted`] worlds with one
//! bug each, which must be found. `make model` explores larger ones (`large.rs`). What is modelled
//! and how to read a counterexample: [`checker`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests say what they expect by failing"
)]

mod checker;
mod planted;
mod worlds;
