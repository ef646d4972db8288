//! Where records and files come in and go out.

mod peers;
mod secrets;
mod watcher;
mod writer;

pub(crate) use peers::{PeerNews, PeerWatcher};
pub(crate) use secrets::SecretFolder;
pub(crate) use watcher::{Watcher, World};
pub(crate) use writer::{Board, Nodes, Writer};
