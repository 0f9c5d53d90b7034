//! Medians and the like.

use serde::Serialize;
use std::time::Duration;

/// Measured values, in any order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Values(Vec<f64>);

impl Values {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

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
    fn nothing_is_not_a_number() {
        assert!(Values::default().median().is_nan());
        assert!(Values::default().percentile(99).is_nan());
    }
}
