//! Medians and the like.

use serde::Serialize;
use std::time::Duration;

/// Measured values, in any order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Values(Vec<f64>);

impl Values {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle value, or the mean of the two in the middle; not a number when there is none.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    /// The smallest value that at least `percent` of all values do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// All of them together.
    pub fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Values {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Extend<f64> for Values {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        self.0.extend(values);
    }
}

/// The mean of ratios: the root of their product. Not a number when there is none.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut count, mut sum) = (0.0, 0.0);
    for value in values {
        count += 1.0;
        sum += value.ln();
    }
    (sum / count).exp()
}

/// How many times the medians of `left` are those of `right`, with the bounds between which 94 of a hundred such ratios are
/// when values are drawn from the measured ones again and again.
pub fn ratio_of_medians(left: &Values, right: &Values) -> Ratio {
    let mut draws = Draws(0x9e37_79b9);
    let ratios: Values = (0..DRAWS)
        .map(|_| draws.again(left).median() / draws.again(right).median())
        .collect();
    Ratio {
        median: left.median() / right.median(),
        from: ratios.percentile(3),
        to: ratios.percentile(97),
    }
}

const DRAWS: usize = 1000;

/// A ratio and its uncertainty.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// Of the medians themselves.
    pub median: f64,
    /// The lower bound.
    pub from: f64,
    /// The upper bound.
    pub to: f64,
}

/// A generator of random numbers that has the same ones in each run (xorshift).
struct Draws(u32);

impl Draws {
    fn again(&mut self, values: &Values) -> Values {
        let count = values.count();
        (0..count).map(|_| values.0[self.next() % count]).collect()
    }

    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize
    }
}

/// A duration in milliseconds.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], median: f64, p90: f64) {
        let values: Values = values.iter().copied().collect();
        let near = |left: f64, right: f64| (left - right).abs() < 1e-9;
        assert!(near(values.median(), median), "{values:?}: {}", values.median());
        assert!(
            near(values.percentile(90), p90),
            "{values:?}: {}",
            values.percentile(90)
        );
    }

    #[test]
    fn the_middle_and_the_tail() {
        check(&[7.0], 7.0, 7.0);
        check(&[3.0, 1.0], 2.0, 3.0);
        check(&[5.0, 1.0, 3.0], 3.0, 5.0);
        check(&[10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 5.5, 9.0);
    }

    #[test]
    fn a_mean_of_ratios_is_geometric() {
        assert!((geometric_mean([0.5, 2.0]) - 1.0).abs() < 1e-9);
        assert!((geometric_mean([0.25]) - 0.25).abs() < 1e-9);
        assert!(geometric_mean([]).is_nan());
    }

    #[test]
    fn a_ratio_lies_between_its_bounds() {
        let left: Values = (0..200).map(|number| f64::from(100 + number % 7)).collect();
        let right: Values = (0..200).map(|number| f64::from(50 + number % 5)).collect();
        let ratio = ratio_of_medians(&left, &right);
        assert!((ratio.median - 103.0 / 52.0).abs() < 1e-9);
        assert!(ratio.from <= ratio.median && ratio.median <= ratio.to);
        assert!(ratio.from > 1.9 && ratio.to < 2.1);
    }

    #[test]
    fn nothing_is_not_a_number() {
        assert!(Values::default().median().is_nan());
        assert!(Values::default().percentile(99).is_nan());
    }
}
