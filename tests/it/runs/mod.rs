//! Runs: how they end, whose they are, and what they survive.

mod crash_table;
mod drain;
mod fallback;
mod foreign_words;
mod forged_headers;
mod in_doubt;
mod isolation;
mod large_answers;
mod long_conversations;
mod long_runs;
mod outcomes;
mod own_faults;
mod ownership;
mod properties;
mod providers;
mod rate_limits;
mod recovery;
mod searches;
