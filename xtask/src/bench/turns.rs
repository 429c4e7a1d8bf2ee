//! What takes turns: in which order, and what one round's figures are of each other.

use anyhow::{Context, Result};

/// The order of a round. What came right before matters a little: each comes after each.
pub(super) fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round % count.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// The middle of some figures.
pub(super) fn median(figures: &[f64]) -> Result<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().context("no rounds")
}

/// The middle of what is made of each round's two figures.
pub(super) fn middle(one: &[f64], other: &[f64], of: fn(f64, f64) -> f64) -> Result<f64> {
    let all: Vec<f64> = one.iter().zip(other).map(|(one, other)| of(*one, *other)).collect();
    median(&all)
}

/// The middle of what each round's figure is of the baseline's in the same round.
pub(super) fn ratio(baseline: &[f64], figures: &[f64]) -> Result<f64> {
    middle(baseline, figures, |baseline, figure| figure / baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_and_last_in_some_round() {
        let orders: Vec<_> = (0..6).map(|round| order(round, 3)).collect();
        for one in 0..3 {
            assert!(orders.iter().any(|order| order.first() == Some(&one)), "{orders:?}");
            assert!(orders.iter().any(|order| order.last() == Some(&one)), "{orders:?}");
        }
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds() {
        assert!((ratio(&[1.0, 10.0, 2.0], &[2.0, 20.0, 2.0]).unwrap() - 2.0).abs() < 1e-9);
        assert!(ratio(&[], &[]).is_err());
    }
}
