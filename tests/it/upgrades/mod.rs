//! Upgrades, there and back: what earlier versions wrote is read, and two versions work side by side.

mod reading;
mod recording;
mod rolling;
mod sample;
mod surroundings;
