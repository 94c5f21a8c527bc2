//! Random small cases of the operations of mixed precision.

use proptest::{bool, prelude::*, sample::select};
use touchstone_reference::{
    Case, DType,
    precision::{
        Sizes, adamw,
        cast::{self, Values},
        format::{Format, Rounding},
        loss_scale::{self, Fault},
        sgd,
    },
};

/// Operation and its cases: counts crowd at the four numbers of a thread and at a block's end, tensors at
/// few elements and at the ends of chunks.
pub fn strategies() -> Vec<(&'static str, BoxedStrategy<Case>)> {
    vec![
        ("precision.cast", cast().boxed()),
        ("precision.loss_scale", loss_scale().boxed()),
        ("precision.adamw", adamw().boxed()),
        ("precision.sgd", sgd().boxed()),
    ]
}

fn counts() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0usize..10, 2 => 30usize..40, 2 => 250usize..260, 1 => 1020usize..1030]
}

fn dtypes() -> impl Strategy<Value = DType> {
    select(vec![DType::F32, DType::F16, DType::Bf16])
}

/// Formats in the order in which a failure is simplest.
pub const FORMATS: [Format; 7] =
    [Format::F32, Format::F16, Format::Bf16, Format::Tf32, Format::E4m3, Format::E5m2, Format::F64];

fn cast() -> impl Strategy<Value = Case> {
    // Most kernels are for casts out of f32 to the nearest.
    let any = || select(FORMATS.to_vec());
    let formats = prop_oneof![2 => (any(), any()), 1 => (Just(Format::F32), any())];
    let rounding = prop_oneof![2 => Just(Rounding::NearestEven), 1 => Just(Rounding::Stochastic)];
    let counts = prop_oneof![6 => counts(), 1 => 4094usize..4099];
    let values = select(vec![Values::Normal, Values::Wide, Values::Special]);
    (counts, formats, rounding, bool::ANY, values, 0u64..1000).prop_map(
        |(elements, (from, to), rounding, saturate, values, seed)| {
            let to = if (from, to) == (Format::F64, Format::F64) { Format::F32 } else { to };
            let params = cast::Params { elements, from, to, rounding, saturate, values };
            Case::new("precision.cast", &params, seed)
        },
    )
}

fn loss_scale() -> impl Strategy<Value = Case> {
    let state = (select(vec![1.0, 1024.0, 65_536.0, 6e37]), 1i32..5, 0i32..5);
    let rule = (select(vec![1.0, 2.0, 16.0]), select(vec![0.5, 0.3, 1.0]));
    let fault = select(vec![Fault::None, Fault::Infinity, Fault::Nan, Fault::Last]);
    (counts(), dtypes(), state, rule, fault, 0u64..1000).prop_map(
        |(elements, dtype, (scale, interval, streak), (growth, backoff), fault, seed)| {
            let params = loss_scale::Params {
                elements,
                dtype,
                scale,
                streak: streak % interval,
                interval,
                growth,
                backoff,
                fault,
            };
            Case::new("precision.loss_scale", &params, seed)
        },
    )
}

/// Tensors and their average size.
fn models() -> impl Strategy<Value = (usize, usize, Sizes)> {
    let size = prop_oneof![4 => 0usize..9, 2 => 30usize..300, 1 => 16_380usize..16_390];
    (0usize..6, size, select(vec![Sizes::Equal, Sizes::Mixed]))
}

fn adamw() -> impl Strategy<Value = Case> {
    let rates = (select(vec![1e-3, 0.1]), select(vec![0.0, 0.1]), select(vec![1u32, 2, 1000]));
    let scale = select(vec![1.0, 1024.0]);
    (models(), dtypes(), rates, scale, prop::bool::weighted(0.1), 0u64..1000).prop_map(
        |((tensors, size, sizes), dtype, (lr, weight_decay, step), scale, skip, seed)| {
            let params = adamw::Params {
                tensors,
                size,
                sizes,
                dtype,
                lr,
                beta1: 0.9,
                beta2: 0.99,
                eps: 1e-8,
                weight_decay,
                step,
                scale,
                skip,
            };
            Case::new("precision.adamw", &params, seed)
        },
    )
}

fn sgd() -> impl Strategy<Value = Case> {
    let rates = (select(vec![0.0, 0.9]), bool::ANY, select(vec![0.0, 0.1]));
    let scale = select(vec![1.0, 1024.0]);
    (models(), dtypes(), rates, scale, prop::bool::weighted(0.1), 0u64..1000).prop_map(
        |((tensors, size, sizes), dtype, (momentum, nesterov, weight_decay), scale, skip, seed)| {
            let params = sgd::Params {
                tensors,
                size,
                sizes,
                dtype,
                lr: 0.1,
                momentum,
                nesterov,
                weight_decay,
                scale,
                skip,
            };
            Case::new("precision.sgd", &params, seed)
        },
    )
}
