//! Runs the CRI's validation suite on nodes without podwasm and with it, and compares the two spec by spec.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use podwasm_integration::critest::{self, Outcomes};
use podwasm_integration::prelude::*;

/// Runs critest without podwasm and with it, on a node of each containerd, and compares them spec by spec.
///
/// It ends with 0 if podwasm makes no difference. Specs that come out otherwise the second time are tried once more, both ways.
#[derive(Parser)]
struct Arguments {
    /// Whose containerd; all of them by default.
    #[arg(long, value_enum, num_args = 1..)]
    containerd: Vec<Flavor>,
    /// Only specs whose names this regular expression matches.
    #[arg(long)]
    focus: Option<String>,
    /// Prints what became of each spec, and why it failed.
    #[arg(long)]
    all: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let Arguments {
        mut containerd,
        focus,
        all,
    } = Arguments::parse();
    if containerd.is_empty() {
        containerd = vec![Flavor::Trixie, Flavor::Forky, Flavor::Upstream];
    }
    let mut differing = 0;
    println!("| containerd | podwasm | passed | failed | skipped | differing |");
    println!("|---|---|---|---|---|---|");
    for flavor in containerd {
        differing += compare(flavor, focus.as_deref(), all).await?;
    }
    Ok(if differing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How many specs come out otherwise with podwasm.
async fn compare(flavor: Flavor, focus: Option<&str>, all: bool) -> Result<usize> {
    let node = Node::start(flavor, Runtime::Runc).await?;
    critest::prepare(&node).await?;
    let version = node.cri().version().await?;
    let (without, with) = both(&node, "", focus).await?;
    let mut differing = differences(&without, &with);
    let names: BTreeSet<_> = differing.iter().cloned().collect();
    if !names.is_empty() {
        // What depends on the moment comes out alike on a second look.
        let again: Vec<_> = names.iter().map(|name| escaped(name)).collect();
        let (without, with) = both(&node, "-again", Some(&again.join("|"))).await?;
        differing = differences(&without, &with);
        differing.retain(|name| names.contains(name));
    }
    row(&version, "no", &without, "");
    row(&version, "yes", &with, &differing.len().to_string());
    for name in &names {
        let seen = |outcomes: &Outcomes| {
            outcomes
                .get(name)
                .map_or("absent", |it| it.state.as_str())
                .to_owned()
        };
        let again = if differing.contains(name) {
            "and again"
        } else {
            "but not again"
        };
        eprintln!(
            "{version}: {name}: {} without, {} with, {again}",
            seen(&without),
            seen(&with)
        );
    }
    if all {
        for (name, outcome) in &without {
            eprintln!("{version}: {}: {name} {}", outcome.state, outcome.message);
        }
    }
    eprintln!("{version}: {}", node.logs().display());
    node.stop().await?;
    Ok(differing.len())
}

/// Runs the suite without podwasm, then with it.
async fn both(node: &Node, run: &str, focus: Option<&str>) -> Result<(Outcomes, Outcomes)> {
    let without = critest::run(node, &format!("critest-without{run}.log"), focus).await?;
    let _plugin = node.start_podwasm().await?;
    let with = critest::run(node, &format!("critest-with{run}.log"), focus).await?;
    Ok((without, with))
}

fn differences(one: &Outcomes, other: &Outcomes) -> Vec<String> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let state = |outcomes: &Outcomes, name: &String| outcomes.get(name).map(|outcome| outcome.state.clone());
    names
        .into_iter()
        .filter(|name| state(one, name) != state(other, name))
        .cloned()
        .collect()
}

fn row(version: &str, podwasm: &str, outcomes: &Outcomes, differing: &str) {
    let count = |state: &str| outcomes.values().filter(|outcome| outcome.state == state).count();
    let (passed, skipped) = (count("passed"), count("skipped") + count("pending"));
    let failed = outcomes.len() - passed - skipped;
    println!("| {version} | {podwasm} | {passed} | {failed} | {skipped} | {differing} |");
}

/// A name as a regular expression that matches it.
fn escaped(name: &str) -> String {
    name.chars()
        .flat_map(|letter| {
            let needs = !letter.is_alphanumeric() && !letter.is_whitespace();
            needs.then_some('\\').into_iter().chain([letter])
        })
        .collect()
}
