//! Looks at the traffic of pods: one packet socket in each pod's network namespace, and one thread that reads what they all let through.
//!
//! Joining a namespace and reading what was there before can take a while, so it is done in another thread.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tracing::{debug, warn};

use crate::connections::{Before, Connections};
use crate::counts::Pod;
use crate::exclude::Rules;
use crate::filter::{self, Choice, Filter, Filters};
use crate::listening;
use crate::program::{Refused, Ring};
use crate::reading::{Namespace, Order, Reading, Tap};
use crate::recent::Recent;
use crate::socket::PacketSocket;

/// What looks at the traffic of pods.
#[derive(Clone, Debug)]
pub struct Capture {
    requests: Sender<Request>,
}

/// What only a process with all of its privileges can get.
#[derive(Debug)]
pub struct Means {
    filters: Filters,
    /// Network namespaces that are no pod's: this process's, and that of the first process it can see.
    hosts: Vec<Namespace>,
    refused: Option<Refused>,
    ring: Option<Ring>,
}

impl Means {
    /// Gets it, with these filters.
    pub fn get(filter: Choice) -> Self {
        let (filters, ring, refused) = Filters::new(filter);
        let hosts = ["/proc/self/ns/net", "/proc/1/ns/net"].into_iter();
        let hosts = hosts.filter_map(|path| Namespace::of(&File::open(path).ok()?).ok());
        Self {
            filters,
            hosts: hosts.collect(),
            refused,
            ring,
        }
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

impl Capture {
    /// Starts the threads, which have counts read at every interval.
    pub fn start(recent: Arc<Recent>, every: Duration, rules: Rules, means: Means) -> io::Result<Self> {
        let (orders, given) = mpsc::channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let Means {
            filters,
            hosts,
            refused,
            ring,
        } = means;
        if let Some(error) = &refused {
            filter::refused(error);
        }
        let reader = Reading::new(recent, every, rules, ring, bell.clone(), given)?;
        thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || reader.run())?;
        let (requests, asked) = mpsc::channel();
        thread::Builder::new()
            .name("attach".to_owned())
            .spawn(move || attach_as_asked(&filters, &hosts, &asked, &orders, &bell))?;
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

fn attach_as_asked(
    filters: &Filters,
    hosts: &[Namespace],
    asked: &Receiver<Request>,
    orders: &Sender<Order>,
    bell: &OwnedFd,
) {
    for request in asked {
        let order = match request {
            Request::Attach {
                sandbox,
                namespace,
                pod,
            } => match tap(filters, hosts, sandbox, &namespace, pod) {
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
    filters: &Filters,
    hosts: &[Namespace],
    sandbox: String,
    path: &Path,
    pod: Arc<Pod>,
) -> Result<Tap, (Arc<Pod>, io::Error)> {
    let open = || {
        let file = File::open(path)?;
        let namespace = Namespace::of(&file)?;
        if hosts.contains(&namespace) {
            return Err(io::Error::other("it is in the host's network namespace"));
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
        Ok((namespace, socket, filter, before)) => {
            let connections = Connections::new(before, Instant::now());
            Ok(Tap::new(sandbox, namespace, socket, filter, connections, pod))
        }
    }
}

/// Opens a socket in the thread's namespace. What is there before is read when the socket already receives, so that each connection
/// is in one of the two.
fn open_here(filters: &Filters) -> io::Result<(PacketSocket, Filter, Before)> {
    let socket = PacketSocket::open()?;
    let mut filter = filters.attach(socket.as_fd())?;
    socket.start()?;
    let before = listening::read()?;
    filter.looked(&before);
    Ok((socket, filter, before))
}
