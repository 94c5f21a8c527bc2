//! The exact law of what chain acceptance emits, for distributions that depend on the position alone.

/// Probability of every outcome (accepted prefix, further token).
///
/// Emitting x_0 … x_a with a < k accepted tokens has probability
/// Π_{i<a} min(p_i, q_i)(x_i) · max(p_a − q_a, 0)(x_a): a rejection's probability cancels against the
/// residual's normalization. For a = k the last factor is p_k(x_k). Outcomes are in the order of [`cell`].
/// Summing over the outcomes shows the theorem: the first token's law is min(p_0, q_0) + max(p_0 − q_0, 0)
/// = p_0, and so on for each further one.
///
/// `target` is p [k + 1][vocab], `draft` is q [k][vocab]; rows are normalized here.
pub fn joint(target: &[Vec<f32>], draft: &[Vec<f32>]) -> Vec<f64> {
    let (p, q) = (normalized(target), normalized(draft));
    let (mut law, mut prefixes) = (Vec::new(), vec![1.0]);
    for (position, p) in p.iter().enumerate() {
        let q = q.get(position);
        let further = |t: usize| q.map_or(p[t], |q| (p[t] - q[t]).max(0.0));
        let kept = |t: usize| q.map_or(0.0, |q| p[t].min(q[t]));
        let vocab = p.len();
        let extend = |factor: &dyn Fn(usize) -> f64| -> Vec<f64> {
            prefixes
                .iter()
                .flat_map(|&prefix| (0..vocab).map(move |t| prefix * factor(t)))
                .collect()
        };
        law.extend(extend(&further));
        prefixes = extend(&kept);
    }
    law
}

/// Index in [`joint`] of the outcome that emits `tokens` (the accepted ones and the further one): shorter
/// outcomes first, then in order of the tokens.
pub fn cell(tokens: &[i64], vocab: usize) -> usize {
    let shorter: usize = (1..tokens.len()).map(|length| vocab.pow(length as u32)).sum();
    shorter + tokens.iter().fold(0, |index, &t| index * vocab + t as usize)
}

/// Probability that a draft token is accepted: 1 − total variation distance of p and q = Σ min(p, q).
pub fn acceptance_rate(p: &[f32], q: &[f32]) -> f64 {
    let rows = normalized(&[p.to_vec(), q.to_vec()]);
    rows[0].iter().zip(&rows[1]).map(|(p, q)| p.min(*q)).sum()
}

fn normalized(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let one = |row: &Vec<f32>| {
        let total: f64 = row.iter().map(|&w| f64::from(w)).sum();
        row.iter().map(|&w| f64::from(w) / total).collect()
    };
    rows.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_emitted_token_has_the_targets_law() {
        let target = vec![vec![0.5, 0.25, 0.25], vec![0.125, 0.75, 0.125]];
        let draft = vec![vec![0.25, 0.5, 0.25]];
        let law = joint(&target, &draft);
        assert_eq!(law.len(), 3 + 9);
        assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // Rejected: only token 0 has residual mass, ¼.
        assert_eq!(&law[..3], [0.25, 0.0, 0.0]);
        // Accepted 0, then each of p_1's tokens.
        assert_eq!(&law[3..6], [0.25 * 0.125, 0.25 * 0.75, 0.25 * 0.125]);
        for t in 0..3 {
            let kept: f64 = law[3 + 3 * t..][..3].iter().sum();
            assert!((law[t] + kept - f64::from(target[0][t])).abs() < 1e-12);
        }
        assert_eq!(acceptance_rate(&target[0], &draft[0]), 0.75);
    }

    #[test]
    fn cells_enumerate_the_law() {
        assert_eq!(
            [cell(&[0], 3), cell(&[2], 3), cell(&[0, 0], 3), cell(&[2, 1], 3)],
            [0, 2, 3, 10]
        );
    }
}
