//! Behaviour of the whole, one file each.
