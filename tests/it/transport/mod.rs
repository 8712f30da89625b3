//! The way to each peer: TLS with one's own authority and certificates, and what is said where it is plain text.

mod broker;
mod http;
mod plain;
mod redis;
mod service;
