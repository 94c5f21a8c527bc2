//! What the rules of this vertical emit, row by row, and inputs changed or joined for the tests of their laws.

use touchstone_reference::{
    Algorithm, Data, Expected, Outputs, Tensor, Tensors,
    acceptance::chain,
    decoding::{
        block::{self, Block},
        tree::{self, Tree},
    },
};

/// Nodes from the root on, and the token emitted after each.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    pub path: Vec<usize>,
    pub tokens: Vec<i64>,
}

fn rows(outputs: &Outputs, name: &str, width: usize) -> Vec<Vec<i64>> {
    let Expected::Discrete(discrete) = outputs.output(name) else { panic!("{name} is discrete") };
    let counts = outputs.output("accepted").values();
    let rows = discrete.value.chunks(width).zip(counts);
    rows.map(|(line, count)| {
        let (kept, padding) = line.split_at(count as usize + 1);
        assert!(padding.iter().all(|&t| t == -1), "after the further token comes -1");
        assert!(kept.iter().all(|&t| t >= 0), "{kept:?}");
        kept.to_vec()
    })
    .collect()
}

/// Tokens of every row: the accepted ones and the further one.
pub fn emitted(outputs: &Outputs, width: usize) -> Vec<Vec<i64>> {
    rows(outputs, "tokens", width)
}

pub fn tree_of(params: &tree::Params, inputs: &Tensors) -> Vec<Emitted> {
    let outputs = Tree::reference(params, inputs);
    let paths = rows(&outputs, "path", params.nodes);
    let together = paths.into_iter().zip(emitted(&outputs, params.nodes));
    together
        .map(|(path, tokens)| Emitted {
            path: path.into_iter().map(|node| node as usize).collect(),
            tokens,
        })
        .collect()
}

pub fn block_of(params: &block::Params, inputs: &Tensors) -> Vec<Vec<i64>> {
    emitted(&Block::reference(params, inputs), params.draft_len + 1)
}

/// Inputs of a block whose rows share their distributions, as [`chain::repeated`] makes them.
pub fn repeated_block(
    target: &[Vec<f32>],
    draft: &[Vec<f32>],
    rows: usize,
    seed: u64,
) -> (block::Params, Tensors) {
    let (of_chain, inputs) = chain::repeated(target, draft, rows, seed);
    (of_chain.into(), inputs)
}

pub fn scaled(inputs: &Tensors, name: &str, factor: f32) -> Tensors {
    let tensor = inputs.tensor(name);
    let Data::F32(values) = tensor.data() else { panic!("{name} is f32") };
    let values = values.iter().map(|v| v * factor).collect();
    inputs.clone().with(name, Tensor::new(tensor.shape(), Data::F32(values)))
}

/// The inputs of each row as a batch of one.
pub fn rows_alone(inputs: &Tensors, batch: usize) -> Vec<Tensors> {
    let alone = |row: usize| {
        let mut alone = Tensors::new();
        for (name, tensor) in inputs.iter() {
            let mut shape = tensor.shape().to_vec();
            shape[0] = 1;
            let size = tensor.bytes() / batch;
            let bytes = &tensor.as_bytes()[row * size..][..size];
            alone.insert(name, Tensor::from_bytes(tensor.dtype(), &shape, bytes));
        }
        alone
    };
    (0..batch).map(alone).collect()
}

/// The inputs of chain acceptance that a tree of one path has.
pub fn as_chain(params: &tree::Params, inputs: &Tensors) -> (chain::Params, Tensors) {
    let &tree::Params { batch, nodes, vocab, mass, relation, draws, .. } = params;
    let k = nodes - 1;
    let of_chain = chain::Params {
        batch,
        draft_len: k,
        vocab,
        mode: Default::default(),
        lengths: Default::default(),
        mass,
        relation,
        draws,
    };
    let (Data::F32(q), Data::I32(tokens), Data::F32(u)) = (
        inputs.tensor("draft_probs").data(),
        inputs.tensor("draft_tokens").data(),
        inputs.tensor("accept_u").data(),
    ) else {
        panic!("f32, i32 and f32")
    };
    // A chain's draft has no root.
    let q = q.chunks(nodes * vocab).flat_map(|row| &row[..k * vocab]).copied().collect();
    let tokens = tokens.chunks(nodes).flat_map(|row| &row[1..]).copied().collect();
    let u = u.chunks(nodes).flat_map(|row| &row[1..]).copied().collect();
    let chained = Tensors::new()
        .with("draft_probs", Tensor::new(&[batch, k, vocab], Data::F32(q)))
        .with("target_probs", inputs.tensor("target_probs").clone())
        .with("draft_tokens", Tensor::new(&[batch, k], Data::I32(tokens)))
        .with("draft_lengths", Tensor::new(&[batch], Data::I32(vec![k as i32; batch])))
        .with("accept_u", Tensor::new(&[batch, k], Data::F32(u)))
        .with("sample_u", inputs.tensor("sample_u").clone());
    (of_chain, chained)
}
