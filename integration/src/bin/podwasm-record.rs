//! Runs a program, and draws what it prints as an SVG in which each line appears when it was printed: `podwasm-record FILE PROGRAM...`.
//!
//! Where nothing moves, as in a viewer without animations, the whole output is seen at once. The text stays text.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

/// Sizes in pixels: a monospaced font of 13 is 7.8 wide nearly everywhere.
const FONT_SIZE: f64 = 13.0;
const CHARACTER_WIDTH: f64 = 7.8;
const LINE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 16.0;
const TITLE_HEIGHT: f64 = 30.0;
/// Nobody wants to watch a pause for longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(1_500);

const BACKGROUND: &str = "#0d1117";
const TEXT: &str = "#c9d1d9";

/// Runs a program and draws what it prints as an SVG.
#[derive(Parser)]
#[command(name = "podwasm-record")]
struct Arguments {
    /// What is written above it.
    #[arg(long, default_value = "make demo")]
    title: String,
    /// The file to write.
    file: PathBuf,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// A line, and when it came.
struct Line {
    at: Duration,
    text: String,
}

/// A part of a line in one style.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    text: String,
    style: Style,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    bold: bool,
    colour: Option<&'static str>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let lines = record(&arguments.command)?;
    for line in &lines {
        println!("{}", line.text);
    }
    let svg = draw(&arguments.title, &lines);
    fs::write(&arguments.file, svg).with_context(|| format!("write {}", arguments.file.display()))
}

fn record(command: &[String]) -> Result<Vec<Line>> {
    let start = Instant::now();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env("CLICOLOR_FORCE", "1")
        .env_remove("NO_COLOR")
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command[0]))?;
    let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut lines = Vec::new();
    for text in output.lines() {
        let text = text?;
        lines.push(Line {
            at: start.elapsed(),
            text,
        });
    }
    let status = child.wait()?;
    ensure!(status.success(), "{}: {status}", command[0]);
    Ok(lines)
}

fn draw(title: &str, lines: &[Line]) -> String {
    let skip = lines.iter().take_while(|line| line.text.is_empty()).count();
    let lines = &lines[skip..];
    let spans: Vec<_> = lines.iter().map(|line| spans(&line.text)).collect();
    let length = |spans: &Vec<Span>| spans.iter().map(|span| span.text.chars().count()).sum::<usize>();
    let columns = spans.iter().map(length).max().unwrap_or(0).max(60);
    let width = pixels(columns) * CHARACTER_WIDTH + 2.0 * MARGIN;
    let height = pixels(lines.len()) * LINE_HEIGHT + TITLE_HEIGHT + 2.0 * MARGIN;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="{title}">
<style>
text {{ font: {FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {TEXT}; white-space: pre; }}
@media (prefers-reduced-motion: no-preference) {{ .l {{ animation: a 1ms both; }} }}
@keyframes a {{ from {{ opacity: 0; }} to {{ opacity: 1; }} }}
</style>
<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>
<circle cx="20" cy="18" r="5" fill="#ff5f56"/><circle cx="38" cy="18" r="5" fill="#ffbd2e"/><circle cx="56" cy="18" r="5" fill="#27c93f"/>
<text x="{:.0}" y="22" text-anchor="middle" fill-opacity="0.6">{}</text>
"##,
        width / 2.0,
        escaped(title),
        title = escaped(title),
    );
    let mut shown = Duration::ZERO;
    let mut before = Duration::ZERO;
    for (number, (line, spans)) in lines.iter().zip(&spans).enumerate() {
        shown += line.at.saturating_sub(before).min(LONGEST_PAUSE);
        before = line.at;
        if spans.is_empty() {
            continue;
        }
        let y = TITLE_HEIGHT + MARGIN + (pixels(number) + 0.75) * LINE_HEIGHT;
        let delay = shown.as_secs_f64();
        let _ = write!(
            svg,
            r#"<text class="l" x="{MARGIN}" y="{y:.1}" xml:space="preserve" style="animation-delay:{delay:.2}s">"#
        );
        for span in spans {
            svg.push_str(&drawn(span));
        }
        svg.push_str("</text>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Counts of lines and columns are small.
fn pixels(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn drawn(span: &Span) -> String {
    let text = escaped(&span.text);
    let weight = if span.style.bold {
        r#" font-weight="bold""#
    } else {
        ""
    };
    match span.style.colour {
        None if weight.is_empty() => text,
        None => format!("<tspan{weight}>{text}</tspan>"),
        Some(colour) => format!(r#"<tspan style="fill:{colour}"{weight}>{text}</tspan>"#),
    }
}

/// The parts of a line by the terminal's codes for colour; other codes are left out.
fn spans(line: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut style = Style::default();
    let mut rest = line;
    while !rest.is_empty() {
        let end = rest.find("\x1b[").unwrap_or(rest.len());
        let (text, code) = rest.split_at(end);
        if !text.is_empty() {
            spans.push(Span {
                text: text.to_owned(),
                style,
            });
        }
        let Some(code) = code.strip_prefix("\x1b[") else {
            break;
        };
        let Some(end) = code.find(|c: char| c.is_ascii_alphabetic()) else {
            break;
        };
        if code.as_bytes()[end] == b'm' {
            for number in code[..end].split(';') {
                style = after(style, number);
            }
        }
        rest = &code[end + 1..];
    }
    spans
}

fn after(style: Style, code: &str) -> Style {
    let colour = match code {
        "" | "0" => return Style::default(),
        "1" => return Style { bold: true, ..style },
        "31" => "#ff7b72",
        "32" => "#7ee787",
        "33" => "#e3b341",
        "36" => "#79c0ff",
        _ => return style,
    };
    Style {
        colour: Some(colour),
        ..style
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_styles() {
        let found = spans("\x1b[1;36m==> a\x1b[0m b\x1b[K");
        let style = Style {
            bold: true,
            colour: Some("#79c0ff"),
        };
        let expected = [
            Span {
                text: "==> a".to_owned(),
                style,
            },
            Span {
                text: " b".to_owned(),
                style: Style::default(),
            },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_drawn_as_text_at_their_time() {
        let line = |seconds, text: &str| Line {
            at: Duration::from_secs(seconds),
            text: text.to_owned(),
        };
        let svg = draw(
            "t",
            &[line(0, ""), line(0, "a < b"), line(60, "\x1b[32mok\x1b[0m")],
        );
        assert!(svg.contains("a &lt; b</text>"), "{svg}");
        assert!(
            svg.contains(r#"animation-delay:1.50s"><tspan style="fill:#7ee787">ok</tspan>"#),
            "{svg}"
        );
        assert!(svg.contains(r#"width="500""#), "{svg}");
    }
}
