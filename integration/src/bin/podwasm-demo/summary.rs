//! What the demo has shown, held against what it should: a demo that did not work says so, and ends with an error.

use anyhow::{Result, ensure};

use crate::show::{green, red, step};

/// The checks so far.
#[derive(Debug, Default)]
pub struct Summary {
    rows: Vec<(String, String, bool)>,
}

impl Summary {
    /// Notes what was seen, and whether it is what should have been.
    pub fn add(&mut self, what: &str, seen: String, is_right: bool) {
        self.rows.push((what.to_owned(), seen, is_right));
    }

    /// Prints all, and fails if anything was not as it should.
    pub fn show(&self) -> Result<()> {
        step("What was shown");
        println!();
        let what = self.rows.iter().map(|(what, ..)| what.chars().count()).max();
        let seen = self.rows.iter().map(|(_, seen, _)| seen.chars().count()).max();
        let (what_width, seen_width) = (what.unwrap_or(0), seen.unwrap_or(0));
        for (what, seen, is_right) in &self.rows {
            let mark = if *is_right { green("ok") } else { red("WRONG") };
            println!("  {what:<what_width$}  {seen:<seen_width$}  {mark}");
        }
        let wrong = self.rows.iter().filter(|(.., is_right)| !is_right).count();
        ensure!(
            wrong == 0,
            "{wrong} of {} were not as they should be",
            self.rows.len()
        );
        Ok(())
    }
}
