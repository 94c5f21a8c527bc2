//! Which points of a trade nobody beats in both respects.

/// Indices of the points that no other point equals or beats in both coordinates while beating it in one,
/// by growing first coordinate. Smaller is better in both.
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 <= b.1 && a != b;
    let unbeaten = |&i: &usize| !points.iter().any(|&other| beats(other, points[i]));
    let mut front: Vec<usize> = (0..points.len()).filter(unbeaten).collect();
    front.sort_by(|&i, &j| points[i].0.total_cmp(&points[j].0));
    front
}

#[cfg(test)]
mod tests {
    use super::front;

    #[test]
    fn only_points_that_nobody_beats_are_on_the_front() {
        assert_eq!(front(&[(4.0, 1.0), (1.0, 4.0), (2.0, 2.0), (3.0, 3.0)]), [1, 2, 0]);
    }

    #[test]
    fn a_point_with_equal_memory_and_more_time_is_beaten() {
        assert_eq!(front(&[(1.0, 2.0), (1.0, 1.0)]), [1]);
    }

    #[test]
    fn equal_points_share_the_front() {
        assert_eq!(front(&[(1.0, 1.0), (1.0, 1.0)]), [0, 1]);
        assert!(front(&[]).is_empty());
    }
}
