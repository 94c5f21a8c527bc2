//! Figures that follow from records. Raw samples go in; nothing derived is ever stored in a record.

use std::collections::HashMap;

use touchstone_bench::{
    environment::Limits,
    record::{Executor, Measurement, Outcome, Quartiles, Record, WorkRecord, quartiles},
};

/// All records as the page shows them.
pub struct Sheet<'a> {
    /// Devices and processors that ran something, by name, devices first.
    pub places: Vec<Place>,
    /// One row for each question and place: operations and ladders in the order in which they are listed, whatever that of
    /// the records (a baseline is sorted by name); what is not listed in theirs.
    pub rows: Vec<Row<'a>>,
    /// Records left out because a later one answers the same question in the same place.
    pub superseded: usize,
}

/// A device or processor. Rows of different places never share a plot's series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What ran the variants.
    pub executor: Executor,
    /// Name, with the driver when the same device was used with several.
    pub label: String,
}

/// One record and what follows from it.
pub struct Row<'a> {
    /// The record.
    pub record: &'a Record,
    /// Index into [`Sheet::places`].
    pub place: usize,
    /// Key and value of each parameter of the case, the seed left out.
    pub fields: Vec<(&'a str, &'a str)>,
    /// Time in nanoseconds: cold samples where there are any. `None` unless positive numbers.
    pub time: Option<Quartiles>,
    /// Time with a flushed cache.
    pub cold: Option<Quartiles>,
    /// Time with warm caches.
    pub warm: Option<Quartiles>,
    /// The least time the device's measured limits permit, in nanoseconds.
    pub floor_ns: Option<f64>,
    /// Own median over the best peer's on the same case in the same place: below 1 is faster than the peer.
    pub peer_ratio: Option<f64>,
}

impl<'a> Sheet<'a> {
    /// Derives all rows.
    pub fn of(records: &'a [Record]) -> Self {
        let labels = labels(records);
        let mut places: Vec<Place> =
            records.iter().zip(&labels).map(|(r, label)| place(r, label)).collect();
        let rank = |place: &Place| match place.executor {
            Executor::Cuda => 0,
            Executor::Simulator => 1,
            Executor::Cpu => 2,
        };
        places.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.label.cmp(&b.label)));
        places.dedup();
        let index_of = |record: &Record, label: &str| {
            let wanted = place(record, label);
            places.iter().position(|place| *place == wanted).unwrap_or_default()
        };

        let mut rows: Vec<Row> = Vec::new();
        let mut seen = HashMap::new();
        let mut superseded = 0;
        for (record, label) in records.iter().zip(&labels) {
            let row = Row::of(record, index_of(record, label));
            match seen.entry((row.place, record.key())) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(rows.len());
                    rows.push(row);
                }
                std::collections::hash_map::Entry::Occupied(slot) => {
                    superseded += 1;
                    let kept = &mut rows[*slot.get()];
                    if age(record) >= age(kept.record) {
                        *kept = row;
                    }
                }
            }
        }
        rows.sort_by_cached_key(|row| row.record.rung());
        relate_to_peers(&mut rows);
        Self { places, rows, superseded }
    }
}

/// Orders records that answer the same question: the latest run counts, and within a run an error does.
fn age(record: &Record) -> (&str, bool) {
    let error = matches!(record.outcome, Outcome::Wrong { .. } | Outcome::Failed { .. });
    (&record.environment.date, error)
}

fn place(record: &Record, label: &str) -> Place {
    Place { executor: record.executor, label: label.to_string() }
}

