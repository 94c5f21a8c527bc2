//! Layouts of a model for look-up, made on the host from the operation's input tensors.

use std::collections::BTreeSet;

use touchstone_reference::{Data, Tensors};

use crate::variant::Unsupported;

/// The model tensors of `ngram.score`, order by order.
pub struct Levels<'a> {
    /// Number of n-grams of each order.
    sizes: Vec<usize>,
    /// Words of the n-grams of each order from 2 on.
    rows: Vec<&'a [u32]>,
    /// log10 probability of each n-gram, order after order.
    pub prob: &'a [f32],
    /// log10 back-off weight of each n-gram below the highest order.
    pub backoff: &'a [f32],
}

impl<'a> Levels<'a> {
    /// Reads the tensors.
    pub fn of(inputs: &'a Tensors) -> Result<Self, Unsupported> {
        let data = |name| inputs.tensor(name).data();
        let (Data::U32(words), Data::F32(prob), Data::F32(backoff)) =
            (data("ngrams"), data("prob"), data("backoff"))
        else {
            return Err(Unsupported("the model's tensors are not u32 and f32".into()));
        };
        let sizes: Vec<usize> =
            inputs.tensor("sizes").to_i64().iter().map(|&size| size as usize).collect();
        if prob.len() >= u32::MAX as usize / 4 {
            return Err(Unsupported(format!(
                "{} n-grams are too many for 32-bit nodes",
                prob.len()
            )));
        }
        let (mut rows, mut rest) = (Vec::new(), &words[..]);
        for (order, &size) in (2..).zip(&sizes[1..]) {
            let (here, after) = rest.split_at(order * size);
            rows.push(here);
            rest = after;
        }
        Ok(Self { sizes, rows, prob, backoff })
    }

    /// Number of unigrams.
    pub fn ids(&self) -> usize {
        self.sizes[0]
    }

    /// Length of the longest n-grams.
    pub fn order(&self) -> usize {
        self.sizes.len()
    }

    /// Each n-gram of an order from 2 on: the position of its suffix in the order below, and its first word.
    fn links(&self, order: usize) -> Result<Vec<(usize, u32)>, Unsupported> {
        let below = |suffix: &[u32]| {
            if order == 2 {
                return Some(suffix[0] as usize);
            }
            let rows = self.rows[order - 3];
            let row = |at: usize| &rows[at * (order - 1)..(at + 1) * (order - 1)];
            let (mut low, mut high) = (0, self.sizes[order - 2]);
            while low < high {
                let middle = low.midpoint(high);
                if row(middle) < suffix { low = middle + 1 } else { high = middle }
            }
            (low < self.sizes[order - 2] && row(low) == suffix).then_some(low)
        };
        let link = |row: &[u32]| {
            let suffix = below(&row[1..]);
            suffix.map(|at| (at, row[0])).ok_or_else(|| {
                Unsupported(format!("the model lacks the suffix of its n-gram {row:?}"))
            })
        };
        self.rows[order - 2].chunks_exact(order).map(link).collect()
    }
}

/// Nodes by order, and within an order by (node of the suffix, first word).
pub struct Trie {
    /// First word of each node from order 2 on.
    pub words: Vec<u32>,
    /// Where the children of each node below the highest order start; one more for the last's end.
    pub first: Vec<u32>,
    /// The n-gram, counted through all orders of the input tensors, of each node.
    pub ngram: Vec<usize>,
}

impl Trie {
    /// The trie of a model.
    pub fn of(levels: &Levels<'_>) -> Result<Self, Unsupported> {
        let ids = levels.ids();
        let mut trie = Self { words: vec![], first: vec![], ngram: (0..ids).collect() };
        // Nodes of the order below, by position there, and where that order starts.
        let (mut nodes, mut start): (Vec<usize>, usize) = ((0..ids).collect(), 0);
        for order in 2..=levels.order() {
            let mut links: Vec<(usize, u32, usize)> = (0..)
                .zip(levels.links(order)?)
                .map(|(at, (suffix, word))| (nodes[suffix], word, at))
                .collect();
            links.sort_unstable();
            let end = trie.ngram.len();
            let mut child = 0;
            for node in start..end {
                trie.first.push((end + child) as u32);
                child += links[child..].iter().take_while(|link| link.0 == node).count();
            }
            nodes = vec![0; links.len()];
            for (_, word, at) in links {
                nodes[at] = trie.ngram.len();
                trie.words.push(word);
                // Positions of the tensors go through the orders too, and this order starts at `end` in both.
                trie.ngram.push(end + at);
            }
            start = end;
        }
        trie.first.push(trie.ngram.len() as u32);
        Ok(trie)
    }
}

/// An open-addressing hash table of all n-grams from order 2 on.
pub struct HashTable {
    /// Two words a slot: key (node of the suffix · 2³² + first word), then probability in the low and
    /// back-off weight in the high half. A unigram's node is its id, an n-gram's `ids` + its slot. Free
    /// slots have all bits set.
    pub slots: Vec<u64>,
}

