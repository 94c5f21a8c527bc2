//! Exact costs side by side: counts need no statistics, so one more of anything is more.

use touchstone_bench::record::Record;
use touchstone_cuda::simulator::cost::Counts;

use crate::Verdict;

/// The rule for two costs: any counter that rises is `Slower`, whatever falls beside it; only falls are
/// `Faster`. `None` when a record has no cost: then there is nothing to say.
pub(crate) fn compare_costs(was: &Record, now: &Record) -> Option<(Verdict, String)> {
    let (was, now) = (was.cost.as_ref()?.total(), now.cost.as_ref()?.total());
    let rises = changes(&was, &now, |old, new| new > old);
    if !rises.is_empty() {
        return Some((Verdict::Slower, format!("costs more: {}", rises.join(", "))));
    }
    let falls = changes(&was, &now, |old, new| new < old);
    Some(match falls.is_empty() {
        false => (Verdict::Faster, format!("costs less: {}", falls.join(", "))),
        true => (Verdict::Same, "the same cost to the last digit".to_string()),
    })
}

/// The counters of which `changed` holds, in words.
fn changes(was: &Counts, now: &Counts, changed: fn(u64, u64) -> bool) -> Vec<String> {
    let both = was.named().zip(now.named());
    both.filter(|((_, old), (_, new))| changed(*old, *new))
        .map(|((name, old), (_, new))| format!("{} {old} → {new}", name.replace('_', " ")))
        .collect()
}
