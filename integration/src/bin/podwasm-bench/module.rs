//! A compiled module of a megabyte, `SQLite`: its start beside the same as native code, its memory, and what copies of it share.

use crate::bar::Check;
use crate::bare::{Bench, Way, guest};
use crate::mappings;
use crate::memory::sleeping;
use crate::section::Section;
use crate::start::{self, median, take_turns};
use crate::stats::Values;
use crate::table::Table;
use anyhow::Result;
use podwasm_integration::measure::digits;
use serde::Serialize;
use std::fs;

const WAYS: [Way; 3] = [Way::Native, Way::OPTIMISED, Way::INTERPRETED];

#[derive(Debug, Serialize)]
struct Measured {
    module_bytes: u64,
    start: Vec<start::Row>,
    private_dirty_megabytes: Values,
    copies: usize,
    code_resident_kilobytes: Values,
    code_shared_kilobytes: Values,
}

/// Measures start and memory in `rounds`, and what so many copies share.
pub async fn measure(bench: &Bench, rounds: usize, copies: usize) -> Result<Section> {
    let (native, module) = (guest("sqlite-native")?, guest("sqlite.wasm")?);
    let roots = WAYS.iter().map(|&way| bench.root(way, &native, &module));
    let roots = roots.collect::<Result<Vec<_>>>()?;
    let start = take_turns(&roots, "SQLite", rounds).await?;
    let compiled = &roots[1];
    let running = (0..copies).map(|_| compiled.start(&["sleep"]));
    let running = running.collect::<Result<Vec<_>>>()?;
    let mut measured = Measured {
        module_bytes: fs::metadata(&module)?.len(),
        start,
        private_dirty_megabytes: Values::default(),
        copies,
        code_resident_kilobytes: Values::default(),
        code_shared_kilobytes: Values::default(),
    };
    for process in &running {
        let rollup = sleeping(process, compiled.way).await?;
        measured
            .private_dirty_megabytes
            .push(rollup.private_dirty_megabytes);
    }
    for process in &running {
        let code = mappings::compiled_code(&process.process())?;
        measured.code_resident_kilobytes.push(code.resident_kilobytes);
        measured.code_shared_kilobytes.push(code.shared_kilobytes);
    }
    section(&measured)
}

fn section(measured: &Measured) -> Result<Section> {
    let over_native = median(&measured.start, Way::OPTIMISED) - median(&measured.start, Way::Native);
    let shared = measured.code_shared_kilobytes.sum() / measured.code_resident_kilobytes.sum();
    let private = measured.private_dirty_megabytes.median();
    let copies = measured.copies;
    let mut section = Section::new("A compiled module of 1 MB", measured)?;
    section.notes.push(format!(
        "The module is SQLite, {} bytes: it opens a database in memory and asks it something; native is the same.",
        measured.module_bytes
    ));
    section.tables.push(start::table(&measured.start));
    let mut memory = Table::new([
        "copies",
        "private dirty MB each",
        "resident code kB each",
        "of it shared",
    ]);
    memory.row([
        copies.to_string(),
        digits(private),
        digits(measured.code_resident_kilobytes.median()),
        format!("{:.1} %", shared * 100.0),
    ]);
    section.tables.push(memory);
    section.checks = vec![
        Check::at_most(3.0, " ms", "start of a 1 MB module over native", over_native),
        Check::at_most(1.0, " MB", "private dirty memory of a 1 MB module", private),
        Check::at_least(
            95.0,
            " %",
            format!("code pages shared between {copies} copies"),
            shared * 100.0,
        ),
    ];
    Ok(section)
}
