//! Tools of MCP servers: the client on the wire, and whole runs with a server of either era.

mod jobs;
mod scalekit;
mod wire;
