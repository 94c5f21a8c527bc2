//! Finds in a group of cases the sizes that were swept, so that time can be drawn against them.

use std::collections::{HashMap, HashSet};

use crate::derive::Row;

/// Cases that differ in one size only.
pub struct Sweep<'r, 'a> {
    /// The parameter that varies, or the two that vary together: `n`, `seq_q = seq_k`.
    pub key: String,
    /// All other parameters.
    pub fixed: Vec<(&'a str, &'a str)>,
    /// Points of each variant by growing size, variants in order of first appearance.
    pub series: Vec<(&'a str, Vec<(f64, &'r Row<'a>)>)>,
}

/// Rows that agree in all but the parameters `keys`, with the size that these have.
struct Bucket<'r, 'a> {
    keys: Vec<&'a str>,
    fixed: Vec<(&'a str, &'a str)>,
    rows: Vec<(f64, &'r Row<'a>)>,
}

impl Bucket<'_, '_> {
    fn sizes(&self) -> usize {
        self.rows.iter().map(|(x, _)| x.to_bits()).collect::<HashSet<_>>().len()
    }
}

/// The sweeps among the timed `rows` of one operation in one place: those over the most sizes first.
///
/// Every numeric parameter, and every two that are equal, may be what was swept. The one with the most sizes
/// wins; a row is in one sweep only, and a sweep has at least two sizes.
pub fn sweeps<'r, 'a>(rows: &[&'r Row<'a>]) -> Vec<Sweep<'r, 'a>> {
    let mut buckets = buckets(rows);
    buckets.retain(|bucket| bucket.sizes() > 1);
    buckets.sort_by_key(|bucket| {
        std::cmp::Reverse((bucket.sizes(), bucket.rows.len(), std::cmp::Reverse(bucket.keys.len())))
    });
    let mut used: HashSet<*const Row<'a>> = HashSet::new();
    let mut sweeps = Vec::new();
    for mut bucket in buckets {
        bucket.rows.retain(|(_, row)| !used.contains(&std::ptr::from_ref(*row)));
        if bucket.sizes() > 1 {
            used.extend(bucket.rows.iter().map(|(_, row)| std::ptr::from_ref(*row)));
            sweeps.push(sweep(bucket));
        }
    }
    sweeps
}

/// All rows under each choice of swept parameters.
fn buckets<'r, 'a>(rows: &[&'r Row<'a>]) -> Vec<Bucket<'r, 'a>> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut index = HashMap::new();
    for row in rows.iter().filter(|row| row.median_ns().is_some()) {
        let sizes: Vec<(&str, f64)> =
            row.fields.iter().filter_map(|(key, value)| Some((*key, size(value)?))).collect();
        let singles = sizes.iter().map(|(key, x)| (vec![*key], *x));
        let pairs = sizes.iter().enumerate().flat_map(|(i, (a, x))| {
            let equal = sizes[i + 1..].iter().filter(move |(_, y)| x == y);
            equal.map(move |(b, _)| (vec![*a, *b], *x))
        });
        for (keys, x) in singles.chain(pairs) {
            let fixed: Vec<_> =
                row.fields.iter().copied().filter(|(key, _)| !keys.contains(key)).collect();
            let at = *index.entry((keys.clone(), fixed.clone())).or_insert_with(|| {
                buckets.push(Bucket { keys, fixed, rows: Vec::new() });
                buckets.len() - 1
            });
            buckets[at].rows.push((x, row));
        }
    }
    buckets
}

fn sweep<'r, 'a>(bucket: Bucket<'r, 'a>) -> Sweep<'r, 'a> {
    let mut series: Vec<(&str, Vec<(f64, &Row)>)> = Vec::new();
    for (x, row) in bucket.rows {
        let variant = row.record.variant.as_str();
        match series.iter_mut().find(|(name, _)| *name == variant) {
            Some((_, points)) => points.push((x, row)),
            None => series.push((variant, vec![(x, row)])),
        }
    }
    for (_, points) in &mut series {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Sweep { key: bucket.keys.join(" = "), fixed: bucket.fixed, series }
}

/// A parameter as a size that a logarithmic axis can show.
fn size(value: &str) -> Option<f64> {
    value.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0)
}

