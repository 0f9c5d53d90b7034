//! The program of `bpf/` in the kernel: loaded once for each pod, because that is how it knows the pod, with maps of which most are
//! shared by all; and the ring in which it leaves what has to be looked at.
#![allow(
    unsafe_code,
    reason = "loading a program with maps that it shares is in no safe library"
)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{Object, ParseError};

use crate::connections::Skip;
use crate::packet::Flow;
use crate::socket;

/// What `bpf/build.sh` makes of `bpf/filter.bpf.c`.
static PROGRAM: &[u8] = aya::include_bytes_aligned!("../bpf/filter.bpf.o");
const LICENCE: &std::ffi::CStr = c"Apache-2.0";
/// The ports of one word in a pod's map.
const WORD: u16 = 64;
// Where in a pod's map what is.
const FOUND: u32 = 65_536 / 64;
const HAS_LOOKED: u32 = 2 * FOUND;
const NUMBER: u32 = HAS_LOOKED + 1;
// Where in the map that pods share what is.
const OVERFLOWS: u32 = 0;
const RESTING: u32 = 1;
/// What is before a packet in the ring: the pod's number and the packet's length.
const RECORD_HEADER: usize = 8;

/// Why the program is not used.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be attached to a socket.
    #[error("attach it")]
    Attach(#[source] io::Error),
    /// The kernel does not load it.
    #[error("load it")]
    Load(#[source] io::Error),
    /// A map cannot be made or written.
    #[error("use its maps")]
    Map(#[from] MapError),
    /// The object is not what was expected.
    #[error("{0} is not in it")]
    Missing(&'static str),
    /// The object cannot be read.
    #[error("read it")]
    Parse(#[from] ParseError),
    /// The maps do not fit to the object.
    #[error("link it")]
    Relocate(#[from] EbpfRelocationError),
}

/// Loads programs.
#[derive(Debug)]
pub struct Loader {
    object: Object,
    shared: Vec<(&'static str, OwnedFd)>,
}

/// A program at work on a pod's socket. It stays loaded as long as the socket.
pub struct Program {
    pod: Array<MapData, u64>,
    /// Kept open so that the kernel's statistics of it can be found.
    _program: OwnedFd,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// What pods have received, in one order, and what of it they need not be asked for.
pub struct Ring {
    common: Array<MapData, u64>,
    is_resting: bool,
    overflows: u64,
    records: RingBuf<MapData>,
    skipped: HashMap<MapData, [u8; 40], [u8; 8]>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// What the ring holds of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A whole packet.
    Packet(&'a [u8]),
    /// The place of one that is in the pod's socket.
    Place,
}

impl Loader {
    /// Gets ready to load programs, and makes the ring that they share.
    pub fn new() -> Result<(Self, Ring), Refused> {
        lift_limit();
        let object = Object::parse(PROGRAM)?;
        let mut shared = Vec::new();
        let mut share = |name| {
            let map = create(&object, name)?;
            let fd = map.fd().as_fd().try_clone_to_owned();
            shared.push((name, fd.map_err(Refused::Load)?));
            Ok::<_, Refused>(map)
        };
        let ring = Ring {
            common: Array::try_from(Map::Array(share("common")?))?,
            is_resting: false,
            overflows: 0,
            records: RingBuf::try_from(Map::RingBuf(share("ring")?))?,
            skipped: HashMap::try_from(Map::HashMap(share("skipped")?))?,
        };
        Ok((Self { object, shared }, ring))
    }

    /// Loads one, and has a socket receive only what passes it.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> Result<Program, Refused> {
        let pod = create(&self.object, "pod")?;
        let program = self.load(pod.fd().as_fd())?;
        let fd: RawFd = program.as_raw_fd();
        socket::set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &fd).map_err(Refused::Attach)?;
        Ok(Program {
            pod: Array::try_from(Map::Array(pod))?,
            _program: program,
        })
    }

    fn load(&self, pod: BorrowedFd<'_>) -> Result<OwnedFd, Refused> {
        let mut object = self.object.clone();
        let shared = self.shared.iter().map(|(name, fd)| (*name, fd.as_raw_fd()));
        let maps = shared.chain([("pod", pod.as_raw_fd())]);
        let maps = maps.filter_map(|(name, fd)| Some((name, fd, self.object.maps.get(name)?)));
        object.relocate_maps(maps, &std::collections::HashSet::new())?;
        let program = object.programs.get("filter").ok_or(Refused::Missing("filter"))?;
        let function = object.functions.get(&program.function_key());
        let instructions = &function.ok_or(Refused::Missing("filter"))?.instructions;
        // SAFETY: all bytes zero is a request for nothing.
        let mut request: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: these are the fields of the request to load a program.
        let fields = unsafe { &mut request.__bindgen_anon_3 };
        fields.prog_type = bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32;
        fields.insns = instructions.as_ptr().addr() as u64;
        fields.insn_cnt = u32::try_from(instructions.len()).expect("it is a short program");
        fields.license = LICENCE.as_ptr().addr() as u64;
        // SAFETY: the request and what it points to outlive the call, and a descriptor that it returns belongs to nobody else.
        let loaded = unsafe {
            let size = size_of::<bpf_attr>();
            libc::syscall(
                libc::SYS_bpf,
                bpf_cmd::BPF_PROG_LOAD as libc::c_int,
                &raw mut request,
                size,
            )
        };
        match RawFd::try_from(loaded) {
            // SAFETY: see above.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(Refused::Load(io::Error::last_os_error())),
        }
    }
}

/// Kernels before 5.11 take what maps hold for locked memory, of which little is allowed.
fn lift_limit() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit outlives the call. Who may not lift it gets what is allowed.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

fn create(object: &Object, name: &'static str) -> Result<MapData, Refused> {
    let map = object.maps.get(name).ok_or(Refused::Missing(name))?;
    Ok(MapData::create(map.clone(), name, None)?)
}

impl Program {
    /// Says on which ports the pod was found to listen.
    pub fn set_listening(&mut self, ports: &[u16]) -> Result<(), MapError> {
        let mut words = BTreeMap::<u32, u64>::new();
        for port in ports {
            *words.entry(FOUND + u32::from(port / WORD)).or_default() |= 1 << (port % WORD);
        }
        for (index, word) in words {
            self.pod.set(index, word, 0)?;
        }
        self.pod.set(HAS_LOOKED, 1, 0)
    }

    /// Has the pod's packets put into the ring from now on, under this number.
    pub fn set_number(&mut self, number: u32) -> Result<(), MapError> {
        self.pod.set(NUMBER, u64::from(number), 0)
    }

    /// Whether they are. They no longer are from the first on that finds no room.
    pub fn has_number(&self) -> Result<bool, MapError> {
        Ok(self.pod.get(&NUMBER, 0)? != 0)
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

impl Ring {
    /// Hands over what the ring holds next, with the number of the pod, if there is something.
    pub fn next(&mut self, read: impl FnOnce(u32, Record<'_>)) -> bool {
        let Some(item) = self.records.next() else {
            return false;
        };
        if let Some((header, packet)) = item.split_first_chunk::<RECORD_HEADER>() {
            let word =
                |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let length = usize::try_from(word(4)).unwrap_or(usize::MAX);
            let record = match packet.get(..length) {
                Some([]) | None => Record::Place,
                Some(packet) => Record::Packet(packet),
            };
            read(word(0), record);
        }
        true
    }

    /// Whether some pod's packets found no room since this was last asked, and are left to its socket.
    pub fn has_overflowed(&mut self) -> bool {
        let overflows = self.common.get(&OVERFLOWS, 0).unwrap_or(self.overflows);
        std::mem::replace(&mut self.overflows, overflows) != overflows
    }

    /// Says whether its reader rests, and need not be woken up before there is much to read. Otherwise the first record does.
    pub fn set_resting(&mut self, resting: bool) {
        if self.is_resting != resting && self.common.set(RESTING, u64::from(resting), 0).is_ok() {
            self.is_resting = resting;
        }
    }

    /// Says what of a pod's connection need not be received. It may be received all the same.
    pub fn skip(&mut self, pod: u32, skip: &Skip) -> Result<(), MapError> {
        let key = key(pod, &skip.flow);
        if skip.length == 0 {
            return self.skipped.remove(&key);
        }
        let mut span = [0; 8];
        span[..4].copy_from_slice(&skip.start.to_ne_bytes());
        span[4..].copy_from_slice(&skip.length.to_ne_bytes());
        self.skipped.insert(key, span, 0)
    }
}

/// A connection as the program has it: the pod, then addresses, then ports, as they are in packets.
fn key(pod: u32, flow: &Flow) -> [u8; 40] {
    let mut key = [0; 40];
    key[..4].copy_from_slice(&pod.to_ne_bytes());
    key[4..20].copy_from_slice(&flow.from.address.octets());
    key[20..36].copy_from_slice(&flow.to.address.octets());
    key[36..38].copy_from_slice(&flow.from.port.to_be_bytes());
    key[38..].copy_from_slice(&flow.to.port.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{self, examples};
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use rustix::buffer::spare_capacity;
    use rustix::event::{Timespec, epoll};

    const POD: u32 = 7;

    /// A pair of sockets of which one has the program.
    struct Filtered {
        sender: UnixDatagram,
        receiver: UnixDatagram,
        program: Program,
        ring: Ring,
    }

    impl Filtered {
        fn new() -> Self {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            let (loader, ring) = Loader::new().expect("loading programs needs root");
            let program = loader.attach(receiver.as_fd()).unwrap();
            Self {
                sender,
                receiver,
                program,
                ring,
            }
        }

        fn is_left_to_the_socket(&self, packet: &[u8]) -> bool {
            self.sender.send(packet).unwrap();
            self.receiver.recv(&mut vec![0; 70_000]).is_ok()
        }

        /// What the ring holds.
        fn records(&mut self) -> Vec<(u32, Option<Vec<u8>>)> {
            let mut records = Vec::new();
            while self.ring.next(|pod, record| {
                records.push((
                    pod,
                    match record {
                        Record::Packet(packet) => Some(packet.to_vec()),
                        Record::Place => None,
                    },
                ));
            }) {}
            records
        }

        fn is_kept(&mut self, packet: &[u8]) -> bool {
            assert!(!self.is_left_to_the_socket(packet));
            let records = self.records();
            assert!(
                records.is_empty() || records == [(POD, Some(packet.to_vec()))],
                "{records:?}"
            );
            !records.is_empty()
        }
    }

    /// The same with the pod's packets in the ring.
    fn ringing() -> Filtered {
        let mut filtered = Filtered::new();
        filtered.program.set_number(POD).unwrap();
        filtered
    }

    #[test]
    #[ignore = "needs root"]
    fn it_keeps_what_holds_data_or_begins_or_ends_a_connection() {
        let mut without_number = Filtered::new();
        let mut filtered = ringing();
        for example in examples::all() {
            assert_eq!(
                without_number.is_left_to_the_socket(&example.packet),
                example.matters,
                "{}",
                example.what
            );
            assert_eq!(
                filtered.is_kept(&example.packet),
                example.matters,
                "{}",
                example.what
            );
        }
        assert_eq!(without_number.records(), []);
    }

    #[test]
    #[ignore = "needs root"]
    fn long_packets_are_left_to_the_socket_and_have_their_place_in_the_ring() {
        let mut filtered = ringing();
        for length in [1, 79, 80, 81, 207, 208, 463, 464, 975, 976, 1_400, 1_991, 1_992] {
            let packet = examples::ipv4(&examples::tcp(0x18, 0, &vec![b'x'; length]));
            assert!(filtered.is_kept(&packet), "{length}");
        }
        for length in [1_993, 2_000, 9_000, 60_000] {
            let packet = examples::ipv4(&examples::tcp(0x18, 0, &vec![b'x'; length]));
            assert!(filtered.is_left_to_the_socket(&packet), "{length}");
            assert_eq!(filtered.records(), [(POD, None)]);
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn who_rests_is_woken_up_by_much() {
        let mut filtered = ringing();
        let packet = examples::ipv4(&examples::tcp(0x18, 0, &[b'x'; 900]));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &filtered.ring, epoll::EventData::new_u64(0), edge).unwrap();
        let is_woken = || {
            let mut events = Vec::with_capacity(1);
            let at_most = Timespec::try_from(Duration::from_millis(20)).unwrap();
            epoll::wait(&epoll, spare_capacity(&mut events), Some(&at_most)).unwrap() > 0
        };
        filtered.sender.send(&packet).unwrap();
        assert!(is_woken() && !is_woken());
        filtered.records();
        filtered.ring.set_resting(true);
        for _ in 0..1_000 {
            filtered.sender.send(&packet).unwrap();
        }
        assert!(!is_woken());
        for _ in 0..50 {
            filtered.sender.send(&packet).unwrap();
        }
        assert!(is_woken());
        filtered.records();
        filtered.ring.set_resting(false);
        filtered.sender.send(&packet).unwrap();
        assert!(is_woken());
    }

    #[test]
    #[ignore = "needs root"]
    fn what_finds_no_room_is_left_to_the_socket_with_all_that_follows() {
        let mut filtered = ringing();
        let packet = examples::ipv4(&examples::tcp(0x18, 0, &[b'x'; 1_900]));
        let small = examples::ipv4(&examples::tcp(0x18, 0, b"x"));
        let mut kept = 0;
        while !filtered.is_left_to_the_socket(&packet) {
            kept += 1;
        }
        assert!((4_080..=4_096).contains(&kept), "{kept}");
        assert!(filtered.ring.has_overflowed() && !filtered.ring.has_overflowed());
        assert!(!filtered.program.has_number().unwrap());
        assert_eq!(filtered.records().len(), kept);
        assert!(filtered.is_left_to_the_socket(&packet) && filtered.is_left_to_the_socket(&small));
        filtered.program.set_number(POD).unwrap();
        assert!(filtered.is_kept(&packet) && filtered.is_kept(&small));
        assert!(!filtered.ring.has_overflowed());
    }

    #[test]
    #[ignore = "needs root"]
    fn data_for_ports_that_are_not_listened_on_are_dropped() {
        let data = examples::ipv4(&examples::tcp(0x18, 0, b"HTTP/1.1 200 OK"));
        let mut filtered = ringing();
        assert!(filtered.is_kept(&data));
        filtered.program.set_listening(&[]).unwrap();
        assert!(!filtered.is_kept(&data));
        let syn_ack = examples::ipv4(&examples::tcp(0x12, 0, b""));
        assert!(!filtered.is_kept(&syn_ack) && !filtered.is_kept(&data));
        filtered.program.set_listening(&[8080]).unwrap();
        assert!(filtered.is_kept(&data));

        let mut filtered = ringing();
        filtered.program.set_listening(&[]).unwrap();
        assert!(filtered.is_kept(&examples::ipv4(&examples::tcp(0x02, 0, b""))));
        assert!(filtered.is_kept(&data));
    }

    #[test]
    #[ignore = "needs root"]
    fn spans_are_skipped_whole_or_not_at_all() {
        let mut filtered = ringing();
        for packet in [
            examples::ipv4(&examples::tcp(0x18, 0, b"0123456789")), // number 7 to 16
            examples::ipv6(6, &examples::tcp(0x18, 0, b"0123456789")),
        ] {
            let flow = packet::parse(&packet, packet.len()).unwrap().flow;
            let kept_with = |filtered: &mut Filtered, pod, start, length| {
                let _ = filtered.ring.skip(pod, &Skip { flow, start, length }); // it may be gone already
                filtered.is_kept(&packet)
            };
            assert!(kept_with(&mut filtered, POD + 1, 7, 10), "that is another pod's");
            assert!(!kept_with(&mut filtered, POD, 7, 10));
            assert!(!kept_with(&mut filtered, POD, u32::MAX - 100, 1 << 29));
            for (start, length) in [(8, 100), (7, 9), (17, 1 << 29), (0, 0)] {
                assert!(kept_with(&mut filtered, POD, start, length), "{start} {length}");
            }
            assert!(!kept_with(&mut filtered, POD, 7, 10));
            let syn = [
                &packet[..packet.len() - 10 - 7],
                &[0x02],
                &packet[packet.len() - 10 - 6..],
            ]
            .concat();
            assert!(filtered.is_kept(&syn));
            assert!(filtered.is_kept(&packet), "a new connection is not the old one");
        }
    }
}
