//! Warp-level and warpgroup-level matrix instructions (chapters 9.7.13 and 9.7.14), and tensor copies (5.5.8,
//! 9.7.8.24): which lane holds which element, where elements lie in shared memory, and what a product is.

pub mod descriptor;
pub mod fragment;
pub mod matrix;
pub mod product;
mod sum;
pub mod tensor_map;

pub use descriptor::{Descriptor, Major, Swizzle};
pub use product::{Product, Shape};
pub use tensor_map::{Fetch, Fill, TensorMap};
