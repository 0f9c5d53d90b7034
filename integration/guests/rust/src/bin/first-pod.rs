// hello.rs
use std::env;

fn main() {
    let name = env::args().nth(1).unwrap_or_else(|| "nobody".to_owned());
    println!("hello {name}, from {}", env::consts::ARCH);
    if name == "nobody" {
        std::process::exit(3);
    }
}
