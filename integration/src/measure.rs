//! What is measured on nodes, and how it is told: values, tables, charts, and the machine that it was seen on.

pub mod machine;
pub mod mappings;
pub mod stats;
pub mod svg;
pub mod table;

/// A number with as many decimals as three digits leave room for.
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0..9.995 => format!("{value:.2}"),
        9.995..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
