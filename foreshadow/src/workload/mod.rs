//! The bundled workload: a stateful HTTP service for the demo and the end-to-end tests.
//!
//! # What it is
//! Of consistency class S1: the truth is a shared journal ([`journal`]), and each instance keeps a
//! materialised index of it in its state directory ([`index`]). Any number of instances may append
//! to and follow one journal, so an original and its shadow may serve side by side.
//!
//! Without a shared journal it is of class S3: the journal is its own, one replica writes, and a
//! shadow follows until it is told to write ([`single`]).
//!
//! # Flow
//! `POST /items/<key>` appends to the journal and waits until the record is in the own index.
//! A thread ([`follower`]) reads the journal from the own position and applies what is new.
//! `GET /items/<key>` and `GET /work?cost=n` burn real processor time on one worker ([`burner`]),
//! so an overloaded instance queues as a real single-threaded service does.
//!
//! # Hooks
//! `GET /healthz` (200 once it has caught up with the journal as it was at the start),
//! `GET /foreshadow/state`, `POST /foreshadow/quiesce`, `POST /foreshadow/resume`,
//! `POST /foreshadow/reidentify`, and of a single writer `POST /foreshadow/writer/…`, as [`domain::Hooks`] describes them.
//!
//! # Failure paths
//! A crash leaves shards that may be ahead of the position; applying a record twice changes
//! nothing, so the index is whole again when it reaches the position noted before the batch. After
//! a crash of the machine the index is made anew from the journal.

mod burner;
mod fault;
mod follower;
mod history;
mod index;
mod journal;
mod options;
mod routes;
mod server;
mod single;

pub use fault::Fault;
pub use options::WorkloadOptions;
pub use server::{WorkloadError, serve};
