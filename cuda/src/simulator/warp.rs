//! A warp: 32 threads with program counters of their own.
//!
//! # Divergence
//! Since sm_70 each thread has a program counter, and a warp's lanes run together while theirs agree. So a warp
//! here is a list of groups of lanes; the group with the least program counter runs first, and groups that
//! reach the same instruction become one again. Compilers lay out code so that both sides of a branch come
//! before the place where they meet, which makes "least first" reconverge where hardware does. A stack of
//! immediate post-dominators would reconverge too, but it cannot run a lane that spins until another lane
//! of its warp has gone on; here a group that spins while others could run loses its turn.
//!
//! An instruction that needs several lanes at once (`shfl.sync`, `bar.sync`, `mma`) waits in its group until
//! the others arrive; when they never can, that is a fault.

use super::{
    execute::Context,
    fault::{FaultKind, Hazard},
    instructions::Op,
    memory::Cells,
    monitor::Monitor,
    products::Products,
    registers::{FULL, Registers, Source, lanes},
};

/// What a group of lanes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    Running,
    /// Other lanes at the same instruction.
    Lanes,
    /// The end of a phase of a barrier.
    Barrier {
        /// Its number.
        id: u32,
        /// The phase in which it arrived.
        phase: u64,
    },
    /// The end of a phase of an mbarrier, or registers that other warps give up.
    Mbarrier {
        /// Phases of the block's mbarriers that had ended when it fell asleep.
        ended: u64,
    },
}

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Next instruction.
    pub pc: u32,
    /// Its lanes.
    pub lanes: u32,
    /// What they wait for.
    pub wait: Wait,
    /// Turns it has used up while others could run.
    turns: u32,
    /// Whether it was woken at an mbarrier though no phase had ended.
    woken: bool,
}

/// A copy of `cp.async` under way.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The lane that made it.
    pub lane: u32,
    /// Its group; none until it is committed.
    pub group: Option<u32>,
    /// Offset in shared memory.
    pub to: usize,
    /// What arrives.
    pub data: [u8; 16],
    /// Bytes of it.
    pub bytes: usize,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All its lanes have exited.
    Exited,
    /// Every group waits for a barrier or an mbarrier, or for lanes that do.
    Blocked,
    /// Its turn is over.
    Tired,
}

/// A hazard, at an instruction, of some lanes.
#[derive(Debug)]
pub struct Trouble {
    /// The instruction.
    pub pc: u32,
    /// The active lanes.
    pub lanes: u32,
    /// What is wrong.
    pub hazard: Box<Hazard>,
}

/// Where a group goes after an instruction.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    /// To the next instruction.
    Advance,
    /// All lanes to another.
    Jump(u32),
    /// These lanes to another, the rest to the next.
    Split(u32, u32),
    /// These lanes have exited, the rest to the next.
    Exit(u32),
    /// Wait at this instruction for other lanes.
    Gather,
    /// Go on behind this instruction when the barrier's phase is over.
    Barrier(u32, u64),
    /// Sleep at this instruction until a phase of an mbarrier ends, or nothing else in the block can go on.
    Sleep,
}

/// One warp.
#[derive(Debug)]
pub struct Warp {
    /// Its number in the block.
    pub index: u32,
    /// Its registers.
    pub registers: Registers,
    /// Lanes that have not exited.
    pub live: u32,
    groups: Vec<Group>,
    /// Local memory of each lane.
    pub local: Vec<Cells>,
    /// Copies under way.
    pub copies: Vec<Copy>,
    /// Copy groups that each lane has committed.
    pub committed: [u32; 32],
    /// `wgmma` under way.
    pub products: Products,
}

impl Warp {
    /// A warp before its first instruction; `live` are the lanes that exist.
    pub const fn new(index: u32, registers: Registers, local: Vec<Cells>, live: u32) -> Self {
        Self {
            index,
            registers,
            live,
            groups: Vec::new(),
            local,
            copies: Vec::new(),
            committed: [0; 32],
            products: Products::new(),
        }
    }

    /// Starts again for another block.
    pub fn reset(&mut self, live: u32) {
        self.registers.reset();
        self.live = live;
        self.groups.clear();
        let wait = Wait::Running;
        self.groups.push(Group { pc: 0, lanes: live, wait, turns: 0, woken: false });
        for cells in &mut self.local {
            cells.fill(0, super::memory::State::Fresh);
        }
        self.copies.clear();
        self.committed = [0; 32];
        self.products.reset();
    }

    /// Its groups of lanes.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether lanes sleep at an mbarrier.
    pub fn sleeps(&self) -> bool {
        self.groups.iter().any(|group| matches!(group.wait, Wait::Mbarrier { .. }))
    }

