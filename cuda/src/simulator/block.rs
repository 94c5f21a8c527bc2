//! A block: its warps, shared memory and barriers, and in which order the warps run.
//!
//! One warp runs until it waits or its turn is over, then the next: the order is always the same, and with it
//! everything that a kernel computes, even when its threads race.

use super::{
    bulk::{Counted, Engine},
    execute::{BARRIERS, BarrierState, Context, LaunchState},
    fault::{Fault, FaultKind, Hazard, Place, Side, Space},
    instructions::Op,
    memory::Cells,
    monitor::{Monitor, Site},
    register_pool::RegisterPool,
    registers::{FULL, Position, Registers},
    shared::Shared,
    warp::{Stop, Trouble, Wait, Warp},
};

/// Instructions of a warp's turn.
const TURN: u32 = 4096;

/// How often threads that sleep at mbarriers are woken in vain before they are taken to sleep for ever.
const AWAKENINGS: u32 = 16;

/// Whether a block goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All its threads have exited.
    Done {
        /// Instructions issued.
        issued: u64,
    },
    /// It has issued its share of instructions.
    Working {
        /// Whether anything changed that another thread could wait for.
        changed: bool,
        /// Instructions issued.
        issued: u64,
    },
}

/// One block.
#[derive(Debug)]
pub struct Block {
    /// Linear index in the grid.
    index: u64,
    warps: Vec<Warp>,
    shared: Shared,
    barriers: [BarrierState; BARRIERS],
    live: Vec<u32>,
    engine: Engine,
    registers: RegisterPool,
}

impl Block {
    /// Space for a block of a launch.
    pub fn new(launch: &LaunchState<'_>) -> Self {
        let threads = launch.block.iter().product::<u32>();
        let warps = threads.div_ceil(32);
        let kernel = launch.kernel;
        let warp = |index: u32| {
            let mut registers = Registers::new(kernel.counts);
            let [x, y, _] = launch.block;
            let thread = |lane: usize| index * 32 + lane as u32;
            registers.position = Position {
                tid: [
                    std::array::from_fn(|lane| thread(lane) % x),
                    std::array::from_fn(|lane| thread(lane) / x % y),
                    std::array::from_fn(|lane| thread(lane) / (x * y)),
                ],
                ntid: launch.block,
                ctaid: [0; 3],
                nctaid: launch.grid,
                warp: index,
                shared_bytes: [
                    (launch.shared_bytes - kernel.static_shared_bytes) as u32,
                    launch.shared_bytes as u32,
                ],
                clock: 0,
            };
            let local = match kernel.local_bytes {
                0 => Vec::new(),
                bytes => (0..32).map(|_| Cells::new(bytes)).collect(),
            };
            let live = FULL >> (32 - (threads - index * 32).min(32));
            Warp::new(index, registers, local, live)
        };
        let warps: Vec<Warp> = (0..warps).map(warp).collect();
        let registers = RegisterPool::new(warps.len(), kernel.max_threads, kernel.min_blocks);
        Self {
            registers,
            index: 0,
            live: warps.iter().map(|warp| warp.live).collect(),
            warps,
            shared: Shared::new(launch.shared_bytes),
            barriers: std::array::from_fn(|_| BarrierState::default()),
            engine: Engine::default(),
        }
    }

    /// Becomes block `index` of the grid, before its first instruction.
    pub fn start(&mut self, launch: &LaunchState<'_>, index: u64) {
        self.index = index;
        let threads = launch.block.iter().product::<u32>();
        let ctaid = coordinates(index, launch.grid);
        for warp in &mut self.warps {
            warp.reset(FULL >> (32 - (threads - warp.index * 32).min(32)));
            warp.registers.position.ctaid = ctaid;
            self.live[warp.index as usize] = warp.live;
        }
        self.shared.reset();
        self.engine.reset();
        self.registers.reset();
        self.barriers = std::array::from_fn(|_| BarrierState::default());
    }

