//! The edges towards the store: records in, progress and traffic out.

mod watcher;
mod writer;

pub(crate) use watcher::{Watcher, World};
pub(crate) use writer::{Board, Nodes, Writer};