impl HashTable {
    /// The table of a model, at most half full.
    pub fn of(levels: &Levels<'_>) -> Result<Self, Unsupported> {
        let ids = levels.ids();
        let count = (2 * (levels.prob.len() - ids)).next_power_of_two().max(2);
        let mut slots = vec![u64::MAX; 2 * count];
        let (mut nodes, mut start): (Vec<u64>, usize) = ((0..ids as u64).collect(), ids);
        for order in 2..=levels.order() {
            let links = levels.links(order)?;
            nodes = (start..)
                .zip(&links)
                .map(|(at, &(suffix, word))| {
                    let key = nodes[suffix] << 32 | u64::from(word);
                    let mut slot = mix(key) as usize % count;
                    while slots[2 * slot] != u64::MAX {
                        slot = (slot + 1) % count;
                    }
                    let backoff = levels.backoff.get(at).map_or(0, |weight| weight.to_bits());
                    slots[2 * slot] = key;
                    slots[2 * slot + 1] =
                        u64::from(backoff) << 32 | u64::from(levels.prob[at].to_bits());
                    (ids + slot) as u64
                })
                .collect();
            start += links.len();
        }
        Ok(Self { slots })
    }
}

/// The 64-bit finalizer of MurmurHash3: `mix` of `ngram.cuh`.
fn mix(key: u64) -> u64 {
    let key = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ key >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ key >> 33
}

/// Codes of `values`, given as one slice for each order, and the values they stand for: a book of 256 an
/// order.
pub fn coded(orders: &[&[f32]]) -> Result<(Vec<u8>, Vec<[f32; 256]>), Unsupported> {
    let (mut codes, mut books) = (Vec::new(), Vec::new());
    for values in orders {
        let distinct: BTreeSet<u32> = values.iter().map(|value| value.to_bits()).collect();
        if distinct.len() > 256 {
            return Err(Unsupported(format!(
                "an order has {} different values, 8-bit codes are for at most 256 (values=q8)",
                distinct.len()
            )));
        }
        let distinct: Vec<u32> = distinct.into_iter().collect();
        let code = |value: &f32| distinct.partition_point(|&bits| bits < value.to_bits()) as u8;
        codes.extend(values.iter().map(code));
        let mut book = [0.0; 256];
        for (slot, &bits) in book.iter_mut().zip(&distinct) {
            *slot = f32::from_bits(bits);
        }
        books.push(book);
    }
    Ok((codes, books))
}

impl Levels<'_> {
    /// One slice for each order of a column that goes through the orders.
    pub fn by_order<'b, T>(&self, column: &'b [T]) -> Vec<&'b [T]> {
        let mut rest = column;
        let mut orders = Vec::new();
        for &size in &self.sizes {
            let (here, after) = rest.split_at(size.min(rest.len()));
            orders.push(here);
            rest = after;
        }
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_reference::ngram::{Model, Smoothing, Values, score::tensors, train};

    fn model() -> Model {
        let text = [vec![0, 1, 2, 1], vec![1, 1], vec![], vec![2, 0, 1], vec![0, 1, 1, 2]];
        train(&text, 3, 3, Smoothing::KneserNey)
    }

    /// The n-gram's node in the trie, by binary search from the last word back.
    fn trie_node(trie: &Trie, ids: usize, ngram: &[u32]) -> usize {
        let (last, before) = ngram.split_last().unwrap();
        let mut node = *last as usize;
        for word in before.iter().rev() {
            let children = trie.first[node] as usize - ids..trie.first[node + 1] as usize - ids;
            let at = trie.words[children.clone()].binary_search(word).unwrap();
            node = ids + children.start + at;
        }
        node
    }

    fn hash_slot(table: &HashTable, ids: usize, ngram: &[u32]) -> u64 {
        let (last, before) = ngram.split_last().unwrap();
        let (count, mut node, mut found) = (table.slots.len() / 2, u64::from(*last), 0);
        for word in before.iter().rev() {
            let key = node << 32 | u64::from(*word);
            found = mix(key) as usize % count;
            while table.slots[2 * found] != key {
                assert_ne!(table.slots[2 * found], u64::MAX, "{ngram:?} is missing");
                found = (found + 1) % count;
            }
            node = (ids + found) as u64;
        }
        table.slots[2 * found + 1]
    }

    #[test]
    fn every_ngram_is_found_in_every_layout() {
        let model = model();
        let inputs = tensors(&model, Values::F32);
        let levels = Levels::of(&inputs).unwrap();
        let (trie, table) = (Trie::of(&levels).unwrap(), HashTable::of(&levels).unwrap());
        let ids = levels.ids();
        assert_eq!((ids, levels.order(), trie.ngram.len()), (6, 3, model.ngrams()));
        assert_eq!(trie.first.len(), levels.backoff.len() + 1);
        for order in 1..=3 {
            for (ngram, entry) in model.table(order) {
                let node = trie_node(&trie, ids, ngram);
                assert_eq!(levels.prob[trie.ngram[node]], entry.log10_prob as f32);
                if order < 3 {
                    assert_eq!(levels.backoff[trie.ngram[node]], entry.log10_backoff as f32);
                }
                if order > 1 {
                    let values = hash_slot(&table, ids, ngram);
                    assert_eq!(f32::from_bits(values as u32), entry.log10_prob as f32);
                    assert_eq!(f32::from_bits((values >> 32) as u32), entry.log10_backoff as f32);
                }
            }
        }
    }

    #[test]
    fn codes_stand_for_the_values_or_are_refused() {
        let (codes, books) = coded(&[&[-1.0, 0.0, -1.0], &[-2.0]]).unwrap();
        let decoded: Vec<f32> =
            codes.iter().zip([0, 0, 0, 1]).map(|(&c, b)| books[b][c as usize]).collect();
        assert_eq!(decoded, [-1.0, 0.0, -1.0, -2.0]);
        let many: Vec<f32> = (0..257).map(|i| -(i as f32)).collect();
        assert!(coded(&[&many]).unwrap_err().0.contains("257 different values"));
    }
}
