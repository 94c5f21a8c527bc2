//! `cargo bench --bench simulator`: how many thread-instructions a second the simulator executes, on all cores, of
//! kernels of `limits.cu` that do one thing each. Elements are thread-instructions; `watched` runs are those that look
//! for races and count costs, as the first run of every plan does.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use touchstone_cuda::{
    Plan, Simulator,
    simulator::{
        cost::{Cost, Meter},
        race::Races,
    },
};
use touchstone_reference::DType;

/// Blocks, threads of a block and rounds: about ten million thread-instructions of `fma_f32`.
const SIZE: (usize, usize, i32) = (16, 256, 256);

fn plan(symbol: &str) -> Plan {
    let (blocks, threads, rounds) = SIZE;
    let mut plan = Plan::new();
    let sink = plan.output("sink", DType::F32, &[blocks * threads]);
    let args = [sink.into(), rounds.into()];
    plan.launch("limits", symbol, [blocks, 1, 1], [threads, 1, 1], 0, &args);
    plan
}

fn cost(simulator: &Simulator, plan: &Plan) -> Cost {
    let mut meter = Meter::default();
    simulator.prepare(plan).expect("a plan").run_watched(&mut meter).expect("a sound kernel");
    meter.cost().clone()
}

fn simulator(c: &mut Criterion) {
    let simulator = Simulator::new();
    let mut group = c.benchmark_group("simulator");
    group.sample_size(10);
    for symbol in ["fma_f32", "exp2_f32", "matrix_bf16"] {
        let plan = plan(symbol);
        let counts = cost(&simulator, &plan).total();
        group.throughput(Throughput::Elements(counts.thread_instructions + 32 * counts.tensor));
        let prepared = simulator.prepare(&plan).expect("a plan");
        group.bench_function(symbol, |b| {
            b.iter(|| prepared.run_watched(&mut ()).expect("a sound kernel"));
        });
        group.bench_function(format!("{symbol} watched"), |b| {
            b.iter(|| {
                let mut monitors = (Races::default(), Meter::default());
                prepared.run_watched(&mut monitors).expect("a sound kernel");
                black_box(monitors.1.cost().total())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, simulator);
criterion_main!(benches);
