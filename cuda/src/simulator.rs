//! The simulator: executes the committed PTX on the CPU, so that every machine can check every kernel.
//!
//! - [`parse`]: PTX text into statements
//! - [`kernel`]: statements into instructions with names resolved and memory laid out
//! - [`instructions`]: what instructions do, one file for each family
//! - [`numeric`]: what each instruction computes, as pure functions on bits
//! - [`registers`], [`memory`], [`shared`]: what they do it to
//! - [`mbarrier`]: barriers with phases, in shared memory
//! - [`bulk`], [`products`]: what the copy engine and the tensor cores have under way
//! - [`warp`], [`execute`], [`block`], [`launch`]: in which order, from 32 lanes up to the grid
//! - [`monitor`]: what watches a run: race detection and exact costs plug in here
//! - [`race`]: data races
//! - [`overlap`]: launches that begin before the one before them has ended
//! - [`cost`]: exact counts of what kernels did
//! - [`fault`]: what it finds wrong with a kernel, and where
//! - [`types`]: PTX's types and rounding modes
//!
//! A [`Simulator`] prepares a [`crate::Plan`] as the GPU does, and what it prepares is run, poisoned and
//! read back in the same way.

mod block;
pub mod bulk;
pub mod cost;
mod execute;
pub mod fault;
pub mod instructions;
pub mod kernel;
mod launch;
pub mod mbarrier;
pub mod memory;
pub mod monitor;
pub mod numeric;
pub mod overlap;
pub mod parse;
mod prepared;
mod products;
pub mod race;
pub mod register_pool;
mod registers;
pub mod shared;
pub mod types;
mod warp;

pub use fault::Fault;
pub use prepared::{Prepared, Simulator, TooLong};
