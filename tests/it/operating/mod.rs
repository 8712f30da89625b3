//! Operating the service: commands, processes, signals, services that go away, and what the pages say of all that.

mod audit;
mod commands;
mod cost;
mod encryption;
mod examples;
mod fairness;
mod finding;
mod health;
mod interventions;
mod log;
mod privileges;
mod providers;
mod reconnection;
mod replies;
mod service;
mod traces;
