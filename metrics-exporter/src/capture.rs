//! Looks at the traffic of pods: one packet socket in each pod's network namespace, and one thread that reads them all.
//!
//! The thread wakes up some times a second, however much traffic there is, and finds all of it in the sockets' buffers: waking
//! up costs more than reading a packet. Joining a namespace and reading what was there before can take a while, so it is
//! done in another thread.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, info, warn};

use crate::connections::{Before, Connections};
use crate::counts::{Pod, Table};
use crate::exclude::Rules;
use crate::filter::{Choice, Filter, Filters};
use crate::listening;
use crate::packet::{self, NoSegment};
use crate::socket::{Batch, PacketSocket};
use crate::tally::Tally;

/// How often sockets are read at most.
const TICK: Duration = Duration::from_millis(50);
/// The same when there is much to read, so that the sockets' buffers do not fill up.
const BUSY_TICK: Duration = Duration::from_millis(10);
/// How many packets in one look are much.
const BUSY: usize = 1_000;
/// How long the thread sleeps when nothing comes.
const IDLE_TICK: Duration = Duration::from_millis(250);
/// How often waiting segments and idle connections are looked at.
const EXPIRY: Duration = Duration::from_millis(500);
/// How many batches are read of one pod before it is another's turn.
const BATCHES: usize = 16;
/// The event that says that there is an order, where a pod's would have its number.
const ORDERS: u64 = u64::MAX;

/// What looks at the traffic of pods.
#[derive(Clone, Debug)]
pub struct Capture {
    requests: Sender<Request>,
}

/// Which namespace: its file's device and inode, which nothing else has while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// What is asked of the thread that joins namespaces.
enum Request {
    Attach {
        sandbox: String,
        namespace: PathBuf,
        pod: Arc<Pod>,
    },
    Detach {
        sandbox: String,
    },
}

/// What that one asks of the thread that reads.
enum Order {
    Attach(Box<Tap>),
    Detach(String),
}

/// Traffic of one pod.
struct Tap {
    sandbox: String,
    namespace: Namespace,
    socket: PacketSocket,
    connections: Connections,
    filter: Filter,
    pod: Arc<Pod>,
    tally: Tally,
}

impl Capture {
    /// Starts the threads.
    pub fn start(table: Arc<Table>, rules: Rules, filter: Choice) -> io::Result<Self> {
        let (orders, given) = mpsc::channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let reader = Reading::new(table, rules, bell.clone(), given)?;
        thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || reader.run())?;
        let filters = Filters::new(filter);
        let (requests, asked) = mpsc::channel();
        thread::Builder::new()
            .name("attach".to_owned())
            .spawn(move || attach_as_asked(filters, &asked, &orders, &bell))?;
        Ok(Self { requests })
    }

    /// Begins to count for a pod what the network namespace at this path receives. Goes on under the new numbers if it already
    /// does. Whether it succeeds is seen at the pod.
    pub fn attach(&self, sandbox: &str, namespace: &Path, pod: Arc<Pod>) {
        let request = Request::Attach {
            sandbox: sandbox.to_owned(),
            namespace: namespace.to_owned(),
            pod,
        };
        self.ask(request);
    }

    fn ask(&self, request: Request) {
        if self.requests.send(request).is_err() {
            warn!("requests are no longer counted: the capturing thread has ended");
        }
    }

    /// Lets go of a pod's network namespace, after counting what has come until now.
    pub fn detach(&self, sandbox: &str) {
        let request = Request::Detach {
            sandbox: sandbox.to_owned(),
        };
        self.ask(request);
    }
}

