//! Laws of Medusa heads, multi-token prediction and tree attention.

use proptest::{prelude::*, sample::Index};
use touchstone_reference::{
    Algorithm, Case, DType, Data, Expected, Outputs, Tensor, Tensors,
    attention::forward,
    decoding::{
        candidates::line,
        medusa::Medusa,
        mtp::{Mtp, Scheme},
        tree_attention::{self, Shape, TreeAttention},
    },
};

use super::{
    cases,
    laws::{drawn, strategy},
};

fn of(op: &str) -> BoxedStrategy<Case> {
    strategy(cases::strategies(), op)
}

fn close(a: &[f64], b: &[f64], within: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        prop_assert!(a == b || (a - b).abs() <= within * (1.0 + b.abs()), "{} and {}", a, b);
    }
    Ok(())
}

/// Rows of a tensor as f64.
fn rows(tensor: &Tensor, width: usize) -> Vec<Vec<f64>> {
    tensor.to_f64().chunks(width).map(<[f64]>::to_vec).collect()
}

/// The tensor with these values, in its own type where that holds them.
fn with_values(inputs: &Tensors, name: &str, values: &[f64]) -> Tensors {
    let tensor = inputs.tensor(name);
    inputs.clone().with(name, Tensor::from_real(tensor.dtype(), tensor.shape(), values))
}

/// Whether the reference computes all rows, so that outputs can be compared as a whole.
fn is_whole(p: &tree_attention::Params) -> bool {
    let rows = p.batch * p.heads_q * p.nodes;
    rows * (p.seq_k + p.nodes) * p.head_dim <= 1 << 26
}

fn values(outputs: &Outputs, name: &str) -> Vec<f64> {
    outputs.output(name).values()
}

