//! The thread that reads what pods have received: from the ring that they share, and from their sockets what is not there.
//!
//! It wakes up some times a second, however much traffic there is, and finds all of it: waking up costs more than reading a hundred
//! packets. It wakes up early where nothing has come for a while, where there is much to read, and where large packets fill a socket.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use tracing::{debug, info, warn};

use crate::connections::Connections;
use crate::counts::Pod;
use crate::exclude::Rules;
use crate::filter::Filter;
use crate::packet::{self, NoSegment};
use crate::program::{Record, Ring};
use crate::recent::Recent;
use crate::socket::{Batch, PacketSocket};
use crate::tally::Tally;

/// How often sockets are read that no ring stands in for.
const TICK: Duration = Duration::from_millis(50);
/// The same when there is much to read, so that their buffers do not fill up.
const BUSY_TICK: Duration = Duration::from_millis(10);
/// How many packets in one look are much.
const BUSY: usize = 1_000;
/// How long is rested at least.
const SHORTEST_REST: Duration = Duration::from_millis(2);
/// How often waiting segments and idle connections are looked at.
const EXPIRY: Duration = Duration::from_millis(500);
/// How many records are read of the ring before it is something else's turn.
const RECORDS: usize = 65_536;
/// How many batches are read of one pod's socket before it is another's turn.
const BATCHES: usize = 16;
/// How long a packet takes at most from the filter to the socket that keeps it.
const ON_ITS_WAY: Duration = Duration::from_millis(5);
/// The event that says that there is an order, where a pod's would have its number.
const ORDERS: u64 = u64::MAX;
/// The event that says that there is something in the ring.
const RING: u64 = u64::MAX - 1;

/// Which namespace: its file's device and inode, which nothing else has while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// The one that a file stands for.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// What is asked of the thread.
pub enum Order {
    /// To count what this lets through.
    Attach(Box<Tap>),
    /// To let go of a sandbox.
    Detach(String),
}

/// Traffic of one pod.
pub struct Tap {
    sandbox: String,
    namespace: Namespace,
    socket: PacketSocket,
    connections: Connections,
    filter: Filter,
    /// Something may be in the socket that has no place in the ring.
    has_leftovers: bool,
    /// It was read from since its numbers were last published.
    is_fresh: bool,
    /// Its packets come by the ring, but for those that the socket keeps.
    is_in_ring: bool,
    /// How many places were met in the ring whose packets are still in the socket.
    places: usize,
    pod: Arc<Pod>,
    tally: Tally,
}

/// The thread that reads.
pub struct Reading {
    batch: Batch,
    bell: Arc<OwnedFd>,
    /// When counts are read next for all to see.
    due: Instant,
    every: Duration,
    expired: Instant,
    /// The pods that the ring told of in this look.
    fresh: Vec<u32>,
    /// Some pod's packets found no room in the ring, which was not read to its end since.
    has_overflowed: bool,
    last_number: u32,
    orders: Receiver<Order>,
    /// How many were read in this look.
    packets: usize,
    recent: Arc<Recent>,
    /// Says what ends a rest.
    resting: OwnedFd,
    ring: Option<Ring>,
    rules: Rules,
    taps: HashMap<u32, Tap>,
    /// Says what there is to read, and to do.
    waiting: OwnedFd,
}

impl Reading {
    /// A thread's, which is to read this ring and take these orders, each after the bell was rung, and to have counts read for all to see
    /// at every interval.
    pub fn new(
        recent: Arc<Recent>,
        every: Duration,
        rules: Rules,
        ring: Option<Ring>,
        bell: Arc<OwnedFd>,
        orders: Receiver<Order>,
    ) -> io::Result<Self> {
        let waiting = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let resting = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let number = epoll::EventData::new_u64;
        for epoll in [&waiting, &resting] {
            epoll::add(epoll, &bell, number(ORDERS), EventFlags::IN)?;
        }
        if let Some(ring) = &ring {
            epoll::add(&waiting, ring, number(RING), EventFlags::IN)?;
            // That there is something is no reason to end a rest; that the ring calls is.
            epoll::add(&resting, ring, number(RING), EventFlags::IN | EventFlags::ET)?;
        }
        let now = Instant::now();
        Ok(Self {
            batch: Batch::default(),
            bell,
            due: now,
            every,
            expired: now,
            fresh: Vec::new(),
            has_overflowed: false,
            last_number: 0,
            orders,
            packets: 0,
            recent,
            resting,
            ring,
            rules,
            taps: HashMap::new(),
            waiting,
        })
    }

    /// Reads for ever.
    pub fn run(mut self) {
        if let Err(error) = self.look_and_rest() {
            warn!(%error, "capturing ends: it cannot wait for packets");
        }
    }

