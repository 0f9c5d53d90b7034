//! Asks the name server of `DNS_SERVER` itself, over TCP, for the addresses of a name, as crates do that cannot ask the engine.

use std::net::{Ipv4Addr, SocketAddr};
use std::{env, error::Error, process};

use wasmedge_wasi_socket::{resolve, TcpStream};

fn main() {
    let name = env::args().nth(1).unwrap_or_default();
    let server = env::var("DNS_SERVER").unwrap_or_else(|_| "8.8.8.8:53".to_owned());
    if let Err(error) = ask(&server, &name) {
        eprintln!("ask: {server}: {error}");
        process::exit(1);
    }
}

fn ask(server: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = server.parse()?;
    for ip in resolve::<_, Ipv4Addr>(&mut TcpStream::connect(address)?, name)? {
        println!("{server} says {ip}");
    }
    Ok(())
}
