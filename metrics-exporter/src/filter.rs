//! Keeps what need not be looked at in the kernel: a program for its packet filter, or a plainer one where it takes no programs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use aya::EbpfLoader;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::SocketFilter;
use tracing::debug;

use crate::classic;
use crate::connections::{Before, Skip};
use crate::packet::Flow;

/// What `bpf/build.sh` makes of `bpf/filter.bpf.c`.
static PROGRAM: &[u8] = aya::include_bytes_aligned!("../bpf/filter.bpf.o");
/// The ports of one word in the program's map of ports.
const WORD: u16 = 64;
/// Where the words that the exporter sets begin, and the one that says that it has.
const FOUND: u32 = 65_536 / 64;
const HAS_LOOKED: u32 = 2 * FOUND;

/// Which filters may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The better one, or where the kernel does not take it the plain one.
    #[default]
    Auto,
    /// The plain one, which every kernel takes. Bodies and answers to the pod are then received, to be passed over.
    Classic,
}

/// Makes filters.
#[derive(Debug)]
pub struct Filters {
    choice: Choice,
    loader: EbpfLoader<'static>,
}

/// A filter at work on a socket.
#[derive(Debug)]
pub enum Filter {
    /// The plain one.
    Classic,
    /// The program.
    Program(Box<Program>),
}

/// The program's maps. It stays loaded as long as the socket.
pub struct Program {
    listening: Array<MapData, u64>,
    skipped: HashMap<MapData, [u8; 36], [u8; 8]>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// Why the program is not used.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("load it")]
    Load(#[from] aya::EbpfError),
    #[error("take its maps")]
    Map(#[from] aya::maps::MapError),
    #[error("{0} is not in it")]
    Missing(&'static str),
    #[error("use it")]
    Program(#[from] aya::programs::ProgramError),
}

impl Filters {
    /// Gets ready to attach filters.
    pub fn new(choice: Choice) -> Self {
        // Reads all types of the kernel, which the program does not use, and which take a while: this is done once.
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Self { choice, loader }
    }

    /// Has a socket receive only what passes a filter.
    pub fn attach(&mut self, socket: BorrowedFd<'_>) -> std::io::Result<Filter> {
        if self.choice == Choice::Auto {
            match Program::attach(&mut self.loader, socket) {
                Ok(program) => return Ok(Filter::Program(Box::new(program))),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    let meaning = "the kernel does not take the program, and gets a plain filter";
                    debug!(error, "{meaning}");
                }
            }
        }
        classic::attach(socket)?;
        Ok(Filter::Classic)
    }
}

impl Filter {
    /// Its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Program(_) => "program",
        }
    }

    /// Says what was there before the socket was.
    pub fn looked(&mut self, before: &Before) {
        if let Self::Program(program) = self
            && let Err(error) = program.set_listening(&before.listening)
        {
            debug!(%error, "the filter lets all ports through");
        }
    }

    /// Says what of a connection need not be received. It may be received all the same.
    pub fn skip(&mut self, skip: &Skip) {
        let Self::Program(program) = self else {
            return;
        };
        let key = key(&skip.flow);
        let result = if skip.length == 0 {
            program.skipped.remove(&key)
        } else {
            let mut span = [0; 8];
            span[..4].copy_from_slice(&skip.start.to_ne_bytes());
            span[4..].copy_from_slice(&skip.length.to_ne_bytes());
            program.skipped.insert(key, span, 0)
        };
        if let Err(error) = result {
            debug!(%error, "a body is not skipped"); // there are many, or it is gone already
        }
    }
}

impl Program {
    fn attach(loader: &mut EbpfLoader<'_>, socket: BorrowedFd<'_>) -> Result<Self, Refused> {
        let mut object = loader.load(PROGRAM)?;
        let program = object.program_mut("filter").ok_or(Refused::Missing("filter"))?;
        let program: &mut SocketFilter = program.try_into()?;
        program.load()?;
        program.attach(socket.as_fd())?;
        let mut map = |name| object.take_map(name).ok_or(Refused::Missing(name));
        Ok(Self {
            listening: Array::try_from(map("listening")?)?,
            skipped: HashMap::try_from(map("skipped")?)?,
        })
    }

