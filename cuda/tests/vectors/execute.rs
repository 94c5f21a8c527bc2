//! The same PTX files in the simulator's executor: what it decodes must be what the tables compute.

use libtest_mimic::Failed;
use touchstone_cuda::{Plan, simulator::Simulator};
use touchstone_reference::{DType, Tensor};

use super::{
    family::Family,
    warps::{Group, Warps},
};

/// Words of results, of a plan whose only output they are.
pub fn run(simulator: &Simulator, plan: &Plan) -> Result<Vec<u8>, Failed> {
    let prepared = simulator.prepare(plan).map_err(|error| format!("{error:#}"))?;
    prepared.run().map_err(|error| format!("{error:#}"))?;
    Ok(prepared.outputs().tensor("results").as_bytes().to_vec())
}

/// Instructions whose result in the executor is not that of the table.
pub fn objections(family: &Family) -> Result<Vec<String>, Failed> {
    let simulator = Simulator::new().with_module(family.name, family.ptx());
    let count = family.inputs.len();
    let words: Vec<u8> =
        family.inputs.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    let mut plan = Plan::new();
    let inputs = plan.table("inputs", Tensor::from_bytes(DType::U64, &[count * 3], &words));
    let results = plan.output("results", DType::U64, &[count * family.instructions.len()]);
    plan.fill(results, 0);
    let args = [inputs.into(), results.into(), touchstone_cuda::Arg::U32(count as u32)];
    let blocks = count.div_ceil(64);
    plan.launch(family.name, family.name, [blocks, 1, 1], [64, 1, 1], 0, &args);
    let results = run(&simulator, &plan)?;
    let mut objections = vec![];
    for (instruction, results) in family.instructions.iter().zip(results.chunks(8 * count)) {
        for (inputs, result) in family.inputs.iter().zip(results.chunks(8)) {
            let result = u64::from_le_bytes(result.try_into()?);
            let table = (instruction.compute)(inputs[0], inputs[1], inputs[2]);
            if result != table {
                let name = instruction.name();
                objections
                    .push(format!("{name} of {inputs:x?}: {result:#x} instead of {table:#x}"));
                break;
            }
        }
    }
    Ok(objections)
}

/// The words that the executor gives for each instruction of a group.
pub fn words(group: &Warps) -> Result<Vec<Vec<u32>>, Failed> {
    let simulator = Simulator::new().with_module(group.name, group.ptx());
    let bytes: Vec<u8> = group.inputs.iter().flat_map(|word| word.to_le_bytes()).collect();
    let each = group.result_words();
    let mut plan = Plan::new();
    let inputs =
        plan.table("inputs", Tensor::from_bytes(DType::U32, &[group.inputs.len()], &bytes));
    let results = plan.output("results", DType::U32, &[each * group.instructions.len()]);
    plan.fill(results, 0);
    let blocks = group.cases();
    plan.launch(
        group.name,
        group.name,
        [blocks, 1, 1],
        [32, 1, 1],
        0,
        &[inputs.into(), results.into()],
    );
    let results = run(&simulator, &plan)?;
    let words: Vec<u32> =
        results.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(words.chunks(each).map(<[u32]>::to_vec).collect())
}
