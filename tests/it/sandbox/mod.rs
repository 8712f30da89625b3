//! The sandbox: stand-ins for Scalekit, MCP servers and the model that behave as the real ones do.

mod clients;
mod conformance;
mod mcp;
mod messages;
mod models;
mod world;
