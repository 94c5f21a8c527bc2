//! Closed forms of what the rules of this vertical keep, for laws one can enumerate.

use super::tree::{self, Drafts};
use crate::{acceptance::distributions::sampled, draw::Draw};

/// The target's law of sequences of as many tokens as `target` has positions, p [length][vocab], in the order in which
/// [`completed`] counts them.
pub fn sequences(target: &[Vec<f32>]) -> Vec<f64> {
    target.iter().fold(vec![1.0], |prefixes, p| {
        let total: f64 = p.iter().map(|&p| f64::from(p)).sum();
        let extend = |&prefix: &f64| p.iter().map(move |&p| prefix * f64::from(p) / total);
        prefixes.iter().flat_map(extend).collect()
    })
}

/// Index in [`sequences`] of what a step has emitted, continued by draws from the target to the full length.
pub fn completed(emitted: &[i64], target: &[Vec<f32>], draw: &mut Draw) -> usize {
    target.iter().enumerate().fold(0, |index, (position, p)| {
        let token =
            emitted.get(position).map_or_else(|| sampled(p, draw.unit()), |&token| token as usize);
        index * p.len() + token
    })
}

/// Probability that one of `count` children is accepted, over the draws of the children and of the uniforms.
///
/// - `independent`: after i rejections the residual does not depend on the tokens, and a child is accepted with
///   probability Σ_t min(r_i(t), q(t)).
/// - `distinct`: the same with q_i, over every sequence of tokens drawn before.
/// - `top`: Σ p over the `count` most probable tokens of q.
///
/// p and q are normalized here. `distinct` enumerates vocab^(count − 1) sequences.
pub fn acceptance_rate(p: &[f32], q: &[f32], count: usize, drafts: Drafts) -> f64 {
    let [p, q] = [p, q].map(|law| {
        let total: f64 = law.iter().map(|&w| f64::from(w)).sum();
        law.iter().map(|&w| f64::from(w) / total).collect::<Vec<_>>()
    });
    if drafts == Drafts::Top {
        let mut order: Vec<usize> = (0..q.len()).collect();
        order.sort_by(|&a, &b| q[b].total_cmp(&q[a]));
        return order.iter().take(count).map(|&t| p[t]).sum();
    }
    after_rejections(&p, &q, count, drafts)
}

/// The same where p is the residual so far and q the next draft's law, both normalized.
fn after_rejections(p: &[f64], q: &[f64], count: usize, drafts: Drafts) -> f64 {
    if count == 0 {
        return 0.0;
    }
    let accepted: f64 = p.iter().zip(q).map(|(p, q)| p.min(*q)).sum();
    let left: f64 = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0)).sum();
    if left <= 0.0 {
        return accepted;
    }
    let residual: Vec<f64> = p.iter().zip(q).map(|(p, q)| (p - q).max(0.0) / left).collect();
    if drafts == Drafts::Independent {
        return accepted + (1.0 - accepted) * after_rejections(&residual, q, count - 1, drafts);
    }
    // A token is drawn and rejected with probability q − min(p, q).
    let rejected = (0..q.len()).filter(|&t| q[t] > p[t] && q[t] < 1.0);
    accepted
        + rejected
            .map(|t| {
                let mut next: Vec<f64> = q.iter().map(|w| w / (1.0 - q[t])).collect();
                next[t] = 0.0;
                (q[t] - p[t]) * after_rejections(&residual, &next, count - 1, drafts)
            })
            .sum::<f64>()
}

