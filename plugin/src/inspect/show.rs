//! The report for people: short aligned lines, and the verdict last.
//!
//! Names come from strangers and go to a terminal, so what is not printable is escaped.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt::Write as _;

use super::imports::{Import, Provider};
use super::report::{
    CommandSource, DecisionReport, EntrypointReport, Form, ImageReport, ModuleReport, ProgramReport, Report,
    Source, Verdict,
};

const LABEL_WIDTH: usize = 12;
/// More lines of a kind are counted and not shown; `--json` has them.
const MAX_LINES: usize = 12;
/// Longer values are cut.
const MAX_CHARACTERS: usize = 400;

/// The whole report.
pub fn show(report: &Report) -> String {
    let mut lines = Lines::default();
    lines.add("target", format!("{} ({})", report.target, source(report.source)));
    if let Some(image) = &report.image {
        lines.image(image);
    }
    lines.entrypoint(&report.entrypoint);
    if let Some(program) = &report.program {
        lines.program(program);
    }
    if let Some(decision) = &report.decision {
        lines.decision(decision);
    }
    lines.all("missing", report.missing.iter().cloned());
    lines.all("note", report.notes.iter().cloned());
    lines.add(
        "verdict",
        format!("{}: {}", verdict(report.verdict), report.reason),
    );
    lines.text
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, label: &str, value: impl AsRef<str>) {
        let value = printable(value.as_ref());
        let _ = writeln!(self.text, "{label:LABEL_WIDTH$}{value}");
    }

    fn all(&mut self, label: &str, values: impl ExactSizeIterator<Item = String>) {
        let more = values.len().saturating_sub(MAX_LINES);
        values.take(MAX_LINES).for_each(|value| self.add(label, value));
        if more > 0 {
            self.add(label, format!("and {more} more"));
        }
    }

    fn image(&mut self, image: &ImageReport) {
        self.add("form", form(image.form));
        let platform = if image.platform.is_empty() {
            "none"
        } else {
            &image.platform
        };
        self.add("platform", platform);
        self.add(
            "type",
            format!("{}, config {}", image.media_type, image.config_media_type),
        );
        self.add("digest", &image.digest);
        if let Some(index) = &image.index {
            let entry = |entry: &super::documents::Listed| {
                let platform = entry.platform.as_deref().unwrap_or("no platform");
                let chosen = if entry.digest == image.manifest {
                    ", looked at"
                } else {
                    ""
                };
                format!("{platform} {}{chosen}", entry.digest)
            };
            self.all("manifest", index.iter().map(entry));
        }
        let layer =
            |layer: &super::documents::Layer| format!("{}, {}", size(layer.size_bytes), layer.media_type);
        self.all("layer", image.layers.iter().map(layer));
        self.add("pulled", if image.pulled { "yes" } else { "no" });
        self.all("fix", image.fixes.iter().cloned());
    }

    fn entrypoint(&mut self, entrypoint: &EntrypointReport) {
        let from = match entrypoint.from {
            CommandSource::Flag => "--command",
            CommandSource::File => "the file, as an image's entrypoint",
            CommandSource::Image => "the image's config",
            CommandSource::Nobody => return self.add("command", "none"),
        };
        self.add("command", format!("{:?}, from {from}", entrypoint.command));
        match &entrypoint.path {
            Some(path) => self.add("found", path),
            None => self.add(
                "found",
                format!("nowhere; searched {}", entrypoint.searched.join(", ")),
            ),
        }
    }

    fn program(&mut self, program: &ProgramReport) {
        let kind = match program.kind {
            "module" => "WebAssembly core module",
            "native" => "native program or script",
            "component" => "WebAssembly component",
            "malformed" => "not a whole WebAssembly module",
            "too_large" => "larger than this node allows",
            "not_a_file" => "not a regular file",
            "ambiguous" => "several modules",
            "empty" => "empty file",
            _ => "neither program nor WebAssembly",
        };
        let bytes = program.size_bytes.map(|bytes| format!(", {}", size(bytes)));
        self.add("program", format!("{kind}{}", bytes.unwrap_or_default()));
        if let Some(sha256) = &program.sha256 {
            self.add("sha256", sha256);
        }
        if let Some(module) = &program.module {
            self.module(module);
        }
    }

    fn module(&mut self, module: &ModuleReport) {
        self.all(
            "imports",
            module.imports.iter().map(|import| shown(import, module.sockets)),
        );
        self.add(
            "memory",
            format!("{} from the start", size(module.minimum_memory_bytes)),
        );
        self.add(
            "exports",
            if module.exports_start {
                "_start"
            } else {
                "no _start"
            },
        );
    }

    fn decision(&mut self, decision: &DecisionReport) {
        self.add("handler", decision.handler);
        let memory = decision
            .added_memory_bytes
            .map(|bytes| format!("memory limit {}", size(bytes)));
        let cpu = decision
            .added_cpu_millis
            .map(|millis| format!("CPU limit {millis}m"));
        let added: Vec<_> = memory.into_iter().chain(cpu).collect();
        if !added.is_empty() {
            self.add("adds", added.join(", "));
        }
        if let Some(tier) = decision.tier {
            let reason = decision.tier_reason.iter().map(|why| format!(": {why}"));
            self.add("runs", reason.fold(runs(tier), |text, why| text + &why));
        }
        if !decision.settings.is_empty() {
            self.add("settings", decision.settings.join(", "));
        }
    }
}

