//! One test per row of the tables of `docs/protocol.md`, section 5, named after what happens.

mod choice;
mod cold;
mod ends;
mod epoch;
mod head;
mod lease;
mod leave;
mod property;
mod query;
mod second;
mod sole;
mod world;
