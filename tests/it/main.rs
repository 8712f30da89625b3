//! Behaviour of the whole, one file each, against real servers where it depends on one.

mod support;

mod cache_contract;
mod journal_contract;
mod redis_faults;
