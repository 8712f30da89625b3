//! The product from outside, one file per behaviour.

mod scalekit;
mod support;
