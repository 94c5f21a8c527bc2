//! Schedules: in which order a chain's states are computed, kept and computed again.
//!
//! A chain of L layers has the states x₀ … x_L. The gradient of layer l needs its input x_l, from the last
//! layer to the first. The input x₀ is there for free; every other state takes a slot of memory while it is
//! kept, and a forward evaluation of a layer whenever it is computed.

/// Which states are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// All: no layer is evaluated twice.
    KeepAll,
    /// None but the input: every state is computed anew from it.
    RecomputeAll,
    /// Every ⌈√L⌉th; the states between two of them are computed again, once (Chen et al. 2016, "Training
    /// Deep Nets with Sublinear Memory Cost", section 4.2).
    EverySqrt,
    /// The outputs of costly layers; cheap layers are evaluated again (Korthikanti et al. 2022, "Reducing
    /// Activation Recomputation in Large Transformer Models", section 5).
    Selective,
    /// As many as there are slots, at the places that a dynamic program over the layers' costs finds best.
    Optimal(usize),
    /// As many as there are slots, at the places that are best for layers of equal cost, in closed form
    /// (Griewank & Walther 2000, "Algorithm 799: Revolve").
    Binomial(usize),
}

/// One step of a schedule. Slots are numbered from 1; slot 0 is the chain's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Evaluate a layer on the state in slot `from` and put the result into slot `to`.
    Advance {
        /// The layer.
        layer: usize,
        /// Slot of its input.
        from: usize,
        /// Slot of its output.
        to: usize,
    },
    /// Compute a layer's gradients from its input in slot `from`.
    Backward {
        /// The layer.
        layer: usize,
        /// Slot of its input.
        from: usize,
    },
}

/// The steps, and how many slots they use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// In order.
    pub actions: Vec<Action>,
    /// Slots that are in use at once, at most; slot 0 not counted.
    pub slots: usize,
}

impl Schedule {
    /// The schedule of a policy for a chain whose layers have these costs.
    pub fn new(policy: &Policy, costs: &[u64]) -> Self {
        let layers = costs.len();
        let mut builder = Builder::default();
        let split: Box<dyn Fn(usize, usize, usize) -> usize> = match policy {
            Policy::KeepAll | Policy::RecomputeAll => Box::new(|from, _, _| from + 1),
            Policy::EverySqrt => {
                let every = (layers as f64).sqrt().ceil() as usize;
                Box::new(move |from, to, _| if to - from > every { from + every } else { from + 1 })
            }
            Policy::Selective => {
                let costs = costs.to_vec();
                let dear = costs.iter().copied().max().unwrap_or(0);
                Box::new(move |from, to, _| {
                    let next = (from..to - 1).find(|&layer| costs[layer] == dear);
                    next.map_or(from + 1, |layer| layer + 1)
                })
            }
            Policy::Optimal(slots) => {
                let table = Table::new(costs, *slots);
                Box::new(move |from, to, free| table.split(from, to, free))
            }
            Policy::Binomial(_) => {
                Box::new(|from, to, free| from + binomial_split(to - from, free))
            }
        };
        let free = match policy {
            Policy::RecomputeAll => 0,
            Policy::Optimal(slots) | Policy::Binomial(slots) => *slots,
            _ => layers,
        };
        builder.reverse(0, layers, 0, free, &split);
        builder.schedule
    }

    /// What all evaluations of layers cost together.
    pub fn cost(&self, costs: &[u64]) -> u64 {
        let cost = |action: &Action| match action {
            Action::Advance { layer, .. } => costs[*layer],
            Action::Backward { .. } => 0,
        };
        self.actions.iter().map(cost).sum()
    }
}

/// What theory says of a policy, without carrying its schedule out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Slots in use at once, at most; slot 0 not counted.
    pub slots: usize,
    /// What all evaluations of layers cost together.
    pub cost: u64,
}

