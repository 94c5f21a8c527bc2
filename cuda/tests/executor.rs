//! The GPU executor on kernels whose answer is known: what it must see, and what its clocks must say.
//! Ignored, not passed, without a GPU.

use libtest_mimic::{Arguments, Failed, Trial};
use touchstone_cuda::{
    Arg, BufferId, Gpu, Plan,
    gpu::{Cache, OutOfMemory, Poison},
};
use touchstone_reference::{DType, Tensor, Tensors};

/// Copies `words` of 16 bytes between buffers of `size` words.
fn copy(size: usize, words: usize) -> Plan {
    let values: Vec<i64> = (0..4 * size as i64).map(|i| i * 7 + 1).collect();
    let from = Tensor::from_integers(DType::U32, &[4 * size], &values);
    let mut plan = Plan::new();
    let from = plan.input(&Tensors::new().with("from", from), "from");
    let to = plan.output("to", DType::U32, &[4 * size]);
    launch_copy(&mut plan, from, to, words);
    plan
}

fn launch_copy(plan: &mut Plan, from: BufferId, to: BufferId, words: usize) {
    let args = [from.into(), to.into(), Arg::from(words)];
    plan.launch("limits", "copy", [264, 1, 1], [256, 1, 1], 0, &args);
}

fn outputs_arrive(gpu: &Gpu) -> Result<(), Failed> {
    let plan = copy(1000, 1000);
    let prepared = gpu.prepare(&plan)?;
    prepared.poison(Poison::Nan)?;
    prepared.run()?;
    let outputs = prepared.outputs()?;
    let expected: Vec<i64> = (0..4000).map(|i| i * 7 + 1).collect();
    assert_eq!(outputs.tensor("to").to_i64(), expected);
    assert_eq!(prepared.damage()?, None);
    Ok(())
}

fn unwritten_elements_keep_their_poison(gpu: &Gpu) -> Result<(), Failed> {
    let plan = copy(100, 99);
    let prepared = gpu.prepare(&plan)?;
    for (poison, word) in [(Poison::Nan, 0xFFFF_FFFF_i64), (Poison::Huge, 0x7F7F_7F7F)] {
        prepared.poison(poison)?;
        prepared.run()?;
        let values = prepared.outputs()?.tensor("to").to_i64();
        assert_eq!(values[395], 395 * 7 + 1);
        assert_eq!(&values[396..], [word; 4]);
    }
    Ok(())
}

fn a_store_past_the_end_is_seen(gpu: &Gpu) -> Result<(), Failed> {
    let plan = copy(100, 101);
    let prepared = gpu.prepare(&plan)?;
    prepared.run()?;
    let damage = prepared.damage()?.ok_or("the damage was not seen")?;
    assert!(damage.contains("'to'") && damage.contains("past its end"), "{damage}");
    Ok(())
}

fn a_changed_input_is_seen(gpu: &Gpu) -> Result<(), Failed> {
    let words = 64;
    let mut plan = copy(words, words);
    let zeros =
        plan.table("zeros", Tensor::from_integers(DType::U32, &[4 * words], &vec![0; 4 * words]));
    launch_copy(&mut plan, zeros, BufferId(0), words);
    let prepared = gpu.prepare(&plan)?;
    prepared.run()?;
    assert_eq!(prepared.damage()?.as_deref(), Some("input 'from' was changed"));
    Ok(())
}

fn too_large_a_plan_is_a_reason_to_skip(gpu: &Gpu) -> Result<(), Failed> {
    let mut plan = Plan::new();
    plan.scratch("huge", DType::U8, &[1 << 50]);
    let error = gpu.prepare(&plan).err().ok_or("it was prepared")?;
    assert!(error.downcast_ref::<OutOfMemory>().is_some(), "{error:#}");
    Ok(())
}