/// The nodes of a tree in another order, in which parents still come first.
fn shuffled(parents: &[i64], seed: &[Index]) -> Vec<usize> {
    let (mut order, mut left): (Vec<usize>, Vec<usize>) = (vec![], (0..parents.len()).collect());
    for pick in seed.iter().cycle().take(parents.len()) {
        let ready =
            |&&node: &&usize| parents[node] < 0 || !left.contains(&(parents[node] as usize));
        let ready: Vec<usize> = left.iter().filter(ready).copied().collect();
        let next = *pick.get(&ready);
        left.retain(|&node| node != next);
        order.push(next);
    }
    order
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_chain_is_causal_attention(case in of("decoding.tree_attention")) {
        let (mut p, _) = drawn::<TreeAttention>(&case);
        prop_assume!(is_whole(&p));
        p.tree = Shape::Chain;
        p.lengths = touchstone_reference::attention::Lengths::Full;
        let case = Case::new(case.op(), &p, case.seed());
        let (_, inputs) = drawn::<TreeAttention>(&case);
        let width = p.heads_kv * p.head_dim;
        let keys = p.seq_k + p.nodes;
        let joined = |cache: &str, tree: &str| {
            let (cache, tree) = (rows(inputs.tensor(cache), width), rows(inputs.tensor(tree), width));
            let of = |b: usize| [&cache[b * p.seq_k..][..p.seq_k], &tree[b * p.nodes..][..p.nodes]].concat();
            let all: Vec<f64> = (0..p.batch).flat_map(of).flatten().collect();
            Tensor::from_real(p.dtype, &[p.batch, keys, p.heads_kv, p.head_dim], &all)
        };
        let lengths = |n: usize| Tensor::from_integers(DType::I32, &[p.batch], &vec![n as i64; p.batch]);
        let causal = Tensors::new()
            .with("q", inputs.tensor("q").clone())
            .with("k", joined("k", "k_tree"))
            .with("v", joined("v", "v_tree"))
            .with("lengths_q", lengths(p.nodes))
            .with("lengths_k", lengths(keys));
        let params = forward::Params {
            batch: p.batch, seq_q: p.nodes, seq_k: keys, heads_q: p.heads_q, heads_kv: p.heads_kv,
            head_dim: p.head_dim, mask: touchstone_reference::attention::Mask::Causal, window: 0,
            lengths: p.lengths, scale: p.scale, softcap: 0.0, sd: p.sd,
            dtype: p.dtype,
        };
        let ours = TreeAttention::reference(&p, &inputs);
        let theirs = forward::Forward::reference(&params, &causal);
        close(&values(&ours, "o"), &values(&theirs, "o"), 1e-12)?;
        let lse = values(&theirs, "lse");
        let turned: Vec<f64> = (0..p.batch * p.nodes * p.heads_q)
            .map(|at| (at / p.heads_q / p.nodes, at / p.heads_q % p.nodes, at % p.heads_q))
            .map(|(b, i, h)| lse[(b * p.heads_q + h) * p.nodes + i])
            .collect();
        close(&values(&ours, "lse"), &turned, 1e-12)?;
    }

    #[test]
    fn nodes_in_another_order_give_the_same_outputs_in_that_order(
        case in of("decoding.tree_attention"), seed in prop::collection::vec(any::<Index>(), 8)
    ) {
        let (p, inputs) = drawn::<TreeAttention>(&case);
        prop_assume!(is_whole(&p));
        let parents = inputs.tensor("parents").to_i64();
        let mut from = Vec::new();
        let mut renamed = Vec::new();
        for b in 0..p.batch {
            let parents = &parents[b * p.nodes..][..p.nodes];
            let order = shuffled(parents, &seed);
            let place = |node: i64| order.iter().position(|&n| n as i64 == node).map_or(-1, |n| n as i64);
            renamed.extend(order.iter().map(|&node| place(parents[node])));
            from.extend(order.iter().map(|&node| b * p.nodes + node));
        }
        let moved = |values: Vec<f64>, width: usize| -> Vec<f64> {
            from.iter().flat_map(|&row| values[row * width..(row + 1) * width].to_vec()).collect()
        };
        let (wide, narrow) = (p.heads_q * p.head_dim, p.heads_kv * p.head_dim);
        let mut other = inputs.clone();
        for (name, width) in [("q", wide), ("k_tree", narrow), ("v_tree", narrow)] {
            other = with_values(&other, name, &moved(inputs.tensor(name).to_f64(), width));
        }
        other.insert("parents", Tensor::from_integers(DType::I32, &[p.batch, p.nodes], &renamed));
        let (a, b) = (TreeAttention::reference(&p, &inputs), TreeAttention::reference(&p, &other));
        prop_assert_eq!(moved(values(&a, "o"), wide), values(&b, "o"));
        prop_assert_eq!(moved(values(&a, "lse"), p.heads_q), values(&b, "lse"));
    }

    #[test]
    fn what_is_not_on_its_path_does_not_matter_to_a_node(
        case in of("decoding.tree_attention"), pick in any::<Index>()
    ) {
        let (p, inputs) = drawn::<TreeAttention>(&case);
        prop_assume!(p.batch > 0 && p.nodes > 0 && is_whole(&p));
        let node = pick.index(p.nodes);
        let path = line(&inputs.tensor("parents").to_i64()[..p.nodes], node as i64);
        let width = p.heads_kv * p.head_dim;
        let spoilt = |name: &str| -> Vec<f64> {
            let spoil = |(at, value)| if path.contains(&((at / width) as i64)) { value } else { f64::NAN };
            inputs.tensor(name).to_f64().into_iter().enumerate().map(spoil).collect()
        };
        let other = with_values(&inputs, "k_tree", &spoilt("k_tree"));
        let other = with_values(&other, "v_tree", &spoilt("v_tree"));
        let (a, b) = (TreeAttention::reference(&p, &inputs), TreeAttention::reference(&p, &other));
        let own = p.heads_q * p.head_dim;
        prop_assert_eq!(&values(&a, "o")[node * own..][..own], &values(&b, "o")[node * own..][..own]);
    }

    #[test]
    fn a_residual_layer_of_zeros_leaves_the_output_layer_alone(case in of("decoding.medusa")) {
        let (p, inputs) = drawn::<Medusa>(&case);
        let zeros = |name: &str, inputs: &Tensors| {
            with_values(inputs, name, &vec![0.0; inputs.tensor(name).len()])
        };
        let plain = zeros("b", &zeros("w", &inputs));
        let logits = values(&Medusa::reference(&p, &plain), "logits");
        let (x, lm) = (rows(inputs.tensor("x"), p.hidden), rows(inputs.tensor("lm"), p.hidden));
        let products: Vec<f64> = (0..p.heads * p.tokens * p.vocab)
            .map(|at| (at / p.vocab % p.tokens, at / p.vocab / p.tokens * p.vocab + at % p.vocab))
            .map(|(token, row)| x[token].iter().zip(&lm[row]).map(|(x, l)| x * l).sum())
            .collect();
        close(&logits, &products, 1e-12)?;
    }

    #[test]
    fn candidates_have_falling_logits_and_are_the_largest(case in of("decoding.medusa")) {
        let (p, inputs) = drawn::<Medusa>(&case);
        prop_assume!(p.top_k > 0);
        let outputs = Medusa::reference(&p, &inputs);
        let (logits, named) = (values(&outputs, "logits"), values(&outputs, "candidates"));
        for (row, named) in logits.chunks(p.vocab).zip(named.chunks(p.top_k)) {
            let mut sorted = row.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let found: Vec<f64> = named.iter().map(|&token| row[token as usize]).collect();
            prop_assert_eq!(&found, &sorted[..p.top_k]);
        }
    }

    #[test]
    fn later_states_do_not_reach_earlier_losses(case in of("decoding.mtp"), pick in any::<Index>()) {
        let (p, inputs) = drawn::<Mtp>(&case);
        let cut = pick.index(p.seq_len);
        let mut h = inputs.tensor("h").to_f64();
        for (row, values) in h.chunks_mut(p.hidden).enumerate() {
            if row % p.seq_len >= cut {
                values.iter_mut().for_each(|x| *x = 1.0 - 2.0 * *x);
            }
        }
        let losses = |inputs: &Tensors| values(&Mtp::reference(&p, inputs), "losses");
        let (a, b) = (losses(&inputs), losses(&with_values(&inputs, "h", &h)));
        for (at, (a, b)) in a.iter().zip(&b).enumerate() {
            prop_assert!(at % p.seq_len >= cut || a == b);
        }
    }

    #[test]
    fn an_output_layer_of_zeros_leaves_the_logarithm_of_the_vocabulary(case in of("decoding.mtp")) {
        let (p, inputs) = drawn::<Mtp>(&case);
        let flat = with_values(&inputs, "lm", &vec![0.0; p.vocab * p.hidden]);
        let outputs = Mtp::reference(&p, &flat);
        let flat = (p.vocab as f64).ln();
        for (at, loss) in values(&outputs, "losses").into_iter().enumerate() {
            let k = at / p.batch / p.seq_len + 1;
            let right = if at % p.seq_len < p.places(k) { flat } else { 0.0 };
            prop_assert!((loss - right).abs() < 1e-12);
        }
        let each = |k: usize| p.places(k) as f64 / p.seq_len as f64 * flat;
        let sum: f64 = (1..=p.depth).map(each).sum();
        let total = values(&outputs, "loss")[p.depth];
        prop_assert!((total - p.lambda / p.depth as f64 * sum).abs() < 1e-12);
    }

    #[test]
    fn parallel_modules_are_blind_to_each_other_and_sequential_ones_are_not(case in of("decoding.mtp")) {
        let (mut p, _) = drawn::<Mtp>(&case);
        (p.depth, p.seq_len) = (2, p.seq_len.max(4));
        let case = Case::new(case.op(), &p, case.seed());
        let (_, inputs) = drawn::<Mtp>(&case);
        let mut down = inputs.tensor("down").to_f64();
        let half = down.len() / 2;
        down[..half].iter_mut().for_each(|w| *w = -*w);
        let losses = |inputs: &Tensors| values(&Mtp::reference(&p, inputs), "losses");
        let (a, b) = (losses(&inputs), losses(&with_values(&inputs, "down", &down)));
        let half = a.len() / 2;
        prop_assert!(a[..half] != b[..half], "the first module's own");
        prop_assert_eq!(a[half..] == b[half..], p.scheme == Scheme::Parallel);
    }

    /// Losses differ by some units from place to place: wider bounds would prove nothing. A state of few values may be
    /// near zero, where its norm's gain is large.
    #[test]
    fn bounds_of_losses_stay_small(case in of("decoding.mtp")) {
        let (p, inputs) = drawn::<Mtp>(&case);
        prop_assume!(p.hidden >= 16);
        let outputs = Mtp::reference(&p, &inputs);
        let Expected::Real(losses) = outputs.output("losses") else { unreachable!() };
        let worst = losses.bound.iter().copied().fold(0.0, f64::max);
        let allowed = if p.scheme == Scheme::Sequential && p.depth == 2 { 0.2 } else { 0.02 };
        prop_assert!(worst < allowed, "{worst}");
    }
}

