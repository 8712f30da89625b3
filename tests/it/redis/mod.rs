//! A Redis that fails: down, frozen, full, emptied, or a cluster on the move.

mod cluster;
mod faults;
mod losing;
