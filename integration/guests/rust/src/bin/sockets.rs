//! Uses WasmEdge's sockets: listens, connects to itself, and sends a line through.

use std::io::{BufRead, BufReader, Write};

use wasmedge_wasi_socket::{Shutdown, TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080", false)?;
    let mut client = TcpStream::connect("127.0.0.1:8080")?;
    let (server, from) = listener.accept(false)?;
    client.write_all(b"a line through a socket\n")?;
    client.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(server).read_line(&mut line)?;
    println!("from {}: {}", from.ip(), line.trim_end());
    Ok(())
}
