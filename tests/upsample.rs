//! Laws of up-sampling, shown on the references.

#[path = "cases/upsample.rs"]
mod cases;
mod laws;

use laws::{drawn, strategy};
use proptest::prelude::*;
use touchstone_reference::{
    Algorithm, Case, DType, Data, Draw, Tensor, Tensors,
    upsample::{
        resize::{self, Backward, Bicubic, Bilinear, Coordinates, Forward, Interpolation, Nearest},
        shuffle::{PixelShuffle, PixelUnshuffle},
        transposed_conv,
        unpool::{Unpool, UnpoolBackward},
    },
};

fn values<A: Algorithm>(params: &A::Params, inputs: &Tensors, name: &str) -> Vec<f64> {
    A::reference(params, inputs).output(name).values()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// f64 sums in two orders agree to this.
fn close(a: f64, b: f64, terms: usize) -> bool {
    (a - b).abs() <= 1e-12 * (1.0 + terms as f64)
}

/// The inputs with one tensor filled by a function of its flat index, as f64.
fn with_values(inputs: &Tensors, name: &str, of: impl Fn(usize) -> f64) -> Tensors {
    let shape = inputs.tensor(name).shape().to_vec();
    let values = (0..inputs.tensor(name).len()).map(of).collect();
    inputs.clone().with(name, Tensor::new(&shape, Data::F64(values)))
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 100);
}

/// <U x, y> = <x, Uᵀ y> for a resize and its gradient.
fn is_adjoint<I: Interpolation>(case: &Case) -> Result<(), TestCaseError> {
    let (params, inputs) = drawn::<Forward<I>>(case);
    let (_, gradients) = drawn::<Backward<I>>(case);
    let (x, y) = (inputs.tensor("input").to_f64(), gradients.tensor("d_output").to_f64());
    let ux = values::<Forward<I>>(&params, &inputs, "output");
    let uty = values::<Backward<I>>(&params, &gradients, "d_input");
    let (left, right) = (dot(&ux, &y), dot(&x, &uty));
    prop_assert!(close(left, right, y.len()), "{left} and {right}");
    Ok(())
}

