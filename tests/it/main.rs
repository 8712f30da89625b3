//! Behaviour of the whole, one file each.

mod journal_versions;
mod run_properties;