    /// A group that waits, for the report of a deadlock.
    pub fn waiting(&self) -> Option<&Group> {
        let lanes = self.groups.iter().find(|group| group.wait == Wait::Lanes);
        lanes.or(self.groups.first())
    }

    /// Runs until it ends, waits or has issued `budget` instructions.
    pub fn run<M: Monitor>(
        &mut self,
        context: &mut Context<'_, '_, M>,
        budget: u32,
    ) -> Result<Stop, Trouble> {
        let mut left = budget;
        while left > 0 {
            let Some(turn) = self.schedule(context) else {
                if self.live == 0 {
                    return Ok(Stop::Exited);
                }
                let stuck = self.groups.iter().find(|group| group.wait == Wait::Lanes);
                let barrier = |group: &Group| {
                    matches!(group.wait, Wait::Barrier { .. } | Wait::Mbarrier { .. })
                };
                return match stuck {
                    Some(group) if !self.groups.iter().any(barrier) => {
                        Err(self.never_gathers(context, *group))
                    }
                    _ => Ok(Stop::Blocked),
                };
            };
            self.take_turn(context, turn, &mut left)?;
        }
        Ok(Stop::Tired)
    }

    /// The fault of lanes that wait for others which cannot come.
    pub fn never_gathers<M: Monitor>(&self, context: &Context<'_, '_, M>, group: Group) -> Trouble {
        let op = &context.launch.kernel.instructions[group.pc as usize].decoded.op;
        let missing = self.live & !group.lanes;
        let (kind, what) = match op {
            Op::Barrier(_) => (FaultKind::DivergentBarrier, "lanes of its warp"),
            Op::Collective(..) | Op::WarpBarrier(_) => (FaultKind::WrongMask, "lanes of its mask"),
            _ => (FaultKind::WrongMask, "lanes of its warp"),
        };
        let note =
            format!("{what} do not come to this instruction (absent of the warp: {missing:#010x})");
        Trouble { pc: group.pc, lanes: group.lanes, hazard: Box::new(Hazard::new(kind, note)) }
    }

    /// Releases, merges and chooses: the index of the group that runs next.
    fn schedule<M: Monitor>(&mut self, context: &mut Context<'_, '_, M>) -> Option<usize> {
        for group in &mut self.groups {
            if let Wait::Barrier { id, phase } = group.wait
                && context.barriers[id as usize].phase != phase
            {
                context.finish_barrier(&mut self.registers, id, group.pc - 1, group.lanes);
                group.wait = Wait::Running;
            }
            if let Wait::Mbarrier { ended } = group.wait
                && (context.shared.phases_ended != ended || context.time_is_over)
            {
                group.wait = Wait::Running;
                group.woken = context.shared.phases_ended == ended;
            }
        }
        context.time_is_over = false;
        if self.groups.len() > 1 {
            self.merge();
        }
        let running = self.groups.iter().enumerate().filter(|(_, g)| g.wait == Wait::Running);
        running.min_by_key(|(_, group)| (group.turns, group.pc)).map(|(at, _)| at)
    }

    fn merge(&mut self) {
        let waits_for_lanes = |group: &Group| !matches!(group.wait, Wait::Barrier { .. });
        let mut at = 0;
        while at < self.groups.len() {
            let group = self.groups[at];
            let twin = (at + 1..self.groups.len()).find(|&other| {
                let other = &self.groups[other];
                other.pc == group.pc && waits_for_lanes(other) && waits_for_lanes(&group)
            });
            match twin {
                Some(other) => {
                    let taken = self.groups.swap_remove(other);
                    let group = &mut self.groups[at];
                    group.lanes |= taken.lanes;
                    group.wait = Wait::Running;
                    group.turns = group.turns.min(taken.turns);
                }
                None => at += 1,
            }
        }
    }

