//! The journal: what every implementation promises, and that every version that was ever written can be read, encrypted ones with their key.

mod contract;
mod encryption;
mod versions;
