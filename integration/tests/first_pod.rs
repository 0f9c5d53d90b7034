//! The page for newcomers, `docs/first-pod.md`, typed in as it stands: its console blocks are run on nodes, and what they print is what
//! it says. There is no API server, so what is asked of `kubectl` is done by the manifests' runner.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use podwasm_integration::documents::Document;
use podwasm_integration::manifest::{Manifest, RunningPod};
use podwasm_integration::node::REGISTRY;
use podwasm_integration::prelude::*;

/// Where the reader is, in the node.
const FOLDER: &str = "/var/lib/first-pod";
const PROGRAM: &str = "/opt/podwasm/bin/podwasm";

fn read(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The page, with the registry that these nodes have.
fn page() -> Result<Document> {
    let path = "docs/first-pod.md";
    let text = read(path)?.replace("registry.example.com/", &format!("{REGISTRY}/first-pod/"));
    Ok(Document {
        path: path.into(),
        text,
    })
}

/// Each command of a console block with the lines that it is to print.
fn commands(text: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else if let Some((_, output)) = commands.last_mut() {
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}

/// Who follows the page.
struct Reader<'a> {
    node: &'a Node,
    /// The files that it has the reader write, by the names in their first lines.
    files: BTreeMap<String, String>,
    pods: BTreeMap<String, RunningPod<'a>>,
}

impl<'a> Reader<'a> {
    fn new(node: &'a Node, page: &Document) -> Result<Self> {
        let folder = node.path(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let mut files = BTreeMap::new();
        for block in page.blocks() {
            let first = block.text.lines().next().unwrap_or_default();
            if let Some(name) = first.strip_prefix("# ").or_else(|| first.strip_prefix("// ")) {
                std::fs::write(folder.join(name), &block.text)?;
                files.insert(name.to_owned(), block.text.clone());
            }
        }
        Ok(Self {
            node,
            files,
            pods: BTreeMap::new(),
        })
    }

    async fn types(&mut self, command: &str) -> Result<String> {
        let words: Vec<_> = command.split(' ').collect();
        match words[..] {
            ["rustc", .., source] => self.compiles(source),
            ["podwasm", ..] => self.runs(&words[1..]).await,
            ["kubectl", "apply", "-f", file] => self.applies(file).await,
            ["kubectl", "wait", phase, pod] => self.waits(phase, pod).await,
            ["kubectl", "logs", pod] => Ok(self.pod(pod)?.containers()[0].1.logs()?.stdout),
            ["kubectl", "get", "pod", pod, "-o", path] => self.gets(pod, path).await,
            ["kubectl", "delete", "pod", name] => {
                let pod = self.pods.remove(name).with_context(|| format!("no pod {name}"))?;
                pod.delete().await?;
                Ok(format!("pod \"{name}\" deleted\n"))
            }
            _ => bail!("the page has a command that this test does not know: {command}"),
        }
    }

    /// The target for Wasm is not on every machine with Rust: the guests' build has compiled the same source.
    fn compiles(&self, source: &str) -> Result<String> {
        let built = read("integration/guests/rust/src/bin/first-pod.rs")?;
        ensure!(
            self.files[source] == built,
            "the page's {source} is not what was compiled"
        );
        std::fs::write(self.node.path(FOLDER).join("hello.wasm"), guest("first-pod.wasm"))?;
        Ok(String::new())
    }

    async fn runs(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("sh");
        command
            .args(["-c", "cd \"$0\" && exec \"$@\"", FOLDER, PROGRAM])
            .args(words);
        let output = self.node.output_of(command).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {errors}", output.status);
        // What it says of the image is not the page's business.
        Ok(String::new())
    }

    async fn applies(&mut self, file: &str) -> Result<String> {
        let text = self.files.get(file).with_context(|| format!("no {file}"))?;
        let mut said = String::new();
        for pod in Manifest::parse(text)?.run(self.node).await? {
            said.extend(["pod/", pod.name(), " created\n"]);
            self.pods.insert(pod.name().to_owned(), pod);
        }
        Ok(said)
    }

    async fn waits(&self, phase: &str, pod: &str) -> Result<String> {
        let name = pod.strip_prefix("pod/").context("only pods are waited for")?;
        let code = self.pod(name)?.containers()[0].1.wait_exit().await?;
        let reached = if code == 0 { "Succeeded" } else { "Failed" };
        ensure!(
            phase == format!("--for=jsonpath='{{.status.phase}}'={reached}"),
            "{name} ended with {code}"
        );
        Ok(format!("{pod} condition met\n"))
    }

    async fn gets(&self, pod: &str, path: &str) -> Result<String> {
        ensure!(
            path == "jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}'",
            "{path}"
        );
        let code = self.pod(pod)?.containers()[0].1.status().await?.exit_code;
        Ok(format!("{code}\n"))
    }

    fn pod(&self, name: &str) -> Result<&RunningPod<'a>> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }
}

on_nodes! {
    async fn page_is_true(node: &Node) {
        node.podwasm().await?;
        let page = page()?;
        let mut reader = Reader::new(node, &page)?;
        let mut count = 0;
        for block in page.blocks().iter().filter(|block| block.language == "console") {
            for (command, expected) in commands(&block.text) {
                let said = reader.types(&command).await.with_context(|| command.clone())?;
                assert_eq!(said, expected, "$ {command}");
                count += 1;
            }
        }
        ensure!(count > 8, "{count} commands were found");
        ensure!(reader.pods.is_empty(), "pods are left");
    }
}
