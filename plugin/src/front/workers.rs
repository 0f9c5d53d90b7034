//! The workers: one at its work, one that waits to take over, and the calls under way between them and the front.

use std::collections::HashMap;
use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::num::NonZeroUsize;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, error, info, warn};

use super::process::{self, Handle, Process};
use super::restarts::Restarts;
use crate::hop::socket::{self, Inbox, Outbox};
use crate::hop::{Answer, Call, Entrypoint, FromWorker, Order, PolicyText, Report, Start, ToWorker, clock};
use crate::metrics::Metrics;

/// Entrypoints that are remembered as modules.
const KNOWN: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Workers that may die of one call.
const DEATHS_PER_CALL: usize = 2;
/// A worker that has an answer outstanding for this long after it was late hangs, and is replaced.
const HUNG_AFTER: Duration = Duration::from_secs(2);
/// Times that the containers of one Synchronize are looked at, if workers end over it.
const SURVEYS: u32 = 3;
/// How long a worker may take to end when it is told to, and to be reaped when it is dead.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// There was no worker in time.
    Absent,
    /// Workers ended over it.
    Died,
    /// The worker took too long.
    Late,
}

impl Unanswered {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Died => "died",
            Self::Late => "late",
        }
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "podwasm's worker is being started again",
            Self::Died => "podwasm's worker has ended while it looked at it",
            Self::Late => "podwasm's worker did not answer in time",
        }
    }
}

/// Why there are no workers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not even the first came to its work, and has said why.
    #[error("the worker could not begin its work ({0})")]
    FirstFailed(String),
}

/// The workers, as those who have calls for them see them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: watch::Sender<Option<Arc<Connection>>>,
    has_begun: watch::Sender<bool>,
    known: Mutex<LruCache<Entrypoint, ()>>,
    metrics: Arc<Metrics>,
    next_id: AtomicU64,
    policy: Mutex<Option<PolicyText>>,
    stop: Notify,
    survey: Mutex<Option<Survey>>,
}

/// What is to be looked at, until a worker has.
#[derive(Clone, Debug)]
struct Survey {
    attempts: u32,
    frame: Arc<Vec<u8>>,
}

/// A call on its way.
#[derive(Debug)]
pub struct Outbound {
    frame: Vec<u8>,
    id: u64,
    message: ToWorker,
}

impl Outbound {
    /// NRI's bytes.
    pub fn request(&self) -> &[u8] {
        match &self.message.order {
            Some(Order::Call(call)) => &call.request,
            _ => &[],
        }
    }
}

