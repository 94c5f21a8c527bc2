//! Laws of decoding several tokens a step, shown on the references.

#[path = "cases/decoding.rs"]
mod cases;
#[path = "decoding/emitted.rs"]
mod emitted;
#[path = "decoding/heads.rs"]
mod heads;
mod laws;
#[path = "decoding/verification.rs"]
mod verification;

use emitted::{Emitted, block_of, emitted, rows_alone, scaled, tree_of};
use laws::{drawn, strategy};
use proptest::prelude::*;
use touchstone_bench::gtest::{FALSE_ALARM, g_test};
use touchstone_reference::{
    Algorithm, Case, Data, Draw, Expected, Tensor, Tensors,
    acceptance::{
        chain::Chain,
        distributions::{Draws, Relation, argmax},
    },
    decoding::{
        block::Block,
        law,
        topology::Shape,
        tree::{self, Drafts, Tree},
        typical::Typical,
    },
};

fn cases(op: &str) -> BoxedStrategy<Case> {
    strategy(cases::strategies(), op)
}

#[test]
fn every_generated_case_is_valid_and_its_inputs_repeat() {
    laws::cases_are_valid_and_their_inputs_repeat(cases::strategies(), 40);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_emitted_lies_on_one_path_of_the_tree(case in cases("decoding.tree")) {
        let (params, inputs) = drawn::<Tree>(&case);
        let parents = inputs.tensor("parents").to_i64();
        let draft = inputs.tensor("draft_tokens").to_i64();
        for (row, emitted) in tree_of(&params, &inputs).into_iter().enumerate() {
            let Emitted { path, tokens } = emitted;
            prop_assert_eq!(path[0], 0);
            for i in 1..path.len() {
                let node = row * params.nodes + path[i];
                prop_assert_eq!(parents[node], path[i - 1] as i64);
                prop_assert_eq!(draft[node], tokens[i - 1]);
            }
        }
    }

    #[test]
    fn no_rule_that_keeps_the_law_emits_a_token_without_mass(case in cases("decoding.tree")) {
        let (params, inputs) = drawn::<Tree>(&case);
        let target = inputs.tensor("target_probs").to_f64();
        for (row, emitted) in tree_of(&params, &inputs).into_iter().enumerate() {
            for (node, token) in emitted.path.into_iter().zip(emitted.tokens) {
                let at = (row * params.nodes + node) * params.vocab + token as usize;
                prop_assert!(target[at] > 0.0, "row {row} emits {token} after node {node}");
            }
        }
    }

    #[test]
    fn a_block_emits_no_token_without_mass(case in cases("decoding.block")) {
        let (params, inputs) = drawn::<Block>(&case);
        let target = inputs.tensor("target_probs").to_f64();
        for (row, tokens) in block_of(&params, &inputs).into_iter().enumerate() {
            for (i, token) in tokens.into_iter().enumerate() {
                let at = (row * (params.draft_len + 1) + i) * params.vocab + token as usize;
                prop_assert!(target[at] > 0.0, "row {row} emits {token} at {i}");
            }
        }
    }

    /// A tree of one path, drawn by chance, is the draft of chain acceptance.
    #[test]
    fn a_tree_of_one_path_is_the_chain(case in cases("decoding.tree")) {
        let (mut params, _) = drawn::<Tree>(&case);
        params.shape = Shape::Chain;
        if params.drafts == Drafts::Top {
            params.drafts = Drafts::Distinct;
        }
        let inputs = Tree::inputs(&params, &mut Draw::new(case.seed()));
        let (of_chain, chained) = emitted::as_chain(&params, &inputs);
        let tree: Vec<Vec<i64>> =
            tree_of(&params, &inputs).into_iter().map(|emitted| emitted.tokens).collect();
        prop_assert_eq!(tree, emitted(&Chain::reference(&of_chain, &chained), params.nodes));
    }

    /// With one draft token there is nothing to decide together.
    #[test]
    fn a_block_of_one_token_is_the_chain(case in cases("decoding.block")) {
        let (mut params, _) = drawn::<Block>(&case);
        params.draft_len = 1;
        let inputs = Block::inputs(&params, &mut Draw::new(case.seed()));
        let chain = Chain::reference(&params.chain(), &inputs);
        prop_assert_eq!(block_of(&params, &inputs), emitted(&chain, 2));
    }

    #[test]
    fn a_target_equal_to_the_draft_accepts_the_first_child_all_the_way(case in cases("decoding.tree")) {
        let (mut params, _) = drawn::<Tree>(&case);
        params.relation = Relation::Same;
        params.draws = Draws::Fair;
        if params.drafts == Drafts::Top {
            params.drafts = Drafts::Independent;
        }
        let inputs = Tree::inputs(&params, &mut Draw::new(case.seed()));
        let first = inputs.tensor("first_child").to_i64();
        for (row, emitted) in tree_of(&params, &inputs).into_iter().enumerate() {
            let next = |&node: &i64| Some(first[row * params.nodes + node as usize]).filter(|&c| c >= 0);
            let expected: Vec<usize> =
                std::iter::successors(Some(0), next).map(|node| node as usize).collect();
            prop_assert_eq!(emitted.path, expected);
        }
    }

    #[test]
    fn a_block_drawn_from_the_target_is_kept_whole(case in cases("decoding.block")) {
        let (mut params, _) = drawn::<Block>(&case);
        params.relation = Relation::Same;
        params.draws = Draws::Fair;
        let inputs = Block::inputs(&params, &mut Draw::new(case.seed()));
        let lengths = inputs.tensor("draft_lengths").to_i64();
        for (tokens, length) in block_of(&params, &inputs).iter().zip(lengths) {
            prop_assert_eq!(tokens.len() as i64, length + 1);
        }
    }

    #[test]
    fn disjoint_supports_accept_none(case in cases("decoding.tree")) {
        let (mut params, _) = drawn::<Tree>(&case);
        params.relation = Relation::Disjoint;
        params.vocab = params.vocab.max(2);
        params.draws = Draws::Fair;
        // As many guesses as the draft has tokens: the most probable ones of zero mass are anyone's.
        params.nodes = params.nodes.min(2);
        let inputs = Tree::inputs(&params, &mut Draw::new(case.seed()));
        prop_assert!(tree_of(&params, &inputs).iter().all(|emitted| emitted.path.len() == 1));
    }

    #[test]
    fn rows_do_not_depend_on_each_other(case in cases("decoding.tree")) {
        let (params, inputs) = drawn::<Tree>(&case);
        let all = tree_of(&params, &inputs);
        let one = tree::Params { batch: 1, ..params.clone() };
        for (alone, expected) in rows_alone(&inputs, params.batch).iter().zip(all) {
            prop_assert_eq!(&tree_of(&one, alone)[0], &expected);
        }
    }

    /// H(p) ≥ −ln max p, so exp(−H) is no more than the largest probability, and δ < 1.
    #[test]
    fn the_most_probable_token_is_always_typical(case in cases("decoding.typical")) {
        let (params, inputs) = drawn::<Typical>(&case);
        let mut inputs = inputs;
        let parents = inputs.tensor("parents").to_i64();
        let Data::F32(p) = inputs.tensor("target_probs").data().clone() else { panic!("f32") };
        let best = |(i, &parent): (usize, &i64)| {
            let node = i / params.nodes * params.nodes + parent.max(0) as usize;
            let best = argmax(&p[node * params.vocab..][..params.vocab]) as i32;
            if parent < 0 { -1 } else { best }
        };
        let tokens: Vec<i32> = parents.iter().enumerate().map(best).collect();
        inputs.insert("draft_tokens", Tensor::new(&[params.batch, params.nodes], Data::I32(tokens)));
        let kept = emitted(&Typical::reference(&params, &inputs), params.nodes);
        for (row, tokens) in kept.iter().enumerate() {
            let parents = &parents[row * params.nodes..][..params.nodes];
            let depth = |mut node: usize| {
                let mut depth = 0;
                while parents[node] >= 0 {
                    node = parents[node] as usize;
                    depth += 1;
                }
                depth
            };
            let deepest = (0..params.nodes).map(depth).max().unwrap();
            prop_assert_eq!(tokens.len(), deepest + 1);
        }
    }

    #[test]
    fn lower_thresholds_accept_no_fewer_tokens(case in cases("decoding.typical"), factor in 0.0f64..1.0) {
        let (mut params, inputs) = drawn::<Typical>(&case);
        let strict = emitted(&Typical::reference(&params, &inputs), params.nodes);
        params.delta *= factor;
        params.epsilon *= factor;
        let mild = emitted(&Typical::reference(&params, &inputs), params.nodes);
        for (strict, mild) in strict.iter().zip(&mild) {
            prop_assert!(strict.len() <= mild.len());
        }
    }
}

