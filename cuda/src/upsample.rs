//! upsample: CUDA variants of this vertical.

mod resize;
mod shuffle;
mod transposed_conv;
mod unpool;

use touchstone_reference::upsample::resize as reference;

use crate::{
    plan::{kind_of, threads},
    variant::{Unsupported, Variant},
};

/// The variants of this vertical, in ladder order.
pub static VARIANTS: &[Variant] = &[
    Variant {
        op: "upsample.nearest",
        name: "naive",
        idea: "a thread an output pixel",
        deterministic: true,
        plan: resize::naive::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest",
        name: "vectorized",
        idea: "four pixels a thread; an input row serves several output rows",
        deterministic: true,
        plan: resize::vectorized::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest",
        name: "copied",
        idea: "bits moved without conversion, 16 bytes a store",
        deterministic: true,
        plan: resize::copied,
    },
    Variant {
        op: "upsample.nearest",
        name: "doubled",
        idea: "at scale 2 places and weights are constants; registers only",
        deterministic: true,
        plan: resize::doubled::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest_backward",
        name: "naive",
        idea: "a thread an input pixel, one flat sum over the outputs that read it",
        deterministic: true,
        plan: resize::naive_backward::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest_backward",
        name: "gather",
        idea: "sums along x, then along y, with the readers' weights from tables",
        deterministic: true,
        plan: resize::gather::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest_backward",
        name: "staged",
        idea: "gradients summed along x once a tile, in shared memory, then along y",
        deterministic: true,
        plan: resize::staged_backward::<reference::Nearest>,
    },
    Variant {
        op: "upsample.nearest_backward",
        name: "atomic",
        idea: "a thread an output pixel adds with float atomics",
        deterministic: false,
        plan: resize::atomic::<reference::Nearest>,
    },
    Variant {
        op: "upsample.bilinear",
        name: "naive",
        idea: "a thread an output pixel",
        deterministic: true,
        plan: resize::naive::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear",
        name: "vectorized",
        idea: "four pixels a thread; an input row, interpolated once, serves several output rows",
        deterministic: true,
        plan: resize::vectorized::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear",
        name: "staged",
        idea: "rows interpolated along x once a tile, in shared memory, then along y",
        deterministic: true,
        plan: resize::staged::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear",
        name: "doubled",
        idea: "at scale 2 places and weights are constants; registers only",
        deterministic: true,
        plan: resize::doubled::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear_backward",
        name: "naive",
        idea: "a thread an input pixel, one flat sum over the outputs that read it",
        deterministic: true,
        plan: resize::naive_backward::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear_backward",
        name: "gather",
        idea: "sums along x, then along y, with the readers' weights from tables",
        deterministic: true,
        plan: resize::gather::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear_backward",
        name: "staged",
        idea: "gradients summed along x once a tile, in shared memory, then along y",
        deterministic: true,
        plan: resize::staged_backward::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bilinear_backward",
        name: "atomic",
        idea: "a thread an output pixel adds with float atomics",
        deterministic: false,
        plan: resize::atomic::<reference::Bilinear>,
    },
    Variant {
        op: "upsample.bicubic",
        name: "naive",
        idea: "a thread an output pixel",
        deterministic: true,
        plan: resize::naive::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic",
        name: "vectorized",
        idea: "four pixels a thread; an input row, interpolated once, serves several output rows",
        deterministic: true,
        plan: resize::vectorized::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic",
        name: "staged",
        idea: "rows interpolated along x once a tile, in shared memory, then along y",
        deterministic: true,
        plan: resize::staged::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic",
        name: "doubled",
        idea: "at scale 2 places and weights are constants; registers only",
        deterministic: true,
        plan: resize::doubled::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic_backward",
        name: "naive",
        idea: "a thread an input pixel, one flat sum over the outputs that read it",
        deterministic: true,
        plan: resize::naive_backward::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic_backward",
        name: "gather",
        idea: "sums along x, then along y, with the readers' weights from tables",
        deterministic: true,
        plan: resize::gather::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic_backward",
        name: "staged",
        idea: "gradients summed along x once a tile, in shared memory, then along y",
        deterministic: true,
        plan: resize::staged_backward::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.bicubic_backward",
        name: "atomic",
        idea: "a thread an output pixel adds with float atomics",
        deterministic: false,
        plan: resize::atomic::<reference::Bicubic>,
    },
    Variant {
        op: "upsample.pixel_shuffle",
        name: "naive",
        idea: "a thread a pixel",
        deterministic: true,
        plan: shuffle::naive,
    },
    Variant {
        op: "upsample.pixel_shuffle",
        name: "vectorized",
        idea: "16-byte words interleaved in registers",
        deterministic: true,
        plan: shuffle::vectorized,
    },
    Variant {
        op: "upsample.pixel_shuffle_backward",
        name: "naive",
        idea: "a thread a pixel",
        deterministic: true,
        plan: shuffle::naive_backward,
    },
    Variant {
        op: "upsample.pixel_shuffle_backward",
        name: "vectorized",
        idea: "16-byte words taken apart in registers",
        deterministic: true,
        plan: shuffle::vectorized_backward,
    },
    Variant {
        op: "upsample.transposed_conv",
        name: "naive",
        idea: "a thread an output pixel",
        deterministic: true,
        plan: transposed_conv::naive,
    },
    Variant {
        op: "upsample.transposed_conv",
        name: "tiled",
        idea: "a matrix product for each phase of the stride, gathered into shared memory",
        deterministic: true,
        plan: transposed_conv::tiled,
    },
    Variant {
        op: "upsample.transposed_conv",
        name: "registers",
        idea: "f32 with 64 sums a thread in registers, fetched three steps ahead",
        deterministic: true,
        plan: transposed_conv::registers,
    },
    Variant {
        op: "upsample.transposed_conv",
        name: "tensor_core",
        idea: "16-bit products on tensor cores, whose taps are shifts along one line of all pixels",
        deterministic: true,
        plan: transposed_conv::tensor_core,
    },
    Variant {
        op: "upsample.transposed_conv",
        name: "warpgroup",
        idea: "products of whole warpgroups from shared memory, a step under way while the next begins",
        deterministic: true,
        plan: transposed_conv::warpgroup,
    },
    Variant {
        op: "upsample.transposed_conv_backward",
        name: "naive",
        idea: "a thread an element of each gradient",
        deterministic: true,
        plan: transposed_conv::naive_backward,
    },
    Variant {
        op: "upsample.transposed_conv_backward",
        name: "tiled",
        idea: "a matrix product for each gradient, gathered into shared memory",
        deterministic: true,
        plan: transposed_conv::tiled_backward,
    },
    Variant {
        op: "upsample.transposed_conv_backward",
        name: "tensor_core",
        idea: "16-bit products on tensor cores, phases side by side as channels; d_weight by shares of the places",
        deterministic: true,
        plan: transposed_conv::tensor_core_backward,
    },
    Variant {
        op: "upsample.transposed_conv_backward",
        name: "warpgroup",
        idea: "the same with d_input by products of whole warpgroups",
        deterministic: true,
        plan: transposed_conv::warpgroup_backward,
    },
    Variant {
        op: "upsample.unpool",
        name: "naive",
        idea: "zeros everywhere, then values to their places",
        deterministic: true,
        plan: unpool::naive,
    },
    Variant {
        op: "upsample.unpool",
        name: "windows",
        idea: "a thread writes a whole window, once",
        deterministic: true,
        plan: unpool::windows,
    },
    Variant {
        op: "upsample.unpool_backward",
        name: "naive",
        idea: "a thread a value",
        deterministic: true,
        plan: unpool::naive_backward,
    },
    Variant {
        op: "upsample.unpool_backward",
        name: "in_flight",
        idea: "four values a thread, fetched before any is stored",
        deterministic: true,
        plan: unpool::in_flight,
    },
];

/// Refuses what a kernel that counts in 32 bits cannot number.
fn countable(elements: usize, what: &str) -> Result<(), Unsupported> {
    if elements > i32::MAX as usize {
        return Err(Unsupported(format!("{elements} {what} are more than 32 bits count")));
    }
    Ok(())
}

/// Threads of a block of 256 that share a row of `words` words: a power of two.
fn lanes(words: usize) -> usize {
    words.next_power_of_two().clamp(1, 256)
}