#[test]
fn a_tree_of_one_node_is_what_decode_gives() {
    use touchstone_reference::attention::decode::{Decode, Params};
    let text = "decoding.tree_attention:batch=1,nodes=1,seq_k=9,heads_q=4,heads_kv=2,head_dim=8,tree=chain,dtype=f32,seed=3";
    let case: Case = text.parse().unwrap();
    let (p, inputs) = drawn::<TreeAttention>(&case);
    let joined = |cache: &str, tree: &str| {
        let all = [inputs.tensor(cache).to_f64(), inputs.tensor(tree).to_f64()].concat();
        Tensor::new(&[1, 10, 2, 8], Data::F32(all.iter().map(|&x| x as f32).collect()))
    };
    let q = Tensor::from_bytes(DType::F32, &[1, 4, 8], inputs.tensor("q").as_bytes());
    let decode = Tensors::new()
        .with("q", q)
        .with("k", joined("k", "k_tree"))
        .with("v", joined("v", "v_tree"))
        .with("lengths", Tensor::from_integers(DType::I32, &[1], &[10]));
    let params: Params =
        "attention.decode:batch=1,seq_k=10,heads_q=4,heads_kv=2,head_dim=8,dtype=f32"
            .parse::<Case>()
            .unwrap()
            .params()
            .unwrap();
    let (ours, theirs) =
        (TreeAttention::reference(&p, &inputs), Decode::reference(&params, &decode));
    for name in ["o", "lse"] {
        assert_eq!(values(&ours, name), values(&theirs, name));
    }
}