/// Distributions by depth: five tokens, one without mass under p, one without mass under q, and both far enough apart
/// that several children are rejected.
fn small() -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let target = vec![
        vec![0.3, 0.25, 0.2, 0.25, 0.0],
        vec![0.1, 0.4, 0.0, 0.2, 0.3],
        vec![0.0, 0.2, 0.3, 0.1, 0.4],
    ];
    let draft = vec![vec![0.15, 0.4, 0.25, 0.0, 0.2], vec![0.3, 0.2, 0.1, 0.0, 0.4]];
    (target, draft)
}

/// Enough that a sampler 2 % off is rejected in all but a few of a thousand seeds: computed from its exact law.
const ROWS: usize = 400_000;
const DRAFTS: [Drafts; 3] = [Drafts::Independent, Drafts::Distinct, Drafts::Top];

/// p-value of the law of what was emitted, continued by the target.
fn p_value(emitted: &[Vec<i64>]) -> f64 {
    let (target, _) = small();
    let law = law::sequences(&target);
    let (mut counts, mut draw) = (vec![0; law.len()], Draw::new(99));
    for tokens in emitted {
        counts[law::completed(tokens, &target, &mut draw)] += 1;
    }
    g_test(&counts, &law)
}

/// Seven nodes: the root, two guesses, two more after each.
fn problem(drafts: Drafts, seed: u64) -> (tree::Params, Tensors) {
    let (target, draft) = small();
    tree::repeated((&target, &draft), (Shape::Binary, 7), drafts, ROWS, seed)
}

