//! A plan with memory of its own, ready to run as often as one likes.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use anyhow::{anyhow, ensure};
use touchstone_reference::{Tensor, Tensors};

use super::{
    cost::{Cost, Meter},
    execute::LaunchState,
    kernel::{Error, Kernel},
    launch::{Halt, launch},
    memory::{Cells, Global, Region, State, buffer_address, variable_address},
    monitor::{BufferInfo, Monitor},
    numeric::tensor::TensorMap,
    overlap::Overlaps,
    race::Races,
};
use crate::{
    gpu::Poison,
    plan::{Arg, BufferMap, Launch, Plan, Role, Step},
    ptx,
};

/// Shared memory of a block beyond which a device of compute capability 9.0 refuses a launch.
const MOST_SHARED_BYTES: usize = 227 * 1024;

/// A run was ended because it is too long to simulate: a reason to leave a case out, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} warp instructions")]
pub struct TooLong {
    /// What a run may issue.
    pub limit: u64,
}

/// Executes the committed PTX on the CPU.
#[derive(Debug)]
pub struct Simulator {
    threads: usize,
    limit: u64,
    replaced: HashMap<String, String>,
    kernels: Mutex<HashMap<(String, String), Arc<Kernel>>>,
}

impl Default for Simulator {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulator {
    /// A simulator that uses all cores of the host.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, limit: u64::MAX, replaced: HashMap::new(), kernels: Mutex::default() }
    }

    /// The same on so many host threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The same with an end to what one run may issue, in warp instructions: beyond it is [`TooLong`].
    #[must_use]
    pub const fn with_limit(mut self, warp_instructions: u64) -> Self {
        self.limit = warp_instructions;
        self
    }

    /// The same with another PTX text for a module: a mutant, or a kernel that is not committed.
    #[must_use]
    pub fn with_module(mut self, stem: &str, text: impl Into<String>) -> Self {
        self.replaced.insert(stem.to_string(), text.into());
        self
    }

    /// A kernel, decoded once.
    ///
    /// # Errors
    /// If there is no such kernel, or the simulator does not know one of its instructions.
    pub fn kernel(&self, module: &str, symbol: &str) -> Result<Arc<Kernel>, Error> {
        let key = (module.to_string(), symbol.to_string());
        if let Some(kernel) = self.kernels.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
        {
            return Ok(kernel.clone());
        }
        let text = match self.replaced.get(module) {
            Some(text) => text,
            None => ptx::module(module).ok_or_else(|| Error::NoModule(module.to_string()))?,
        };
        let kernel = Arc::new(Kernel::new(module, text, symbol)?);
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kernels.entry(key).or_insert(kernel).clone())
    }

    /// Gives a plan its memory and decodes its kernels.
    ///
    /// # Errors
    /// As [`Simulator::kernel`], or if a launch does not fit its kernel.
    pub fn prepare<'p>(&'p self, plan: &'p Plan) -> anyhow::Result<Prepared<'p>> {
        let mut variables: HashMap<String, Vec<Region>> = HashMap::new();
        let mut kernels = Vec::new();
        for step in plan.steps() {
            let Step::Launch(launch) = step else {
                kernels.push(None);
                continue;
            };
            let kernel = self.kernel(launch.module, &launch.symbol)?;
            fits(&kernel, launch)?;
            variables.entry(launch.module.to_string()).or_insert_with(|| module_variables(&kernel));
            kernels.push(Some(kernel));
        }
        let regions = plan.buffers().iter().enumerate().map(|(index, buffer)| {
            let bytes = buffer.bytes();
            let mut cells = Cells::new(bytes);
            if let Role::Input(tensor) = &buffer.role {
                cells.upload(tensor.as_bytes());
            }
            let address = buffer_address(index);
            let info = BufferInfo { name: buffer.name.clone(), address, bytes };
            Region { info, cells, read_only: false }
        });
        let buffers = RefCell::new(regions.collect());
        let at = |map: &BufferMap| {
            let address = buffer_address(map.buffer.0) + map.map.address;
            TensorMap { address, ..map.map.clone() }
        };
        let maps = plan.maps().iter().map(at).collect();
        let cost = RefCell::default();
        Ok(Prepared { simulator: self, plan, kernels, buffers, maps, variables, cost })
    }
}

