//! `cargo bench --bench loss`: references on the CPU, variants on a GPU where there is one.

mod support;

fn main() {
    support::bench("loss");
}
