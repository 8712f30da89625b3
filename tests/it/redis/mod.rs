//! A Redis that fails: down, frozen, full, emptied, or a cluster on the move.

mod clock;
mod cluster;
mod durability;
mod faults;
mod losing;
