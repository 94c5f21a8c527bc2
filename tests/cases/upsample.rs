//! Random small cases of the up-sampling operations.

use proptest::{prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    upsample::{
        resize::{self, Coordinates},
        shuffle, transposed_conv,
        unpool::{self, Places},
    },
};

/// Operation and its cases: columns crowd at words of four pixels, rows at runs of eight, channels at the
/// tiles of the products.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    use Coordinates::{AlignCorners, Centre, Floor, HalfPixel};
    let (whole, between) = ([Floor, Centre], [HalfPixel, AlignCorners]);
    vec![
        ("upsample.nearest", resized("upsample.nearest", whole)),
        ("upsample.nearest_backward", resized("upsample.nearest_backward", whole)),
        ("upsample.bilinear", resized("upsample.bilinear", between)),
        ("upsample.bilinear_backward", resized("upsample.bilinear_backward", between)),
        ("upsample.bicubic", resized("upsample.bicubic", between)),
        ("upsample.bicubic_backward", resized("upsample.bicubic_backward", between)),
        ("upsample.pixel_shuffle", shuffled("upsample.pixel_shuffle")),
        ("upsample.pixel_shuffle_backward", shuffled("upsample.pixel_shuffle_backward")),
        ("upsample.transposed_conv", convolved("upsample.transposed_conv")),
        ("upsample.transposed_conv_backward", convolved("upsample.transposed_conv_backward")),
        ("upsample.unpool", unpooled("upsample.unpool")),
        ("upsample.unpool_backward", unpooled("upsample.unpool_backward")),
    ]
}

fn dtypes() -> impl Strategy<Value = DType> {
    select(vec![DType::F32, DType::F16, DType::Bf16])
}

/// Pixels along an axis of an output: any few, or whole words.
fn outputs() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..20, 3 => (1usize..9).prop_map(|n| 4 * n), 1 => 126usize..134]
}

fn resized(op: &'static str, coordinates: [Coordinates; 2]) -> BoxedStrategy<Case> {
    let images = (0usize..3, 1usize..4);
    let factor =
        prop_oneof![3 => Just(0.0), 2 => select(vec![0.5, 1.0, 1.7, 3.25]), 1 => Just(2.0)];
    let in_w = prop_oneof![1usize..40, (1usize..10).prop_map(|n| 4 * n)];
    let sizes = (1usize..20, in_w, outputs(), outputs(), factor);
    let kind = (select(coordinates.to_vec()), dtypes(), 0u64..1000);
    (images, sizes, kind)
        .prop_map(move |((batch, channels), sizes, (coordinates, dtype, seed))| {
            let (in_h, in_w, out_h, out_w, factor) = sizes;
            let scaled = |input: usize, output: usize| match factor {
                0.0 => output,
                factor => (input as f64 * factor).floor() as usize,
            };
            let (out_h, out_w) = (scaled(in_h, out_h), scaled(in_w, out_w));
            let params = resize::Params {
                batch,
                channels,
                in_h,
                in_w,
                out_h,
                out_w,
                coordinates,
                factor,
                dtype,
            };
            Case::new(op, &params, seed)
        })
        .boxed()
}

fn shuffled(op: &'static str) -> BoxedStrategy<Case> {
    let width =
        prop_oneof![2 => 0usize..12, 3 => (1usize..9).prop_map(|n| 4 * n), 1 => 126usize..131];
    (0usize..3, 1usize..4, 0usize..7, width, 1usize..6, dtypes(), 0u64..1000)
        .prop_map(move |(batch, channels, height, width, factor, dtype, seed)| {
            let params = shuffle::Params { batch, channels, height, width, factor, dtype };
            Case::new(op, &params, seed)
        })
        .boxed()
}

fn convolved(op: &'static str) -> BoxedStrategy<Case> {
    let channels = prop_oneof![4 => 1usize..8, 1 => 15usize..18, 1 => 63usize..67];
    let sizes = (0usize..3, channels.clone(), channels, 0usize..6, 0usize..6);
    let patch = (1usize..6, 1usize..4, 0usize..3, 0usize..3);
    (sizes, patch, dtypes(), 0u64..1000)
        .prop_map(move |((batch, in_channels, out_channels, height, width), patch, dtype, seed)| {
            let (kernel, stride, padding, output_padding) = patch;
            let params = transposed_conv::Params {
                batch,
                in_channels,
                out_channels,
                height,
                width,
                kernel,
                stride,
                padding: padding.min((kernel - 1) / 2),
                output_padding: output_padding.min(stride - 1),
                dtype,
            };
            Case::new(op, &params, seed)
        })
        .boxed()
}

fn unpooled(op: &'static str) -> BoxedStrategy<Case> {
    let width = prop_oneof![4 => 0usize..20, 1 => 250usize..260];
    let kind = (select(vec![Places::Windows, Places::Anywhere]), dtypes(), 0u64..1000);
    (0usize..3, 1usize..4, 0usize..6, width, 1usize..4, kind)
        .prop_map(move |(batch, channels, height, width, window, (places, dtype, seed))| {
            let params = unpool::Params { batch, channels, height, width, window, places, dtype };
            Case::new(op, &params, seed)
        })
        .boxed()
}
