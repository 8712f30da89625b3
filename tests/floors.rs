//! The floors of the house hold.
