//! `podwasm cache`: what is there, and room or order made by hand.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::cache::Cache;
use crate::cache::budget::{Held, to_evict};
use crate::cache::entries::GRACE;
use crate::cache::files::{self, Files, Shelf, sha256_of};
use crate::cache::record::Outcome;
use crate::compile::tend;
use crate::compiled::Tier;
use crate::containerd::Containerd;
use crate::flags::{CacheCommand, CacheFlags};
use crate::inspect::show::{printable, size};
use crate::policy_file;
use crate::quantity::Quantity;

/// The exit code of a cache that cannot be used. Wrong flags have it too.
const UNUSABLE: u8 = 2;
/// Of a module's SHA-256, so much is shown to people.
const SHOWN_DIGITS: usize = 12;

/// Does what is asked, and says how that went by the exit code.
pub async fn run(flags: CacheFlags) -> ExitCode {
    match try_run(&flags).await {
        Ok(code) => code,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "podwasm: {}", printable(&problem));
            ExitCode::from(UNUSABLE)
        }
    }
}

async fn try_run(flags: &CacheFlags) -> Result<ExitCode, String> {
    let state = flags.state.display();
    if let Err(error) = std::fs::read_dir(flags.state.join("modules")) {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; podwasm run makes it, and --state says where it is",
            io::ErrorKind::PermissionDenied => "; it is root's",
            _ => "",
        };
        return Err(format!("there is no cache to be seen in {state}: {error}{hint}"));
    }
    let cache = Cache::beside(&flags.state, None).map_err(|error| format!("cannot use {state}: {error}"))?;
    let in_use = tend::in_use(&cache, &Containerd::at(&flags.containerd_socket)).await;
    let in_use = in_use.map_err(|error| error.to_string());
    let files = cache.files();
    match &flags.command {
        CacheCommand::Gc { budget, config } => gc(files, &in_use?, budget_bytes(*budget, config.as_ref())?),
        CacheCommand::Ls { json } => ls(files, in_use, *json),
        CacheCommand::Verify => verify(files),
    }
    .map_err(|error| format!("{state}: {error}"))
}

fn budget_bytes(given: Option<Quantity>, config: Option<&std::path::PathBuf>) -> Result<u64, String> {
    if let Some(budget) = given {
        return Ok(budget.to_units());
    }
    let (idx, name) = policy_file::USUAL;
    let file = policy_file::find(config.cloned(), idx, name);
    let policy = policy_file::read(file.as_deref()).map_err(|error| format!("{error:#}"))?;
    Ok(policy.borrow().cache_size.to_units())
}

/// What is listed of a module.
#[derive(Serialize)]
struct Listed {
    module: String,
    bytes: u64,
    /// Of everything together, other builds' too.
    total_bytes: u64,
    names: Vec<String>,
    last_used_seconds: u64,
    /// `null` where containerd does not say.
    in_use: Option<bool>,
    tiers: Vec<ListedTier>,
}