/// An image of one colour stays that.
fn keeps_constants<I: Interpolation>(case: &Case) -> Result<(), TestCaseError> {
    let (params, inputs) = drawn::<Forward<I>>(case);
    let constant = with_values(&inputs, "input", |_| 0.75);
    // The bilinear weights 1 − λ and λ are f32: they sum to 1 within one rounding.
    for value in values::<Forward<I>>(&params, &constant, "output") {
        prop_assert!((value - 0.75).abs() < 1.0 / f64::from(1 << 22), "{value}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn nearest_and_its_gradient_are_adjoint(case in strategy(cases::strategies(), "upsample.nearest")) {
        is_adjoint::<Nearest>(&case)?;
    }

    #[test]
    fn bilinear_and_its_gradient_are_adjoint(case in strategy(cases::strategies(), "upsample.bilinear")) {
        is_adjoint::<Bilinear>(&case)?;
    }

    #[test]
    fn bicubic_and_its_gradient_are_adjoint(case in strategy(cases::strategies(), "upsample.bicubic")) {
        is_adjoint::<Bicubic>(&case)?;
    }

    #[test]
    fn an_image_of_one_colour_stays_one(
        nearest in strategy(cases::strategies(), "upsample.nearest"),
        bilinear in strategy(cases::strategies(), "upsample.bilinear"),
        bicubic in strategy(cases::strategies(), "upsample.bicubic"),
    ) {
        keeps_constants::<Nearest>(&nearest)?;
        keeps_constants::<Bilinear>(&bilinear)?;
        keeps_constants::<Bicubic>(&bicubic)?;
    }

    #[test]
    fn nearest_invents_no_colour(case in strategy(cases::strategies(), "upsample.nearest")) {
        let (params, inputs) = drawn::<Forward<Nearest>>(&case);
        let known = inputs.tensor("input").to_f64();
        let output = values::<Forward<Nearest>>(&params, &inputs, "output");
        prop_assert!(output.iter().all(|value| known.contains(value)));
    }

    #[test]
    fn a_resize_to_the_same_size_changes_nothing(case in strategy(cases::strategies(), "upsample.bicubic")) {
        let (mut params, inputs) = drawn::<Forward<Bicubic>>(&case);
        (params.out_h, params.out_w, params.factor) = (params.in_h, params.in_w, 0.0);
        let image = inputs.tensor("input").to_f64();
        prop_assert_eq!(&values::<Forward<Bicubic>>(&params, &inputs, "output"), &image);
        prop_assert_eq!(&values::<Forward<Bilinear>>(&params, &inputs, "output"), &image);
        for coordinates in [Coordinates::Floor, Coordinates::Centre] {
            params.coordinates = coordinates;
            prop_assert_eq!(&values::<Forward<Nearest>>(&params, &inputs, "output"), &image);
        }
    }

    #[test]
    fn aligned_corners_keep_a_linear_ramp(case in strategy(cases::strategies(), "upsample.bilinear")) {
        let (mut params, inputs) = drawn::<Forward<Bilinear>>(&case);
        prop_assume!(params.out_h > 1 && params.out_w > 1);
        params.coordinates = Coordinates::AlignCorners;
        let (h, w) = (params.in_h, params.in_w);
        let ramp = with_values(&inputs, "input", |i| 3.0 * (i / w % h) as f64 - (i % w) as f64);
        let output = values::<Forward<Bilinear>>(&params, &ramp, "output");
        for (i, value) in output.into_iter().enumerate() {
            let (y, x) = (i / params.out_w % params.out_h, i % params.out_w);
            let y = y as f64 * (h - 1) as f64 / (params.out_h - 1) as f64;
            let x = x as f64 * (w - 1) as f64 / (params.out_w - 1) as f64;
            // Positions are f32.
            prop_assert!((value - (3.0 * y - x)).abs() < 1e-5 * (1.0 + y + x), "{value}");
        }
    }

    #[test]
    fn doubling_by_nearest_and_averaging_blocks_gives_the_image_back(
        case in strategy(cases::strategies(), "upsample.nearest")
    ) {
        let (mut params, inputs) = drawn::<Forward<Nearest>>(&case);
        (params.out_h, params.out_w, params.factor) = (2 * params.in_h, 2 * params.in_w, 0.0);
        let output = values::<Forward<Nearest>>(&params, &inputs, "output");
        let shape = [params.batch, params.channels, params.out_h, params.out_w];
        let doubled = Tensors::new().with("d_output", Tensor::new(&shape, Data::F64(output)));
        let sums = values::<Backward<Nearest>>(&params, &doubled, "d_input");
        let means: Vec<f64> = sums.iter().map(|sum| sum / 4.0).collect();
        prop_assert_eq!(means, inputs.tensor("input").to_f64());
    }

    #[test]
    fn pixel_shuffle_is_a_permutation_with_an_exact_inverse(
        case in strategy(cases::strategies(), "upsample.pixel_shuffle")
    ) {
        let (params, inputs) = drawn::<PixelShuffle>(&case);
        let small = inputs.tensor("input").to_f64();
        let large = values::<PixelShuffle>(&params, &inputs, "output");
        let sorted = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values
        };
        prop_assert_eq!(sorted(small.clone()), sorted(large.clone()));
        let back = Tensors::new().with("d_output", Tensor::new(&params.large(), Data::F64(large)));
        prop_assert_eq!(values::<PixelUnshuffle>(&params, &back, "d_input"), small);
    }

    #[test]
    fn transposed_convolution_is_the_adjoint_of_its_input_gradient(
        case in strategy(cases::strategies(), "upsample.transposed_conv")
    ) {
        let (params, inputs) = drawn::<transposed_conv::Forward>(&case);
        let (_, gradients) = drawn::<transposed_conv::Backward>(&case);
        let unbiased = with_values(&inputs, "bias", |_| 0.0);
        let (x, y) = (inputs.tensor("input").to_f64(), gradients.tensor("d_output").to_f64());
        let both = gradients.clone().with("weight", inputs.tensor("weight").clone());
        let ux = values::<transposed_conv::Forward>(&params, &unbiased, "output");
        let uty = values::<transposed_conv::Backward>(&params, &both, "d_input");
        let terms = y.len() * params.in_channels * params.kernel;
        prop_assert!(close(dot(&ux, &y), dot(&x, &uty), terms));
    }

    #[test]
    fn a_patch_of_one_at_stride_two_leaves_gaps_of_bias(case in strategy(cases::strategies(), "upsample.transposed_conv")) {
        let (mut params, _) = drawn::<transposed_conv::Forward>(&case);
        (params.kernel, params.stride, params.padding, params.output_padding) = (1, 2, 0, 1);
        let inputs = transposed_conv::Forward::inputs(&params, &mut Draw::new(case.seed()));
        let bias = inputs.tensor("bias").to_f64();
        let [_, channels, height, width] = params.output();
        let output = values::<transposed_conv::Forward>(&params, &inputs, "output");
        for (i, value) in output.into_iter().enumerate() {
            let (y, x) = (i / width % height, i % width);
            if y % 2 == 1 || x % 2 == 1 {
                prop_assert_eq!(value, bias[i / (width * height) % channels]);
            }
        }
    }

    #[test]
    fn what_was_unpooled_is_fetched_back(case in strategy(cases::strategies(), "upsample.unpool")) {
        let (params, inputs) = drawn::<Unpool>(&case);
        let large = values::<Unpool>(&params, &inputs, "output");
        let values_put = inputs.tensor("input").to_f64();
        let total = |values: &[f64]| values.iter().map(|v| v.abs()).sum::<f64>();
        prop_assert!(close(total(&large), total(&values_put), large.len()), "only zeros beside");
        let back = inputs.clone().with("d_output", Tensor::new(&params.large(), Data::F64(large)));
        prop_assert_eq!(values::<UnpoolBackward>(&params, &back, "d_input"), values_put);
    }

    #[test]
    fn the_last_corner_is_never_out_of_reach(input in 1usize..5000, output in 1usize..20_000) {
        // The position of the last output in f32 may exceed in − 1 by a rounding, never by a pixel.
        let params = resize::Params {
            batch: 1,
            channels: 1,
            in_h: 1,
            in_w: input,
            out_h: 1,
            out_w: output,
            coordinates: Coordinates::AlignCorners,
            factor: 0.0,
            dtype: DType::F32,
        };
        let p = resize::position(output - 1, params.step(input, output), Coordinates::AlignCorners);
        prop_assert!(p < input as f32);
        let taps = Bilinear::taps(p, input);
        prop_assert!((taps.iter().map(|tap| tap.weight).sum::<f64>() - 1.0).abs() < 1e-7);
    }
}