fn shown(import: &Import, sockets: bool) -> String {
    let provider = match &import.provider {
        Provider::Engine if sockets => "engine, with sockets".to_owned(),
        Provider::Engine => "engine".to_owned(),
        Provider::Nobody => "nobody that is known".to_owned(),
        Provider::Plugin(plugin) => format!("plugin {plugin}"),
    };
    let lacking = match import.lacking.as_slice() {
        [] => String::new(),
        names => format!(", but not {}", names.join(", ")),
    };
    format!("{} ({}): {provider}{lacking}", import.namespace, import.functions)
}

fn runs(tier: &str) -> String {
    match tier {
        "interpreted" => "interpreted".to_owned(),
        "waiting" => "native code, if it is compiled in time, or else interpreted".to_owned(),
        tier => format!("native code, {tier} tier"),
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Archive => "OCI image layout",
        Source::Containerd => "image in containerd",
        Source::File => "file",
        Source::Registry => "image in a registry",
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::ForeignIndex => "index with nothing for this machine",
        Form::LinuxImage => "Linux image",
        Form::Other => "neither a Linux image nor about Wasm",
        Form::WasmArtifact => "OCI Wasm artifact",
        Form::WasmImage => "image that says it is Wasm",
        Form::WasmOnlyIndex => "index that holds only Wasm platforms",
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fails => "would start and fail",
        Verdict::Native => "runs natively",
        Verdict::NoCommand => "needs a command",
        Verdict::NotPulled => "would not be pulled",
        Verdict::Refused => "would be refused",
        Verdict::Wasm => "runs as Wasm",
    }
}

/// Bytes in the unit that suits them.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (0..units.len()).rev().find(|unit| bytes >> (10 * (unit + 1)) > 0);
    let Some(unit) = unit else {
        return format!("{bytes} bytes");
    };
    let scale = 1_u64 << (10 * (unit + 1));
    let tenths = (u128::from(bytes) * 10 / u128::from(scale)) % 10;
    match tenths {
        0 => format!("{} {}", bytes / scale, units[unit]),
        tenths => format!("{}.{tenths} {}", bytes / scale, units[unit]),
    }
}

/// One line that no terminal takes for a command, and no reader for another.
pub fn printable(text: &str) -> String {
    let mut printable = String::new();
    for (number, character) in text.chars().enumerate() {
        if number == MAX_CHARACTERS {
            printable.push_str("...");
            break;
        }
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            character => printable.extend(character.escape_debug()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let check = |bytes: u64, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 bytes");
        check(1023, "1023 bytes");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB");
        check(50 << 20, "50 MiB");
        check(u64::MAX, "15.9 EiB");
    }

    #[test]
    fn terminals_are_not_commanded() {
        assert_eq!(
            printable("/a\x1b[2Jb\nc\u{202e}d\u{9b}e"),
            "/a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}e"
        );
        assert_eq!(printable("it's \"fine\" ü"), "it's \"fine\" ü");
        assert_eq!(printable(&"x".repeat(1000)).len(), 403);
    }
}
