//! How fast guests compute, beside the same source as native code: six kinds of work, in C and in Rust.
//!
//! All times are CPU time of the process, less what the same process takes for no work at all. Interpreters get a part of the
//! work, and are held against what compiled code takes for the same part. Each process prints a checksum of its work; that all
//! have the same is checked.

use crate::bar::Check;
use crate::bare::{Bench, Root, Way, guest};
use crate::section::{Better, Panel, Section, Who};
use crate::stats::{Values, geometric_mean, milliseconds};
use crate::table::Table;
use anyhow::{Context as _, Result, ensure};
use podwasm_integration::measure::digits;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LANGUAGES: [(&str, &str); 2] = [("C", "c"), ("Rust", "rust")];
const WAYS: [Way; 5] = [
    Way::Native,
    Way::OPTIMISED,
    Way::FAST,
    Way::INTERPRETED,
    Way::Peer,
];

/// What a kind of work is called, for how many rounds it takes native code some 0.3 s, and how many an interpreter gets.
const KINDS: [(&str, usize, usize); 6] = [
    ("integer", 3000, 75),
    ("float", 900, 22),
    ("memory", 500, 60),
    ("string", 600, 15),
    ("json", 800, 20),
    ("hash", 200, 5),
];

/// One kind of work in one language.
#[derive(Debug, Serialize)]
struct Row {
    language: &'static str,
    kind: &'static str,
    whole: Work,
    /// What interpreters get.
    part: Work,
}

/// So many rounds of it.
#[derive(Debug, Serialize)]
struct Work {
    rounds: usize,
    /// By who does it.
    cpu_milliseconds: BTreeMap<&'static str, Values>,
    /// All the same, if all is well.
    checksums: BTreeSet<String>,
}

/// How much work.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub rounds: usize,
    /// Divides the work of what is compiled.
    pub divisor: usize,
}

/// Measures all kinds of work in both languages.
pub async fn measure(bench: &Bench, sizes: Sizes) -> Result<Section> {
    let mut rows = Vec::new();
    for (language, short) in LANGUAGES {
        let native = guest(&format!("compute-{short}-native"))?;
        let module = guest(&format!("compute-{short}.wasm"))?;
        let roots = WAYS.map(|way| bench.root(way, &native, &module));
        let roots = roots.into_iter().collect::<Result<Vec<_>>>()?;
        for (kind, whole, part) in KINDS {
            eprintln!("compute: {kind} in {language}");
            let mut row = Row {
                language,
                kind,
                whole: Work::new(whole / sizes.divisor),
                part: Work::new(part),
            };
            for _ in 0..sizes.rounds {
                for root in &roots {
                    row.measure(root).await?;
                }
            }
            rows.push(row);
        }
    }
    section(&rows)
}

impl Row {
    async fn measure(&mut self, root: &Root) -> Result<()> {
        let Self { language, kind, .. } = *self;
        let what = || format!("{kind} in {language}");
        let nothing = root.run(&[kind, "0"]).await?.cpu;
        self.part.measure(root, kind, nothing).await.with_context(what)?;
        if !matches!(root.way, Way::INTERPRETED | Way::Peer) {
            self.whole.measure(root, kind, nothing).await.with_context(what)?;
        }
        Ok(())
    }

    /// How many times the speed of native code.
    fn speed(&self, way: Way) -> f64 {
        self.whole.median(Way::Native) / self.whole.median(way)
    }

    /// How many times faster than another way the optimised tier is at a part of the work.
    fn faster_than(&self, way: Way) -> f64 {
        self.part.median(way) / self.part.median(Way::OPTIMISED)
    }
}

impl Work {
    fn new(rounds: usize) -> Self {
        Self {
            rounds,
            cpu_milliseconds: BTreeMap::new(),
            checksums: BTreeSet::new(),
        }
    }

    async fn measure(&mut self, root: &Root, kind: &str, nothing: Duration) -> Result<()> {
        let measured = root.run(&[kind, &self.rounds.to_string()]).await?;
        let values = self.cpu_milliseconds.entry(root.way.name()).or_default();
        values.push(milliseconds(measured.cpu) - milliseconds(nothing));
        self.checksums.insert(measured.stdout);
        let sums = &self.checksums;
        ensure!(
            sums.len() == 1,
            "{} has another checksum: {sums:?}",
            root.way.name()
        );
        Ok(())
    }

    fn median(&self, way: Way) -> f64 {
        let values = self.cpu_milliseconds.get(way.name());
        values.map_or(f64::NAN, Values::median)
    }
}

fn section(rows: &[Row]) -> Result<Section> {
    let mut table = Table::new([
        "",
        "language",
        "native ms",
        "optimised: speed",
        "fast tier: speed",
        "optimised over interpreted",
        "optimised over peer",
    ]);
    for row in rows {
        table.row([
            row.kind.to_owned(),
            row.language.to_owned(),
            digits(row.whole.median(Way::Native)),
            format!("{:.2}", row.speed(Way::OPTIMISED)),
            format!("{:.2}", row.speed(Way::FAST)),
            format!("× {:.0}", row.faster_than(Way::INTERPRETED)),
            format!("× {:.0}", row.faster_than(Way::Peer)),
        ]);
    }
    let mean = |value: fn(&Row) -> f64| geometric_mean(rows.iter().map(value));
    let (optimised, fast) = (
        mean(|row| row.speed(Way::OPTIMISED)),
        mean(|row| row.speed(Way::FAST)),
    );
    let peer = mean(|row| row.faster_than(Way::Peer));
    table.row([
        "geometric mean".to_owned(),
        String::new(),
        String::new(),
        format!("{optimised:.2}"),
        format!("{fast:.2}"),
        format!("× {:.0}", mean(|row| row.faster_than(Way::INTERPRETED))),
        format!("× {peer:.0}"),
    ]);
    let least = rows
        .iter()
        .map(|row| row.faster_than(Way::Peer))
        .fold(f64::INFINITY, f64::min);
    let mut section = Section::new("Compute", &rows)?;
    section.notes.push(
        "Speed is that of native code = 1. The peer is WasmEdge as crun runs it: interpreting.".to_owned(),
    );
    section.tables.push(table);
    section.checks = vec![
        Check::at_least(
            0.65,
            " ×",
            "compute, optimised tier, geometric mean against native",
            optimised,
        ),
        Check::at_least(
            0.3,
            " ×",
            "compute, fast tier, geometric mean against native",
            fast,
        ),
        Check::at_least(30.0, " ×", "compute, the least of all against the peer", least),
    ];
    section.panels.push(Panel {
        title: "Speed of computing, native = 100".to_owned(),
        unit: "",
        better: Better::More,
        bars: vec![
            (Who::Native, 100.0),
            (Who::Podwasm, optimised * 100.0),
            (Who::Peer, optimised / peer * 100.0),
        ],
    });
    Ok(section)
}
