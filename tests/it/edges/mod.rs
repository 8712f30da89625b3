//! Each edge alone on the wire: the model's server, Scalekit, the cache.

mod cache;
mod llm;
mod messages;
mod scalekit;
