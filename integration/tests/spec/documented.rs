//! The table in the documentation and the tests know of each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every test that the table names is there, and every test here is named.
#[test]
fn each_row_of_the_table_has_its_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table =
        std::fs::read_to_string(tests.join("../../docs/container-spec.md")).expect("the table is there");
    let named = named(&table);
    let all: BTreeSet<_> = sources(&tests).iter().flat_map(|path| functions(path)).collect();
    let here: BTreeSet<_> = sources(&tests.join("spec"))
        .iter()
        .flat_map(|path| functions(path))
        .collect();
    assert!(named.len() > 30, "the table names {} tests", named.len());
    assert_eq!(
        named.difference(&all).collect::<Vec<_>>(),
        [""; 0],
        "tests that are not there"
    );
    assert_eq!(
        here.difference(&named).collect::<Vec<_>>(),
        [""; 0],
        "tests that the table does not name"
    );
}

/// The names in the last column of each row, in backticks: `file::test` or `test`.
fn named(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(|name| name.rsplit("::").next().unwrap_or(name).to_owned())
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .collect()
}

/// The tests that a file makes for each kind of node.
fn functions(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a source is text");
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("    async fn ")?.split_once("(node: &Node) {"));
    names.map(|(name, _)| name.to_owned()).collect()
}
