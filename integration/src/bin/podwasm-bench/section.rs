//! What each part hands in: tables to read, bars, values for programs, and a panel of the chart.

use crate::bar::Check;
use crate::table::Table;
use serde::Serialize;

/// One part's result.
#[derive(Debug, Default, Serialize)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// Sentences that the tables need to be understood.
    pub notes: Vec<String>,
    pub checks: Vec<Check>,
    /// Everything that was measured.
    pub values: serde_json::Value,
    #[serde(skip)]
    pub tables: Vec<Table>,
    #[serde(skip)]
    pub panels: Vec<Panel>,
}

/// One group of bars in the chart.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    /// Follows the value, as in ` ms`.
    pub unit: &'static str,
    pub better: Better,
    pub bars: Vec<(Who, f64)>,
}

/// Which bars are the good ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Better {
    Less,
    More,
}

/// Whose bar it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    Native,
    Peer,
    Podwasm,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Peer => "crun's WasmEdge",
            Self::Podwasm => "podwasm",
        }
    }
}

impl Section {
    pub fn new(title: impl Into<String>, values: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self {
            title: title.into(),
            values: serde_json::to_value(values)?,
            ..Self::default()
        })
    }
}
