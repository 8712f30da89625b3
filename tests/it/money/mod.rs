//! What runs cost, and what becomes of them where a budget is used up.

mod counters;
mod limits;
mod service;