/// Name of the place of each record.
fn labels(records: &[Record]) -> Vec<String> {
    let gpu = |record: &'_ Record| {
        record.environment.device.clone().filter(|_| record.executor == Executor::Cuda)
    };
    let mut drivers: HashMap<String, Vec<String>> = HashMap::new();
    for device in records.iter().filter_map(gpu) {
        let known = drivers.entry(device.name).or_default();
        if !known.contains(&device.driver) {
            known.push(device.driver);
        }
    }
    let label = |record: &Record| match (record.executor, gpu(record)) {
        (Executor::Cpu, _) if record.environment.cpu.is_empty() => "unnamed processor".to_string(),
        (Executor::Cpu, _) => record.environment.cpu.clone(),
        (Executor::Cuda, None) => "no CUDA device".to_string(),
        (Executor::Cuda, Some(device)) if drivers[&device.name].len() > 1 => {
            format!("{} (driver {})", device.name, device.driver)
        }
        (Executor::Cuda, Some(device)) => device.name,
        (Executor::Simulator, _) => "PTX simulator".to_string(),
    };
    records.iter().map(label).collect()
}

impl<'a> Row<'a> {
    fn of(record: &'a Record, place: usize) -> Self {
        let usable =
            |samples: &[f64]| quartiles(samples).filter(|q| q.q1 > 0.0 && q.q3.is_finite());
        let measurement = record.measurement();
        let cold = measurement.and_then(|m| usable(&m.cold_ns));
        let warm = measurement.and_then(|m| usable(&m.warm_ns));
        let limits = record.environment.device.as_ref().and_then(|device| device.limits.as_ref());
        let floor_ns = match (record.executor, &record.work, limits) {
            (Executor::Cuda, Some(work), Some(limits)) => floor_ns(work, limits),
            _ => None,
        };
        let fields = record.case.split_once(':').map_or("", |(_, fields)| fields);
        let fields = fields
            .split(',')
            .filter_map(|field| field.split_once('='))
            .filter(|(key, _)| *key != "seed")
            .collect();
        Self { record, place, fields, time: cold.or(warm), cold, warm, floor_ns, peer_ratio: None }
    }

    /// The measurement behind a time.
    pub fn measurement(&self) -> Option<&'a Measurement> {
        self.record.measurement()
    }

    /// Median time in nanoseconds.
    pub fn median_ns(&self) -> Option<f64> {
        self.time.map(|time| time.median)
    }

    /// Whether the time is beyond what the device can do, and therefore no time at all.
    pub fn invalid(&self) -> bool {
        self.measurement().is_some_and(|m| m.above_limit)
    }

    /// Median time, if it may be called fast or slow.
    pub fn valid_ns(&self) -> Option<f64> {
        self.median_ns().filter(|_| !self.invalid())
    }

    /// The floor over the median: 1 is as fast as the device's limits permit.
    pub fn share_of_limit(&self) -> Option<f64> {
        Some(self.floor_ns? / self.median_ns()?)
    }

    /// Work per second, for one kind of work.
    pub fn rate(&self, work: impl Fn(&WorkRecord) -> f64) -> Option<f64> {
        let amount = work(self.record.work.as_ref()?);
        (amount > 0.0).then_some(amount / self.median_ns()? * 1e9)
    }

    /// Most device memory held at once, in bytes.
    pub fn peak_bytes(&self) -> Option<f64> {
        self.measurement().map(|m| m.peak_bytes as f64).filter(|&bytes| bytes > 0.0)
    }

    /// Largest error as a share of its bound.
    pub fn worst_share(&self) -> Option<f64> {
        self.record.agreement().and_then(|agreement| agreement.worst_share())
    }

    /// Whether the variant is another library's.
    pub fn is_peer(&self) -> bool {
        is_peer(&self.record.variant)
    }

    /// Whether outputs were compared and are right.
    pub fn proven(&self) -> bool {
        self.record.outcome.proof().is_some()
    }

    /// The case without operation and seed, for reading.
    pub fn short_case(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        fields.join(" ")
    }
}

/// Whether a variant of this name is another library's.
pub fn is_peer(variant: &str) -> bool {
    variant.starts_with("peer:")
}

/// The arithmetic that bounds work, by name, and its limit in operations per second.
pub fn arithmetic(work: &WorkRecord, limits: &Limits) -> (&'static str, f64) {
    let name = match (work.matrix, work.eight_bit) {
        (false, _) => return ("f32", limits.f32_flops_per_s),
        (true, true) if limits.wgmma_e4m3_flops_per_s.is_some() => "e4m3 wgmma",
        _ if limits.wgmma_flops_per_s.is_some() => "bf16 wgmma",
        _ => "bf16 mma.sync",
    };
    (name, limits.products_per_s(work.eight_bit))
}

