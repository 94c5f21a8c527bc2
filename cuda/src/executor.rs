//! What carries out a plan: a GPU, or the simulator. Verification asks no more of either than this.

use touchstone_reference::Tensors;

use crate::{
    gpu::{self, Gpu, Poison},
    plan::Plan,
    simulator::{self, Simulator},
};

/// Makes plans ready.
pub trait Executor {
    /// A plan made ready.
    type Prepared<'e>: Prepared
    where
        Self: 'e;

    /// Gives a plan its memory, uploads its inputs and loads its kernels.
    ///
    /// # Errors
    /// [`gpu::OutOfMemory`] (to be downcast) when there is too little memory; else the executor's error.
    fn prepare<'e>(&'e self, plan: &'e Plan) -> anyhow::Result<Self::Prepared<'e>>;
}

/// A plan made ready, which may run many times.
pub trait Prepared {
    /// Poisons outputs and scratch.
    ///
    /// # Errors
    /// The executor's.
    fn poison(&self, poison: Poison) -> anyhow::Result<()>;

    /// Runs every step once.
    ///
    /// # Errors
    /// The executor's; the simulator's [`simulator::Fault`] (to be downcast) says what the kernel did wrong.
    fn run(&self) -> anyhow::Result<()>;

    /// The outputs.
    ///
    /// # Errors
    /// The executor's, the error of a failed kernel included.
    fn outputs(&self) -> anyhow::Result<Tensors>;

    /// What the kernels damaged outside of their outputs and scratch.
    ///
    /// # Errors
    /// The executor's.
    fn damage(&self) -> anyhow::Result<Option<String>>;
}

impl Executor for Gpu {
    type Prepared<'e> = gpu::Prepared<'e>;

    fn prepare<'e>(&'e self, plan: &'e Plan) -> anyhow::Result<Self::Prepared<'e>> {
        Self::prepare(self, plan)
    }
}

impl Prepared for gpu::Prepared<'_> {
    fn poison(&self, poison: Poison) -> anyhow::Result<()> {
        self.poison(poison)
    }

    fn run(&self) -> anyhow::Result<()> {
        self.run()
    }

    fn outputs(&self) -> anyhow::Result<Tensors> {
        self.outputs()
    }

    fn damage(&self) -> anyhow::Result<Option<String>> {
        self.damage()
    }
}

impl Executor for Simulator {
    type Prepared<'e> = simulator::Prepared<'e>;

    fn prepare<'e>(&'e self, plan: &'e Plan) -> anyhow::Result<Self::Prepared<'e>> {
        Self::prepare(self, plan)
    }
}

impl Prepared for simulator::Prepared<'_> {
    fn poison(&self, poison: Poison) -> anyhow::Result<()> {
        self.poison(poison);
        Ok(())
    }

    fn run(&self) -> anyhow::Result<()> {
        self.run()
    }

    fn outputs(&self) -> anyhow::Result<Tensors> {
        Ok(self.outputs())
    }

    fn damage(&self) -> anyhow::Result<Option<String>> {
        Ok(self.damage())
    }
}
