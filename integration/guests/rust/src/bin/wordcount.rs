//! Counts words: reads JSON documents, one a line, from the files named or from stdin, and writes a JSON report
//! of the words in their strings. Big enough to be a program that someone could have written for its own sake.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::{env, fs::File, process};

use serde::Serialize;
use serde_json::Value;

#[derive(Default, Serialize)]
struct Report {
    documents: u64,
    strings: u64,
    words: u64,
    distinct: usize,
    top: Vec<(String, u64)>,
}

#[derive(Default)]
struct Counter {
    report: Report,
    counts: BTreeMap<String, u64>,
}

impl Counter {
    fn document(&mut self, value: &Value) {
        self.report.documents += 1;
        self.value(value);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => items.iter().for_each(|item| self.value(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.value(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn string(&mut self, text: &str) {
        self.report.strings += 1;
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            self.report.words += 1;
            *self.counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }

    fn finish(mut self, top: usize) -> Report {
        self.report.distinct = self.counts.len();
        let mut counts: Vec<_> = self.counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.truncate(top);
        self.report.top = counts;
        self.report
    }
}

fn read(counter: &mut Counter, name: &str, input: impl BufRead) -> io::Result<()> {
    for (at, line) in input.lines().enumerate() {
        let line = line?;
        let value = serde_json::from_str(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{name}:{}: {error}", at + 1)))?;
        counter.document(&value);
    }
    Ok(())
}

fn run(paths: &[String]) -> io::Result<()> {
    let mut counter = Counter::default();
    for path in paths {
        read(&mut counter, path, BufReader::new(File::open(path)?))?;
    }
    if paths.is_empty() {
        read(&mut counter, "stdin", io::stdin().lock())?;
    }
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &counter.finish(10))?;
    out.write_all(b"\n")
}

fn main() {
    let paths: Vec<String> = env::args().skip(1).collect();
    if let Err(error) = run(&paths) {
        eprintln!("wordcount: {error}");
        process::exit(1);
    }
}
