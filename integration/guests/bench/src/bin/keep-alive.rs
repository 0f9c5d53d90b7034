//! An HTTP server in one thread that keeps connections open: `keep-alive ADDRESS`. Answers `GET PATH` with a greeting. The same
//! for native code, on the kernel's sockets and `poll`, and for WebAssembly, on WasmEdge's.

use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;

use net::{Listener, Ready, Stream};

fn main() -> ExitCode {
    let address = std::env::args().nth(1).unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keep-alive: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> io::Result<()> {
    let listener = Listener::bind(address)?;
    println!("listening on {address}");
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let ready = Ready::wait(&listener, clients.iter().map(|client| &client.stream))?;
        // From the end, so that a removal moves none that is still to come.
        for &number in ready.streams.iter().rev() {
            if clients[number].proceed().is_err() {
                clients.swap_remove(number);
            }
        }
        if ready.listener {
            let stream = listener.accept()?;
            clients.push(Client { stream, received: Vec::new() });
        }
    }
}

struct Client {
    stream: Stream,
    received: Vec<u8>,
}

impl Client {
    /// Takes what has come, and answers all requests that are whole. An error ends the connection.
    fn proceed(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            size => self.received.extend_from_slice(&buffer[..size]),
        }
        while let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n") {
            let answer = answer(&self.received[..end]);
            self.received.drain(..end + 4);
            self.stream.write_all(&answer)?;
        }
        Ok(())
    }
}

fn answer(head: &[u8]) -> Vec<u8> {
    let head = String::from_utf8_lossy(head);
    let mut words = head.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => ("200 OK", format!("hello from {path}\n")),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[cfg(unix)]
mod net {
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    pub type Stream = TcpStream;

    pub struct Listener(TcpListener);

    impl Listener {
        pub fn bind(address: &str) -> io::Result<Self> {
            TcpListener::bind(address).map(Self)
        }

        pub fn accept(&self) -> io::Result<Stream> {
            Ok(self.0.accept()?.0)
        }
    }

    /// What can be read.
    pub struct Ready {
        pub listener: bool,
        pub streams: Vec<usize>,
    }

    impl Ready {
        pub fn wait<'a>(listener: &Listener, streams: impl Iterator<Item = &'a Stream>) -> io::Result<Self> {
            let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut waits = vec![wait(listener.0.as_raw_fd())];
            waits.extend(streams.map(|stream| wait(stream.as_raw_fd())));
            // SAFETY: the kernel writes to as many entries as there are.
            if unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, -1) } < 0 {
                return Err(io::Error::last_os_error());
            }
            let ready = |wait: &libc::pollfd| wait.revents != 0;
            let streams = (0..waits.len() - 1).filter(|&number| ready(&waits[number + 1]));
            Ok(Self { listener: ready(&waits[0]), streams: streams.collect() })
        }
    }
}

#[cfg(target_os = "wasi")]
mod net {
    use std::io;

    use wasmedge_wasi_socket::poll::{poll, Subscription};
    use wasmedge_wasi_socket::{TcpListener, TcpStream};

    pub type Stream = TcpStream;

    pub struct Listener(TcpListener);

    impl Listener {
        pub fn bind(address: &str) -> io::Result<Self> {
            TcpListener::bind(address, false).map(Self)
        }

        pub fn accept(&self) -> io::Result<Stream> {
            Ok(self.0.accept(false)?.0)
        }
    }

    /// What can be read.
    pub struct Ready {
        pub listener: bool,
        pub streams: Vec<usize>,
    }

    impl Ready {
        pub fn wait<'a>(listener: &Listener, streams: impl Iterator<Item = &'a Stream>) -> io::Result<Self> {
            let mut waits = vec![Subscription::io(0, &listener.0, true, false, None)];
            waits.extend(streams.zip(1..).map(|(stream, number)| Subscription::io(number, stream, true, false, None)));
            let mut ready: Vec<_> = poll(&waits)?.iter().map(|event| event.userdata as usize).collect();
            ready.sort_unstable();
            ready.dedup();
            let listener = ready.first() == Some(&0);
            let streams = ready.into_iter().filter_map(|number| number.checked_sub(1));
            Ok(Self { listener, streams: streams.collect() })
        }
    }
}
