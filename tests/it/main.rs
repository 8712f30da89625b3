//! Behaviour of the whole, one file each.

mod run_properties;