    /// Runs about `budget` instructions.
    ///
    /// # Errors
    /// The first fault.
    pub fn run<M: Monitor>(
        &mut self,
        launch: &LaunchState<'_>,
        monitor: &mut M,
        budget: u64,
    ) -> Result<Progress, Box<Fault>> {
        let (mut issued, mut changed, mut awakenings) = (0, false, 0);
        while issued < budget {
            let (mut moved, mut progressed) = (false, false);
            for at in 0..self.warps.len() {
                if self.warps[at].live == 0 {
                    continue;
                }
                let before = self.warps[at].registers.position.clock;
                let mut progress = false;
                let (warp, mut context) = self.context(launch, monitor, at, &mut progress);
                context.time_is_over = awakenings > 0;
                let outcome = warp.run(&mut context, TURN);
                issued += self.warps[at].registers.position.clock - before;
                let stop = outcome.map_err(|trouble| self.fault(launch, at, trouble))?;
                moved |= stop != Stop::Blocked || progress;
                progressed |= progress;
            }
            changed |= progressed;
            if self.warps.iter().all(|warp| warp.live == 0) {
                self.finish_copies(launch, monitor)?;
                return Ok(Progress::Done { issued });
            }
            if progressed {
                awakenings = 0;
            } else if self.land_oldest(launch, monitor)? {
                changed = true;
                awakenings = 0;
            } else if !moved {
                let sleeps = self.warps.iter().any(Warp::sleeps);
                if !sleeps || awakenings == AWAKENINGS {
                    return Err(self.deadlock(launch, monitor));
                }
                awakenings += 1;
            }
        }
        Ok(Progress::Working { changed, issued })
    }

    /// One warp, and what it runs in.
    fn context<'b, 'l, M: Monitor>(
        &'b mut self,
        launch: &'b LaunchState<'l>,
        monitor: &'b mut M,
        warp: usize,
        progress: &'b mut bool,
    ) -> (&'b mut Warp, Context<'b, 'l, M>) {
        let context = Context {
            launch,
            monitor,
            shared: &mut self.shared,
            engine: &mut self.engine,
            barriers: &mut self.barriers,
            live: &mut self.live,
            registers: &mut self.registers,
            block: self.index,
            progress,
            time_is_over: false,
            woken: false,
        };
        (&mut self.warps[warp], context)
    }

    /// Lands the bulk copy that has been under way longest, if there is one.
    fn land_oldest<M: Monitor>(
        &mut self,
        launch: &LaunchState<'_>,
        monitor: &mut M,
    ) -> Result<bool, Box<Fault>> {
        let Some(copy) = self.engine.pop() else { return Ok(false) };
        let (warp, pc, lanes) = (copy.site.warp as usize, copy.site.pc, 1 << copy.lane);
        let mut progress = false;
        let (_, mut context) = self.context(launch, monitor, warp, &mut progress);
        let landed = context.land(copy);
        landed.map_err(|hazard| self.fault(launch, warp, Trouble { pc, lanes, hazard }))?;
        Ok(true)
    }

    /// All threads have exited: copies to global memory land, others must have.
    fn finish_copies<M: Monitor>(
        &mut self,
        launch: &LaunchState<'_>,
        monitor: &mut M,
    ) -> Result<(), Box<Fault>> {
        while let Some(copy) = self.engine.first() {
            let needs_block = matches!(copy.counted, Counted::Mbarrier { .. }) || !copy.has_read;
            if needs_block {
                let note = "its block ends while the copy engine is at its shared memory";
                let hazard = Box::new(Hazard::new(FaultKind::PendingCopy, note));
                let trouble = Trouble { pc: copy.site.pc, lanes: 1 << copy.lane, hazard };
                return Err(self.fault(launch, copy.site.warp as usize, trouble));
            }
            self.land_oldest(launch, monitor)?;
        }
        Ok(())
    }

    /// All warps wait and nothing can release them.
    fn deadlock<M: Monitor>(&mut self, launch: &LaunchState<'_>, monitor: &mut M) -> Box<Fault> {
        let waits = |warp: &&Warp| warp.live != 0;
        let of_lanes = self.warps.iter().find(|warp| {
            warp.live != 0 && warp.waiting().is_some_and(|g| g.wait == super::warp::Wait::Lanes)
        });
        let warp = of_lanes.or_else(|| self.warps.iter().find(waits)).map_or(0, |w| w.index);
        let group = self.warps[warp as usize].waiting().copied();
        if let Some(warp) = self.warps.iter().position(Warp::sleeps) {
            return self.sleeps_for_ever(launch, warp);
        }
        let Some(group) = group else {
            let hazard = Box::new(Hazard::new(FaultKind::Deadlock, "no thread can go on"));
            return self.fault(launch, warp as usize, Trouble { pc: 0, lanes: 1, hazard });
        };
        if group.wait == super::warp::Wait::Lanes {
            let mut progress = false;
            let (stuck, context) = self.context(launch, monitor, warp as usize, &mut progress);
            let trouble = stuck.never_gathers(&context, group);
            return self.fault(launch, warp as usize, trouble);
        }
        let note = "some threads wait at this barrier, others never come to it";
        let hazard = Box::new(Hazard::new(FaultKind::DivergentBarrier, note));
        let trouble = Trouble { pc: group.pc.saturating_sub(1), lanes: group.lanes, hazard };
        self.fault(launch, warp as usize, trouble)
    }

