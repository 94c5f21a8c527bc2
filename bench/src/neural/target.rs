//! Who verifies: the reference on the CPU, or a plan on an executor with the cache kept there.

use touchstone_cuda::Prepared;
use touchstone_reference::{
    Algorithm, DType, Data, Outputs, Tensor, Tensors,
    decoding::verification::{Params, Verification},
};

/// What a pass gave.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What each sequence emits, then −1: [batch, nodes].
    pub tokens: Vec<i64>,
    /// More of it, where asked for.
    pub seen: Option<Seen>,
}

/// What the test of the law needs of a pass.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The nodes accepted, then −1: [batch, nodes].
    pub path: Vec<i64>,
    /// p after each node: [batch, nodes, vocab].
    pub laws: Vec<f32>,
}

/// A target model with a cache for each sequence.
pub trait Target {
    /// Verifies drafts, inputs of `decoding.verification` by name, and commits what it accepts. `laws`: whether more than
    /// the tokens is asked for.
    ///
    /// # Errors
    /// The executor's.
    fn pass(&mut self, drafts: &Tensors, laws: bool) -> anyhow::Result<Answer>;

    /// Time of a pass on the device alone, in seconds; `None` where there is no device.
    ///
    /// # Errors
    /// The executor's.
    fn alone(&self) -> anyhow::Result<Option<f64>> {
        Ok(None)
    }
}

/// The naive f64 reference; its cache is rounded to f32 as a kernel's is.
#[derive(Clone, Debug)]
pub struct ByReference {
    params: Params,
    inputs: Tensors,
}

impl ByReference {
    /// Behind these weights, caches and lengths.
    pub fn new(params: &Params, inputs: &Tensors) -> Self {
        Self { params: params.clone(), inputs: inputs.clone() }
    }

    /// Puts the nodes of each path behind the committed tokens.
    fn commit(&mut self, outputs: &Outputs) {
        let Params { layers, batch, nodes, seq_k, hidden, .. } = self.params;
        let path = outputs.output("path").values();
        let lengths = self.inputs.tensor("lengths").to_i64();
        let kept = |b: usize| path[b * nodes..][..nodes].iter().take_while(|&&node| node >= 0.0);
        for (cache, tree) in [("k_cache", "k_tree"), ("v_cache", "v_tree")] {
            let mut values = floats(self.inputs.tensor(cache));
            let new = outputs.output(tree).values();
            for (layer, b) in (0..layers).flat_map(|layer| (0..batch).map(move |b| (layer, b))) {
                let row = layer * batch + b;
                for (i, &node) in kept(b).enumerate() {
                    let to = (row * seq_k + lengths[b] as usize + i) * hidden;
                    let from = &new[(row * nodes + node as usize) * hidden..][..hidden];
                    values[to..][..hidden].iter_mut().zip(from).for_each(|(to, &x)| *to = x as f32);
                }
            }
            let shape = self.params.kept(seq_k);
            self.inputs.insert(cache, Tensor::new(&shape, Data::F32(values)));
        }
        let grown = (0..batch).map(|b| lengths[b] + kept(b).count() as i64).collect::<Vec<_>>();
        self.inputs.insert("lengths", Tensor::from_integers(DType::I32, &[batch], &grown));
    }
}

impl Target for ByReference {
    fn pass(&mut self, drafts: &Tensors, _: bool) -> anyhow::Result<Answer> {
        drafts.iter().for_each(|(name, tensor)| self.inputs.insert(name, tensor.clone()));
        let outputs = Verification::reference(&self.params, &self.inputs);
        self.commit(&outputs);
        let whole = |name: &str| -> Vec<i64> {
            outputs.output(name).values().into_iter().map(|x| x as i64).collect()
        };
        let laws = outputs.output("probs").values().into_iter().map(|p| p as f32).collect();
        Ok(Answer { tokens: whole("tokens"), seen: Some(Seen { path: whole("path"), laws }) })
    }
}

/// The plan [`touchstone_cuda::decoding::verification::stepping`] on an executor: drafts go there, tokens come back.
#[derive(Debug)]
pub struct OnDevice<P> {
    prepared: P,
    alone: fn(&P) -> anyhow::Result<Option<f64>>,
}

impl<P: Prepared> OnDevice<P> {
    /// `alone` times a run of the plan on the device, where that can be told.
    pub fn new(prepared: P, alone: fn(&P) -> anyhow::Result<Option<f64>>) -> Self {
        Self { prepared, alone }
    }
}

impl<P: Prepared> Target for OnDevice<P> {
    fn pass(&mut self, drafts: &Tensors, laws: bool) -> anyhow::Result<Answer> {
        drafts.iter().try_for_each(|(name, tensor)| self.prepared.write(name, tensor))?;
        self.prepared.run()?;
        let tokens = self.prepared.read("tokens")?.to_i64();
        let seen = || -> anyhow::Result<Seen> {
            let laws = floats(&self.prepared.read("probs")?);
            Ok(Seen { path: self.prepared.read("path")?.to_i64(), laws })
        };
        Ok(Answer { tokens, seen: laws.then(seen).transpose()? })
    }

    fn alone(&self) -> anyhow::Result<Option<f64>> {
        (self.alone)(&self.prepared)
    }
}

/// The values of an f32 tensor.
fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.data() {
        Data::F32(values) => values.clone(),
        _ => panic!("no f32"),
    }
}
