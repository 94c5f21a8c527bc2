//! The GPU executor: carries out plans through the CUDA driver, which it loads at run time.
//!
//! Absence of a GPU or a driver is a value, [`Absent`], never a panic.

mod guarded;
pub mod limits;
mod prepared;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, anyhow};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, sys};
use nvml_wrapper::{Nvml, bitmasks::device::ThrottleReasons, enum_wrappers::device::Clock};

pub use guarded::Poison;
pub use prepared::{Cache, KernelResources, OutOfMemory, Prepared, Timing};

use crate::ptx;

/// Why there is no GPU to run on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no CUDA device: {0}")]
pub struct Absent(pub String);

/// The device is of another kind than a kernel is compiled for: a reason to skip a case, not a failure.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("'{module}' is compiled for compute capability {needs}, the device has {has}")]
pub struct OtherDevice {
    /// Stem of the kernel file.
    pub module: &'static str,
    /// What it needs, in words.
    pub needs: String,
    /// What there is.
    pub has: String,
}

/// One CUDA device with its context, one stream and the modules loaded so far.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    nvml: Option<Nvml>,
    properties: Properties,
}

/// What the driver says of the device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// Position among the devices that CUDA shows.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute: (i32, i32),
    /// Number of multiprocessors.
    pub multiprocessors: usize,
    /// Device memory in bytes.
    pub memory_bytes: usize,
    /// Level-2 cache in bytes.
    pub l2_bytes: usize,
    /// Most shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// Driver version, when the management library tells it.
    pub driver: Option<String>,
    /// CUDA version of the driver as 1000·major + 10·minor.
    pub cuda: i32,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// How many CUDA devices there are, or why none can be asked.
///
/// # Errors
/// [`Absent`] when there is no driver or no device.
pub fn count() -> Result<usize, Absent> {
    // SAFETY: only looks for the driver's library; cudarc would panic later if it were missing.
    if !unsafe { sys::is_culib_present() } {
        return Err(Absent("the driver library (libcuda) is not installed".into()));
    }
    let count = CudaContext::device_count().map_err(|error| Absent(describe(&error)))?;
    match usize::try_from(count) {
        Ok(0) | Err(_) => Err(Absent("the driver sees no device".into())),
        Ok(count) => Ok(count),
    }
}

fn describe(error: &cudarc::driver::DriverError) -> String {
    let text = |result: Result<&std::ffi::CStr, _>| {
        result.map_or_else(|_| "unknown".into(), |s| s.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

impl Gpu {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`Absent`] when there is no driver or no such device.
    pub fn open(ordinal: usize) -> Result<Self, Absent> {
        let count = count()?;
        if ordinal >= count {
            return Err(Absent(format!("device {ordinal} was asked for; there are {count}")));
        }
        Self::connect(ordinal).map_err(|error| Absent(format!("{error:#}")))
    }

    fn connect(ordinal: usize) -> anyhow::Result<Self> {
        use sys::CUdevice_attribute::*;
        let context = CudaContext::new(ordinal)?;
        // SAFETY: this executor uses one stream and orders everything on it.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let attribute = |which| context.attribute(which).map(|value| value as usize);
        let nvml = Nvml::init().ok();
        let mut cuda = 0;
        // SAFETY: writes one int.
        unsafe { sys::cuDriverGetVersion(&mut cuda) }.result()?;
        let properties = Properties {
            ordinal,
            name: context.name()?,
            compute: context.compute_capability()?,
            multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            memory_bytes: context.total_mem()?,
            l2_bytes: attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver: nvml.as_ref().and_then(|nvml| nvml.sys_driver_version().ok()),
            cuda,
        };
        Ok(Self { context, stream, modules: Mutex::default(), nvml, properties })
    }

    /// What the driver says of the device.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Whether the context still works; an illegal access in a kernel ends it for good.
    pub fn is_healthy(&self) -> bool {
        self.context.synchronize().is_ok()
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// The error of a kernel that failed.
    pub fn synchronize(&self) -> anyhow::Result<()> {
        self.stream.synchronize().map_err(|error| anyhow!(describe(&error)))
    }

    /// SM clock and its maximum in MHz, when the management library tells them.
    pub fn sm_clock_mhz(&self) -> (Option<u32>, Option<u32>) {
        let device = self.management();
        let clock = device.as_ref().and_then(|d| d.clock_info(Clock::SM).ok());
        (clock, device.as_ref().and_then(|d| d.max_clock_info(Clock::SM).ok()))
    }

    /// Whether the device runs slower than its clocks because of heat or a hardware limit.
    pub fn is_throttled(&self) -> bool {
        let slow = ThrottleReasons::HW_SLOWDOWN
            | ThrottleReasons::SW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        self.management()
            .and_then(|device| device.current_throttle_reasons().ok())
            .is_some_and(|reasons| reasons.intersects(slow))
    }

    /// The management library's handle of this device, found by UUID since its order may differ.
    fn management(&self) -> Option<nvml_wrapper::Device<'_>> {
        let bytes = self.context.uuid().ok()?.bytes.map(|b| b as u8);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let groups = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        self.nvml.as_ref()?.device_by_uuid(format!("GPU-{}", groups.join("-"))).ok()
    }

    /// Whether the device has the instructions that a module is compiled for.
    fn takes(&self, module: &'static str, source: &str) -> Result<(), OtherDevice> {
        let has = self.properties.compute;
        match ptx::target(source) {
            Some((least, only)) if has < least || only && has != least => Err(OtherDevice {
                module,
                needs: format!("{}.{}{}", least.0, least.1, if only { " alone" } else { "" }),
                has: format!("{}.{}", has.0, has.1),
            }),
            _ => Ok(()),
        }
    }

    /// A kernel by module stem and symbol; modules are loaded once.
    fn function(&self, module: &'static str, symbol: &str) -> anyhow::Result<CudaFunction> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if !modules.contains_key(module) {
            let source = ptx::module(module)
                .ok_or_else(|| anyhow!("no kernel file named '{module}' was compiled in"))?;
            let older = if self.properties.compute < (9, 0) { ptx::in_order(source) } else { None };
            let source = older.as_deref().unwrap_or(source);
            self.takes(module, source)?;
            let loaded = self
                .context
                .load_module(source.into())
                .map_err(|error| anyhow!(describe(&error)))
                .with_context(|| format!("the driver refuses the PTX of '{module}'"))?;
            modules.insert(module, loaded);
        }
        modules[module]
            .load_function(symbol)
            .map_err(|error| anyhow!("kernel '{symbol}' in '{module}': {}", describe(&error)))
    }
}