fn tokens(params: &tree::Params, inputs: &Tensors) -> Vec<Vec<i64>> {
    tree_of(params, inputs).into_iter().map(|emitted| emitted.tokens).collect()
}

#[test]
fn trees_of_every_kind_of_draft_emit_the_targets_law() {
    for drafts in DRAFTS {
        for seed in 0..2 {
            let (params, inputs) = problem(drafts, seed);
            let p = p_value(&tokens(&params, &inputs));
            assert!(p > FALSE_ALARM, "{drafts:?}, seed {seed}: p = {p:e}");
        }
    }
}

#[test]
fn a_star_of_four_guesses_emits_the_targets_law() {
    let (target, draft) = small();
    for drafts in DRAFTS {
        let (params, inputs) = tree::repeated((&target, &draft), (Shape::Star, 5), drafts, ROWS, 3);
        let p = p_value(&tokens(&params, &inputs));
        assert!(p > FALSE_ALARM, "{drafts:?}: p = {p:e}");
    }
}

#[test]
fn a_tree_that_accepts_two_percent_less_is_rejected() {
    for drafts in DRAFTS {
        let (params, inputs) = problem(drafts, 1);
        let p = p_value(&tokens(&params, &scaled(&inputs, "accept_u", 1.0 / 0.98)));
        assert!(p < FALSE_ALARM, "{drafts:?}: p = {p:e}");
    }
}

/// Children drawn with replacement, decided as if without, and the other way round.
#[test]
fn a_tree_decided_by_another_kind_of_draft_is_rejected() {
    for (drawn, decided) in [
        (Drafts::Independent, Drafts::Distinct),
        (Drafts::Distinct, Drafts::Independent),
        (Drafts::Top, Drafts::Distinct),
    ] {
        let (mut params, inputs) = problem(drawn, 1);
        params.drafts = decided;
        let p = p_value(&tokens(&params, &inputs));
        assert!(p < FALSE_ALARM, "drawn {drawn:?}, decided {decided:?}: p = {p:e}");
    }
}