fn attach_as_asked(mut filters: Filters, asked: &Receiver<Request>, orders: &Sender<Order>, bell: &OwnedFd) {
    for request in asked {
        let order = match request {
            Request::Attach {
                sandbox,
                namespace,
                pod,
            } => match tap(&mut filters, sandbox, &namespace, pod) {
                Ok(tap) => Order::Attach(Box::new(tap)),
                Err((pod, error)) => {
                    let identity = pod.identity();
                    let namespace = namespace.display();
                    warn!(pod = identity.name, %namespace, %error, "this pod's requests are not counted");
                    continue;
                }
            },
            Request::Detach { sandbox } => Order::Detach(sandbox),
        };
        if orders.send(order).is_err() {
            return;
        }
        if let Err(error) = rustix::io::write(bell, &1_u64.to_ne_bytes()) {
            debug!(%error, "the capturing thread is not woken up");
        }
    }
}

/// Opens a socket in a namespace.
fn tap(
    filters: &mut Filters,
    sandbox: String,
    path: &Path,
    pod: Arc<Pod>,
) -> Result<Tap, (Arc<Pod>, io::Error)> {
    let mut open = || {
        let file = File::open(path)?;
        let namespace = Namespace::of(&file)?;
        for own in ["/proc/self/ns/net", "/proc/1/ns/net"] {
            if File::open(own)
                .and_then(|file| Namespace::of(&file))
                .is_ok_and(|own| own == namespace)
            {
                return Err(io::Error::other("it is in the host's network namespace"));
            }
        }
        // What a thread joins goes with it.
        let (socket, filter, before) = thread::scope(|threads| {
            let joining = threads.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                open_here(filters)
            });
            joining
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("joining it panicked")))
        })?;
        Ok((namespace, socket, filter, before))
    };
    match open() {
        Err(error) => Err((pod, error)),
        Ok((namespace, socket, filter, before)) => Ok(Tap {
            filter,
            sandbox,
            namespace,
            socket,
            connections: Connections::new(before, Instant::now()),
            pod,
            tally: Tally::default(),
        }),
    }
}

/// Opens a socket in the thread's namespace. What is there before is read when the socket already receives, so that each connection
/// is in one of the two.
fn open_here(filters: &mut Filters) -> io::Result<(PacketSocket, Filter, Before)> {
    let socket = PacketSocket::open()?;
    let mut filter = filters.attach(socket.as_fd())?;
    socket.start()?;
    let before = listening::read()?;
    filter.looked(&before);
    Ok((socket, filter, before))
}

/// The thread that reads.
struct Reading {
    batch: Batch,
    bell: Arc<OwnedFd>,
    epoll: OwnedFd,
    expired: Instant,
    last_number: u64,
    orders: Receiver<Order>,
    /// How many were read in this look.
    packets: usize,
    rules: Rules,
    table: Arc<Table>,
    taps: HashMap<u64, Tap>,
}

