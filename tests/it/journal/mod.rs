//! The journal: what every implementation promises, how runs are found, and that every version that was ever written can be
//! read, encrypted ones with their key.

mod contract;
mod encryption;
mod index;
mod versions;