    /// The fault of a thread that sleeps at an mbarrier whose phase can never end.
    fn sleeps_for_ever(&self, launch: &LaunchState<'_>, warp: usize) -> Box<Fault> {
        let asleep = |group: &&super::warp::Group| matches!(group.wait, Wait::Mbarrier { .. });
        let (pc, lanes) =
            self.warps[warp].groups().iter().find(asleep).map_or((0, 1), |g| (g.pc, g.lanes));
        let note = match launch.kernel.instructions[pc as usize].decoded.op {
            Op::HoldRegisters(_) => self.registers.shortage(self.warps[warp].index),
            _ => self.endless_phases(),
        };
        let hazard = Box::new(Hazard::new(FaultKind::Deadlock, note));
        self.fault(launch, warp, Trouble { pc, lanes, hazard })
    }

    /// What every mbarrier of the block waits for, in words.
    fn endless_phases(&self) -> String {
        let left = |(at, object): (&usize, &super::mbarrier::Mbarrier)| {
            let (pending, bytes) = (object.pending, object.bytes);
            format!("at {at:#x} phase {} waits for {pending} arrivals, {bytes} bytes", object.phase)
        };
        let objects: Vec<String> = self.shared.mbarriers.iter().map(left).collect();
        format!("a phase that cannot end is waited for; mbarriers: {}", objects.join("; "))
    }

    /// The fault of a block that runs and runs while nothing changes.
    pub fn spins(&self, launch: &LaunchState<'_>) -> Box<Fault> {
        let warp = self.warps.iter().position(|warp| warp.live != 0).unwrap_or(0);
        let (pc, lanes) =
            self.warps[warp].waiting().map_or((0, 1), |group| (group.pc, group.lanes));
        let note = "it runs on, and nothing it could wait for changes";
        let hazard = Box::new(Hazard::new(FaultKind::Deadlock, note));
        self.fault(launch, warp, Trouble { pc, lanes, hazard })
    }

    fn fault(&self, launch: &LaunchState<'_>, warp: usize, trouble: Trouble) -> Box<Fault> {
        let lane = trouble.hazard.lane.unwrap_or(trouble.lanes.trailing_zeros() & 31);
        let site = Site { pc: trouble.pc, block: self.index, warp: warp as u32 };
        fault(launch, site, lane, *trouble.hazard)
    }
}

/// x, y, z of a linear index, x fastest.
pub fn coordinates(index: u64, size: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = size.map(u64::from);
    [(index % x) as u32, (index / x % y) as u32, (index / (x * y)) as u32]
}

/// A hazard with everything that is known of its place.
pub fn fault(launch: &LaunchState<'_>, site: Site, lane: u32, hazard: Hazard) -> Box<Fault> {
    let kernel = launch.kernel;
    let instruction = &kernel.instructions[site.pc as usize];
    let memory = hazard.address.map(|(space, address)| {
        let buffer = match space {
            Space::Global | Space::Const => launch
                .global
                .locate(address)
                .map(|(region, offset)| (region.info.name.clone(), offset)),
            Space::Shared => {
                let before = |v: &&super::kernel::SharedVariable| v.offset as u64 <= address;
                let variable = kernel.shared.iter().rev().find(before);
                variable.map(|v| (v.name.clone(), (address - v.offset as u64) as i64))
            }
            Space::Local | Space::Param => None,
        };
        Place { space, address, buffer }
    });
    let other = hazard.other.map(|(site, lane)| {
        let instruction = &kernel.instructions[site.pc as usize];
        Side {
            line: kernel.source(instruction),
            ptx_line: instruction.line,
            instruction: instruction.text.replace('\t', " "),
            block: coordinates(site.block, launch.grid),
            thread: coordinates(u64::from(site.warp * 32 + lane), launch.block),
        }
    });
    Box::new(Fault {
        kind: hazard.kind,
        module: kernel.module.clone(),
        kernel: kernel.name.clone(),
        line: kernel.source(instruction),
        ptx_line: instruction.line,
        instruction: instruction.text.replace('\t', " "),
        block: coordinates(site.block, launch.grid),
        thread: coordinates(u64::from(site.warp * 32 + lane), launch.block),
        memory,
        note: hazard.note,
        other,
    })
}
