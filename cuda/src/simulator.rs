//! The simulator: carries out the same PTX that the driver gets, on the CPU.

pub mod types;
