//! Quantities of memory and CPU, as far as manifests here use them.

use anyhow::{Context as _, Result};

use super::objects::QuantityText;

const SUFFIXES: [(&str, f64); 9] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("m", 0.001),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("", 1.0),
];

/// So many thousandths, rounded up.
pub(super) fn thousandths(quantity: &QuantityText) -> Result<i64> {
    let text = match quantity {
        QuantityText::Number(number) => number.to_string(),
        QuantityText::Text(text) => text.clone(),
    };
    let parse = |(suffix, scale): (&str, f64)| {
        let number: f64 = text.strip_suffix(suffix)?.parse().ok()?;
        Some(number * scale)
    };
    let value = SUFFIXES.into_iter().find_map(parse);
    let value = value
        .filter(|value| (0.0..1e15).contains(value))
        .with_context(|| format!("{text:?} is no quantity such as 50Mi, 200m or 2"))?;
    #[allow(clippy::cast_possible_truncation, reason = "it is in range, as just checked")]
    Ok((value * 1000.0).ceil() as i64)
}

/// So many whole units, rounded up.
pub(super) fn units(quantity: &QuantityText) -> Result<i64> {
    Ok((thousandths(quantity)? + 999) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_understood() {
        let text = |text: &str| QuantityText::Text(text.to_owned());
        assert_eq!(units(&text("50Mi")).unwrap(), 50 << 20);
        assert_eq!(units(&QuantityText::Number(2.into())).unwrap(), 2);
        assert_eq!(thousandths(&text("200m")).unwrap(), 200);
        assert_eq!(thousandths(&text("1.5")).unwrap(), 1500);
        for wrong in ["", "Mi", "-1", "1e99", "nan", "2 Gi", "5Zi"] {
            assert!(units(&text(wrong)).is_err(), "{wrong}");
        }
    }
}