#[derive(Serialize)]
struct ListedTier {
    build: String,
    tier: Tier,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

fn ls(files: &Files, in_use: Result<HashSet<String>, String>, as_json: bool) -> io::Result<ExitCode> {
    let mut shelves = files.shelves()?;
    shelves.sort_by_key(|stored| std::cmp::Reverse(stored.last_used));
    let listed: Vec<_> = shelves
        .iter()
        .map(|stored| list(files, stored, in_use.as_ref().ok()))
        .collect::<io::Result<_>>()?;
    let text = if as_json {
        serde_json::to_string_pretty(&serde_json::json!({ "modules": listed }))? + "\n"
    } else {
        table(&listed, SystemTime::now())
    };
    let _ = io::stdout().write_all(text.as_bytes()); // a reader that has gone away has read enough
    if let (Err(problem), false) = (in_use, as_json) {
        let _ = writeln!(
            io::stderr(),
            "podwasm: what is in use is not known: {}",
            printable(&problem)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn list(files: &Files, stored: &Shelf, in_use: Option<&HashSet<String>>) -> io::Result<Listed> {
    let since = stored.last_used.duration_since(SystemTime::UNIX_EPOCH);
    let mut tiers: Vec<_> = files
        .attempts(&stored.digest)?
        .into_iter()
        .map(|(build, attempt)| {
            let (bytes, peak_bytes, failure) = match attempt.outcome {
                Outcome::Compiled {
                    bytes, peak_bytes, ..
                } => (Some(bytes), Some(peak_bytes), None),
                Outcome::Failed { reason } => (None, None, Some(reason)),
            };
            ListedTier {
                build,
                tier: attempt.tier,
                bytes,
                seconds: Some(attempt.seconds),
                peak_bytes,
                failure,
            }
        })
        .filter(|listed| listed.failure.is_some() || has_native(stored, listed))
        .collect();
    tiers.sort_by(|a, b| (&a.build, a.tier).cmp(&(&b.build, b.tier)));
    Ok(Listed {
        module: stored.digest.clone(),
        bytes: stored.module_bytes.unwrap_or(0),
        total_bytes: stored.bytes(),
        names: files.about(&stored.digest).names,
        last_used_seconds: since.map_or(0, |since| since.as_secs()),
        in_use: in_use.map(|in_use| in_use.contains(&stored.digest)),
        tiers,
    })
}

fn has_native(stored: &Shelf, listed: &ListedTier) -> bool {
    let is_it = |native: &files::Native| native.build == listed.build && native.tier == listed.tier;
    stored.natives.iter().any(is_it)
}

/// One line for each module, and one for each failure below it.
fn table(listed: &[Listed], now: SystemTime) -> String {
    let mut rows = vec![
        [
            "MODULE",
            "SIZE",
            "FAST",
            "OPTIMISED",
            "LAST USED",
            "IN USE",
            "IMAGE",
        ]
        .map(str::to_owned),
    ];
    let mut failures = Vec::new();
    for module in listed {
        rows.push([
            module.module[..SHOWN_DIGITS].to_owned(),
            size(module.bytes),
            tier(module, Tier::Fast),
            tier(module, Tier::Optimised),
            age(module.last_used_seconds, now),
            match module.in_use {
                Some(true) => "yes".to_owned(),
                Some(false) => "no".to_owned(),
                None => "?".to_owned(),
            },
            printable(module.names.first().map_or("", String::as_str)),
        ]);
        let failed = module
            .tiers
            .iter()
            .filter_map(|tier| Some((tier.tier, tier.failure.as_ref()?)));
        failures.extend(failed.map(|(tier, why)| {
            let module = &module.module[..SHOWN_DIGITS];
            format!("{module} cannot be compiled to {tier}: {}\n", printable(why))
        }));
    }
    let total: u64 = listed.iter().map(|module| module.total_bytes).sum();
    let total = format!("{} modules, {}\n", listed.len(), size(total));
    aligned(&rows) + &failures.concat() + &total
}

/// The newest build's is the one that counts; of others, the daemon drops what no container has.
fn tier(module: &Listed, tier: Tier) -> String {
    let of_tier = module.tiers.iter().filter(|listed| listed.tier == tier);
    let best = of_tier.max_by_key(|listed| listed.bytes.is_some());
    match best {
        None => "-".to_owned(),
        Some(ListedTier {
            bytes: Some(bytes),
            seconds,
            ..
        }) => {
            format!("{} ({:.1} s)", size(*bytes), seconds.unwrap_or_default())
        }
        Some(_) => "failed".to_owned(),
    }
}

fn age(seconds: u64, now: SystemTime) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let age = now.duration_since(then).unwrap_or_default().as_secs();
    match age {
        0..60 => "now".to_owned(),
        60..3600 => format!("{} min ago", age / 60),
        3600..172_800 => format!("{} h ago", age / 3600),
        _ => format!("{} days ago", age / 86_400),
    }
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}  "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The daemon may have handed a module out that is in no container yet: what was used a moment ago stays.
fn gc(files: &Files, in_use: &HashSet<String>, budget: u64) -> io::Result<ExitCode> {
    let now = SystemTime::now();
    let held: Vec<_> = files
        .shelves()?
        .into_iter()
        .map(|stored| Held {
            bytes: stored.bytes(),
            in_use: in_use.contains(&stored.digest)
                || now.duration_since(stored.last_used).unwrap_or_default() < GRACE,
            digest: stored.digest,
            last_used: stored.last_used,
        })
        .collect();
    let mut freed = 0;
    let evicted = to_evict(held.clone(), budget);
    for held in held.iter().filter(|held| evicted.contains(&held.digest)) {
        files.evict(&held.digest)?;
        freed += held.bytes;
    }
    let left: u64 = held.iter().map(|held| held.bytes).sum::<u64>() - freed;
    println!(
        "{} modules removed, {}; {} left",
        evicted.len(),
        size(freed),
        size(left)
    );
    if left > budget {
        println!("more cannot be removed: containers use it, or did a moment ago");
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(files: &Files) -> io::Result<ExitCode> {
    let (mut good, mut bad) = (0, 0);
    let shelves = files.shelves()?;
    for stored in &shelves {
        let path = files.module(&stored.digest);
        if stored.module_bytes.is_some() && sha256_of(&File::open(&path)?)? != stored.digest {
            bad += 1;
            println!(
                "{}: the module is damaged; it is removed, and copied again when it is needed",
                stored.digest
            );
            std::fs::remove_file(&path)?;
        }
        for native in &stored.natives {
            if files.is_genuine(&stored.digest, native)? {
                good += 1;
                continue;
            }
            bad += 1;
            println!(
                "{}: {} native code of build {} is not what was put there; it is removed",
                stored.digest, native.tier, native.build
            );
            files.forget(&stored.digest, &native.build, native.tier)?;
        }
    }
    println!(
        "{} modules, {good} of native code good, {bad} damaged",
        shelves.len()
    );
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
