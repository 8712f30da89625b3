//! The journal: what every implementation promises, and that every version that was ever written can be read.

mod contract;
mod versions;
