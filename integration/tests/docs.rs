//! The documents hold together: links lead somewhere, what looks like YAML and JSON is, make's targets are there, and the book lists
//! every page. The commands of our programs are parsed in those programs' own tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podwasm_integration::documents::{Document, all};
use serde_json::Value;

fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    here.expect("the project is above").to_owned()
}

/// A failure says all that is wrong, not only the first.
fn none_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = all(&project());
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in &documents {
        for link in document.links() {
            count += 1;
            if let Err(why) = check_link(document, &link) {
                wrong.push(format!("{}: {link}: {why}", document.path.display()));
            }
        }
    }
    assert!(count > 100, "{count} links were found");
    none_wrong(&wrong);
}

fn check_link(document: &Document, link: &str) -> Result<(), String> {
    if link.starts_with("https://") {
        return Ok(()); // outside; nothing outside is asked by a test
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.path.clone()
    } else {
        document
            .path
            .parent()
            .expect("a file lies in a folder")
            .join(file)
    };
    if !target.exists() {
        return Err("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&target).map_err(|error| error.to_string())?;
    let anchors = Document { path: target, text }.anchors();
    if anchors.iter().any(|found| found == anchor) {
        Ok(())
    } else {
        Err(format!("there is no such heading, only {anchors:?}"))
    }
}

#[test]
fn blocks_are_what_they_say() {
    let mut wrong = Vec::new();
    for document in all(&project()) {
        for block in document.blocks() {
            let said = match block.language.as_str() {
                "yaml" => serde_saphyr::from_multiple::<Value>(&block.text)
                    .map(drop)
                    .map_err(|error| error.to_string()),
                "json" => serde_json::from_str::<Value>(&block.text)
                    .map(drop)
                    .map_err(|error| error.to_string()),
                _ => Ok(()),
            };
            if let Err(error) = said {
                wrong.push(format!("{}:{}: {error}", document.path.display(), block.line));
            }
        }
    }
    none_wrong(&wrong);
}

#[test]
fn make_has_the_targets_that_are_named() {
    let makefile = std::fs::read_to_string(project().join("Makefile")).expect("there is a Makefile");
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in all(&project()) {
        let inline = document.inline_code();
        let inline = inline.iter().filter_map(|code| code.strip_prefix("make "));
        let inline = inline.map(|words| words.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>());
        let typed = document
            .commands("make")
            .into_iter()
            .map(|(_, words)| words[1..].to_vec());
        for word in typed.chain(inline).flatten() {
            count += 1;
            let is_target = targets.contains(word.as_str());
            if !is_target && !word.starts_with('-') && !word.contains(['=', '[', '…']) {
                wrong.push(format!("{}: make {word}", document.path.display()));
            }
        }
    }
    assert!(count > 10, "{count} targets were found");
    none_wrong(&wrong);
}

#[test]
fn book_lists_every_page_once() {
    let docs = project().join("docs");
    let documents = all(&project());
    let pages: BTreeSet<_> = documents
        .iter()
        .filter(|document| document.path.parent() == Some(&docs))
        .filter_map(|document| document.path.file_name()?.to_str())
        .filter(|name| *name != "SUMMARY.md")
        .collect();
    let summary = documents
        .iter()
        .find(|document| document.path == docs.join("SUMMARY.md"));
    let links = summary.expect("the book has a summary").links();
    let listed: BTreeSet<_> = links.iter().map(String::as_str).collect();
    assert_eq!(listed.len(), links.len(), "a page is listed twice");
    assert_eq!(listed, pages);
}

/// Each promise names tests that are there, and each test of the promises is named.
#[test]
fn promises_are_tested() {
    let text = std::fs::read_to_string(project().join("SECURITY.md")).expect("there is SECURITY.md");
    let sources = rust_sources(&project());
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    let code = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let named: BTreeSet<_> = code
        .filter(|name| name.contains('_'))
        .map(ToOwned::to_owned)
        .collect();
    assert!(named.len() > 30, "{} tests are named", named.len());
    let all: BTreeSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let here = project().join("integration/tests/security.rs");
    let (_, here) = sources
        .iter()
        .find(|(path, _)| *path == here)
        .expect("it is there");
    let tests = functions(here)
        .into_iter()
        .filter(|name| here.contains(&format!("\n    {name}\n")));
    let unknown = named
        .difference(&all)
        .map(|name| format!("there is no test {name}"));
    let unnamed = tests
        .filter(|name| !named.contains(name))
        .map(|name| format!("{name} is not named"));
    none_wrong(&unknown.chain(unnamed).collect::<Vec<_>>());
}

/// Each limit is where the table says.
#[test]
fn limits_are_where_it_is_said() {
    let documents = all(&project());
    let page = documents
        .iter()
        .find(|document| document.path.ends_with("docs/security.md"));
    let page = page.expect("there is a page on security");
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in page.text.lines().filter(|line| line.starts_with("| ")) {
        let mut parts = row.split("` in [`");
        let mut constant = parts.next().and_then(|before| before.rsplit('`').next());
        for part in parts {
            count += 1;
            let path = part.split('`').next().unwrap_or_default();
            let source = std::fs::read_to_string(project().join(path)).unwrap_or_default();
            let name = constant.unwrap_or_default();
            if !source.contains(&format!("const {name}: ")) {
                wrong.push(format!("{path} has no {name}"));
            }
            constant = part.rsplit('`').next();
        }
    }
    assert!(count > 20, "{count} limits were found");
    none_wrong(&wrong);
}

/// All files of Rust that are ours, with their texts.
fn rust_sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder can be listed") {
        let path = entry.expect("it can be listed").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(rust_sources(&path));
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            let text = std::fs::read_to_string(&path).expect("source is text");
            found.push((path, text));
        }
    }
    found
}

fn functions(source: &str) -> Vec<String> {
    let after = source.split("fn ").skip(1);
    after
        .filter_map(|text| {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
        })
        .map(ToOwned::to_owned)
        .collect()
}

/// A newcomer reads it whole.
#[test]
fn readme_is_short() {
    let readme = std::fs::read_to_string(project().join("README.md")).expect("there is a README");
    let lines = readme.lines().count();
    assert!(lines <= 150, "{lines} lines");
}
