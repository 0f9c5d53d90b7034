//! Says what it sees: `look streams` of its standard streams, `look write PATH...` of places to write to, `look read PATH...`.

use std::io::{self, IsTerminal};
use std::{env, fs, process};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let paths = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("read") => paths.iter().for_each(|path| say(path, fs::read_to_string(path))),
        Some("streams") => streams(),
        Some("write") => paths.iter().for_each(|path| say(path, fs::write(path, "written\n").map(|()| "written\n".into()))),
        _ => {
            eprintln!("usage: look read|streams|write [PATH...]");
            process::exit(2);
        }
    }
}

fn say(path: &str, done: io::Result<String>) {
    match done {
        Ok(text) => println!("{path}: {}", text.trim_end()),
        Err(error) => println!("{path}: {}", error.to_string().split(" (os").next().unwrap_or_default()),
    }
}

fn streams() {
    let terminal = |is| if is { "a terminal" } else { "no terminal" };
    println!("stdin is {}", terminal(io::stdin().is_terminal()));
    println!("stdout is {}", terminal(io::stdout().is_terminal()));
    eprintln!("stderr is {}", terminal(io::stderr().is_terminal()));
}
