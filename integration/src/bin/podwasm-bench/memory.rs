//! Memory of sleeping processes, by what the kernel says of their mappings.

use crate::bar::Check;
use crate::bare::{Bench, Running, Way, guest};
use crate::mappings::{self, Rollup};
use crate::section::{Better, Panel, Section, Who};
use crate::stats::Values;
use crate::table::Table;
use anyhow::{Result, ensure};
use podwasm_integration::measure::digits;
use serde::Serialize;

const WAYS: [Way; 4] = [Way::Native, Way::OPTIMISED, Way::INTERPRETED, Way::Peer];

/// What was measured of one way, a value for each process.
#[derive(Debug, Serialize)]
pub struct Row {
    pub way: Way,
    pub private_dirty_megabytes: Values,
    pub pss_megabytes: Values,
}

/// Measures a guest that sleeps, alone.
pub async fn measure(bench: &Bench, rounds: usize) -> Result<Section> {
    let mut rows = Vec::new();
    for way in WAYS {
        let root = bench.root(way, &guest("native")?, &guest("guest.wasm")?)?;
        let mut row = Row {
            way,
            private_dirty_megabytes: Values::default(),
            pss_megabytes: Values::default(),
        };
        for _ in 0..rounds {
            let process = root.start(&["sleep"])?;
            let rollup = sleeping(&process, way).await?;
            row.private_dirty_megabytes.push(rollup.private_dirty_megabytes);
            row.pss_megabytes.push(rollup.pss_megabytes);
        }
        rows.push(row);
    }
    section(&rows)
}

/// The memory of a process once it sleeps, which has its module's native code mapped if it is to run it.
pub async fn sleeping(process: &Running, way: Way) -> Result<Rollup> {
    let process = process.process();
    let rollup = mappings::of_sleeping(&process).await?;
    let compiled = mappings::has_compiled_module(&process)?;
    let expected = matches!(way, Way::OPTIMISED | Way::FAST);
    ensure!(
        compiled == expected,
        "{}: native code is mapped: {compiled}",
        way.name()
    );
    Ok(rollup)
}

fn section(rows: &[Row]) -> Result<Section> {
    let median = |way| {
        let row = rows.iter().find(|row: &&Row| row.way == way);
        row.map_or(f64::NAN, |row| row.private_dirty_megabytes.median())
    };
    let mut table = Table::new(["", "private dirty MB", "PSS MB"]);
    for row in rows {
        table.row([
            row.way.name().to_owned(),
            digits(row.private_dirty_megabytes.median()),
            digits(row.pss_megabytes.median()),
        ]);
    }
    let mut section = Section::new("Memory of a sleeping container", &rows)?;
    section.tables.push(table);
    section.checks = vec![
        Check::at_most(
            0.65,
            " MB",
            "private dirty memory of a sleeping guest",
            median(Way::OPTIMISED),
        ),
        Check::at_most(
            0.1,
            " ×",
            "private dirty memory, against the peer's",
            median(Way::OPTIMISED) / median(Way::Peer),
        ),
    ];
    section.panels.push(Panel {
        title: "Private memory of a sleeping container".to_owned(),
        unit: " MB",
        better: Better::Less,
        bars: vec![
            (Who::Native, median(Way::Native)),
            (Who::Podwasm, median(Way::OPTIMISED)),
            (Who::Peer, median(Way::Peer)),
        ],
    });
    Ok(section)
}
