//! Digests: when they come, to whom, and what becomes of them when clocks, stores, brokers and schedulers do their worst.

mod ends;
mod firing;
mod forged;
mod loss;
mod service;
mod simulation;
mod store;
mod time;
