//! Release and acquire: what a write to a flag publishes, and who learns it by reading the flag.
//!
//! A release publishes all that its thread knows. A relaxed or volatile write publishes what the thread knew
//! at its last fence. An acquire learns at once; a relaxed or volatile read learns at the next fence.
//! Read-modify-writes hand on what was published before them.

use std::{collections::HashMap, sync::Arc};

use super::clock::{Know, Thread};
use crate::simulator::monitor::{AccessKind, Order, Scope, WarpAccess};

/// What the last write to an address published.
#[derive(Clone, Debug)]
struct Publication {
    block: u32,
    /// Whether threads of other blocks may learn it.
    device: bool,
    know: Arc<Know>,
}

/// What was published at which address.
#[derive(Debug, Default)]
pub(super) struct Publications(HashMap<u64, Vec<Publication>>);

impl Publications {
    /// A strong access by one thread: it learns what was published there, and publishes.
    pub(super) fn synchronize(
        &mut self,
        address: u64,
        access: &WarpAccess<'_>,
        block: u32,
        index: usize,
        me: &mut Thread,
    ) {
        let wide = access.scope >= Scope::Gpu || access.order == Order::Volatile;
        let acquires = matches!(access.order, Order::Acquire | Order::AcquireRelease);
        if matches!(access.kind, AccessKind::Load | AccessKind::Atomic) {
            let there = self.0.get(&address).map_or(&[][..], Vec::as_slice);
            let heard: Vec<(u32, Arc<Know>)> = there
                .iter()
                .filter(|publication| publication.block == block || (publication.device && wide))
                .map(|publication| (publication.block, publication.know.clone()))
                .collect();
            if acquires {
                me.learn(block, &heard);
            } else {
                me.heard.extend(heard);
            }
        }
        if !access.kind.writes() {
            return;
        }
        if access.kind == AccessKind::Store {
            self.0.remove(&address);
        }
        let published = match access.order {
            Order::Release | Order::AcquireRelease => {
                let snapshot = me.hand_on(index);
                [Some((wide, snapshot)), None]
            }
            _ => {
                let device = me.fenced_device.clone().filter(|_| wide);
                [me.fenced.clone().map(|own| (false, own)), device.map(|own| (true, own))]
            }
        };
        for (device, snapshot) in published.into_iter().flatten() {
            let there = self.0.entry(address).or_default();
            let mut know = snapshot.know();
            match there.iter_mut().find(|p| p.block == block && p.device == device) {
                Some(known) => {
                    know.absorb(block, block, &known.know);
                    known.know = know.settled();
                }
                None => there.push(Publication { block, device, know: know.settled() }),
            }
        }
    }
}
