//! `atom` and `red`. Each thread has a place of its own: it stores `a` there, and what the operation leaves is the
//! result.

use touchstone_cuda::simulator::{
    numeric::atomic::{self, Operation},
    types::Type,
};

use super::{
    family::{Family, Instruction, op, triples},
    floats::{EDGES_F32, draw_f32},
};

fn on(name: &str, operation: Operation, ty: Type, type_name: &str) -> Instruction {
    let (r, b) = match ty.bytes() {
        2 => ('h', "b16"),
        8 => ('l', "b64"),
        _ => ('w', "b32"),
    };
    let third = if operation == Operation::Cas { format!(", %{r}c") } else { String::new() };
    let x = if r == 'h' { 'h' } else { r };
    let trash = if x == 'h' { "%hc".to_owned() } else { format!("%{x}x") };
    // The result's register is named in a comment: its width is that of the place.
    let text = format!(
        "st.global.{b} [%out], %{r}a; // %{r}d\natom.global.{name}.{type_name} {trash}, [%out], %{r}b{third};"
    );
    let flush = ty == Type::F32 && operation == Operation::Add;
    op(text, move |a, b, c| atomic::apply(operation, ty, flush, a, b, c))
}

pub fn families() -> Vec<Family> {
    use Operation::{Add, And, Cas, Dec, Exch, Inc, Max, Min, Or, Xor};
    use Type::{B32, B64, F16x2, F32, S32, S64, U32, U64};
    let words = vec![
        on("add", Add, U32, "u32"),
        on("min", Min, S32, "s32"),
        on("max", Max, S32, "s32"),
        on("min", Min, U32, "u32"),
        on("max", Max, U32, "u32"),
        on("and", And, B32, "b32"),
        on("or", Or, B32, "b32"),
        on("xor", Xor, B32, "b32"),
        on("exch", Exch, B32, "b32"),
        on("cas", Cas, B32, "b32"),
        on("inc", Inc, U32, "u32"),
        on("dec", Dec, U32, "u32"),
        on("add", Add, F32, "f32"),
        on("add.noftz", Add, F16x2, "f16x2"),
    ];
    let longs = vec![
        on("add", Add, U64, "u64"),
        on("min", Min, S64, "s64"),
        on("max", Max, S64, "s64"),
        on("min", Min, U64, "u64"),
        on("max", Max, U64, "u64"),
        on("and", And, B64, "b64"),
        on("exch", Exch, B64, "b64"),
        on("cas", Cas, B64, "b64"),
        on("add", Add, Type::F64, "f64"),
    ];
    let mut edges = EDGES_F32[..16].to_vec();
    edges.extend([2, 0x7bff_7bff, 0x0001_8001, 0xffff_ffff]);
    let longs_edges: Vec<u64> =
        edges.iter().map(|e| f64::from(f32::from_bits(*e as u32)).to_bits()).collect();
    let family =
        |name, inputs, instructions| Family { name, target: "sm_80", inputs, instructions };
    vec![
        family("atomic32", triples(&edges, 50, 11, draw_f32), words),
        family("atomic64", triples(&longs_edges[..14], 50, 12, |words| words.next()), longs),
    ]
}
