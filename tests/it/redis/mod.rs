//! A Redis that fails: down, frozen, full, emptied, a cluster on the move, or a master whose replica takes its place.

mod clock;
mod cluster;
mod durability;
mod faults;
mod losing;
mod sentinel;