fn module_variables(kernel: &Kernel) -> Vec<Region> {
    let region = |(index, variable): (usize, &super::kernel::ModuleVariable)| {
        let mut cells = Cells::new(variable.bytes);
        // Variables without an initialiser are zero.
        cells.fill(0, State::Written);
        cells.upload(&variable.initial);
        let (name, bytes) = (variable.name.clone(), variable.bytes);
        let info = BufferInfo { name, address: variable_address(index), bytes };
        Region { info, cells, read_only: variable.read_only }
    };
    kernel.variables.iter().enumerate().map(region).collect()
}

fn fits(kernel: &Kernel, launch: &Launch) -> anyhow::Result<()> {
    let name = format!("kernel '{}' in '{}'", launch.symbol, launch.module);
    let given: Vec<usize> = launch.args.iter().map(|arg| arg.bytes()).collect();
    let taken: Vec<usize> = kernel.params.iter().map(|&(_, bytes)| bytes).collect();
    ensure!(given == taken, "{name} takes parameters of {taken:?} bytes, given {given:?}");
    let threads: usize = launch.block.iter().map(|&n| n as usize).product();
    let most = kernel.max_threads.unwrap_or(1024);
    ensure!(threads <= most, "{name} takes {most} threads, given {threads}");
    let shared = kernel.static_shared_bytes + launch.shared_bytes as usize;
    ensure!(shared <= MOST_SHARED_BYTES, "{name} needs {shared} bytes of shared memory");
    Ok(())
}

/// A plan with its memory.
#[derive(Debug)]
pub struct Prepared<'p> {
    simulator: &'p Simulator,
    plan: &'p Plan,
    /// The kernel of each step that launches one.
    kernels: Vec<Option<Arc<Kernel>>>,
    buffers: RefCell<Vec<Region>>,
    /// The plan's tensor maps, at their addresses.
    maps: Vec<TensorMap>,
    variables: HashMap<String, Vec<Region>>,
    /// Of the first run that was watched to its end.
    cost: RefCell<Option<Cost>>,
}