impl Workers {
    /// Nobody is at work yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            current: watch::Sender::new(None),
            has_begun: watch::Sender::new(false),
            known: Mutex::new(LruCache::new(KNOWN)),
            metrics,
            next_id: AtomicU64::new(1),
            policy: Mutex::default(),
            stop: Notify::new(),
            survey: Mutex::default(),
        }))
    }

    /// Waits until the first worker is at work.
    pub async fn begun(&self) {
        // Cannot fail: this handle keeps the sender.
        let _ = self
            .0
            .has_begun
            .subscribe()
            .wait_for(|has_begun| *has_begun)
            .await;
    }

    /// Prepares a call.
    pub fn outbound(&self, method: &str, request: Vec<u8>, arrival: Instant, deadline: Instant) -> Outbound {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let message = message(id, method, request, arrival, deadline);
        Outbound {
            frame: crate::hop::frame(&message),
            id,
            message,
        }
    }

    /// Has a call answered until `deadline`. If the worker ends over it, the next one is asked.
    pub async fn call(&self, call: &Outbound, deadline: Instant) -> Result<Answer, Unanswered> {
        for _ in 0..DEATHS_PER_CALL {
            let connection = timeout_at(deadline, self.current()).await;
            let connection = connection.map_err(|_| Unanswered::Absent)?;
            let Some(answer) = connection.call(call) else {
                continue;
            };
            match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_ended)) => {}
                Err(_) => {
                    tokio::spawn(kill_if_it_hangs(connection, call.id));
                    return Err(Unanswered::Late);
                }
            }
        }
        Err(Unanswered::Died)
    }

    /// Nobody waits for this call's answer any more. A worker that has still not answered after a while is replaced.
    pub fn gave_up(&self, call: &Outbound) {
        if let Some(connection) = &*self.0.current.borrow() {
            tokio::spawn(kill_if_it_hangs(connection.clone(), call.id));
        }
    }

    /// Tells a worker of an event, if there is one.
    pub fn tell(&self, method: &str, request: Vec<u8>) {
        if let Some(connection) = &*self.0.current.borrow() {
            let now = Instant::now();
            let message = message(0, method, request, now, now);
            connection.outbox.send_frame(&crate::hop::frame(&message));
        }
    }

    /// Has a worker look at all containers, now or when there is one.
    pub fn survey(&self, synchronize: Vec<u8>) {
        let now = Instant::now();
        let message = message(0, "Synchronize", synchronize, now, now);
        *self.survey_kept() = Some(Survey {
            attempts: 0,
            frame: Arc::new(crate::hop::frame(&message)),
        });
        let current = self.0.current.borrow().clone();
        if let Some(connection) = current {
            self.send_survey(&connection);
        }
    }

    /// Puts a policy in force.
    pub fn set_policy(&self, text: String) {
        if let Some(connection) = &*self.0.current.borrow() {
            connection.outbox.send(&ToWorker {
                order: Some(Order::Policy(text.clone())),
            });
        }
        *self.policy() = Some(PolicyText {
            is_files: false,
            text,
        });
    }

    /// Whether an entrypoint of this image was seen to begin as a module.
    pub fn knows(&self, image: &str, program: &str) -> bool {
        let entrypoint = Entrypoint {
            image: image.to_owned(),
            program: program.to_owned(),
        };
        self.known().contains(&entrypoint)
    }

    /// Ends the workers; [`Supervisor::run`] then returns.
    pub fn stop(&self) {
        self.0.stop.notify_one();
    }

    async fn current(&self) -> Arc<Connection> {
        let mut current = self.0.current.subscribe();
        let is_open =
            |connection: &Option<Arc<Connection>>| connection.as_ref().is_some_and(|it| it.is_open());
        let found = current.wait_for(is_open).await.ok();
        let found = found.and_then(|connection| connection.clone());
        match found {
            Some(connection) => connection,
            // The sender is kept, and what was waited for is there.
            None => pending().await,
        }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Entrypoint, ()>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy(&self) -> MutexGuard<'_, Option<PolicyText>> {
        self.0.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn survey_kept(&self) -> MutexGuard<'_, Option<Survey>> {
        self.0.survey.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_survey(&self, connection: &Connection) {
        let mut kept = self.survey_kept();
        let Some(survey) = &mut *kept else {
            return;
        };
        survey.attempts += 1;
        if survey.attempts > SURVEYS {
            error!("workers end over a look at all containers; it is given up until the next registration");
            *kept = None;
            return;
        }
        connection.outbox.send_frame(&survey.frame);
    }
}

fn message(id: u64, method: &str, request: Vec<u8>, arrival: Instant, deadline: Instant) -> ToWorker {
    ToWorker {
        order: Some(Order::Call(Call {
            id,
            method: method.to_owned(),
            request,
            arrival: clock::to_nanoseconds(arrival),
            deadline: clock::to_nanoseconds(deadline),
        })),
    }
}

/// The way to one worker.
#[derive(Debug)]
struct Connection {
    handle: Handle,
    outbox: Outbox,
    /// `None` once the worker has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

impl Connection {
    fn call(&self, call: &Outbound) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        self.waiting().as_mut()?.insert(call.id, sender);
        if !self.outbox.send_frame(&call.frame) {
            warn!(worker = self.handle.pid, "the worker does not read");
            self.handle.kill();
        }
        Some(receiver)
    }

    fn answered(&self, answer: Answer) {
        let sender = self
            .waiting()
            .as_mut()
            .and_then(|waiting| waiting.remove(&answer.id));
        if let Some(sender) = sender {
            // Who asked may have given up.
            let _ = sender.send(answer);
        }
    }

    fn is_open(&self) -> bool {
        self.waiting().is_some()
    }

    fn waits_for(&self, id: u64) -> bool {
        self.waiting()
            .as_ref()
            .is_some_and(|waiting| waiting.contains_key(&id))
    }

