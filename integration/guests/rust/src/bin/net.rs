//! Says what a guest's sockets do.
//!
//! | call | what it does and prints |
//! |---|---|
//! | `net tcp ADDRESS` | listens there, connects to itself, sends a line through |
//! | `net udp ADDRESS OTHER` | sends a datagram from a socket to another and back |
//! | `net open` | opens a socket of each kind |
//! | `net resolve NAME 4` (or `6`) | the addresses that the engine's own `getaddrinfo` has for the name |
//! | `net connect ADDRESS` | connects, and says to which address |

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::{env, process};

use wasmedge_wasi_socket::socket::{AddressFamily, Socket, SocketType, WasiAddress, WasiAddrinfo};
use wasmedge_wasi_socket::{Shutdown, TcpListener, TcpStream, UdpSocket};

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["connect", address] => connect(address),
        ["open"] => open(),
        ["resolve", name, "4"] => resolve(name, AddressFamily::Inet4),
        ["resolve", name, "6"] => resolve(name, AddressFamily::Inet6),
        ["tcp", address] => tcp(address),
        ["udp", address, other] => udp(address, other),
        _ => {
            eprintln!("usage: net connect|open|resolve|tcp|udp ARGUMENT...");
            process::exit(2);
        }
    };
    if let Err(error) = done {
        eprintln!("net: {}: {error}", arguments.join(" "));
        process::exit(1);
    }
}

fn tcp(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address, false)?;
    let mut client = connected(address)?;
    let (server, _) = listener.accept(false)?;
    client.write_all(b"a line through TCP\n")?;
    client.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(server).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

/// There and back. The sockets know each other's address, since the crate reports another one than the sender's.
fn udp(address: &str, other: &str) -> io::Result<()> {
    let (here, there) = (UdpSocket::bind(address)?, UdpSocket::bind(other)?);
    let mut buffer = [0; 64];
    here.send_to(b"a datagram", other)?;
    let size = there.as_ref().recv(&mut buffer)?;
    there.send_to(&buffer[..size], address)?;
    let size = here.as_ref().recv(&mut buffer)?;
    println!("{} and back", String::from_utf8_lossy(&buffer[..size]));
    Ok(())
}

fn open() -> io::Result<()> {
    for kind in [SocketType::Stream, SocketType::Datagram] {
        for family in [AddressFamily::Inet4, AddressFamily::Inet6] {
            Socket::new(family, kind)?;
            println!("{kind:?} {family:?}");
        }
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<()> {
    connected(address)?;
    println!("connected to {address}");
    Ok(())
}

/// As the crate's `TcpStream::connect`, which has no IPv6.
fn connected(address: &str) -> io::Result<TcpStream> {
    let Ok(SocketAddr::V6(six)) = address.parse() else { return TcpStream::connect(address) };
    let socket = Socket::new(AddressFamily::Inet6, SocketType::Stream)?;
    let bytes = six.ip().octets();
    let place = WasiAddress { buf: bytes.as_ptr(), size: bytes.len() };
    // SAFETY: WasmEdge only reads the address, which outlives the call.
    match unsafe { sock_connect(socket.as_raw_fd(), &place, six.port().into()) } {
        0 => Ok(socket.into()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
extern "C" {
    fn sock_connect(socket: i32, address: *const WasiAddress, port: u32) -> i32;
}

fn resolve(name: &str, family: AddressFamily) -> io::Result<()> {
    let hints = WasiAddrinfo { ai_family: family, ..WasiAddrinfo::default() };
    let (mut addresses, mut bytes, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let found = WasiAddrinfo::get_addrinfo(name, "", &hints, 10, &mut addresses, &mut bytes, &mut names)?;
    let found = addresses.iter().zip(&bytes).take(found.len());
    found.filter_map(|(address, bytes)| ip(address.family, bytes)).for_each(|ip| println!("{ip}"));
    Ok(())
}

/// The engine gives what lies in a socket address behind the family: the port, with IPv6 the flow, the address.
fn ip(family: AddressFamily, bytes: &[u8; 26]) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[2..6]).ok()?).into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[6..22]).ok()?).into()),
        AddressFamily::Unspec => None,
    }
}
