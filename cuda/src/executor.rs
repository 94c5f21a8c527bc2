//! What carries out a plan: a GPU, or the simulator. Verification asks no more of either than this.

use touchstone_reference::{Tensor, Tensors};

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
    /// [`gpu::OutOfMemory`] (to be downcast) when there is too little memory, [`gpu::OtherDevice`] when the device lacks
    /// the kernels' instructions; else the executor's error.
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

    /// Puts other values into a buffer: the input of a further run of a plan that is one step of many.
    ///
    /// # Errors
    /// The executor's.
    ///
    /// # Panics
    /// If there is no buffer of that name, or it has another type or shape.
    fn write(&mut self, name: &str, tensor: &Tensor) -> anyhow::Result<()>;

    /// What one buffer holds.
    ///
    /// # Errors
    /// The executor's, the error of a failed kernel included.
    ///
    /// # Panics
    /// If there is no buffer of that name.
    fn read(&self, name: &str) -> anyhow::Result<Tensor>;

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

    fn write(&mut self, name: &str, tensor: &Tensor) -> anyhow::Result<()> {
        self.write(name, tensor)
    }

    fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        self.read(name)
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

    fn write(&mut self, name: &str, tensor: &Tensor) -> anyhow::Result<()> {
        self.write(name, tensor);
        Ok(())
    }

    fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        Ok(self.read(name))
    }

    fn damage(&self) -> anyhow::Result<Option<String>> {
        Ok(self.damage())
    }
}
