//! Writes that wait for a person: who is asked, what is decided by which door, and what becomes of the run.

mod decisions;
mod doors;
mod waiting;