impl Reading {
    fn new(table: Arc<Table>, rules: Rules, bell: Arc<OwnedFd>, orders: Receiver<Order>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &bell,
            epoll::EventData::new_u64(ORDERS),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            batch: Batch::default(),
            bell,
            epoll,
            expired: Instant::now(),
            last_number: 0,
            orders,
            packets: 0,
            rules,
            table,
            taps: HashMap::new(),
        })
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        let mut is_behind = false;
        loop {
            let wait = if is_behind { Duration::ZERO } else { IDLE_TICK };
            let wait = Timespec::try_from(wait).ok();
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                wait.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return warn!(%error, "capturing ends: it cannot wait for packets"),
            }
            let now = Instant::now();
            is_behind = false;
            self.packets = 0;
            for event in &events {
                match event.data.u64() {
                    ORDERS => self.obey(now),
                    number => is_behind |= self.read(number, now),
                }
            }
            self.expire(now);
            self.table.sampled(now);
            if !is_behind && !events.is_empty() {
                let tick = if self.packets < BUSY { TICK } else { BUSY_TICK };
                thread::sleep(tick.saturating_sub(now.elapsed()));
            }
        }
    }

    fn obey(&mut self, now: Instant) {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]); // it only has to be silent again
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Attach(tap) => self.attach(*tap),
                Order::Detach(sandbox) => self.detach(&sandbox, now),
            }
        }
    }

    fn attach(&mut self, tap: Tap) {
        let pod = tap.pod.identity();
        let mut known = self.taps.values_mut();
        if let Some(known) = known.find(|known| known.namespace == tap.namespace) {
            debug!(pod = pod.name, "it is counted already, and goes on");
            known.sandbox = tap.sandbox;
            known.tally.move_to(&known.pod);
            known.pod = tap.pod;
            known.pod.set_attached(true);
            return;
        }
        self.last_number += 1;
        let number = epoll::EventData::new_u64(self.last_number);
        if let Err(error) = epoll::add(&self.epoll, &tap.socket, number, epoll::EventFlags::IN) {
            warn!(pod = pod.name, %error, "this pod's requests are not counted");
            return;
        }
        info!(
            namespace = pod.namespace,
            pod = pod.name,
            container = pod.container,
            filter = tap.filter.name(),
            "counting requests"
        );
        tap.pod.set_attached(true);
        self.taps.insert(self.last_number, tap);
    }

    fn detach(&mut self, sandbox: &str, now: Instant) {
        let found = self.taps.iter().find(|(_, tap)| tap.sandbox == sandbox);
        let Some(number) = found.map(|(number, _)| *number) else {
            return;
        };
        while self.read(number, now) {}
        if let Some(tap) = self.taps.remove(&number) {
            if !self.taps.values().any(|other| Arc::ptr_eq(&other.pod, &tap.pod)) {
                tap.pod.set_attached(false);
            }
            let pod = tap.pod.identity();
            info!(
                namespace = pod.namespace,
                pod = pod.name,
                requests = tap.pod.total_requests(),
                "no longer counting"
            );
            // The kernel waits until nobody uses the socket any more, and other pods' packets would wait with it.
            thread::spawn(move || drop(tap));
        }
    }

    /// Reads what has come for a pod. Says whether there may be more.
    fn read(&mut self, number: u64, now: Instant) -> bool {
        let Some(tap) = self.taps.get_mut(&number) else {
            return false;
        };
        let mut is_more = true;
        for _ in 0..BATCHES {
            match tap.socket.receive(&mut self.batch) {
                Ok(received) => {
                    self.packets += received;
                    is_more = received == Batch::SIZE;
                }
                Err(error) => {
                    warn!(pod = tap.pod.identity().name, %error, "packets cannot be received");
                    is_more = false;
                    break;
                }
            }
            for (packet, length) in self.batch.packets() {
                tap.packet(packet, length, now, &self.rules);
            }
            tap.connections.skips().for_each(|skip| tap.filter.skip(&skip));
            if !is_more {
                break;
            }
        }
        tap.note_losses();
        tap.tally.move_to(&tap.pod);
        is_more
    }

    fn expire(&mut self, now: Instant) {
        if now.saturating_duration_since(self.expired) < EXPIRY {
            return;
        }
        self.expired = now;
        for tap in self.taps.values_mut() {
            tap.connections.expire(now, &self.rules, &mut tap.tally);
            tap.tally.move_to(&tap.pod);
        }
    }
}

impl Tap {
    fn packet(&mut self, packet: &[u8], length: usize, now: Instant, rules: &Rules) {
        match packet::parse(packet, length) {
            Ok(segment) => self.connections.segment(&segment, now, rules, &mut self.tally),
            Err(NoSegment::Fragment | NoSegment::Malformed) => self.tally.unparsed_bytes += length as u64,
            Err(NoSegment::Other) => {}
        }
    }

    fn note_losses(&mut self) {
        let dropped = self.socket.dropped().unwrap_or_default();
        if dropped == 0 {
            return;
        }
        let pod = self.pod.identity();
        warn!(
            namespace = pod.namespace,
            pod = pod.name,
            dropped,
            "packets were lost before they were counted"
        );
        self.pod.add_lost_packets(dropped);
        self.connections.missed_some();
    }
}