impl Policy {
    /// Slots and cost of the policy for a chain whose layers have these costs, by formula.
    ///
    /// A chain cut into segments (every √L-th state, or behind costly layers) evaluates each layer once and those
    /// inside all segments but the last once more; while it reverses the j-th segment, of n layers, j kept states and
    /// n − 1 inner ones are there. Budgets cost what [`least_cost`] and [`binomial_cost`] say, the latter at the
    /// layers' mean cost, and hold one state in work beside their slots, or two where they evaluate on.
    pub fn predicted(&self, costs: &[u64]) -> Predicted {
        let n = costs.len();
        let most = n.saturating_sub(1);
        let forward: u64 = costs[..most].iter().sum();
        match self {
            Self::KeepAll => Predicted { slots: most, cost: forward },
            Self::RecomputeAll => {
                let again = |(layer, cost): (usize, &u64)| cost * (most - layer) as u64;
                let cost = costs.iter().enumerate().map(again).sum();
                Predicted { slots: most.min(2), cost }
            }
            Self::EverySqrt | Self::Selective => {
                let segments = self.segments(costs);
                let last = segments.len().saturating_sub(1);
                let inner = |part: &&[u64]| part[..part.len() - 1].iter().sum::<u64>();
                let again: u64 = segments.iter().take(last).map(inner).sum();
                let held = |(j, part): (usize, &&[u64])| {
                    let advancing = if j < last { part.len().min(2) } else { 0 };
                    j + advancing.max(part.len() - 1)
                };
                let slots = segments.iter().enumerate().map(held).max().unwrap_or(0);
                Predicted { slots, cost: forward + again }
            }
            Self::Optimal(slots) => {
                Predicted { slots: most.min(slots + 2), cost: least_cost(costs, *slots) }
            }
            Self::Binomial(slots) => {
                let mean = costs.iter().sum::<u64>() as f64 / n.max(1) as f64;
                let cost = (binomial_cost(n, *slots) as f64 * mean).round() as u64;
                Predicted { slots: most.min(slots + 2), cost }
            }
        }
    }

    /// The costs between the states that are kept through the first pass.
    fn segments<'c>(&self, costs: &'c [u64]) -> Vec<&'c [u64]> {
        let most = costs.len().saturating_sub(1);
        match self {
            Self::Selective => {
                let dear = costs.iter().copied().max().unwrap_or(0);
                // Behind the last layer nothing is left to keep.
                let (before, last) = costs.split_at(most);
                let mut parts: Vec<&[u64]> = before.split_inclusive(|cost| *cost == dear).collect();
                match parts.last() {
                    Some(part) if part.last() != Some(&dear) => {
                        let from = before.len() - part.len();
                        parts.pop();
                        parts.push(&costs[from..]);
                    }
                    _ => parts.push(last),
                }
                parts
            }
            _ => costs.chunks(((costs.len() as f64).sqrt().ceil() as usize).max(1)).collect(),
        }
    }
}

#[derive(Default)]
struct Builder {
    schedule: Schedule,
    /// Slots in use, slot 0 not counted.
    used: Vec<usize>,
}

impl Builder {
    /// The lowest free slot, now in use.
    fn take(&mut self) -> usize {
        let slot = (1..).find(|slot| !self.used.contains(slot)).expect("slots without end");
        self.used.push(slot);
        self.schedule.slots = self.schedule.slots.max(self.used.len());
        slot
    }

    fn release(&mut self, slot: usize) {
        self.used.retain(|&used| used != slot);
    }

    /// Evaluates layers `from..to` on the state in slot `at`, and returns the slot of the result.
    fn advance(&mut self, from: usize, to: usize, at: usize) -> usize {
        let mut now = at;
        for layer in from..to {
            let next = self.take();
            self.schedule.actions.push(Action::Advance { layer, from: now, to: next });
            if now != at {
                self.release(now);
            }
            now = next;
        }
        now
    }

    /// Gradients of layers `from..to`, last to first; the state before `from` is in slot `at`. With free
    /// slots the state that `split` names is kept while what lies behind it is done.
    fn reverse(
        &mut self,
        from: usize,
        to: usize,
        at: usize,
        free: usize,
        split: &dyn Fn(usize, usize, usize) -> usize,
    ) {
        let mut to = to;
        while to > from {
            // Without a slot, only the last layer is done before everything is computed again.
            let middle = match to - from {
                1 => from,
                _ if free == 0 => to - 1,
                _ => split(from, to, free),
            };
            let state = self.advance(from, middle, at);
            if to - middle == 1 {
                self.schedule.actions.push(Action::Backward { layer: middle, from: state });
            } else {
                self.reverse(middle, to, state, free - 1, split);
            }
            if state != at {
                self.release(state);
            }
            to = middle;
        }
    }
}

/// The least cost of reversing any part of a chain with any number of slots, and where its first kept state
/// then lies.
struct Table {
    layers: usize,
    /// Of layers from..to with free slots: cost and split, at \[free\]\[from\]\[to\].
    best: Vec<(u64, usize)>,
}