    fn look_and_rest(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            let is_behind = self.look(&mut events)?;
            if is_behind {
                continue;
            }
            if self.packets > 0 || self.has_come() {
                self.rest(&mut events)?;
            } else {
                wait_for(&self.waiting, &mut events, self.until_due())?;
            }
        }
    }

    /// Reads what there is. Says whether there may be more.
    fn look(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<bool> {
        wait_for(&self.waiting, events, Duration::ZERO)?;
        let now = Instant::now();
        self.packets = 0;
        let mut is_behind = self.read_ring(now);
        for event in events.iter() {
            match event.data.u64() {
                ORDERS => self.obey(now),
                RING => {}
                number => {
                    is_behind |= u32::try_from(number).is_ok_and(|number| self.read_socket(number, now));
                }
            }
        }
        self.expire(now);
        self.recent.table().sampled(now);
        if now >= self.due {
            self.due = now + self.every;
            self.recent.read(now);
        }
        Ok(is_behind)
    }

    /// Has the ring call when something comes from now on. Says whether something has come before, which calls nobody.
    fn has_come(&mut self) -> bool {
        if let Some(ring) = &mut self.ring {
            ring.set_resting(false);
        }
        self.read_ring(Instant::now()) || self.packets > 0
    }

    /// Lets something come, so that there is more to read at once.
    fn rest(&mut self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        if let Some(ring) = &mut self.ring {
            ring.set_resting(true);
        }
        let mut rest = self.until_due();
        if self.taps.values().any(|tap| !tap.is_in_ring) {
            rest = rest.min(if self.packets < BUSY { TICK } else { BUSY_TICK });
        }
        let start = Instant::now();
        wait_for(&self.resting, events, rest)?;
        thread::sleep(SHORTEST_REST.min(rest).saturating_sub(start.elapsed()));
        Ok(())
    }

    fn until_due(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    fn obey(&mut self, now: Instant) {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]); // it only has to be silent again
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Attach(tap) => self.attach(*tap, now),
                Order::Detach(sandbox) => self.detach(&sandbox, now),
            }
        }
    }

    fn attach(&mut self, mut tap: Tap, now: Instant) {
        let pod = tap.pod.clone();
        let pod = pod.identity();
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
        let number = self.last_number;
        // What has come until now is in its socket.
        tap.has_leftovers = tap.begin(number);
        tap.is_in_ring = tap.has_leftovers;
        let epoll = if tap.is_in_ring {
            &self.resting
        } else {
            &self.waiting
        };
        let data = epoll::EventData::new_u64(number.into());
        if let Err(error) = epoll::add(epoll, &tap.socket, data, EventFlags::IN) {
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
        self.taps.insert(number, tap);
        while self.read_socket(number, now) {}
    }

    fn detach(&mut self, sandbox: &str, now: Instant) {
        let found = self.taps.iter().find(|(_, tap)| tap.sandbox == sandbox);
        let Some(number) = found.map(|(number, _)| *number) else {
            return;
        };
        while self.read_ring(now) {}
        while self.read_socket(number, now) {}
        if let Some(mut tap) = self.taps.remove(&number) {
            if !self.taps.values().any(|other| Arc::ptr_eq(&other.pod, &tap.pod)) {
                tap.pod.set_attached(false);
            }
            tap.connections.forget_all();
            tap.publish(number, self.ring.as_mut());
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

    /// Reads what the ring holds. Says whether there may be more.
    fn read_ring(&mut self, now: Instant) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        let has_overflowed = ring.has_overflowed();
        let mut count = 0;
        while count < RECORDS
            && ring.next(|number, record| {
                let Some(tap) = self.taps.get_mut(&number) else {
                    return; // it is no longer counted
                };
                if !std::mem::replace(&mut tap.is_fresh, true) {
                    self.fresh.push(number);
                }
                tap.record(record, &mut self.batch, now, &self.rules);
            })
        {
            count += 1;
        }
        self.packets += count;
        for number in self.fresh.drain(..) {
            if let Some(tap) = self.taps.get_mut(&number) {
                tap.read_places(&mut self.batch, now, &self.rules);
                tap.publish(number, Some(ring));
            }
        }
        self.has_overflowed |= has_overflowed;
        if self.has_overflowed && count < RECORDS {
            self.has_overflowed = false;
            self.return_to_ring(now);
        }
        count == RECORDS
    }

    /// Reads the sockets of the pods that found no room in the ring, and lets these use it again. All that the ring held of them was before that.
    fn return_to_ring(&mut self, now: Instant) {
        let is_out = |tap: &Tap| matches!(&tap.filter, Filter::Program(program) if !program.has_number().unwrap_or(true));
        let out = self.taps.iter().filter(|(_, tap)| tap.is_in_ring && is_out(tap));
        for number in out.map(|(number, _)| *number).collect::<Vec<_>>() {
            debug!(pod = self.taps[&number].pod.identity().name, "the ring was full");
            while self.read_socket(number, now) {}
            if let Some(tap) = self.taps.get_mut(&number) {
                tap.has_leftovers = tap.begin(number);
            }
            while self.read_socket(number, now) {}
        }
    }

    /// Reads what is in a pod's socket. Says whether there may be more.
    fn read_socket(&mut self, number: u32, now: Instant) -> bool {
        let Some(tap) = self.taps.get_mut(&number) else {
            return false;
        };
        let mut received = Batch::SIZE;
        for _ in 0..BATCHES {
            received = tap.receive(&mut self.batch, Batch::SIZE, now, &self.rules);
            self.packets += received;
            if received < Batch::SIZE {
                break;
            }
        }
        tap.note_losses();
        tap.publish(number, self.ring.as_mut());
        received == Batch::SIZE
    }

    fn expire(&mut self, now: Instant) {
        if now.saturating_duration_since(self.expired) < EXPIRY {
            return;
        }
        self.expired = now;
        for (number, tap) in &mut self.taps {
            if std::mem::take(&mut tap.has_leftovers) {
                while tap.receive(&mut self.batch, Batch::SIZE, now, &self.rules) == Batch::SIZE {}
            }
            tap.connections.expire(now, &self.rules, &mut tap.tally);
            tap.publish(*number, self.ring.as_mut());
        }
    }
}

/// Waits until something is ready, but not for longer than this. What is ready is then in the list.
fn wait_for(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, at_most: Duration) -> io::Result<()> {
    events.clear();
    let at_most = Timespec::try_from(at_most).ok();
    match epoll::wait(epoll, spare_capacity(events), at_most.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Tap {
    /// What is let through by a socket and its filter.
    pub fn new(
        sandbox: String,
        namespace: Namespace,
        socket: PacketSocket,
        filter: Filter,
        connections: Connections,
        pod: Arc<Pod>,
    ) -> Self {
        Self {
            sandbox,
            namespace,
            socket,
            connections,
            filter,
            has_leftovers: false,
            is_fresh: false,
            is_in_ring: false,
            places: 0,
            pod,
            tally: Tally::default(),
        }
    }

    /// Has its packets come by the ring from now on. Says whether they do.
    fn begin(&mut self, number: u32) -> bool {
        let Filter::Program(program) = &mut self.filter else {
            return false;
        };
        let begun = program.set_number(number);
        if let Err(error) = &begun {
            debug!(%error, "the ring is not used");
        }
        begun.is_ok()
    }

    fn record(&mut self, record: Record<'_>, batch: &mut Batch, now: Instant, rules: &Rules) {
        match record {
            Record::Packet(packet) => {
                self.read_places(batch, now, rules);
                self.packet(packet, packet.len(), now, rules);
            }
            Record::Place => self.places += 1,
        }
    }

    /// Reads the packets from the socket whose places were met.
    fn read_places(&mut self, batch: &mut Batch, now: Instant, rules: &Rules) {
        while self.places > 0 {
            let received = self.receive(batch, self.places, now, rules);
            let lost = if received == 0 { self.note_losses() } else { 0 };
            let found = received + usize::try_from(lost).unwrap_or(usize::MAX);
            self.places = self.places.saturating_sub(found);
            if found == 0 && !self.socket.wait(ON_ITS_WAY) {
                self.has_leftovers = true; // it is read when it has come
                self.places = 0;
            }
        }
    }

    /// Reads at most so many packets from the socket, and says how many there were.
    fn receive(&mut self, batch: &mut Batch, at_most: usize, now: Instant, rules: &Rules) -> usize {
        let received = match self.socket.receive(batch, at_most) {
            Ok(received) => received,
            Err(error) => {
                warn!(pod = self.pod.identity().name, %error, "packets cannot be received");
                return 0;
            }
        };
        for (packet, length) in batch.packets() {
            self.packet(packet, length, now, rules);
        }
        received
    }

    fn packet(&mut self, packet: &[u8], length: usize, now: Instant, rules: &Rules) {
        match packet::parse(packet, length) {
            Ok(segment) => self.connections.segment(&segment, now, rules, &mut self.tally),
            Err(NoSegment::Fragment | NoSegment::Malformed) => self.tally.unparsed_bytes += length as u64,
            Err(NoSegment::Other) => {}
        }
    }

    /// Adds what was found to the pod's numbers, and tells the filter what need not be received.
    fn publish(&mut self, number: u32, mut ring: Option<&mut Ring>) {
        self.is_fresh = false;
        for skip in self.connections.skips() {
            if let Some(ring) = &mut ring
                && let Err(error) = ring.skip(number, &skip)
            {
                debug!(%error, "a body is not skipped"); // there are many, or it is gone already
            }
        }
        self.tally.move_to(&self.pod);
    }

    /// Notes packets that the socket had no room for, and says how many they are.
    fn note_losses(&mut self) -> u64 {
        let dropped = self.socket.dropped().unwrap_or_default();
        self.lose(dropped);
        dropped
    }

    fn lose(&mut self, packets: u64) {
        if packets == 0 {
            return;
        }
        let pod = self.pod.identity();
        warn!(
            namespace = pod.namespace,
            pod = pod.name,
            dropped = packets,
            "packets were lost before they were counted"
        );
        self.pod.add_lost_packets(packets);
        self.connections.missed_some();
    }
}
