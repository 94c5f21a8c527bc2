//! The name that a misspelt one stands for.

/// The known name that takes the fewest edits of `name`, if those are at most a third of its length.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let (edits, nearest) = known.iter().map(|&k| (distance(name, k), k)).min()?;
    (edits <= name.chars().count() / 3).then_some(nearest)
}

/// What to say of an unknown name: the one that may be meant, or all there are.
pub fn hint(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("did you mean '{nearest}'?"),
        None => format!("there are: {}", known.join(", ")),
    }
}

/// Edits between two names, one for each character put in, left out or exchanged (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognized_and_strangers_are_not() {
        let known = ["attention.forward", "attention.backward", "ssm.recurrence", "naive"];
        for (slip, meant) in [
            ("atention.forward", "attention.forward"),
            ("attention.foward", "attention.forward"),
            ("attention.bacward", "attention.backward"),
            ("ssm.recurence", "ssm.recurrence"),
            ("naiv", "naive"),
        ] {
            assert_eq!(nearest(slip, &known), Some(meant));
        }
        for stranger in ["", "x", "no.such", "decoding.tree"] {
            assert_eq!(nearest(stranger, &known), None, "{stranger}");
        }
        assert_eq!(hint("nive", &known), "did you mean 'naive'?");
        assert!(hint("no.such", &known).starts_with("there are: attention.forward, "));
    }

    #[test]
    fn edits_are_counted_once_each() {
        for (a, b, edits) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
