//! The packet socket: sees each packet that reaches a network namespace, and nothing that leaves it.
#![allow(unsafe_code, reason = "packet sockets and `recvmmsg` are in no safe library")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How many packets are received at once.
const BATCH: usize = 64;
/// The longest packet: merged segments have up to 64 kB, or more where the kernel is told so.
const MAX_PACKET: usize = 128 * 1024;
/// How much the kernel keeps until it is received. It takes memory only while there is something to keep.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;

/// A packet socket in one network namespace.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PacketSocket {
    /// A socket in the calling thread's namespace, which receives nothing before [`PacketSocket::start`].
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes no pointers, and a descriptor that it returns belongs to nobody else.
        let socket = unsafe {
            let fd = checked(libc::socket(libc::AF_PACKET, kind, 0))?;
            Self(OwnedFd::from_raw_fd(fd))
        };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1)?;
        let forced = socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER);
        forced.or_else(|_| socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER))?;
        Ok(socket)
    }

    /// Lets packets in from now on, on all interfaces.
    pub fn start(&self) -> io::Result<()> {
        let protocol = u16::try_from(libc::ETH_P_ALL).expect("it is a protocol's number");
        // SAFETY: all bytes zero is an address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("it is a small number");
        address.sll_protocol = protocol.to_be();
        let length = size_of_val(&address);
        // SAFETY: the pointer is to an address of that length, which outlives the call.
        let bound = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length_of(length)) };
        checked(bound).map(drop)
    }

    /// Receives what there is, as much as the batch holds and is asked for, and says how many packets that is.
    pub fn receive(&self, batch: &mut Batch, at_most: usize) -> io::Result<usize> {
        batch.received = 0;
        let count = batch.headers.len().min(at_most);
        let count = libc::c_uint::try_from(count).expect("a batch is small");
        // The length that is reported is the packet's, also where the buffer is shorter.
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: each header points to one vector, and that to a buffer of the length it says; the batch owns them all.
        let received = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                batch.headers.as_mut_ptr(),
                count,
                flags,
                ptr::null_mut(),
            )
        };
        match checked(received) {
            Ok(count) => batch.received = usize::try_from(count).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An interface went down. That is told once, and those that are up go on.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => return Err(error),
        }
        Ok(batch.received)
    }

    /// Waits until something can be received, but not for longer than this. Says whether it can.
    pub fn wait(&self, at_most: Duration) -> bool {
        let mut sockets = [PollFd::new(self, PollFlags::IN)];
        let at_most = Timespec::try_from(at_most).ok();
        poll(&mut sockets, at_most.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// How many packets were dropped since this was last asked.
    pub fn dropped(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = length_of(size_of_val(&statistics));
        // SAFETY: the pointers are to a structure and its length, which outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        checked(result).map(|_| statistics.tp_drops.into())
    }

    /// Sets an option of the socket.
    pub fn set_option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        set_option(self.as_fd(), level, name, value)
    }
}

/// Sets an option of a socket.
pub fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = length_of(size_of::<T>());
    // SAFETY: the pointer is to a value of that length, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            length,
        )
    };
    checked(result).map(drop)
}

fn length_of(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).expect("it is a small structure's length")
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Room for packets, used again and again. Only what was once filled takes memory.
pub struct Batch {
    buffers: Vec<u8>,
    headers: Vec<libc::mmsghdr>,
    received: usize,
    /// The headers point into it.
    _vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers in it are to what it owns.
unsafe impl Send for Batch {}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Default for Batch {
    fn default() -> Self {
        let mut buffers = vec![0_u8; BATCH * MAX_PACKET];
        let vector = |buffer: &mut [u8]| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut vectors: Vec<_> = buffers.chunks_mut(MAX_PACKET).map(vector).collect();
        let header = |vector: &mut libc::iovec| {
            // SAFETY: all bytes zero is a header with nothing in it.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        let headers = vectors.iter_mut().map(header).collect();
        Self {
            buffers,
            headers,
            received: 0,
            _vectors: vectors,
        }
    }
}

impl Batch {
    /// How many packets it holds at most.
    pub const SIZE: usize = BATCH;

    /// The packets that were received last, each with its length on the wire.
    pub fn packets(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let buffers = self.buffers.chunks(MAX_PACKET);
        buffers
            .zip(&self.headers[..self.received])
            .map(|(buffer, header)| {
                let length = header.msg_len as usize;
                (&buffer[..length.min(buffer.len())], length)
            })
    }
}