/// Expected number of accepted tokens of block verification, Σ_j E[b_j] over drafts from q: a prefix of length j is
/// kept with probability b_j given its tokens (Sun et al. 2024, theorem 1). Enumerates vocab^γ drafts; distributions
/// depend on the position alone: `target` is p [γ + 1][vocab], `draft` is q [γ][vocab].
pub fn block_accepted(target: &[Vec<f32>], draft: &[Vec<f32>]) -> f64 {
    // Every prefix so far: its probability under the draft, and b.
    let mut prefixes = vec![(1.0, 1.0f64)];
    let mut expected = 0.0;
    for (p, q) in target.iter().zip(draft) {
        let extend = |&(drawn, b): &(f64, f64)| {
            let kept = move |(&p, &q): (&f32, &f32)| {
                (drawn * f64::from(q), (b * f64::from(p) / f64::from(q)).min(1.0))
            };
            p.iter().zip(q).filter(|(_, q)| **q > 0.0).map(kept).collect::<Vec<_>>()
        };
        prefixes = prefixes.iter().flat_map(extend).collect();
        expected += prefixes.iter().map(|(drawn, b)| drawn * b).sum::<f64>();
    }
    expected
}

/// Expected number of accepted tokens of chain acceptance: Σ_j Π_{i<j} Σ_t min(p_i, q_i).
pub fn chain_accepted(target: &[Vec<f32>], draft: &[Vec<f32>]) -> f64 {
    let mut kept = 1.0;
    let rates =
        target.iter().zip(draft).map(|(p, q)| acceptance_rate(p, q, 1, Drafts::Independent));
    rates
        .map(|rate| {
            kept *= rate;
            kept
        })
        .sum()
}

/// Probabilities with which each child of a node is the one accepted, given the tokens, then that of none: the uniforms
/// alone are left to chance. What [`tree::Tree`] does with this node, in f64.
pub fn children(p: &[f32], q: &[f32], tokens: &[i32], drafts: Drafts) -> Vec<f64> {
    tree::chances(p, q, tokens, drafts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f32; 3] = [0.5, 0.25, 0.25];
    const Q: [f32; 3] = [0.25, 0.5, 0.25];

    #[test]
    fn one_child_is_the_chain() {
        for drafts in [Drafts::Independent, Drafts::Distinct] {
            assert_eq!(acceptance_rate(&P, &Q, 1, drafts), 0.75);
        }
        assert_eq!(acceptance_rate(&P, &Q, 1, Drafts::Top), 0.25);
    }

    /// The residual (1, 0, 0) accepts token 0 alone: with probability 1/4 from q, 1/2 from q without token 1, which is
    /// the one that is rejected.
    #[test]
    fn a_second_child_by_hand() {
        assert_eq!(acceptance_rate(&P, &Q, 2, Drafts::Independent), 0.75 + 0.25 * 0.25);
        assert_eq!(acceptance_rate(&P, &Q, 2, Drafts::Distinct), 0.75 + 0.25 * 0.5);
        assert_eq!(acceptance_rate(&P, &Q, 2, Drafts::Top), 0.75);
        assert_eq!(acceptance_rate(&P, &Q, 3, Drafts::Top), 1.0);
    }

    #[test]
    fn a_block_of_one_token_is_the_chain() {
        let (p, q) = (vec![P.to_vec(), P.to_vec()], vec![Q.to_vec()]);
        assert_eq!(block_accepted(&p, &q), 0.75);
        assert_eq!(chain_accepted(&p, &q), 0.75);
    }

    /// The draft (1, 0) has b = 1/2, then min(1/2 · 2, 1) = 1: a bad token is made good by a better one.
    #[test]
    fn a_block_of_two_tokens_keeps_more_than_the_chain() {
        let (p, q) = (vec![P.to_vec(); 3], vec![Q.to_vec(); 2]);
        assert_eq!(chain_accepted(&p, &q), 0.75 + 0.75 * 0.75);
        // E[b_2]: of the drafts with b_1 = 1 (tokens 0 and 2, half of all) ¾ is kept; with token 1, b_1 = ½, the second
        // token 0 makes it 1, token 1 makes it ¼, token 2 leaves ½.
        let second = 0.5 * 0.75 + 0.5 * (0.25 * 1.0 + 0.5 * 0.25 + 0.25 * 0.5);
        assert_eq!(block_accepted(&p, &q), 0.75 + second);
    }
}