    /// Runs one group until something other than the next instruction comes up.
    fn take_turn<M: Monitor>(
        &mut self,
        context: &mut Context<'_, '_, M>,
        turn: usize,
        left: &mut u32,
    ) -> Result<(), Trouble> {
        let Group { mut pc, lanes: group, .. } = self.groups[turn];
        context.woken = std::mem::take(&mut self.groups[turn].woken);
        let alone = self.groups.len() == 1;
        // Lanes that run beside others look after each instruction whether they have met them.
        let mut patience = if alone { u32::MAX } else { 2048 };
        let kernel = context.launch.kernel;
        loop {
            let instruction = &kernel.instructions[pc as usize];
            let trouble = |hazard, lanes| Trouble { pc, lanes, hazard };
            let active = match instruction.guard {
                None => group,
                Some(guard) => {
                    self.registers.require(guard, group).map_err(|h| trouble(h, group))?;
                    group & self.registers.predicate(guard)
                }
            };
            let next = match &instruction.decoded.op {
                Op::Compute(compute) => {
                    context.count(self.index, pc, &instruction.decoded, active);
                    if active != 0
                        && let Err(hazard) = compute(&mut self.registers, active)
                    {
                        let hazard = self
                            .of_products(hazard, |registers| compute(registers, active).is_ok());
                        return Err(trouble(hazard, active));
                    }
                    Next::Advance
                }
                _ => match context.execute(self, pc, instruction, group, active) {
                    Ok(next) => next,
                    Err(hazard) => {
                        return Err(trouble(self.of_products(hazard, |_| true), active));
                    }
                },
            };
            self.registers.position.clock += 1;
            *left -= 1;
            patience -= 1;
            match next {
                Next::Advance => pc += 1,
                Next::Jump(to) => pc = to,
                other => {
                    self.part(context, turn, pc, other);
                    return Ok(());
                }
            }
            self.groups[turn].pc = pc;
            if *left == 0 {
                return Ok(());
            }
            if !alone {
                if self.groups.iter().enumerate().any(|(at, g)| at != turn && g.pc == pc) {
                    return Ok(());
                }
                let least = |g: &Group| g.wait == Wait::Running && g.pc < pc;
                if patience == 0 || self.groups.iter().any(least) {
                    self.groups[turn].turns += u32::from(patience == 0);
                    return Ok(());
                }
            }
        }
    }

    /// Names a register without a value as one of a product under way, when `helps` says that it is.
    #[cold]
    fn of_products(
        &mut self,
        mut hazard: Box<Hazard>,
        helps: impl FnOnce(&mut Registers) -> bool,
    ) -> Box<Hazard> {
        if hazard.kind == FaultKind::UninitializedRegister && self.products.are_under_way() {
            self.products.reveal(&mut self.registers);
            if helps(&mut self.registers) {
                hazard.kind = FaultKind::PendingProduct;
            }
        }
        hazard
    }

    /// What ends a group's turn.
    fn part<M: Monitor>(
        &mut self,
        context: &mut Context<'_, '_, M>,
        turn: usize,
        pc: u32,
        next: Next,
    ) {
        let group = &mut self.groups[turn];
        group.pc = pc + 1;
        match next {
            Next::Advance => {}
            Next::Jump(to) => group.pc = to,
            Next::Split(to, lanes) => {
                group.lanes &= !lanes;
                let turns = group.turns;
                let wait = Wait::Running;
                self.groups.push(Group { pc: to, lanes, wait, turns, woken: false });
            }
            Next::Exit(lanes) => {
                group.lanes &= !lanes;
                self.live &= !lanes;
                if group.lanes == 0 {
                    self.groups.swap_remove(turn);
                }
                // Whoever waited for these lanes need not any more.
                for group in &mut self.groups {
                    if group.wait == Wait::Lanes {
                        group.wait = Wait::Running;
                    }
                }
                context.lanes_exited(self.index, self.live);
            }
            Next::Gather => {
                group.pc = pc;
                group.wait = Wait::Lanes;
            }
            Next::Barrier(id, phase) => group.wait = Wait::Barrier { id, phase },
            Next::Sleep => {
                group.pc = pc;
                group.wait = Wait::Mbarrier { ended: context.shared.phases_ended };
            }
        }
    }

    /// The lanes that an instruction across lanes needs, of which all must be at it.
    ///
    /// # Errors
    /// If the mask is not the same in all lanes, leaves out one that takes part, or names one that passes by.
    pub fn members(
        &self,
        mask: Source,
        group: u32,
        active: u32,
    ) -> Result<Option<u32>, Box<Hazard>> {
        self.registers.require(mask, active)?;
        let masks = self.registers.words_of(mask);
        let first = masks[active.trailing_zeros() as usize & 31];
        let wrong = |note: String| Err(Box::new(Hazard::new(FaultKind::WrongMask, note)));
        if let Some(lane) = lanes(active).find(|&lane| masks[lane] != first) {
            return wrong(format!(
                "lane {lane} has mask {:#010x}, another {first:#010x}",
                masks[lane]
            ));
        }
        if active & !first != 0 {
            return wrong(format!("mask {first:#010x} leaves out lanes {:#010x}", active & !first));
        }
        let needed = first & self.live;
        if needed & group & !active != 0 {
            let passing = needed & group & !active;
            return wrong(format!("mask {first:#010x} names lanes {passing:#010x}, which pass by"));
        }
        Ok((needed & !active == 0).then_some(needed))
    }

    /// As [`Warp::members`] for `.aligned` instructions: all lanes that have not exited.
    pub fn whole(&self, group: u32, active: u32) -> Result<bool, Box<Hazard>> {
        self.members(Source::Constant(u64::from(FULL)), group, active).map(|lanes| lanes.is_some())
    }
}