fn limits_are_plausible(gpu: &Gpu) -> Result<(), Failed> {
    let limits = gpu.limits()?;
    println!("{:?}\n{limits:?}", gpu.properties());
    assert!(limits.copy_bytes_per_s > 5e10, "{limits:?}");
    assert!(limits.matrix_flops_per_s > limits.f32_flops_per_s, "{limits:?}");
    let wgmma = [limits.wgmma_flops_per_s, limits.wgmma_e4m3_flops_per_s];
    assert_eq!(wgmma.map(|rate| rate.is_some()), [gpu.properties().compute == (9, 0); 2]);
    if let [Some(wide), Some(e4m3)] = wgmma {
        assert!(wide > limits.matrix_flops_per_s && e4m3 > wide, "{limits:?}");
    }
    assert!(limits.f32_flops_per_s > limits.exp2_per_s, "{limits:?}");
    assert!(limits.atomics_per_s > 1e8, "{limits:?}");
    Ok(())
}

fn cold_runs_are_slower_than_warm_ones(gpu: &Gpu) -> Result<(), Failed> {
    // 8 MiB fit every cache we know of; cold they come from memory.
    let plan = copy(1 << 18, 1 << 18);
    let prepared = gpu.prepare(&plan)?;
    let median = |cache| -> Result<f64, Failed> {
        let mut samples = prepared.time(cache, 21)?.samples_ns;
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().ok_or_else(|| "no samples".into())
    };
    let (cold, warm) = (median(Cache::Cold)?, median(Cache::Warm)?);
    println!("cold {cold:.0} ns, warm {warm:.0} ns");
    assert!(cold > warm, "cold {cold} ns, warm {warm} ns");
    assert_eq!(prepared.outputs()?.tensor("to").to_i64()[5], 36);
    Ok(())
}

/// A kernel looks for a flag that only the next launch raises: launches overlap, enqueued and replayed from a graph.
fn launches_overlap(gpu: &Gpu) -> Result<(), Failed> {
    if gpu.properties().compute < (9, 0) {
        println!("not asked: launches overlap from compute capability 9.0 on");
        return Ok(());
    }
    let met = |overlap: bool, replayed: bool| -> Result<i64, Failed> {
        let mut plan = Plan::new();
        let flag = plan.scratch("flag", DType::U32, &[1]);
        let met = plan.output("met", DType::U32, &[1]);
        let looks = Arg::U32(100_000);
        plan.fill(flag, 0);
        let one = [1; 3];
        let args = [flag.into(), met.into(), looks];
        plan.launch("planted_overlap", "overlap_looks", one, one, 0, &args);
        plan.launch("planted_overlap", "overlap_raises", one, one, 0, &[flag.into()]);
        if overlap {
            plan.overlap_last();
        }
        let prepared = gpu.prepare(&plan)?;
        prepared.poison(Poison::Nan)?;
        match replayed {
            true => drop(prepared.time(Cache::Warm, 1)?),
            false => prepared.run()?,
        }
        Ok(prepared.outputs()?.tensor("met").to_i64()[0])
    };
    for replayed in [false, true] {
        assert_eq!((met(true, replayed)?, met(false, replayed)?), (1, 0), "replayed: {replayed}");
    }
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let gpu = Gpu::open(0);
    if let Err(absent) = &gpu {
        println!("executor tests not run: {absent}");
    }
    let absent = gpu.is_err();
    let gpu: &'static Result<Gpu, _> = Box::leak(Box::new(gpu));
    let trial = |name: &str, test: fn(&Gpu) -> Result<(), Failed>| {
        Trial::test(name, move || test(gpu.as_ref().map_err(ToString::to_string)?))
            .with_ignored_flag(absent)
    };
    let trials = vec![
        trial("outputs_arrive", outputs_arrive),
        trial("unwritten_elements_keep_their_poison", unwritten_elements_keep_their_poison),
        trial("a_store_past_the_end_is_seen", a_store_past_the_end_is_seen),
        trial("a_changed_input_is_seen", a_changed_input_is_seen),
        trial("too_large_a_plan_is_a_reason_to_skip", too_large_a_plan_is_a_reason_to_skip),
        trial("launches_overlap", launches_overlap),
        trial("limits_are_plausible", limits_are_plausible),
        trial("cold_runs_are_slower_than_warm_ones", cold_runs_are_slower_than_warm_ones),
    ];
    let serial = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&serial, trials).exit();
}
