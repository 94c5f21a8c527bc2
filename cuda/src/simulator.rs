//! The simulator: executes the committed PTX on the CPU, so that every machine can check every kernel.
//!
//! - [`cost`]: exact counts of what kernels did
//! - [`race`]: data races
//! - [`types`]: PTX's types and rounding modes
//! - [`fault`]: what it finds wrong with a kernel, and where
//! - [`numeric`]: what each instruction computes, as pure functions on bits
//! - [`monitor`]: what watches a run: race detection and exact costs plug in here

pub mod cost;
pub mod fault;
pub mod monitor;
pub mod numeric;
pub mod race;
pub mod types;
