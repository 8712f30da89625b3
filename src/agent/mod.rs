//! Decisions of an agent run: pure, without async, clock or I/O.

mod address;
pub mod approval;
pub mod approvals;
mod asked;
mod asked_models;
mod attempts;
mod awaited;
mod compaction;
pub mod conclusion;
mod counted_tokens;
pub mod effect;
pub mod event;
pub mod examine;
mod held;
mod ledger;
mod link_scan;
pub mod links;
pub mod message;
pub mod models;
mod outcome;
pub mod plan;
mod remains;
pub mod result;
pub mod ruling;
pub mod run;
#[cfg(test)]
mod script;
pub mod selection;
mod settings;
mod settled_effect;
pub mod settlement;
mod spent;
pub mod standing;
mod state;
pub mod tool;
mod transition;
pub mod turn;
