//! What is to be reached, and whether it was.

use podwasm_integration::measure::digits;
use serde::Serialize;
use std::fmt;

/// A bar that a measured value is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// A measured value beside its bar.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub what: String,
    pub unit: &'static str,
    pub bar: Bar,
    pub measured: f64,
}

impl Check {
    pub fn at_least(bar: f64, unit: &'static str, what: impl Into<String>, measured: f64) -> Self {
        Self::new(Bar::AtLeast(bar), unit, what, measured)
    }

    pub fn at_most(bar: f64, unit: &'static str, what: impl Into<String>, measured: f64) -> Self {
        Self::new(Bar::AtMost(bar), unit, what, measured)
    }

    fn new(bar: Bar, unit: &'static str, what: impl Into<String>, measured: f64) -> Self {
        let what = what.into();
        Self {
            what,
            unit,
            bar,
            measured,
        }
    }

    /// What was not measured is not reached.
    pub fn reached(&self) -> bool {
        match self.bar {
            Bar::AtLeast(bar) => self.measured >= bar,
            Bar::AtMost(bar) => self.measured <= bar,
        }
    }

    /// The bar with its unit.
    pub fn bar(&self) -> String {
        let (sign, bar) = match self.bar {
            Bar::AtLeast(bar) => ('≥', bar),
            Bar::AtMost(bar) => ('≤', bar),
        };
        format!("{sign} {bar}{}", self.unit)
    }

    /// The measured value with its unit, in three digits.
    pub fn measured(&self) -> String {
        format!("{}{}", digits(self.measured), self.unit)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missed = if self.reached() { "" } else { ": missed" };
        let (bar, measured) = (self.bar(), self.measured());
        write!(f, "{}: bar {bar}, measured {measured}{missed}", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_reached_at_its_own_value() {
        assert!(Check::at_most(1.03, "", "start", 1.03).reached());
        assert!(Check::at_least(0.65, "", "compute", 0.65).reached());
        assert!(!Check::at_most(1.03, "", "start", 1.04).reached());
        assert!(!Check::at_least(0.65, "", "compute", 0.64).reached());
    }

    #[test]
    fn what_was_not_measured_is_not_reached() {
        assert!(!Check::at_most(1.0, "", "start", f64::NAN).reached());
        assert!(!Check::at_least(1.0, "", "start", f64::NAN).reached());
    }

    #[test]
    fn both_values_are_said() {
        let check = Check::at_most(1.5, " ms", "start over native", 1.625);
        assert_eq!(
            check.to_string(),
            "start over native: bar ≤ 1.5 ms, measured 1.62 ms: missed"
        );
    }
}
