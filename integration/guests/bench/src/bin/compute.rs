//! Work for a processor, the same for native code and for WebAssembly: `compute KIND ROUNDS` prints a checksum. As
//! `compute.c`, in Rust's own ways. For no rounds all is made ready.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, rounds] = &arguments[..] else { return usage() };
    let Ok(rounds) = rounds.parse() else { return usage() };
    let mut work = Work::default();
    if kind == "memory" {
        work.make_slots();
    }
    let run = match kind.as_str() {
        "float" => Work::float,
        "hash" => Work::hash,
        "integer" => Work::integer,
        "json" => Work::json,
        "memory" => Work::memory,
        "string" => Work::string,
        _ => return usage(),
    };
    for round in 0..rounds {
        run(&mut work, round);
    }
    println!("{:016x}", work.sum);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: compute float|hash|integer|json|memory|string ROUNDS");
    ExitCode::from(2)
}

/// Of the hash table.
const SLOTS: usize = 1 << 21;

/// What goes from one round to the next.
struct Work {
    sum: u64,
    random: u64,
    bodies: [Body; 5],
    slots: Vec<(u64, u64)>,
    data: Vec<u8>,
    digest: [u32; 8],
}

impl Default for Work {
    fn default() -> Self {
        Self {
            sum: 0xcbf2_9ce4_8422_2325,
            random: 0x9e37_79b9_7f4a_7c15,
            bodies: BODIES,
            slots: Vec::new(),
            data: vec![0; 256 << 10],
            digest: DIGEST,
        }
    }
}

impl Work {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn mix(&mut self, value: u64) {
        self.sum = (self.sum ^ value).wrapping_mul(0x100_0000_01b3);
    }

    /// The steps of Collatz' sequences, and queens on a board by bits.
    fn integer(&mut self, round: u64) {
        for start in 1 + round * 1000..=(round + 1) * 1000 {
            let next = |&value: &u64| match value {
                1 => None,
                odd if odd % 2 == 1 => Some(3 * odd + 1),
                even => Some(even / 2),
            };
            self.mix(std::iter::successors(Some(start), next).count() as u64);
        }
        self.mix(queens(255 | (round as u32 % 2) << 8, 0, 0, 0).into());
    }

    /// Planets, and Mandelbrot's set: operations that IEEE 754 defines to the bit.
    fn float(&mut self, round: u64) {
        for _ in 0..4000 {
            advance(&mut self.bodies, 0.001);
        }
        let imaginary = (round % 100) as f64 / 50.0 - 1.0;
        for column in 0..100 {
            self.mix(steps_to_escape(f64::from(column) / 50.0 - 1.5, imaginary));
        }
        self.mix(self.bodies[0].place[0].to_bits());
    }

    /// The kernel's part, which is no guest's work: a page is there once it has been written to.
    fn make_slots(&mut self) {
        self.slots = vec![(0, 0); SLOTS];
        self.slots.iter_mut().step_by(4096 / size_of::<(u64, u64)>()).for_each(|slot| slot.1 = 1);
    }

    /// A hash table of 32 MiB that is written and read at random.
    fn memory(&mut self, round: u64) {
        for number in 0..20_000 {
            let key = self.random() % SLOTS as u64 / 2 + 1;
            let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 43) as usize;
            while self.slots[at].0 != 0 && self.slots[at].0 != key {
                at = (at + 1) % SLOTS;
            }
            self.slots[at].0 = key;
            self.slots[at].1 += number + round;
            self.mix(self.slots[at].1);
        }
    }

    /// Words are made, joined to a text, split, counted and sorted.
    fn string(&mut self, round: u64) {
        let text = self.text(6000).to_uppercase();
        let mut counts = HashMap::new();
        for word in text.split_whitespace() {
            *counts.entry(word.to_owned()).or_insert(round) += 1;
        }
        for (word, count) in counts.into_iter().collect::<BTreeMap<_, _>>() {
            word.bytes().for_each(|byte| self.mix(byte.into()));
            self.mix(count);
        }
    }

    fn text(&mut self, words: usize) -> String {
        const PARTS: [&str; 12] = ["wa", "sm", "ed", "ge", "po", "ds", "ku", "be", "let", "run", "con", "tain"];
        let mut text = String::new();
        for _ in 0..words {
            let random = self.random();
            for part in 0..=random % 3 {
                text.push_str(PARTS[((random >> (8 + 8 * part)) % 12) as usize]);
            }
            if random >> 60 == 0 {
                let _ = write!(text, "{}", (random >> 40) % 1000); // a String takes all
            }
            text.push(if random >> 59 & 1 == 1 { ' ' } else { '\n' });
        }
        text
    }

    /// A document is written, read, changed and written again.
    fn json(&mut self, round: u64) {
        let records: Vec<Record> = (0..300).map(|id| Record::new(id, self.random())).collect();
        let document = serde_json::to_string(&records).expect("records can be written");
        let mut tree: serde_json::Value = serde_json::from_str(&document).expect("what was written can be read");
        tree[0]["id"] = round.into();
        let again: Vec<Record> = serde_json::from_value(tree).expect("it is still a list of records");
        let again = serde_json::to_vec(&again).expect("records can be written");
        again.into_iter().for_each(|byte| self.mix(byte.into()));
    }

    /// SHA-256 over 256 KiB, round after round.
    fn hash(&mut self, round: u64) {
        let at = round as usize % self.data.len();
        self.data[at] = self.data[at].wrapping_add(1);
        for block in self.data.chunks_exact(64) {
            take_block(&mut self.digest, block);
        }
        self.mix(u64::from(self.digest[0]) << 32 | u64::from(self.digest[7]));
    }
}