    fn end(&self) {
        drop(self.waiting().take());
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell_of_end(
    connection: Arc<Connection>,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    lived: Duration,
) {
    let status = ended_within(END_PATIENCE, ended, &connection.handle).await;
    let worker = connection.handle.pid;
    warn!(
        worker,
        status,
        ?lived,
        "the worker has ended; the next one takes over"
    );
}

async fn kill_if_it_hangs(connection: Arc<Connection>, id: u64) {
    sleep(HUNG_AFTER).await;
    if connection.waits_for(id) {
        warn!(worker = connection.handle.pid, "the worker hangs; it is replaced");
        connection.handle.kill();
    }
}

/// What keeps a worker at work.
#[derive(Debug)]
pub struct Supervisor {
    restarts: Restarts,
    spare: Spare,
    workers: Workers,
}

/// How a worker's time at work came to its end.
enum End {
    Ended,
    Stopped,
}

impl Supervisor {
    /// Starts workers with these arguments.
    pub fn new(workers: Workers, arguments: Vec<OsString>) -> Self {
        Self {
            restarts: Restarts::new(std::time::Instant::now()),
            spare: Spare {
                arguments,
                state: SpareState::None,
            },
            workers,
        }
    }

    /// Keeps a worker at work, and another one ready, until [`Workers::stop`]. An error if not even the first one could begin.
    pub async fn run(mut self) -> Result<(), Error> {
        let workers = self.workers.clone();
        let mut stopped = std::pin::pin!(workers.0.stop.notified());
        loop {
            let process = tokio::select! {
                process = self.spare.take(&mut self.restarts) => process,
                () = &mut stopped => return Ok(()),
            };
            match self.serve(process, stopped.as_mut()).await {
                (End::Stopped, _) => {
                    self.spare.end().await;
                    return Ok(());
                }
                (End::Ended, status) if !*self.workers.0.has_begun.borrow() => {
                    return Err(Error::FirstFailed(status));
                }
                (End::Ended, _) => {}
            }
        }
    }

    /// One worker's time at work.
    async fn serve(
        &mut self,
        process: Process,
        stopped: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> (End, String) {
        let Process {
            ended,
            socket,
            handle,
        } = process;
        let (inbox, outbox) = match socket::open(socket) {
            Ok(halves) => halves,
            Err(error) => {
                handle.kill();
                return (End::Ended, error.to_string());
            }
        };
        let writer = tokio::spawn(outbox.clone().write());
        let connection = Arc::new(Connection {
            handle,
            outbox,
            waiting: Mutex::new(Some(HashMap::new())),
        });
        self.introduce(&connection);
        let began = Instant::now();
        let mut is_at_work = false;
        let end = self.follow(&connection, inbox, &mut is_at_work, stopped).await;
        self.workers.0.current.send_replace(None);
        connection.end();
        if is_at_work {
            self.workers.0.metrics.worker(false);
        } else {
            self.restarts.failed();
        }
        writer.abort();
        let lived = began.elapsed();
        let status = match end {
            End::Stopped => {
                connection.outbox.close();
                ended_within(END_PATIENCE, ended, &connection.handle).await
            }
            // It may have something to say of it.
            End::Ended if !*self.workers.0.has_begun.borrow() => {
                ended_within(END_PATIENCE, ended, &connection.handle).await
            }
            // The next one does not wait for it.
            End::Ended => {
                tokio::spawn(tell_of_end(connection, ended, lived));
                String::new()
            }
        };
        (end, status)
    }

    /// Makes it the worker that is asked. Calls may already come: it reads them when it has begun.
    fn introduce(&self, connection: &Arc<Connection>) {
        let start = Start {
            is_successor: *self.workers.0.has_begun.borrow(),
            policy: self.workers.policy().clone(),
            known: self
                .workers
                .known()
                .iter()
                .map(|(known, ())| known.clone())
                .collect(),
        };
        connection.outbox.send(&ToWorker {
            order: Some(Order::Start(start)),
        });
        self.workers.send_survey(connection);
        self.workers.0.current.send_replace(Some(connection.clone()));
    }

    async fn follow(
        &mut self,
        connection: &Connection,
        mut inbox: Inbox,
        is_at_work: &mut bool,
        mut stopped: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        loop {
            tokio::select! {
                biased;
                message = inbox.next::<FromWorker>() => match message {
                    Ok(Some(message)) => self.hear(connection, message.report, is_at_work),
                    Ok(None) => return End::Ended,
                    Err(error) => {
                        error!(error = &error as &dyn std::error::Error, "the worker makes no sense; it is replaced");
                        return End::Ended;
                    }
                },
                () = stopped.as_mut() => return End::Stopped,
                () = self.spare.tend(&mut self.restarts), if *is_at_work => {}
            }
        }
    }

    fn hear(&mut self, connection: &Connection, report: Option<Report>, is_at_work: &mut bool) {
        let workers = &self.workers;
        match report {
            Some(Report::Answer(answer)) => connection.answered(answer),
            Some(Report::Count(sample)) => {
                if let Some(what) = &sample.what {
                    workers.0.metrics.count(what);
                }
            }
            Some(Report::Module(entrypoint)) => _ = workers.known().put(entrypoint, ()),
            Some(Report::Policy(text)) => *workers.policy() = Some(PolicyText { is_files: true, text }),
            Some(Report::Started(_)) if !*is_at_work => {
                *is_at_work = true;
                self.restarts.began();
                workers.0.metrics.worker(true);
                info!(worker = connection.handle.pid, "a worker is at work");
                workers.0.has_begun.send_replace(true);
            }
            Some(Report::Surveyed(survey)) => {
                *workers.survey_kept() = None;
                workers.0.metrics.surveyed(survey.unadjusted, survey.unknown);
            }
            Some(Report::Started(_)) | None => debug!("a worker said what is not understood"),
        }
    }
}

/// A worker that has been started, and waits until it is needed.
#[derive(Debug)]
struct Spare {
    arguments: Vec<OsString>,
    state: SpareState,
}

#[derive(Debug)]
enum SpareState {
    Coming(JoinHandle<io::Result<Process>>),
    None,
    Waiting(Process),
}

impl Spare {
    /// Waits for the next thing to happen to it, after which there is one again, or it is on its way. Can be dropped at any time.
    async fn tend(&mut self, restarts: &mut Restarts) {
        self.state = match &mut self.state {
            SpareState::Coming(start) => match start.await {
                Ok(Ok(process)) => SpareState::Waiting(process),
                Ok(Err(error)) => {
                    error!(
                        error = &error as &dyn std::error::Error,
                        "a worker cannot be started"
                    );
                    restarts.failed();
                    SpareState::None
                }
                Err(failure) => std::panic::resume_unwind(failure.into_panic()),
            },
            SpareState::None => {
                let (pause, arguments) = (restarts.pause(std::time::Instant::now()), self.arguments.clone());
                SpareState::Coming(tokio::spawn(async move {
                    sleep(pause).await;
                    process::start(arguments).await
                }))
            }
            SpareState::Waiting(process) => {
                let status = said((&mut process.ended).await);
                warn!(
                    worker = process.handle.pid,
                    status, "a worker that waited has ended"
                );
                restarts.failed();
                SpareState::None
            }
        }
    }

    /// The worker that waits, or the next one that does.
    async fn take(&mut self, restarts: &mut Restarts) -> Process {
        loop {
            match std::mem::replace(&mut self.state, SpareState::None) {
                SpareState::Waiting(process) if process.ended.is_empty() => return process,
                other => {
                    self.state = other;
                    self.tend(restarts).await;
                }
            }
        }
    }

    /// Lets it end.
    async fn end(&mut self) {
        match std::mem::replace(&mut self.state, SpareState::None) {
            SpareState::Coming(start) => start.abort(),
            SpareState::None => {}
            SpareState::Waiting(Process {
                ended,
                socket,
                handle,
            }) => {
                drop(socket);
                ended_within(END_PATIENCE, ended, &handle).await;
            }
        }
    }
}

async fn ended_within(
    patience: Duration,
    mut ended: oneshot::Receiver<io::Result<ExitStatus>>,
    handle: &Handle,
) -> String {
    if let Ok(status) = timeout(patience, &mut ended).await {
        return said(status);
    }
    handle.kill();
    match timeout(patience, ended).await {
        Ok(status) => said(status),
        Err(_) => "it cannot be ended".to_owned(),
    }
}

fn said(status: Result<io::Result<ExitStatus>, oneshot::error::RecvError>) -> String {
    match status {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nobody watched it".to_owned(),
    }
}
