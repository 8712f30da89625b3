//! The sandbox: stand-ins for Scalekit and the model that behave as the real ones do.

mod clients;
mod conformance;
mod models;
mod world;
