//! A Redis that fails: down, frozen, full, emptied, or a cluster on the move.

mod clock;
mod cluster;
mod faults;
mod losing;