    fn set_listening(&mut self, ports: &[u16]) -> Result<(), aya::maps::MapError> {
        let mut words = BTreeMap::<u32, u64>::new();
        for port in ports {
            *words.entry(FOUND + u32::from(port / WORD)).or_default() |= 1 << (port % WORD);
        }
        for (index, word) in words {
            self.listening.set(index, word, 0)?;
        }
        self.listening.set(HAS_LOOKED, 1, 0)
    }
}

/// A connection as the program has it: addresses, then ports, as they are in packets.
fn key(flow: &Flow) -> [u8; 36] {
    let mut key = [0; 36];
    key[..16].copy_from_slice(&flow.from.address.octets());
    key[16..32].copy_from_slice(&flow.to.address.octets());
    key[32..34].copy_from_slice(&flow.from.port.to_be_bytes());
    key[34..].copy_from_slice(&flow.to.port.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{self, examples};
    use std::os::unix::net::UnixDatagram;

    /// A pair of sockets of which one has the filter.
    fn filtered() -> (UnixDatagram, UnixDatagram, Filter) {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        let filter = Filters::new(Choice::Auto).attach(receiver.as_fd()).unwrap();
        assert_eq!(filter.name(), "program", "loading programs needs root");
        (sender, receiver, filter)
    }

    fn is_kept(sender: &UnixDatagram, receiver: &UnixDatagram, packet: &[u8]) -> bool {
        sender.send(packet).unwrap();
        receiver.recv(&mut [0; 2048]).is_ok()
    }

    #[test]
    #[ignore = "needs root"]
    fn it_keeps_what_holds_data_or_begins_or_ends_a_connection() {
        let (sender, receiver, _filter) = filtered();
        for example in examples::all() {
            let is_kept = is_kept(&sender, &receiver, &example.packet);
            assert_eq!(is_kept, example.matters, "{}", example.what);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn data_for_ports_that_are_not_listened_on_are_dropped() {
        let (sender, receiver, mut filter) = filtered();
        let data = examples::ipv4(&examples::tcp(0x18, 0, b"HTTP/1.1 200 OK"));
        assert!(is_kept(&sender, &receiver, &data));
        filter.looked(&Before::default());
        assert!(!is_kept(&sender, &receiver, &data));
        let syn_ack = examples::ipv4(&examples::tcp(0x12, 0, b""));
        assert!(!is_kept(&sender, &receiver, &syn_ack) && !is_kept(&sender, &receiver, &data));
        let listening = vec![8080];
        filter.looked(&Before {
            listening,
            ..Before::default()
        });
        assert!(is_kept(&sender, &receiver, &data));

        let (sender, receiver, mut filter) = filtered();
        filter.looked(&Before::default());
        assert!(is_kept(
            &sender,
            &receiver,
            &examples::ipv4(&examples::tcp(0x02, 0, b""))
        ));
        assert!(is_kept(&sender, &receiver, &data));
    }

    #[test]
    #[ignore = "needs root"]
    fn spans_are_skipped_whole_or_not_at_all() {
        let (sender, receiver, mut filter) = filtered();
        for packet in [
            examples::ipv4(&examples::tcp(0x18, 0, b"0123456789")), // number 7 to 16
            examples::ipv6(6, &examples::tcp(0x18, 0, b"0123456789")),
        ] {
            let flow = packet::parse(&packet, packet.len()).unwrap().flow;
            let mut kept_with = |start, length| {
                filter.skip(&Skip { flow, start, length });
                is_kept(&sender, &receiver, &packet)
            };
            assert!(!kept_with(7, 10));
            assert!(!kept_with(u32::MAX - 100, 1 << 29));
            for (start, length) in [(8, 100), (7, 9), (17, 1 << 29), (0, 0)] {
                assert!(kept_with(start, length), "{start} {length}");
            }
            assert!(!kept_with(7, 10));
            let syn = [
                &packet[..packet.len() - 10 - 7],
                &[0x02],
                &packet[packet.len() - 10 - 6..],
            ]
            .concat();
            assert!(is_kept(&sender, &receiver, &syn));
            assert!(
                is_kept(&sender, &receiver, &packet),
                "a new connection is not the old one"
            );
        }
    }
}
