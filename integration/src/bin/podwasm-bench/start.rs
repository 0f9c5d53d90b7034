//! What it takes to start and end a process: a hello world in an empty root folder, without a container.

use crate::bar::Check;
use crate::bare::{Bench, Root, Way, guest};
use crate::section::{Better, Panel, Section, Who};
use crate::stats::{Values, milliseconds};
use crate::table::Table;
use anyhow::{Result, ensure};
use podwasm_integration::measure::digits;
use serde::Serialize;

const WAYS: [Way; 4] = [Way::Native, Way::OPTIMISED, Way::INTERPRETED, Way::Peer];
const WARM_UP: usize = 3;

/// What was measured of one way.
#[derive(Debug, Serialize)]
pub struct Row {
    pub way: Way,
    /// From before the process is spawned until it is gone.
    pub milliseconds: Values,
    pub cpu_milliseconds: Values,
}

/// Measures the hello world.
pub async fn measure(bench: &Bench, rounds: usize) -> Result<Section> {
    let roots = WAYS.map(|way| bench.root(way, &guest("native")?, &guest("guest.wasm")?));
    let roots = roots.into_iter().collect::<Result<Vec<_>>>()?;
    let rows = take_turns(&roots, "hello from", rounds).await?;
    let median = |way| median(&rows, way);
    let mut section = Section::new("Engine start", &rows)?;
    section.tables.push(table(&rows));
    section.checks = vec![
        Check::at_most(
            1.5,
            " ms",
            "engine start over a static native program",
            median(Way::OPTIMISED) - median(Way::Native),
        ),
        Check::at_most(
            0.2,
            " ×",
            "engine start, against the peer's",
            median(Way::OPTIMISED) / median(Way::Peer),
        ),
    ];
    section.panels.push(Panel {
        title: "Start and end of a process".to_owned(),
        unit: " ms",
        better: Better::Less,
        bars: vec![
            (Who::Native, median(Way::Native)),
            (Who::Podwasm, median(Way::OPTIMISED)),
            (Who::Peer, median(Way::Peer)),
        ],
    });
    Ok(section)
}

/// Runs all of them in each round, every other round the other way round.
pub async fn take_turns(roots: &[Root], said: &str, rounds: usize) -> Result<Vec<Row>> {
    let row = |root: &Root| Row {
        way: root.way,
        milliseconds: Values::default(),
        cpu_milliseconds: Values::default(),
    };
    let mut rows: Vec<_> = roots.iter().map(row).collect();
    for round in 0..WARM_UP + rounds {
        for turn in 0..roots.len() {
            let at = if round % 2 == 0 {
                turn
            } else {
                roots.len() - 1 - turn
            };
            let measured = roots[at].run(&[]).await?;
            let name = roots[at].way.name();
            ensure!(
                measured.stdout.contains(said),
                "{name} said {:?}",
                measured.stdout
            );
            if round >= WARM_UP {
                rows[at].milliseconds.push(milliseconds(measured.took));
                rows[at].cpu_milliseconds.push(milliseconds(measured.cpu));
            }
        }
    }
    Ok(rows)
}

pub fn median(rows: &[Row], way: Way) -> f64 {
    let row = rows.iter().find(|row| row.way == way);
    row.map_or(f64::NAN, |row| row.milliseconds.median())
}

pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(["", "start to end ms", "p10–p90", "over native ms", "CPU ms"]);
    let native = median(rows, Way::Native);
    for row in rows {
        let took = &row.milliseconds;
        table.row([
            row.way.name().to_owned(),
            digits(took.median()),
            format!("{}–{}", digits(took.percentile(10)), digits(took.percentile(90))),
            format!("{:+.2}", took.median() - native),
            digits(row.cpu_milliseconds.median()),
        ]);
    }
    table
}
