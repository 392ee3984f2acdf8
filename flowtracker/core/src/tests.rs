//! One test per row of the tables of `docs/protocol.md`, section 5, named after what happens.

mod choice;
mod ends;
mod head;
mod property;
mod second;
mod world;
