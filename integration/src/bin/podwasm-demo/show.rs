//! What the demo prints: steps, notes, tables, and a bar while something takes long.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, interval};

/// How often the bar moves, and of how many characters it is.
const TICK: Duration = Duration::from_millis(200);
const BAR_WIDTH: usize = 30;

/// Announces what is done next.
pub fn step(text: &str) {
    println!("\n{}", paint("1;36", &format!("==> {text}")));
    flush();
}

/// Says something about the step.
pub fn note(text: &str) {
    println!("    {text}");
    flush();
}

pub fn red(text: &str) -> String {
    paint("31", text)
}

pub fn green(text: &str) -> String {
    paint("32", text)
}

/// A text in a colour, where colours are wanted: on a terminal or with `CLICOLOR_FORCE`, and never with `NO_COLOR`.
fn paint(colour: &str, text: &str) -> String {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let wanted = !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stdout().is_terminal());
    if wanted {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Prints rows below their heads, each column as wide as it has to be.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        rows.iter()
            .chain([&head])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let mut line = String::from("  ");
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        line.trim_end().to_owned()
    };
    println!("{}", paint("1", &line(&head)));
    for row in rows {
        println!("{}", line(row));
    }
    flush();
}

/// Does something that takes about so long, with a bar on a terminal.
pub async fn with_bar<T>(what: &str, takes: Duration, work: impl Future<Output = T>) -> T {
    if !std::io::stdout().is_terminal() {
        return work.await;
    }
    let start = Instant::now();
    let mut ticks = interval(TICK);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                print!("\r\x1b[K");
                flush();
                return done;
            }
            _ = ticks.tick() => {
                print!("\r    {} {what}, {} of {} s", bar(start.elapsed(), takes), start.elapsed().as_secs(), takes.as_secs());
                flush();
            }
        }
    }
}

fn bar(elapsed: Duration, takes: Duration) -> String {
    let done = elapsed.as_millis() * BAR_WIDTH as u128 / takes.as_millis().max(1);
    let done = usize::try_from(done).unwrap_or(BAR_WIDTH).min(BAR_WIDTH);
    format!("[{}{}]", "#".repeat(done), ".".repeat(BAR_WIDTH - done))
}

/// A text in lines of so many characters at most, broken at spaces.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

fn flush() {
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(
            wrapped("unbreakably long", 5),
            ["unbreakably", "long"],
            "a word stays whole"
        );
    }

    #[test]
    fn bar_fills_up_and_no_further() {
        let second = Duration::from_secs(1);
        assert_eq!(bar(Duration::ZERO, second), format!("[{}]", ".".repeat(30)));
        assert_eq!(bar(second * 2, second), format!("[{}]", "#".repeat(30)));
    }
}
