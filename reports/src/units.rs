//! Figures as a reader says them.

/// `value` with three significant digits, without an exponent between 0.001 and 10 000.
pub fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_string();
    }
    if !value.is_finite() {
        return "–".to_string();
    }
    // The size once rounded, so that 999.9 is written 1000 and 9.999 is written 10.0.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    match rounded.abs().log10().floor() as i32 {
        size @ -3..=3 => format!("{value:.*}", (2 - size).max(0) as usize),
        _ => format!("{value:.2e}"),
    }
}

/// `value` with the first prefix that leaves at least one digit before the point.
fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let (unit, name) = steps
        .iter()
        .find(|(unit, _)| value.abs() >= *unit * 0.9995)
        .or(steps.last())
        .copied()
        .unwrap_or((1.0, ""));
    format!("{} {name}", digits(value / unit))
}

/// A time given in nanoseconds.
pub fn time(ns: f64) -> String {
    scaled(ns, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

/// A time on an axis, without needless digits.
pub fn tick_time(ns: f64) -> String {
    let text = time(ns);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{} {unit}", without_zeros(number))
}

/// A plain number on an axis, without needless digits.
pub fn tick(value: f64) -> String {
    without_zeros(&digits(value)).to_string()
}

/// A share on an axis, without needless digits.
pub fn tick_percent(share: f64) -> String {
    format!("{} %", tick(share * 100.0))
}

/// A size in bytes, in binary units.
pub fn bytes(bytes: f64) -> String {
    let kibi = 1024.0;
    if bytes < kibi {
        return format!("{bytes:.0} B");
    }
    let steps = [(kibi * kibi * kibi, "GiB"), (kibi * kibi, "MiB"), (kibi, "KiB"), (1.0, "B")];
    scaled(bytes, &steps)
}

/// Bytes per second, in GB/s (10⁹).
pub fn bandwidth(bytes_per_s: f64) -> String {
    digits(bytes_per_s / 1e9)
}

/// Operations per second, in TFLOP/s (10¹²).
pub fn flops(flops_per_s: f64) -> String {
    digits(flops_per_s / 1e12)
}

/// Operations per second with their unit: `59.3 TFLOP/s`.
pub fn flop_rate(flops_per_s: f64) -> String {
    let prefixes = [(1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1.0, "FLOP/s")];
    scaled(flops_per_s, &prefixes)
}

/// A rate on an axis: `10 T`.
pub fn tick_rate(per_s: f64) -> String {
    let text =
        scaled(per_s, &[(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]);
    let (number, prefix) = text.split_once(' ').unwrap_or((&text, ""));
    format!("{} {prefix}", without_zeros(number)).trim_end().to_string()
}

/// A large number on an axis: `300`, `10k`.
pub fn tick_count(value: f64) -> String {
    if value < 1e4 { tick(value) } else { tick_rate(value).replace(' ', "") }
}

/// Items per second with their unit.
pub fn items(per_s: f64, unit: &str) -> String {
    let prefixes = [(1e12, "T "), (1e9, "G "), (1e6, "M "), (1e3, "k "), (1.0, "")];
    format!("{}{unit}/s", scaled(per_s, &prefixes))
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{} %", digits(share * 100.0))
}

/// An error as a share of its bound.
pub fn error(share: f64) -> String {
    if share == 0.0 { "exact".to_string() } else { percent(share) }
}

/// How many times: `2.50×`.
pub fn times(ratio: f64) -> String {
    format!("{}×", digits(ratio))
}

/// A size parameter, short enough for an axis.
pub fn size(value: f64) -> String {
    let whole = value as u64;
    if value.fract() != 0.0 {
        digits(value)
    } else if whole >= 1 << 20 && whole.is_multiple_of(1 << 20) {
        format!("{}Mi", whole >> 20)
    } else if whole >= 1024 && whole.is_multiple_of(1024) {
        format!("{}Ki", whole >> 10)
    } else if value >= 1e6 {
        format!("{}M", tick(value / 1e6))
    } else if value >= 1e4 {
        format!("{}k", tick(value / 1e3))
    } else {
        whole.to_string()
    }
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// `1 record`, `2 records`.
pub fn count(n: usize, singular: &str) -> String {
    match (n, singular.strip_suffix('y')) {
        (1, _) => format!("1 {singular}"),
        (n, Some(stem)) => format!("{n} {stem}ies"),
        (n, None) => format!("{n} {singular}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_take_the_unit_that_reads_best() {
        assert_eq!(time(12.0), "12.0 ns");
        assert_eq!(time(1500.0), "1.50 µs");
        assert_eq!(time(999_900.0), "1.00 ms");
        assert_eq!(time(2.5e9), "2.50 s");
        assert_eq!((tick_time(3e4), tick_time(500.0)), ("30 µs".to_string(), "500 ns".to_string()));
        assert_eq!(time(0.5), "0.500 ns");
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(bytes(80.0 * 1024.0 * 1024.0 * 1024.0), "80.0 GiB");
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(64.0), "64 B");
        assert_eq!(bandwidth(3.35e12), "3350");
        assert_eq!(percent(0.876), "87.6 %");
        assert_eq!(times(2.5), "2.50×");
    }

    #[test]
    fn rates_carry_their_unit() {
        assert_eq!(items(1.25e9, "tokens"), "1.25 G tokens/s");
        assert_eq!(items(12.0, "rows"), "12.0 rows/s");
    }

    #[test]
    fn parameters_are_short() {
        let texts: Vec<_> = [7.0, 1000.0, 4096.0, 12_000.0, 12_345.0, 2_097_152.0, 1_500_000.0]
            .into_iter()
            .map(size)
            .collect();
        assert_eq!(texts, ["7", "1000", "4Ki", "12k", "12.3k", "2Mi", "1.5M"]);
    }

    #[test]
    fn nothing_that_is_no_number_is_shown_as_one() {
        assert_eq!(digits(f64::NAN), "–");
        assert_eq!(digits(f64::INFINITY), "–");
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(1, "query"), "1 query");
        assert_eq!(count(2, "query"), "2 queries");
        assert_eq!(count(0, "record"), "0 records");
    }
}
