//! Uses WasmEdge's sockets.
//!
//! `sockets loop PORT` listens, connects to itself, and sends a line through; `sockets resolve NAME` says what
//! address the name has, and `sockets resolve NAME SERVICE` also the port of the service.

use std::io::{self, BufRead, BufReader, Write};
use std::{env, process};

use wasmedge_wasi_socket::{nslookup, Shutdown, TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["loop", port] => send_to_self(&format!("127.0.0.1:{port}")),
        ["resolve", name] => resolve(name),
        ["resolve", name, service] => resolve_service(name, service),
        _ => {
            eprintln!("usage: sockets loop PORT | sockets resolve NAME [SERVICE]");
            process::exit(2);
        }
    }
}

fn send_to_self(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address, false)?;
    let mut client = TcpStream::connect(address)?;
    let (server, _) = listener.accept(false)?;
    client.write_all(b"a line through a socket\n")?;
    client.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(server).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

fn resolve(name: &str) -> io::Result<()> {
    for address in nslookup(name, "")? {
        println!("{}", address.ip());
    }
    Ok(())
}

fn resolve_service(name: &str, service: &str) -> io::Result<()> {
    for address in nslookup(name, service)? {
        println!("{address}");
    }
    Ok(())
}