/// The least time the limits permit: the longer of moving the bytes and doing the operations.
pub fn floor_ns(work: &WorkRecord, limits: &Limits) -> Option<f64> {
    let (_, rate) = arithmetic(work, limits);
    let time =
        |amount: f64, per_s: f64| (amount > 0.0 && per_s > 0.0).then_some(amount / per_s * 1e9);
    let bounds = [time(work.bytes, limits.copy_bytes_per_s), time(work.flops, rate)];
    bounds.into_iter().flatten().reduce(f64::max)
}

fn relate_to_peers(rows: &mut [Row]) {
    let question = |row: &Row<'_>| (row.place, row.record.inputs.clone(), row.record.case.clone());
    let mut best: HashMap<_, f64> = HashMap::new();
    for row in rows.iter().filter(|row| row.is_peer()) {
        if let Some(ns) = row.valid_ns() {
            let slot = best.entry(question(row)).or_insert(ns);
            *slot = slot.min(ns);
        }
    }
    for row in rows.iter_mut() {
        row.peer_ratio = best.get(&question(row)).and_then(|peer| Some(row.valid_ns()? / peer));
    }
}

/// The case that shows a group's ladder: of its timed cases that most variants answered, the one with the most work.
/// Returns its rows in order.
pub fn representative<'r, 'a>(rows: &[&'r Row<'a>]) -> Vec<&'r Row<'a>> {
    most(rows, |rows| rows.len())
}

/// The case that stands for a group at its real size: of its timed cases that a peer and two of our variants
/// answered, or as much of that as any case has, the one with the most work. Returns its rows in order.
pub fn headline<'r, 'a>(rows: &[&'r Row<'a>]) -> Vec<&'r Row<'a>> {
    most(rows, |rows| {
        let peers = rows.iter().filter(|row| row.is_peer()).count();
        peers.min(1) + (rows.len() - peers).min(2)
    })
}

