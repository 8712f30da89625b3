//! Behaviour of the whole, one file each.

mod sandbox;
mod sandbox_conformance;
mod sandbox_models;
mod support;