/// The rule for certain tokens asks of them only that they differ: it keeps the law of the target whatever chose them.
#[test]
fn the_rule_for_top_tokens_keeps_the_law_of_any_distinct_ones() {
    let (mut params, inputs) = problem(Drafts::Distinct, 1);
    params.drafts = Drafts::Top;
    let p = p_value(&tokens(&params, &inputs));
    assert!(p > FALSE_ALARM, "p = {p:e}");
}

/// Rows without an accepted child take their token from max(p − q, 0), as after one rejection: the residual must be
/// taken again for each child.
#[test]
fn a_tree_whose_residual_is_not_recursive_is_rejected() {
    let (target, draft) = small();
    let residual: Vec<f64> =
        (0..5).map(|t| f64::from(target[0][t] - draft[0][t]).max(0.0)).collect();
    let (params, inputs) = problem(Drafts::Independent, 2);
    let mut emitted = tokens(&params, &inputs);
    let mut draw = Draw::new(3);
    for tokens in emitted.iter_mut().filter(|tokens| tokens.len() == 1) {
        let (mut left, mut token) = (draw.unit() * residual.iter().sum::<f64>(), 0);
        while left >= residual[token] && token < 4 {
            left -= residual[token];
            token += 1;
        }
        tokens[0] = token as i64;
    }
    let p = p_value(&emitted);
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

/// The share of rows that accept a child of the root is the closed form's within 5.5 standard errors (false alarm 4e-8),
/// and so is the expected number of accepted tokens: a tree whose nodes have as many children everywhere accepts
/// A_1 + A_1·A_2.
#[test]
fn acceptance_rates_are_those_of_the_closed_form() {
    let (target, draft) = small();
    for drafts in DRAFTS {
        let (params, inputs) = problem(drafts, 6);
        let accepted: Vec<f64> =
            tokens(&params, &inputs).iter().map(|tokens| tokens.len() as f64 - 1.0).collect();
        let share = accepted.iter().filter(|&&a| a > 0.0).count() as f64 / ROWS as f64;
        let rates = [0, 1].map(|i| law::acceptance_rate(&target[i], &draft[i], 2, drafts));
        let error = (rates[0] * (1.0 - rates[0]) / ROWS as f64).sqrt();
        assert!((share - rates[0]).abs() < 5.5 * error, "{drafts:?}: {share} against {}", rates[0]);
        agrees(&accepted, rates[0] + rates[0] * rates[1]);
    }
}

/// That the mean is the expectation within 5.5 standard errors.
fn agrees(values: &[f64], expected: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    assert!((mean - expected).abs() < 5.5 * (variance / n).sqrt(), "{mean} against {expected}");
}

/// A further guess helps, one without replacement helps more, as long as the draft has tokens left.
#[test]
fn more_and_distinct_guesses_are_accepted_more_often() {
    let (target, draft) = small();
    let rate = |count, drafts| law::acceptance_rate(&target[0], &draft[0], count, drafts);
    for count in 1..3 {
        assert!(rate(count + 1, Drafts::Independent) > rate(count, Drafts::Independent));
        assert!(rate(count + 1, Drafts::Distinct) > rate(count + 1, Drafts::Independent));
    }
}

/// Chances given the tokens, averaged over the draws of the tokens, are the closed form's.
#[test]
fn chances_given_the_tokens_average_to_the_rate() {
    let (target, draft) = small();
    let (p, q) = (&target[0], &draft[0]);
    let mut total = 0.0;
    for a in 0..5 {
        for b in 0..5 {
            let chances = law::children(p, q, &[a, b], Drafts::Independent);
            let drawn = f64::from(q[a as usize]) * f64::from(q[b as usize]);
            total += drawn * (chances[0] + chances[1]);
            assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
    let rate = law::acceptance_rate(p, q, 2, Drafts::Independent);
    assert!((total - rate).abs() < 1e-6, "{total} against {rate}");
}

#[test]
fn a_block_emits_the_targets_law() {
    let (target, draft) = small();
    for seed in 0..3 {
        let (params, inputs) = emitted::repeated_block(&target, &draft, ROWS, seed);
        let p = p_value(&block_of(&params, &inputs));
        assert!(p > FALSE_ALARM, "seed {seed}: p = {p:e}");
    }
}

#[test]
fn a_block_that_accepts_two_percent_less_is_rejected() {
    let (target, draft) = small();
    // What is off by 2 % in one of two prefixes is seen in more rows.
    let (params, inputs) = emitted::repeated_block(&target, &draft, 3 * ROWS, 1);
    let p = p_value(&block_of(&params, &scaled(&inputs, "accept_u", 1.0 / 0.98)));
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

/// Rows that kept one token take the further one from the chain's residual max(p − q, 0), b forgotten.
#[test]
fn a_block_with_the_chains_residual_is_rejected() {
    let (target, draft) = small();
    let residual: Vec<f64> =
        (0..5).map(|t| f64::from(target[1][t] - draft[1][t]).max(0.0)).collect();
    let (params, inputs) = emitted::repeated_block(&target, &draft, ROWS, 2);
    let mut emitted = block_of(&params, &inputs);
    let mut draw = Draw::new(3);
    for tokens in emitted.iter_mut().filter(|tokens| tokens.len() == 2) {
        let (mut left, mut token) = (draw.unit() * residual.iter().sum::<f64>(), 0);
        while left >= residual[token] && token < 4 {
            left -= residual[token];
            token += 1;
        }
        tokens[1] = token as i64;
    }
    let p = p_value(&emitted);
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

#[test]
fn a_block_keeps_what_its_closed_form_says_and_more_than_the_chain() {
    let (target, draft) = small();
    let (params, inputs) = emitted::repeated_block(&target, &draft, ROWS, 5);
    let lengths = |rows: Vec<Vec<i64>>| -> Vec<f64> {
        rows.iter().map(|tokens| tokens.len() as f64 - 1.0).collect()
    };
    let (block, chain) =
        (law::block_accepted(&target, &draft), law::chain_accepted(&target, &draft));
    assert!(block > chain + 0.01, "{block} against {chain}");
    agrees(&lengths(block_of(&params, &inputs)), block);
    let outputs = Chain::reference(&params.chain(), &inputs);
    agrees(&lengths(emitted(&outputs, params.draft_len + 1)), chain);
}

/// The most probable children of a flat target: typical acceptance emits them alone.
#[test]
fn typical_acceptance_emits_another_law() {
    let (target, draft) = small();
    let (of_tree, inputs) =
        tree::repeated((&target, &draft), (Shape::Binary, 7), Drafts::Independent, ROWS, 4);
    let case = format!("decoding.typical:batch={ROWS},nodes=7,vocab=5,seed=0");
    let params = case.parse::<Case>().unwrap().params().unwrap();
    let kept = emitted(&Typical::reference(&params, &inputs), of_tree.nodes);
    let p = p_value(&kept);
    assert!(p < FALSE_ALARM, "p = {p:e}");
}

/// A tree of Medusa's size over a real vocabulary: the outcomes that rounding leaves open are few.
#[test]
fn few_decisions_are_within_rounding() {
    let case: Case =
        "decoding.tree:batch=24,nodes=26,vocab=32000,relation=far,seed=1".parse().unwrap();
    let (params, inputs) = drawn::<Tree>(&case);
    let Expected::Discrete(accepted) = Tree::reference(&params, &inputs).output("accepted").clone()
    else {
        panic!("accepted is discrete")
    };
    assert!(accepted.also.len() <= 2, "{} of 24 rows are in doubt", accepted.also.len());
}

#[test]
fn impossible_parameters_are_refused_with_the_reason() {
    let refused = |text: &str| {
        let case: Case = text.parse().unwrap();
        touchstone_reference::operation(&case).unwrap().inputs(&case).unwrap_err().to_string()
    };
    assert!(refused("decoding.tree:batch=1,nodes=0,vocab=5").contains("nodes=0"));
    assert!(refused("decoding.typical:batch=1,nodes=0,vocab=5").contains("nodes=0"));
    assert!(refused("decoding.typical:batch=1,nodes=1,vocab=5,delta=1.0").contains("delta=1"));
    assert!(refused("decoding.block:batch=1,draft_len=1,vocab=0").contains("vocab=0"));
}