#[cfg(test)]
mod tests {
    use touchstone_bench::{
        agreement::Agreement,
        environment::Environment,
        record::{Executor, Measurement, Outcome, Record, SCHEMA},
    };

    use super::*;
    use crate::derive::Sheet;

    fn record(workload: &str, variant: &str, case: &str) -> Record {
        let measurement = Measurement { warm_ns: vec![1.0, 2.0, 3.0], ..Measurement::default() };
        Record {
            schema: SCHEMA,
            workload: workload.into(),
            case: case.into(),
            inputs: "drawn".into(),
            variant: variant.into(),
            executor: Executor::Cpu,
            environment: Environment::default(),
            work: None,
            trial: None,
            cost: None,
            outcome: Outcome::Measured {
                agreement: Agreement { outputs: vec![], repeatable: true },
                measurement,
            },
        }
    }

    /// Swept key, fixed parameters, and the sizes of each variant.
    type Shape = (String, String, Vec<(String, Vec<f64>)>);

    fn shape(records: &[Record]) -> Vec<Shape> {
        let sheet = Sheet::of(records);
        let rows: Vec<&Row> = sheet.rows.iter().collect();
        let text = |fields: &[(&str, &str)]| {
            fields.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        sweeps(&rows)
            .iter()
            .map(|sweep| {
                let series = |(name, points): &(&str, Vec<(f64, &Row)>)| {
                    (name.to_string(), points.iter().map(|(x, _)| *x).collect())
                };
                let series = sweep.series.iter().map(series).collect();
                (sweep.key.clone(), text(&sweep.fixed), series)
            })
            .collect()
    }

    #[test]
    fn the_parameter_with_most_values_is_the_axis_and_the_rest_parts_the_panels() {
        let mut records = Vec::new();
        for dtype in ["f32", "bf16"] {
            for heads in [8, 16] {
                for n in [4096, 256, 1024] {
                    let case = format!("a.f:heads={heads},n={n},dtype={dtype},seed={n}");
                    records.push(record("sizes", "naive", &case));
                }
            }
        }
        records.push(record("sizes", "tiled", "a.f:heads=8,n=256,dtype=f32,seed=1"));
        let panels = shape(&records);
        assert_eq!(panels.len(), 4);
        let (key, fixed, series) = &panels[0];
        assert_eq!((key.as_str(), fixed.as_str()), ("n", "heads=8 dtype=f32"));
        let sizes = vec![256.0, 1024.0, 4096.0];
        assert_eq!(series, &[("naive".into(), sizes), ("tiled".into(), vec![256.0])]);
    }

    #[test]
    fn workloads_that_sweep_the_same_parameter_share_a_panel() {
        let records = [
            record("quick", "v", "a.f:n=1,m=5,seed=0"),
            record("quick", "v", "a.f:n=2,m=5,seed=0"),
            record("full", "v", "a.f:n=4,m=5,seed=0"),
            record("full", "v", "a.f:n=8,m=5,seed=0"),
        ];
        assert_eq!(
            shape(&records),
            [("n".into(), "m=5".into(), vec![("v".into(), vec![1.0, 2.0, 4.0, 8.0])])]
        );
    }

    #[test]
    fn sizes_that_grow_together_are_one_axis() {
        let case = |n: u32| format!("a.f:heads=4,seq_q={n},seq_k={n},seed=0");
        let records = [1024, 2048, 4096].map(|n| record(&format!("square_{n}"), "v", &case(n)));
        let sizes = vec![1024.0, 2048.0, 4096.0];
        assert_eq!(
            shape(&records),
            [("seq_q = seq_k".into(), "heads=4".into(), vec![("v".into(), sizes)])]
        );
    }

    #[test]
    fn without_a_second_size_there_is_no_sweep() {
        assert!(shape(&[record("w", "v", "a.f:n=1,seed=0")]).is_empty());
        let words = [record("w", "v", "a.f:mode=x,seed=0"), record("w", "v", "a.f:mode=y,seed=0")];
        assert!(shape(&words).is_empty());
        let empty = [record("w", "v", "a.f:n=0,seed=0"), record("w", "v", "a.f:n=3,seed=0")];
        assert!(shape(&empty).is_empty(), "zero has no place on a logarithmic axis");
    }
}
