//! Input that means harm: from who writes jobs, from tool servers, from whoever reaches the HTTP port. Each is refused in
//! words, or costs what an honest one costs.

mod injections;
mod jobs;
mod port;
mod producers;
mod same_ids;
mod schemas;
mod tools;
