//! Says what a Rust program sees of its container: arguments, environment, time, files.

use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io, process, thread};

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("env") => env::vars().for_each(|(name, value)| println!("{name}={value}")),
        Some("exit") => process::exit(arguments[2].parse().expect("an exit code")),
        Some("files") => files(&arguments[2], &arguments[3]).unwrap_or_else(|error| fail(&error)),
        Some("list") => list(&arguments[2]).unwrap_or_else(|error| fail(&error)),
        Some("panic") => panic!("on request"),
        Some("time") => time(),
        _ => {
            println!("hello from Rust");
            arguments.iter().enumerate().for_each(|(at, text)| println!("argv[{at}]={text}"));
            eprintln!("hello on stderr");
        }
    }
}

/// Copies a file, appends to the copy, renames it there and back, and reads it.
fn files(from: &str, to: &str) -> io::Result<()> {
    let text = fs::read_to_string(from)?;
    fs::write(to, format!("{text}and more\n"))?;
    let aside = format!("{to}.aside");
    fs::rename(to, &aside)?;
    fs::rename(&aside, to)?;
    print!("{}", fs::read_to_string(to)?);
    println!("{} bytes", fs::metadata(to)?.len());
    Ok(())
}

fn list(folder: &str) -> io::Result<()> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

fn time() {
    let (start, today) = (Instant::now(), SystemTime::now());
    thread::sleep(Duration::from_millis(50));
    assert!(start.elapsed() >= Duration::from_millis(50));
    let year = today.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() / 31_556_952 + 1970;
    println!("slept, in {year}");
}

fn fail(error: &io::Error) {
    eprintln!("rust-hello: {error}");
    process::exit(1);
}
