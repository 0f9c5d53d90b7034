//! Kubernetes' quantities: `50Mi`, `200m`, `1.5`, `2e3`.
//!
//! The grammar is that of Kubernetes' `resource.Quantity`: a decimal number, then nothing, a decimal exponent, a decimal suffix
//! (`n u m k M G T P E`) or a binary one (`Ki Mi Gi Ti Pi Ei`). As there, what falls between two units is rounded up.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// More digits than any quantity needs; with them, nothing below can overflow.
const MAX_DIGITS: usize = 18;
const MAX_EXPONENT: u32 = 18;

/// An amount, in thousandths: bytes for memory, cores for CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    thousandths: u128,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a quantity such as 50Mi, 1.5Gi, 200m or 2")]
pub struct Error {
    text: String,
}

impl Quantity {
    /// So many whole units.
    pub const fn units(units: u64) -> Self {
        Self {
            thousandths: units as u128 * 1000,
        }
    }

    /// So many thousandths.
    pub const fn thousandths(thousandths: u64) -> Self {
        Self {
            thousandths: thousandths as u128,
        }
    }

    /// Whole units, rounded up; the largest number where it does not fit.
    pub fn to_units(self) -> u64 {
        u64::try_from(self.thousandths.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// Thousandths; the largest number where it does not fit.
    pub fn to_thousandths(self) -> u64 {
        u64::try_from(self.thousandths).unwrap_or(u64::MAX)
    }
}

/// What a suffix multiplies by, as a fraction.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power| Some((10_u128.pow(power), 1));
    let binary = |power| Some((1024_u128.pow(power), 1));
    match suffix {
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "" => Some((1, 1)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let exponent = exponent.strip_prefix(['e', 'E'])?;
            let (negative, digits) = match exponent.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
            };
            let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
            let power: u32 = digits
                .parse()
                .ok()
                .filter(|power| is_number && *power <= MAX_EXPONENT)?;
            let factor = 10_u128.pow(power);
            Some(if negative { (1, factor) } else { (factor, 1) })
        }
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let end = text
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(text.len());
            let (number, suffix) = text.split_at(end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            let digits = [whole, fraction].concat();
            if digits.is_empty() || digits.len() > MAX_DIGITS || fraction.contains('.') {
                return None;
            }
            let (factor, divisor) = scale(suffix)?;
            let power = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
            let numerator = digits
                .parse::<u128>()
                .ok()?
                .checked_mul(factor)?
                .checked_mul(1000)?;
            Some(numerator.div_ceil(divisor * power))
        };
        let error = || Error {
            text: text.chars().take(40).collect(),
        };
        parse().map(|thousandths| Self { thousandths }).ok_or_else(error)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// YAML takes `2` and `0.5` for numbers.
struct Text;

impl Visitor<'_> for Text {
    type Value = Quantity;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a quantity such as 50Mi or 200m")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Quantity, E> {
        Ok(Quantity::units(units))
    }

    fn visit_i64<E: de::Error>(self, units: i64) -> Result<Quantity, E> {
        self.visit_str(&units.to_string())
    }

    fn visit_f64<E: de::Error>(self, units: f64) -> Result<Quantity, E> {
        self.visit_str(&units.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, thousandths: u128) {
        assert_eq!(text.parse(), Ok(Quantity { thousandths }), "{text}");
    }

    #[test]
    fn every_suffix() {
        check("50Mi", 50 * 1024 * 1024 * 1000);
        check("200m", 200);
        check("2", 2000);
        check("1.5", 1500);
        check(".5", 500);
        check("5.", 5000);
        check("1.5Gi", 1_610_612_736_000);
        check("1k", 1_000_000);
        check("1E", 10_u128.pow(21));
        check("1Ei", 1024_u128.pow(6) * 1000);
        check("2e3", 2_000_000);
        check("2E3", 2_000_000);
        check("25e-1", 2500);
        check("0", 0);
    }

    #[test]
    fn what_falls_between_is_rounded_up() {
        check("1u", 1);
        check("100n", 1);
        check("0.0001", 1);
        assert_eq!("1m".parse::<Quantity>().unwrap().to_units(), 1);
        assert_eq!("1001m".parse::<Quantity>().unwrap().to_units(), 2);
    }

    #[test]
    fn what_is_no_quantity() {
        for text in [
            "", "Mi", "-1", "1 Mi", "50mi", "50MB", "1.2.3", "0x10", "1e", "1e99", "1e1e1", "１",
        ] {
            let error = text.parse::<Quantity>().unwrap_err().to_string();
            assert!(error.contains("is not a quantity"), "{text}: {error}");
        }
        assert!("9".repeat(40).parse::<Quantity>().is_err());
    }

    proptest! {
        #[test]
        fn whole_numbers_are_themselves(units in 0..10_u64.pow(18)) {
            prop_assert_eq!(units.to_string().parse::<Quantity>().unwrap().to_units(), units);
        }

        #[test]
        fn binary_suffixes_multiply(number in 0_u64..1_000_000, power in 0_usize..5) {
            let suffix = ["", "Ki", "Mi", "Gi", "Ti"][power];
            let expected = number * 1024_u64.pow(u32::try_from(power).unwrap());
            prop_assert_eq!(format!("{number}{suffix}").parse::<Quantity>().unwrap().to_units(), expected);
        }

        #[test]
        fn decimals_are_exact(thousandths in 0_u64..1_000_000_000) {
            let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            prop_assert_eq!(text.parse::<Quantity>().unwrap().to_thousandths(), thousandths);
            prop_assert_eq!(format!("{thousandths}m").parse::<Quantity>().unwrap().to_thousandths(), thousandths);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,30}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
