//! What stands in the project's documents: code blocks, commands, links, headings. Pure but for [`all`], which finds them.
//!
//! The other crates' tests take this file in by its path, to parse the commands that documents show with the programs' own parsers.
#![allow(dead_code, reason = "who takes this file in needs a part of it")]

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// A Markdown file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The word after the fence: `sh`, `yaml`.
    pub language: String,
    /// The number of its first line in the file, from 1.
    pub line: usize,
    /// Its text, without what it is indented by.
    pub text: String,
}

/// All Markdown files of the project that users read.
///
/// # Panics
///
/// Where they cannot be read.
pub fn all(project: &Path) -> Vec<Document> {
    let folders = ["", "deploy", "docs", "engine/bundle", "nri"];
    let mut found = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(project.join(folder)).expect("the folder is there");
        for entry in entries {
            let path = entry.expect("it can be listed").path();
            if path.extension().is_some_and(|suffix| suffix == "md") {
                let text = fs::read_to_string(&path).expect("a document is text");
                found.push(Document { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Parses each command line of a program that a document shows. What stands for something else, as `NODE`, is taken as it is.
///
/// # Panics
///
/// Where one is not understood, and where fewer than `at_least` are shown.
pub fn check_commands<E: Display>(
    project: &Path,
    program: &str,
    at_least: usize,
    parse: impl Fn(&[String]) -> Result<(), E>,
) {
    let mut count = 0;
    for document in all(project) {
        for (line, words) in document.commands(program) {
            count += 1;
            if let Err(error) = parse(&words) {
                panic!("{}:{line}: {words:?}: {error}", document.path.display());
            }
        }
    }
    assert!(count >= at_least, "documents show {count} commands of {program}");
}

impl Document {
    /// Its fenced blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            let text = line.trim_start();
            match (&mut open, text.strip_prefix("```")) {
                (None, Some(language)) => {
                    let block = Block {
                        language: language.trim().to_owned(),
                        line: number + 1,
                        text: String::new(),
                    };
                    open = Some((line.len() - text.len(), block));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block.text.push_str(line.get(*indent..).unwrap_or(text));
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        blocks
    }

    /// The command lines of its shell and console blocks that start a program, `sudo` or not, each with its line's number.
    pub fn commands(&self, program: &str) -> Vec<(usize, Vec<String>)> {
        let shown = |block: &Block| ["sh", "bash", "console"].contains(&block.language.as_str());
        let blocks = self.blocks();
        let lines = blocks.iter().filter(|block| shown(block)).flat_map(commands);
        lines
            .filter_map(|(line, words)| {
                let words: Vec<_> = words
                    .into_iter()
                    .skip_while(|word| word == "sudo" || is_assignment(word))
                    .collect();
                let name = words.first()?.rsplit('/').next()?;
                (name == program).then_some((line, words))
            })
            .collect()
    }

    /// What is in single backticks outside of blocks.
    pub fn inline_code(&self) -> Vec<String> {
        let mut inside = false;
        let outside = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !fence && !inside
        });
        let text = outside.collect::<Vec<_>>().join("\n");
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(|code| code.replace('\n', " "))
            .collect()
    }

    /// The targets of its links.
    pub fn links(&self) -> Vec<String> {
        let code: Vec<_> = self.blocks().into_iter().map(|block| block.text).collect();
        let text = code
            .iter()
            .fold(self.text.clone(), |text, code| text.replace(code, ""));
        let mut links = Vec::new();
        for (at, _) in text.match_indices("](") {
            if let Some((target, _)) = text[at + 2..].split_once(')') {
                links.push(target.to_owned());
            }
        }
        links
    }

    /// The anchors of its headings, as GitHub and mdBook make them.
    pub fn anchors(&self) -> Vec<String> {
        let mut inside = false;
        let mut anchors = Vec::new();
        for line in self.text.lines() {
            inside ^= line.trim_start().starts_with("```");
            let heading = line.trim_start_matches('#');
            if !inside && heading.len() < line.len() && heading.starts_with(' ') {
                anchors.push(anchor(heading.trim()));
            }
        }
        anchors
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    name.is_some_and(|name| {
        name.chars()
            .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    })
}

/// The simple commands of a block: lines, joined where they go on, parted where a shell parts them. In a console only what follows
/// `$ ` or `# ` was typed.
fn commands(block: &Block) -> Vec<(usize, Vec<String>)> {
    let console = block.language == "console";
    let mut commands = Vec::new();
    let mut lines = (block.line..).zip(block.text.lines());
    while let Some((number, line)) = lines.next() {
        let typed = if console {
            line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
        } else {
            Some(line)
        };
        let Some(typed) = typed else { continue };
        let mut typed = typed.to_owned();
        while let Some(start) = typed.strip_suffix('\\') {
            let next = lines.next().map_or("", |(_, line)| line);
            typed = format!("{start} {}", next.trim());
        }
        commands.extend(parted(&typed).into_iter().map(|words| (number, words)));
    }
    commands
}

/// The words of each command in a line of shell, without redirections and comments.
fn parted(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut skip = false; // the word after a redirection
    let mut rest = line.chars().chain([' ']).peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | ';' | '&' | '<' | '>' | '(' | ')') => {
                if let Some(word) = word.take() {
                    let is_descriptor = matches!(c, '<' | '>') && word.chars().all(|c| c.is_ascii_digit());
                    if !skip && !is_descriptor {
                        commands.last_mut().expect("there is one").push(word);
                    }
                    skip = false;
                }
                match c {
                    ' ' => {}
                    '<' | '>' => {
                        skip = true;
                        while rest.next_if(|c| ">&<".contains(*c)).is_some() {}
                    }
                    _ => commands.push(Vec::new()),
                }
            }
            (Some(_) | None, _) => word.get_or_insert_default().push(c),
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document {
            path: PathBuf::new(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn commands_are_found_as_a_shell_would() {
        let text = "
```console
$ sudo RUST_LOG=debug podwasm run --a 'b c' 2>&1 | tee log   # why
podwasm is no command here
$ echo x && podwasm image \\
    push a b >out; true
```
```yaml
podwasm: no
```";
        let words: Vec<_> = document(text)
            .commands("podwasm")
            .into_iter()
            .map(|(_, words)| words)
            .collect();
        assert_eq!(
            words,
            [
                vec!["podwasm", "run", "--a", "b c"],
                vec!["podwasm", "image", "push", "a", "b"]
            ]
        );
    }

    #[test]
    fn links_and_anchors_are_found() {
        let document = document("# The `a` of b\n[x](y.md#z)\n```\n[n](no)\n# no\n```\n## Two, three\n");
        assert_eq!(document.links(), ["y.md#z"]);
        assert_eq!(document.anchors(), ["the-a-of-b", "two-three"]);
    }

    #[test]
    fn blocks_lose_what_they_are_indented_by() {
        let blocks = document("1. x\n\n   ```sh\n   a\n     b\n   ```\n").blocks();
        assert_eq!(
            blocks,
            [Block {
                language: "sh".to_owned(),
                line: 4,
                text: "a\n  b\n".to_owned()
            }]
        );
    }
}