fn queens(all: u32, columns: u32, left: u32, right: u32) -> u32 {
    if columns == all {
        return 1;
    }
    let (mut free, mut found) = (all & !(columns | left | right), 0);
    while free != 0 {
        let bit = free & free.wrapping_neg();
        free ^= bit;
        found += queens(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    found
}

#[derive(Clone, Copy)]
struct Body {
    place: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

const fn body(place: [f64; 3], speed: [f64; 3], mass: f64) -> Body {
    Body { place, speed, mass }
}

const BODIES: [Body; 5] = [
    body([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 39.5),
    body([4.8, -1.2, -0.1], [0.6, 2.8, -0.02], 0.038),
    body([8.3, 4.1, -0.4], [-1.0, 1.8, 0.008], 0.011),
    body([12.9, -15.1, -0.2], [1.1, 0.9, -0.01], 0.0017),
    body([15.4, -25.9, 0.2], [1.0, 0.6, -0.03], 0.002),
];

fn advance(bodies: &mut [Body; 5], step: f64) {
    for i in 0..bodies.len() {
        for j in i + 1..bodies.len() {
            let apart: [f64; 3] = std::array::from_fn(|axis| bodies[i].place[axis] - bodies[j].place[axis]);
            let square: f64 = apart.iter().map(|apart| apart * apart).sum();
            let pull = step / (square * square.sqrt());
            for (axis, apart) in apart.iter().enumerate() {
                bodies[i].speed[axis] -= apart * bodies[j].mass * pull;
                bodies[j].speed[axis] += apart * bodies[i].mass * pull;
            }
        }
    }
    for body in bodies {
        for axis in 0..3 {
            body.place[axis] += step * body.speed[axis];
        }
    }
}

fn steps_to_escape(real: f64, imaginary: f64) -> u64 {
    let (mut x, mut y, mut steps) = (0.0, 0.0, 0);
    while steps < 1000 && x * x + y * y < 4.0 {
        (x, y) = (x * x - y * y + real, 2.0 * x * y + imaginary);
        steps += 1;
    }
    steps
}

#[derive(Deserialize, Serialize)]
struct Record {
    id: u64,
    name: String,
    labels: HashMap<String, String>,
    ports: Vec<u16>,
}

impl Record {
    fn new(id: u64, random: u64) -> Self {
        let tier = if random % 2 == 1 { "front" } else { "back" };
        Self {
            id,
            name: format!("pod-{:x}", random >> 32),
            labels: [("text".to_owned(), format!("a \"quoted\" {tier}"))].into(),
            ports: vec![random as u16, (random >> 16) as u16, (random >> 24) as u16],
        }
    }
}

#[rustfmt::skip]
const CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];
#[rustfmt::skip]
const DIGEST: [u32; 8] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
];

fn take_block(digest: &mut [u32; 8], block: &[u8]) {
    let mut words = [0_u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    for at in 16..64 {
        let (old, late) = (words[at - 15], words[at - 2]);
        let old = old.rotate_right(7) ^ old.rotate_right(18) ^ old >> 3;
        let late = late.rotate_right(17) ^ late.rotate_right(19) ^ late >> 10;
        words[at] = words[at - 16].wrapping_add(words[at - 7]).wrapping_add(old).wrapping_add(late);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *digest;
    for (constant, word) in CONSTANTS.iter().zip(words) {
        let one = (e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add((e & f) ^ (!e & g))
            .wrapping_add(h)
            .wrapping_add(*constant)
            .wrapping_add(word);
        let two = (a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22)).wrapping_add((a & b) ^ (a & c) ^ (b & c));
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(one), c, b, a, one.wrapping_add(two));
    }
    for (word, add) in digest.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(add);
    }
}