impl Prepared<'_> {
    /// Fills outputs and scratch with a pattern; reading one of those bytes before it is written is a fault.
    pub fn poison(&self, poison: Poison) {
        let mut buffers = self.buffers.borrow_mut();
        for (buffer, region) in self.plan.buffers().iter().zip(&mut *buffers) {
            if !matches!(buffer.role, Role::Input(_)) {
                region.cells.fill(poison.byte(), State::Fresh);
            }
        }
    }

    /// Runs all steps, watched by a monitor.
    ///
    /// # Errors
    /// The first [`super::Fault`], or [`TooLong`]; both to be downcast.
    pub fn run_watched<M: Monitor>(&self, monitor: &mut M) -> anyhow::Result<()> {
        let issued = AtomicU64::new(0);
        for (at, (step, kernel)) in self.plan.steps().iter().zip(&self.kernels).enumerate() {
            match (step, kernel) {
                (Step::Fill(buffer, byte), _) => {
                    let mut buffers = self.buffers.borrow_mut();
                    let region = buffers.get_mut(buffer.0).ok_or_else(|| anyhow!("no buffer"))?;
                    region.cells.fill(*byte, State::Written);
                }
                (Step::Launch(launch), Some(kernel)) => {
                    let overlaps = [at, at + 1].map(|step| self.plan.overlaps(step));
                    self.launch(launch, kernel, overlaps, monitor, &issued)?;
                }
                (Step::Launch(_), None) => {}
            }
        }
        Ok(())
    }

    /// Runs all steps. The first run is watched for data races and for launches that overlap without waiting, and its
    /// cost is counted; what it does does not depend on what memory held before, so later ones are not.
    ///
    /// # Errors
    /// As [`Prepared::run_watched`].
    pub fn run(&self) -> anyhow::Result<()> {
        if self.cost.borrow().is_some() {
            return self.run_watched(&mut ());
        }
        let mut monitors = (Meter::default(), (Races::default(), Overlaps::default()));
        self.run_watched(&mut monitors)?;
        *self.cost.borrow_mut() = Some(monitors.0.cost().clone());
        Ok(())
    }

    /// What the kernels cost, once they have run.
    pub fn cost(&self) -> Option<Cost> {
        self.cost.borrow().clone()
    }

    fn launch<M: Monitor>(
        &self,
        step: &Launch,
        kernel: &Kernel,
        overlaps: [bool; 2],
        monitor: &mut M,
        issued: &AtomicU64,
    ) -> anyhow::Result<()> {
        let buffers = self.buffers.borrow();
        let params = Cells::new(kernel.param_bytes);
        for (arg, &(offset, bytes)) in step.args.iter().zip(&kernel.params) {
            if let Arg::TensorMap(map) = arg {
                params.write(offset, &TensorMap::token(map.0));
                params.write(offset + 16, &[0; TensorMap::PARAMETER_BYTES - 16]);
            } else {
                params.store(offset, bytes, arg.bits(|id| buffer_address(id.0)));
            }
        }
        let variables = self.variables.get(step.module).map_or(&[][..], Vec::as_slice);
        let state = LaunchState {
            kernel,
            global: Global { buffers: &buffers, variables },
            params: &params,
            maps: &self.maps,
            grid: step.grid,
            block: step.block,
            shared_bytes: kernel.static_shared_bytes + step.shared_bytes as usize,
            overlaps,
            issued,
            limit: self.simulator.limit,
        };
        let infos: Vec<BufferInfo> =
            buffers.iter().chain(variables).map(|region| region.info.clone()).collect();
        match launch(&state, &infos, monitor, self.simulator.threads) {
            Ok(()) => Ok(()),
            Err(Halt::Fault(fault)) => Err(anyhow!(*fault)),
            Err(Halt::Limit) => Err(TooLong { limit: self.simulator.limit }.into()),
        }
    }

    /// The outputs.
    pub fn outputs(&self) -> Tensors {
        let mut outputs = Tensors::new();
        for (buffer, region) in self.plan.buffers().iter().zip(&*self.buffers.borrow()) {
            if buffer.role == Role::Output {
                let bytes = region.cells.download();
                outputs
                    .insert(&buffer.name, Tensor::from_bytes(buffer.dtype, &buffer.shape, &bytes));
            }
        }
        outputs
    }

    /// Puts other values into a buffer.
    ///
    /// # Panics
    /// If there is no buffer of that name, type and shape.
    pub fn write(&mut self, name: &str, tensor: &Tensor) {
        let id = self.plan.buffer_for(name, tensor);
        self.buffers.borrow_mut()[id.0].cells.upload(tensor.as_bytes());
    }

    /// What one buffer holds.
    ///
    /// # Panics
    /// If there is no buffer of that name.
    pub fn read(&self, name: &str) -> Tensor {
        let id = self.plan.buffer_named(name);
        let buffer = &self.plan.buffers()[id.0];
        let bytes = self.buffers.borrow()[id.0].cells.download();
        Tensor::from_bytes(buffer.dtype, &buffer.shape, &bytes)
    }

    /// Which input the kernels changed, if they did. Writes outside of buffers are faults at once.
    pub fn damage(&self) -> Option<String> {
        let buffers = self.buffers.borrow();
        self.plan.buffers().iter().zip(&*buffers).find_map(|(buffer, region)| match &buffer.role {
            Role::Input(tensor) if region.cells.download() != tensor.as_bytes() => {
                Some(format!("input '{}' was changed", buffer.name))
            }
            _ => None,
        })
    }
}
