//! Laws of the pass that verifies a tree of draft tokens.

use proptest::{prelude::*, sample::Index};
use touchstone_reference::{
    Algorithm, Case, DType, Data, Draw, Expected, Outputs, Tensor, Tensors,
    decoding::{
        candidates::line,
        topology::{self, Shape, Topology},
        tree::Tree,
        verification::{Params, Verification},
    },
};

use super::{
    cases,
    laws::{drawn, strategy},
};

fn passes() -> BoxedStrategy<Case> {
    strategy(cases::strategies(), "decoding.verification")
}

/// One sequence of a problem, with a chain of the nodes `path` of its tree in the tree's place.
fn alone(p: &Params, inputs: &Tensors, b: usize, path: &[i64]) -> (Params, Tensors) {
    let of_path = |name: &str, width: usize| {
        let tensor = inputs.tensor(name);
        let at = |&node: &i64| (b * p.nodes + node as usize) * width;
        let row = |start: usize| (start..start + width).map(|i| tensor.real_at(i));
        let values: Vec<f64> = path.iter().map(at).flat_map(row).collect();
        let mut shape = vec![1, path.len(), width];
        shape.truncate(if tensor.shape().len() == 2 { 2 } else { 3 });
        match tensor.dtype() {
            DType::I32 => {
                let values: Vec<i64> = values.into_iter().map(|x| x as i64).collect();
                Tensor::from_integers(DType::I32, &shape, &values)
            }
            dtype => Tensor::from_real(dtype, &shape, &values),
        }
    };
    let chain = Topology::draw(Shape::Chain, path.len(), &mut Draw::new(0));
    let mut one = inputs.clone();
    for (name, tensor) in topology::tensors(&[chain], path.len()).iter() {
        one.insert(name, tensor.clone());
    }
    for (name, width) in
        [("ids", p.window), ("draft_probs", p.vocab), ("draft_tokens", 1), ("accept_u", 1)]
    {
        one.insert(name, of_path(name, width));
    }
    let lengths = [inputs.tensor("lengths").to_i64()[b]];
    one.insert("lengths", Tensor::from_integers(DType::I32, &[1], &lengths));
    one.insert("sample_u", Tensor::from_real(DType::F32, &[1], &[0.5]));
    for name in ["k_cache", "v_cache"] {
        let all = inputs.tensor(name).to_f64();
        let each = p.seq_k * p.hidden;
        let of_layer = |layer| all[(layer * p.batch + b) * each..][..each].to_vec();
        let own: Vec<f64> = (0..p.layers).flat_map(of_layer).collect();
        let shape = [p.layers, 1, p.seq_k, p.hidden];
        one.insert(name, Tensor::from_real(DType::F32, &shape, &own));
    }
    (Params { batch: 1, nodes: path.len(), tree: Shape::Chain, ..p.clone() }, one)
}

/// p after a node of a sequence.
fn law(p: &Params, outputs: &Outputs, b: usize, node: usize) -> Vec<f64> {
    outputs.output("probs").values()[(b * p.nodes + node) * p.vocab..][..p.vocab].to_vec()
}

fn close(a: &[f64], b: &[f64], within: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        prop_assert!((a - b).abs() <= within, "{} and {}", a, b);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_node_has_the_law_that_its_path_alone_would_give(case in passes(), pick in any::<Index>()) {
        let (p, inputs) = drawn::<Verification>(&case);
        prop_assume!(p.batch > 0);
        let at = pick.index(p.batch * p.nodes);
        let (b, node) = (at / p.nodes, at % p.nodes);
        let path = line(&inputs.tensor("parents").to_i64()[b * p.nodes..][..p.nodes], node as i64);
        let whole = Verification::reference(&p, &inputs);
        let (single, inputs) = alone(&p, &inputs, b, &path);
        let one = Verification::reference(&single, &inputs);
        close(&law(&p, &whole, b, node), &law(&single, &one, 0, path.len() - 1), 1e-12)?;
    }

    /// What a pass puts out as keys and values is what makes its nodes' successors see them as committed.
    #[test]
    fn a_committed_token_is_seen_as_a_drafted_one_was(case in passes()) {
        let (mut p, _) = drawn::<Verification>(&case);
        (p.batch, p.nodes, p.seq_k, p.tree) = (1, p.nodes.max(2), 0, Shape::Chain);
        let case = Case::new(case.op(), &p, case.seed());
        let (_, inputs) = drawn::<Verification>(&case);
        let outputs = Verification::reference(&p, &inputs);
        let last = p.nodes - 1;
        let (single, mut one) = alone(&p, &inputs, 0, &[last as i64]);
        let single = Params { seq_k: last, ..single };
        for (cache, tree) in [("k_cache", "k_tree"), ("v_cache", "v_tree")] {
            let all = outputs.output(tree).values();
            let of_layer = |layer: usize| all[layer * p.nodes * p.hidden..][..last * p.hidden].to_vec();
            let rows: Vec<f64> = (0..p.layers).flat_map(of_layer).collect();
            one.insert(cache, Tensor::from_real(DType::F32, &single.kept(last), &rows));
        }
        one.insert("lengths", Tensor::from_integers(DType::I32, &[1], &[last as i64]));
        let after = Verification::reference(&single, &one);
        // The cache is rounded to f32.
        close(&law(&p, &outputs, 0, last), &law(&single, &after, 0, 0), 1e-6)?;
    }

    #[test]
    fn what_is_accepted_is_what_tree_acceptance_makes_of_its_laws(case in passes()) {
        let (p, inputs) = drawn::<Verification>(&case);
        let outputs = Verification::reference(&p, &inputs);
        let probs = outputs.output("probs").values().iter().map(|&p| p as f32).collect();
        let probs = Tensor::new(&[p.batch, p.nodes, p.vocab], Data::F32(probs));
        let apart = Tree::reference(&p.acceptance(), &inputs.with("target_probs", probs));
        for name in ["accepted", "path", "tokens"] {
            prop_assert_eq!(outputs.output(name).values(), apart.output(name).values());
            let (Expected::Discrete(whole), Expected::Discrete(part)) =
                (outputs.output(name), apart.output(name)) else { unreachable!() };
            // The laws' own errors leave more open, and close nothing.
            for (at, others) in &part.also {
                prop_assert!(others.iter().all(|other| whole.also[at].contains(other)), "{name}");
            }
        }
    }

    /// Wider bounds would prove nothing; a state of few values may be near zero, where its norm's gain is large.
    #[test]
    fn bounds_of_laws_stay_small(case in passes()) {
        let (p, inputs) = drawn::<Verification>(&case);
        prop_assume!(p.hidden >= 16 && p.heads * 4 <= p.hidden);
        let outputs = Verification::reference(&p, &inputs);
        let Expected::Real(probs) = outputs.output("probs") else { unreachable!() };
        let share = |(value, bound): (&f64, &f64)| bound / value;
        let worst = probs.value.iter().zip(&probs.bound).map(share).fold(0.0, f64::max);
        prop_assert!(worst < 0.01 * 10f64.powi(p.layers as i32 - 1), "{worst}");
    }
}
