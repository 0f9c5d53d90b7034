//! An HTTP server on WasmEdge's sockets, for many clients at once in one thread: `server ADDRESS`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `hello from` and the value of `NAME` in the environment |
//! | `GET /file/PATH` | the file's content |
//! | `PUT /file/PATH` | 201 when the body has been written to the file |
//! | `GET /from/HOST:PORT/PATH` | what another server answers to `GET /PATH` |
//!
//! What fails is answered with 500 and the error's text.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::{env, fs, process};

use wasmedge_wasi_socket::poll::{poll, EventType, Subscription};
use wasmedge_wasi_socket::{TcpListener, TcpStream};

const LISTENER: u64 = u64::MAX;

fn main() {
    let address = env::args().nth(1).unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    if let Err(error) = serve(&address) {
        eprintln!("server: {address}: {error}");
        process::exit(1);
    }
}

fn serve(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address, true)?;
    println!("listening on {address}");
    let mut clients = HashMap::new();
    for number in 0.. {
        let ready = wait(&listener, &clients)?;
        for client in ready.iter().filter(|&&id| id != LISTENER) {
            let done = clients.get_mut(client).map_or(true, Client::proceed);
            if done {
                clients.remove(client);
            }
        }
        if ready.contains(&LISTENER) {
            match listener.accept(true) {
                Ok((stream, _)) => drop(clients.insert(number, Client { stream, received: Vec::new() })),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Waits until something can be read, and says from whom.
fn wait(listener: &TcpListener, clients: &HashMap<u64, Client>) -> io::Result<Vec<u64>> {
    let mut waits = vec![Subscription::io(LISTENER, listener, true, false, None)];
    waits.extend(clients.iter().map(|(&id, client)| Subscription::io(id, &client.stream, true, false, None)));
    let events = poll(&waits)?;
    Ok(events
        .into_iter()
        .filter(|event| !matches!(event.event_type, EventType::Timeout | EventType::Write))
        .map(|event| event.userdata)
        .collect())
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Takes what has come, and answers once the request is whole. True when there is no more to be done.
    fn proceed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(size) => self.received.extend_from_slice(&buffer[..size]),
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
        let Some(request) = Request::whole(&self.received) else { return false };
        let (status, body) = match request.answer() {
            Ok((status, body)) => (status, body),
            Err(error) => ("500 Internal Server Error", error.to_string().into_bytes()),
        };
        if let Err(error) = self.send(status, &body) {
            eprintln!("server: cannot answer: {error}");
        }
        true
    }

    fn send(&mut self, status: &str, body: &[u8]) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        write!(self.stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        self.stream.write_all(body)
    }
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The request, if all of it is there.
    fn whole(bytes: &'a [u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let body = &bytes[end + 4..];
        let mut lines = head.lines();
        let mut words = lines.next()?.split(' ');
        let length = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse().unwrap_or(0));
        Some(Self { method: words.next()?, path: words.next()?, body: body.get(..length)? })
    }

    fn answer(&self) -> io::Result<(&'static str, Vec<u8>)> {
        let (first, rest) = self.path[1..].split_once('/').unwrap_or((&self.path[1..], ""));
        match (self.method, first) {
            ("GET", "") => Ok(("200 OK", format!("hello from {}\n", env::var("NAME").unwrap_or_default()).into())),
            ("GET", "file") => Ok(("200 OK", fs::read(format!("/{rest}"))?)),
            ("PUT", "file") => Ok(("201 Created", fs::write(format!("/{rest}"), self.body).map(|()| Vec::new())?)),
            ("GET", "from") => Ok(("200 OK", get(rest)?)),
            _ => Ok(("404 Not Found", Vec::new())),
        }
    }
}

/// What the server of `HOST:PORT/PATH` answers.
fn get(url: &str) -> io::Result<Vec<u8>> {
    let (address, path) = url.split_once('/').unwrap_or((url, ""));
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok(answer.split_off(end + 4))
}