impl Table {
    fn new(costs: &[u64], slots: usize) -> Self {
        let layers = costs.len();
        let size = (layers + 1) * (layers + 1);
        let mut table = Self { layers, best: vec![(0, 0); (slots + 1) * size] };
        let mut before = vec![0; layers + 1];
        for (layer, cost) in costs.iter().enumerate() {
            before[layer + 1] = before[layer] + cost;
        }
        for free in 0..=slots {
            for length in 2..=layers {
                for from in 0..=layers - length {
                    let to = from + length;
                    let with = |middle: usize| {
                        // Of the last layer alone nothing is left to reverse; before it, all.
                        let behind = match to - middle {
                            1 => 0,
                            _ => table.cost(middle, to, free - 1),
                        };
                        let advance = before[middle] - before[from];
                        (advance + behind + table.cost(from, middle, free), middle)
                    };
                    let first = if free == 0 { to - 1 } else { from + 1 };
                    let best = (first..to).map(with).min().expect("a part has a middle");
                    let at = table.at(from, to, free);
                    table.best[at] = best;
                }
            }
        }
        table
    }

    fn at(&self, from: usize, to: usize, free: usize) -> usize {
        (free * (self.layers + 1) + from) * (self.layers + 1) + to
    }

    fn cost(&self, from: usize, to: usize, free: usize) -> u64 {
        self.best[self.at(from, to, free)].0
    }

    fn split(&self, from: usize, to: usize, free: usize) -> usize {
        self.best[self.at(from, to, free)].1
    }
}

/// The least cost of reversing a chain with so many slots, by dynamic programming over all places for the
/// first kept state.
pub fn least_cost(costs: &[u64], slots: usize) -> u64 {
    Table::new(costs, slots).cost(0, costs.len(), slots)
}

/// β(s, r) = (s + r)! / (s! r!): the longest chain that s states, the input among them, reverse with every
/// layer evaluated at most r times. Saturates.
fn beta(states: usize, repeats: usize) -> u128 {
    (1..=repeats as u128).fold(1, |product: u128, i| product.saturating_mul(states as u128 + i) / i)
}

/// The smallest r with n ≤ β(s, r).
fn repeats(n: usize, states: usize) -> usize {
    (0..).find(|&r| beta(states, r) >= n as u128).expect("β grows without end")
}

/// The least number of evaluations for a chain of `n` layers of equal cost: r·n − β(s + 1, r − 1) with
/// s = slots + 1 and r the smallest with n ≤ β(s, r) (Griewank & Walther 2000, theorem 1).
pub fn binomial_cost(n: usize, slots: usize) -> u64 {
    match repeats(n, slots + 1) {
        0 => 0,
        r => (r as u128 * n as u128 - beta(slots + 2, r - 1)) as u64,
    }
}

/// Layers before the first kept state of a best schedule for `n` ≥ 2 layers of equal cost: as many as s
/// states reverse with one repetition less, if the rest then is not shorter than what s − 1 states can do
/// with one less.
fn binomial_split(n: usize, slots: usize) -> usize {
    let (states, n) = (slots + 1, n as u128);
    let r = repeats(n as usize, states);
    let longest = beta(states, r - 1);
    let rest = if r >= 1 { beta(states - 1, r - 1) } else { 0 };
    longest.min(n.saturating_sub(rest)).clamp(1, n - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_schedules_of_three_layers() {
        use Action::{Advance, Backward};
        let costs = [1; 3];
        let kept = Schedule::new(&Policy::KeepAll, &costs);
        let expected = [
            Advance { layer: 0, from: 0, to: 1 },
            Advance { layer: 1, from: 1, to: 2 },
            Backward { layer: 2, from: 2 },
            Backward { layer: 1, from: 1 },
            Backward { layer: 0, from: 0 },
        ];
        assert_eq!(kept.actions, expected);
        assert_eq!((kept.slots, kept.cost(&costs)), (2, 2));
        let anew = Schedule::new(&Policy::RecomputeAll, &costs);
        assert_eq!((anew.slots, anew.cost(&costs)), (2, 3));
    }

    #[test]
    fn known_binomial_costs() {
        assert_eq!(beta(3, 2), 10);
        // Griewank & Walther: ten layers with three states need two repetitions: 2·10 − β(4, 1).
        assert_eq!(binomial_cost(10, 2), 15);
        assert_eq!(binomial_cost(1, 0), 0);
        assert_eq!(binomial_cost(4, 0), 6);
    }
}