/// Of the cases of timed rows those with the highest rank, and of these the one with the most work.
fn most<'r, 'a>(rows: &[&'r Row<'a>], rank: impl Fn(&[&'r Row<'a>]) -> usize) -> Vec<&'r Row<'a>> {
    let mut cases: Vec<((&str, &str), Vec<&'r Row<'a>>)> = Vec::new();
    let mut index = HashMap::new();
    for row in rows.iter().filter(|row| row.valid_ns().is_some()) {
        let case = (row.record.case.as_str(), row.record.inputs.as_str());
        let at = *index.entry(case).or_insert_with(|| {
            cases.push((case, Vec::new()));
            cases.len() - 1
        });
        cases[at].1.push(row);
    }
    let work = |rows: &[&Row]| {
        rows.iter()
            .filter_map(|row| row.record.work.as_ref())
            .map(|work| work.bytes.max(work.flops))
            .fold(0.0, f64::max)
    };
    cases
        .into_iter()
        .map(|(_, rows)| rows)
        .max_by(|a, b| rank(a).cmp(&rank(b)).then(work(a).total_cmp(&work(b))))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use touchstone_bench::{
        agreement::Agreement,
        environment::{Device, Environment},
        record::SCHEMA,
    };

    use super::*;

    fn record(variant: &str, case: &str, median: f64) -> Record {
        let limits = Limits {
            copy_bytes_per_s: 1e12,
            f32_flops_per_s: 1e13,
            matrix_flops_per_s: 1e14,
            ..Limits::default()
        };
        let device = Device { name: "GPU".into(), limits: Some(limits), ..Device::default() };
        let cold_ns = vec![median; 5];
        Record {
            schema: SCHEMA,
            workload: "w".into(),
            case: case.into(),
            inputs: "drawn".into(),
            variant: variant.into(),
            executor: Executor::Cuda,
            environment: Environment {
                date: "2026-01-01T00:00:00Z".into(),
                device: Some(device),
                ..Environment::default()
            },
            trial: None,
            work: Some(WorkRecord {
                bytes: 1e9,
                flops: 1e9,
                items: 500.0,
                ..WorkRecord::default()
            }),
            cost: None,
            outcome: Outcome::Measured {
                agreement: Agreement { outputs: vec![], repeatable: true },
                measurement: Measurement { cold_ns, peak_bytes: 64, ..Measurement::default() },
            },
        }
    }

    #[test]
    fn ladders_are_in_order_whatever_the_order_of_the_records() {
        let variants =
            ["batched", "fused", "naive", "peer:pytorch-cudnn", "persistent", "reference"];
        let mut records: Vec<Record> =
            variants.iter().map(|name| record(name, "recurrent.lstm:n=1", 1.0)).collect();
        records.insert(0, record("b", "x.y:n=1", 1.0));
        records.insert(1, record("a", "x.y:n=1", 1.0));
        let sheet = Sheet::of(&records);
        let order: Vec<&str> = sheet.rows.iter().map(|row| row.record.variant.as_str()).collect();
        let ladder = ["reference", "naive", "batched", "fused", "persistent", "peer:pytorch-cudnn"];
        assert_eq!(order, [&ladder[..], &["b", "a"]].concat());
    }

    #[test]
    fn the_floor_is_the_longer_of_bytes_and_operations() {
        let limits = record("a", "x.y:n=1", 1.0).environment.device.unwrap().limits.unwrap();
        let work = |flops, bytes, matrix| WorkRecord { flops, bytes, matrix, ..Default::default() };
        assert_eq!(floor_ns(&work(1e10, 1e9, false), &limits), Some(1e6));
        assert_eq!(floor_ns(&work(1e11, 1e9, false), &limits), Some(1e7));
        assert_eq!(floor_ns(&work(1e11, 1e9, true), &limits), Some(1e6));
        let wgmma = Limits { wgmma_flops_per_s: Some(2e14), ..limits.clone() };
        assert_eq!(floor_ns(&work(1e12, 1e9, true), &wgmma), Some(5e6));
        let eight_bit = WorkRecord { eight_bit: true, ..work(1e12, 1e9, true) };
        assert_eq!(floor_ns(&eight_bit, &wgmma), Some(5e6));
        let all = Limits { wgmma_e4m3_flops_per_s: Some(4e14), ..wgmma };
        assert_eq!(floor_ns(&eight_bit, &all), Some(2.5e6));
        assert_eq!(floor_ns(&work(0.0, 0.0, true), &limits), None);
        assert_eq!(floor_ns(&work(1.0, 1.0, true), &Limits::default()), None);
    }

    #[test]
    fn rates_and_shares_follow_from_median_and_work() {
        let records = [record("a", "x.y:n=1,dtype=f32,seed=3", 2e6)];
        let sheet = Sheet::of(&records);
        let row = &sheet.rows[0];
        assert_eq!(row.share_of_limit(), Some(0.5));
        assert_eq!(row.rate(|work| work.bytes), Some(5e11));
        assert_eq!(row.rate(|work| work.items), Some(250_000.0));
        assert_eq!(row.fields, [("n", "1"), ("dtype", "f32")]);
        assert_eq!(row.peak_bytes(), Some(64.0));
    }

    #[test]
    fn peers_are_the_measure_only_on_the_same_case_and_place() {
        let mut records = vec![
            record("ours", "x.y:n=1", 50.0),
            record("peer:slow", "x.y:n=1", 200.0),
            record("peer:fast", "x.y:n=1", 100.0),
            record("ours", "x.y:n=2", 50.0),
            record("ours", "x.y:n=1", 50.0),
        ];
        records[4].environment.device.as_mut().unwrap().name = "other".into();
        let ratios: Vec<_> = Sheet::of(&records).rows.iter().map(|row| row.peer_ratio).collect();
        assert_eq!(ratios, [Some(0.5), Some(2.0), Some(1.0), None, None]);
    }

    #[test]
    fn an_invalid_time_is_neither_fast_nor_a_measure() {
        let mut records = [record("peer:p", "x.y:n=1", 1.0), record("ours", "x.y:n=1", 50.0)];
        if let Outcome::Measured { measurement, .. } = &mut records[0].outcome {
            measurement.above_limit = true;
        }
        let sheet = Sheet::of(&records);
        assert_eq!(sheet.rows[0].valid_ns(), None);
        assert_eq!(sheet.rows[1].peer_ratio, None);
        let rows: Vec<_> = sheet.rows.iter().collect();
        assert_eq!(representative(&rows).len(), 1);
    }

    #[test]
    fn devices_and_drivers_are_kept_apart() {
        let mut records = vec![record("a", "x.y:n=1", 1.0); 4];
        records[1].environment.device.as_mut().unwrap().driver = "2".into();
        records[2].environment.device.as_mut().unwrap().name = "other".into();
        records[3].executor = Executor::Cpu;
        records[3].environment.cpu = "CPU".into();
        let sheet = Sheet::of(&records);
        let labels: Vec<_> = sheet.places.iter().map(|place| place.label.as_str()).collect();
        assert_eq!(labels, ["GPU (driver )", "GPU (driver 2)", "other", "CPU"]);
        let places: Vec<_> = sheet.rows.iter().map(|row| row.place).collect();
        assert_eq!(places, [0, 1, 2, 3]);
        assert_eq!(sheet.rows[3].floor_ns, None, "limits of the GPU say nothing of the CPU");
    }

    #[test]
    fn the_latest_run_counts_and_within_it_an_error() {
        let wrong = Outcome::Wrong { agreement: None, complaint: "bad".into() };
        let mut records = vec![record("a", "x.y:n=1", 1.0); 3];
        records[1].outcome = wrong.clone();
        let sheet = Sheet::of(&records);
        assert_eq!((sheet.rows.len(), sheet.superseded), (1, 2));
        assert_eq!(sheet.rows[0].record.outcome, wrong);
        records[2].environment.date = "2026-01-02T00:00:00Z".into();
        assert!(Sheet::of(&records).rows[0].proven());
    }

    #[test]
    fn the_representative_case_has_the_most_variants_then_the_most_work() {
        let mut records = vec![
            record("a", "x.y:n=1", 1.0),
            record("b", "x.y:n=1", 1.0),
            record("a", "x.y:n=2", 1.0),
            record("b", "x.y:n=2", 1.0),
            record("a", "x.y:n=3", 1.0),
        ];
        for (record, bytes) in records.iter_mut().zip([1e12, 1e12, 2e12, 2e12, 9e12]) {
            record.work.as_mut().unwrap().bytes = bytes;
        }
        let sheet = Sheet::of(&records);
        let chosen = representative(&sheet.rows.iter().collect::<Vec<_>>());
        assert_eq!(chosen.len(), 2);
        assert!(chosen.iter().all(|row| row.record.case == "x.y:n=2"));
    }

    #[test]
    fn the_headline_has_a_peer_and_two_of_ours_then_the_most_work() {
        let answers = |case: &str, work: f64, variants: &[&str]| {
            let answer = |variant: &&str| {
                let mut record = record(variant, case, 1.0);
                record.work.as_mut().unwrap().bytes = work;
                record
            };
            variants.iter().map(answer).collect::<Vec<_>>()
        };
        let records = [
            answers("x.y:n=1", 1e9, &["a", "b", "peer:d"]),
            answers("x.y:n=2", 2e9, &["a", "b", "c", "e"]),
            answers("x.y:n=3", 9e9, &["c", "peer:d"]),
        ]
        .concat();
        let case = |records: &[Record]| {
            let sheet = Sheet::of(records);
            headline(&sheet.rows.iter().collect::<Vec<_>>())[0].record.case.clone()
        };
        assert_eq!(case(&records), "x.y:n=1");
        assert_eq!(case(&records[3..]), "x.y:n=3");
        assert_eq!(case(&records[3..7]), "x.y:n=2");
    }
}
