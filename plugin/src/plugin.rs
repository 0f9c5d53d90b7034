//! The NRI plugin: observe, decide, adjust, one log line, one count.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nri::api::{Container, ContainerState, PodSandbox, ValidateContainerAdjustmentRequest};
use nri::{Call, Creation, PluginError, Verdict};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::adjust::{self, Bundle};
use crate::annotation::{self, Aot, Handler, Settings};
use crate::compile::Compiler;
use crate::compile::queue::Need;
use crate::compiled::{Compiled, Runs};
use crate::decide::{self, Decision, Refusal, is_crun};
use crate::facts::{Entrypoint, Facts, Runtime};
use crate::hop::Surveyed;
use crate::kubernetes::objects::Missed;
use crate::metrics::{Outcome, Recorder};
use crate::observe::{Error, Observer, Subject};
use crate::policy::Policy;
use crate::policy_file::Current;
use crate::validate::{self, Mark};

/// How long a look at a container may take. The runtime holds a lock of the whole node while it waits.
const BUDGET: Duration = Duration::from_millis(300);
/// How long it may take if the container would have to be refused otherwise.
const BUDGET_FOR_WASM: Duration = Duration::from_millis(1400);
/// How long a look at a container may take that is there already: nobody waits for it.
const SURVEY_PATIENCE: Duration = Duration::from_secs(10);
/// Under which containerd tells a container's image.
pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";

/// The plugin's state.
#[derive(Debug)]
pub struct Podwasm {
    bundle: Bundle,
    compiler: Compiler,
    observer: Arc<Observer>,
    policy: Arc<Current>,
    recorder: Recorder,
}

/// A request, and what was made of it.
struct Case<'a> {
    container: &'a Container,
    pod: &'a PodSandbox,
    settings: Result<Settings, String>,
    started: Instant,
    subject: Subject,
    wanted_by_crun: Option<String>,
}

#[nri::plugin]
impl nri::Plugin for Podwasm {
    /// What the first container will depend on is asked now, while its image is still being looked for.
    async fn run_pod_sandbox(&self, _call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.observer.expect(pod.id);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, _call: Call, pod: PodSandbox) -> Result<(), PluginError> {
        self.observer.forget(&pod.id);
        Ok(())
    }

    async fn create_container(
        &self,
        call: Call,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Creation, PluginError> {
        let case = Case::new(&pod, &container, call.arrival());
        let policy = self.policy.borrow().clone();
        match self.facts_in_time(&case, &policy, call.deadline()).await {
            Ok(facts) => self.conclude(&case, decide::decide(&facts, &policy)),
            Err(problem) => self.conclude_unobserved(&case, &problem),
        }
    }

    /// The runtime asks this once all plugins have had their say, if the front has subscribed to it.
    async fn validate_container_adjustment(
        &self,
        call: Call,
        request: ValidateContainerAdjustmentRequest,
    ) -> Result<Verdict, PluginError> {
        let (Some(pod), Some(container)) = (&request.pod, &request.container) else {
            return Err(PluginError::new("the request has no pod or no container"));
        };
        let container = validate::as_executed(container, request.adjust.as_ref());
        let case = Case::new(pod, &container, call.arrival());
        let fault = match validate::mark(&request) {
            Mark::Absent => self.missed_by_all(&case, call.deadline()).await,
            Mark::Broken(fault) => Some(fault),
            Mark::Whole => None,
        };
        self.recorder.validated(fault.is_none());
        Ok(match fault {
            None => Verdict::Accept,
            Some(fault) => Verdict::Reject(validate::rejected(pod, &container, &fault)),
        })
    }
}

impl Podwasm {
    /// A plugin that looks through `observer` and routes to the engine in `bundle`.
    pub fn new(
        observer: Arc<Observer>,
        bundle: Bundle,
        compiler: Compiler,
        policy: Arc<Current>,
        recorder: Recorder,
    ) -> Self {
        Self {
            bundle,
            compiler,
            observer,
            policy,
            recorder,
        }
    }

    /// Looks at the containers that there are, and tells of each that should have been adjusted and was not: it was created while
    /// podwasm was not connected.
    pub async fn survey(&self, pods: Vec<PodSandbox>, containers: Vec<Container>) -> (Surveyed, Vec<Missed>) {
        let marker = adjust::marker();
        let policy = self.policy.borrow().clone();
        let pods: HashMap<&str, &PodSandbox> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
        let (mut surveyed, mut missed) = (Surveyed::default(), Vec::new());
        let unmarked = containers.iter().filter(|container| is_there(container));
        for container in unmarked.filter(|container| container.annotation(&marker).is_none()) {
            let Some(pod) = pods.get(container.pod_sandbox_id.as_str()) else {
                continue;
            };
            let case = Case::new(pod, container, Instant::now());
            let problem = match timeout(SURVEY_PATIENCE, self.facts(&case, &policy)).await {
                Ok(Ok(facts)) => {
                    let decision = decide::decide(&facts, &policy);
                    let is_refused = matches!(decision, Decision::Refuse { .. });
                    if let Some(why) = should_have_been(decision) {
                        surveyed.unadjusted += 1;
                        missed.push(case.missed(why, is_refused));
                    }
                    continue;
                }
                Ok(Err(error)) => on_one_line(&*error),
                Err(_) => late(SURVEY_PATIENCE),
            };
            surveyed.unknown += 1;
            info!(
                namespace = pod.namespace,
                pod = pod.name,
                container = container.name,
                problem,
                "cannot tell what it runs"
            );
        }
        (surveyed, missed)
    }

    /// Why a container that carries no mark of podwasm's must not be created so, if it must not.
    async fn missed_by_all(&self, case: &Case<'_>, deadline: Instant) -> Option<String> {
        let policy = self.policy.borrow().clone();
        let problem = match self.facts_in_time(case, &policy, deadline).await {
            Ok(facts) => {
                let why = should_have_been(decide::decide(&facts, &policy))?;
                return Some(format!("it would start without podwasm, though {why}"));
            }
            Err(problem) => problem,
        };
        let wrong = || case.settings.as_ref().err().cloned();
        let expected = self.pointer(case).or_else(wrong)?;
        Some(format!(
            "it would start without podwasm; {problem}, though {expected}"
        ))
    }

    /// What there is to know, or why it is not known: within a budget that is larger for what points to Wasm.
    async fn facts_in_time(
        &self,
        case: &Case<'_>,
        policy: &Policy,
        deadline: Instant,
    ) -> Result<Facts, String> {
        let mut facts = pin!(self.facts(case, policy));
        for budget in [BUDGET, BUDGET_FOR_WASM] {
            let deadline = deadline.min(case.started + budget);
            if let Ok(found) = timeout_at(deadline, &mut facts).await {
                return found.map_err(|error| on_one_line(&*error));
            }
            if self.pointer(case).is_none() {
                return Err(late(budget));
            }
        }
        Err(late(BUDGET_FOR_WASM))
    }

    async fn facts(&self, case: &Case<'_>, policy: &Policy) -> Result<Facts, Arc<Error>> {
        let observed = self.observer.observe(&case.subject).await?;
        let runtime = self.observer.runtime(&case.pod.id).await?;
        Ok(Facts {
            compiled: self.compiled(case, policy, &observed.entrypoint),
            crun_wasm: self.crun_wasm(case, policy, &runtime).await,
            entrypoint: observed.entrypoint.clone(),
            env: case.container.env.clone(),
            image: observed.image.clone(),
            limits: adjust::limits(case.container),
            mounts: case.subject.mounts.clone(),
            namespace: case.pod.namespace.clone(),
            program: case.subject.program.clone(),
            runtime,
            settings: case.settings.clone(),
            wanted_by_crun: case.wanted_by_crun.clone(),
        })
    }

    /// What there is of a module's native code. Where some is wanted and there is none, it is asked for: this is memory, the work is
    /// done elsewhere.
    fn compiled(&self, case: &Case<'_>, policy: &Policy, entrypoint: &Entrypoint) -> Compiled {
        let Entrypoint::Module { module, .. } = entrypoint else {
            return Compiled::Off {
                why: "it is no module".to_owned(),
            };
        };
        let of_container = case
            .settings
            .as_ref()
            .map(|settings| (settings.aot, settings.handler));
        let (aot, handler) = of_container.unwrap_or_default();
        let is_wanted =
            aot.unwrap_or(policy.aot) != Aot::Off && handler.unwrap_or(policy.handler) == Handler::Engine;
        if is_wanted {
            self.compiler.want(module, Need::Waiting);
        }
        self.compiler.hand_out(module, &case.subject.image)
    }

    async fn crun_wasm(
        &self,
        case: &Case<'_>,
        policy: &Policy,
        runtime: &Runtime,
    ) -> Option<Result<(), String>> {
        let asked = case.settings.as_ref().ok().and_then(|settings| settings.handler);
        match runtime {
            Runtime::Oci { program }
                if asked.unwrap_or(policy.handler) == Handler::Crun && is_crun(program) =>
            {
                Some(self.observer.crun_wasm(program).await)
            }
            _ => None,
        }
    }

    fn conclude(&self, case: &Case<'_>, decision: Decision) -> Result<Creation, PluginError> {
        let Case { container, pod, .. } = case;
        let took = case.started.elapsed();
        match decision {
            Decision::Crun { added, why } => {
                self.routed(case, "crun", None, &why);
                Ok(adjust::crun(added, container).into())
            }
            Decision::Engine {
                cover,
                module,
                plan,
                why,
            } => {
                debug!(container = container.name, module = module.digest, settings = %plan.engine, added = ?plan.added, "planned");
                self.recorder.routed_tier(plan.runs);
                self.routed(case, "engine", Some(plan.runs), &why);
                Ok(adjust::engine(&self.bundle, &module, &cover, &plan, container).into())
            }
            Decision::Native { why } => {
                self.recorder.decided(Outcome::native, case.started);
                debug!(
                    namespace = pod.namespace,
                    pod = pod.name,
                    container = container.name,
                    why,
                    ?took,
                    "left alone"
                );
                Ok(Creation::default())
            }
            Decision::Refuse { kind, reason } => Err(self.refuse(case, kind, &reason)),
            Decision::Runtime { added, why } => {
                self.routed(case, "runtime", None, &why);
                Ok(adjust::runtime(added, container).into())
            }
        }
    }

    fn routed(&self, case: &Case<'_>, handler: &str, runs: Option<Runs>, why: &str) {
        let Case { container, pod, .. } = case;
        let took = case.started.elapsed();
        self.recorder.decided(Outcome::routed, case.started);
        info!(
            namespace = pod.namespace,
            pod = pod.name,
            container = container.name,
            handler,
            tier = runs.map(Runs::as_str),
            why,
            ?took,
            "routed"
        );
    }

    /// Without facts, what points to Wasm must not be started as something else; anything else must not
    /// be kept from starting.
    fn conclude_unobserved(&self, case: &Case<'_>, problem: &str) -> Result<Creation, PluginError> {
        match &case.settings {
            Ok(settings) if settings.handler == Some(Handler::None) => {
                return self.conclude(
                    case,
                    Decision::Native {
                        why: "an annotation says handler: none".to_owned(),
                    },
                );
            }
            Ok(_) => {}
            Err(problem) => return Err(self.refuse(case, Refusal::Annotation, problem)),
        }
        if let Some(why) = self.pointer(case) {
            return Err(self.refuse(
                case,
                Refusal::Unreadable,
                &format!("{problem}, though {why}; it is tried again"),
            ));
        }
        self.recorder.decided(Outcome::unobserved, case.started);
        let Case { container, pod, .. } = case;
        warn!(
            namespace = pod.namespace,
            pod = pod.name,
            container = container.name,
            problem,
            "started without having been looked at"
        );
        Ok(Creation::default())
    }

    /// What makes one expect Wasm before the container has been looked at, if anything does.
    fn pointer(&self, case: &Case<'_>) -> Option<String> {
        let settings = case.settings.as_ref().ok()?;
        if settings.handler == Some(Handler::None) {
            return None;
        }
        let program = &case.subject.program;
        decide::expectation(program, settings, case.wanted_by_crun.as_ref(), None)
            .or_else(|| {
                let asks = *settings != Settings::default();
                asks.then(|| "its annotations say how to run it".to_owned())
            })
            .or_else(|| {
                let seen = self.observer.has_seen_module(&case.subject);
                seen.then(|| "it begins as a WebAssembly module".to_owned())
            })
    }

    fn refuse(&self, case: &Case<'_>, kind: Refusal, reason: &str) -> PluginError {
        let Case { container, pod, .. } = case;
        self.recorder.decided(Outcome::refused, case.started);
        self.recorder.refused(kind);
        warn!(
            namespace = pod.namespace,
            pod = pod.name,
            container = container.name,
            kind = kind.as_str(),
            reason,
            "refused"
        );
        PluginError::new(format!("podwasm: container '{}': {reason}", container.name))
    }
}

impl<'a> Case<'a> {
    fn new(pod: &'a PodSandbox, container: &'a Container, started: Instant) -> Self {
        let annotations: HashMap<_, _> = pod.annotations.clone().into_iter().collect();
        Self {
            container,
            pod,
            settings: annotation::settings(&annotations, &container.name).map_err(|error| error.to_string()),
            started,
            subject: subject(pod, container),
            wanted_by_crun: adjust::wanted_by_crun(pod, container),
        }
    }
}

impl Case<'_> {
    fn missed(&self, why: String, is_refused: bool) -> Missed {
        warn!(
            namespace = self.pod.namespace,
            pod = self.pod.name,
            container = self.container.name,
            id = self.container.id,
            why,
            "created without podwasm, while it was not connected; delete the pod to have it made anew"
        );
        Missed {
            container: self.container.name.clone(),
            id: self.container.id.clone(),
            is_refused,
            namespace: self.pod.namespace.clone(),
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            why,
        }
    }
}

fn late(budget: Duration) -> String {
    format!("it could not be looked at within {budget:?}")
}

fn is_there(container: &Container) -> bool {
    use ContainerState::{ContainerCreated, ContainerPaused, ContainerRunning};
    matches!(
        container.state(),
        ContainerCreated | ContainerPaused | ContainerRunning
    )
}

/// Why a container that nobody adjusted should have been, or should not be there at all.
fn should_have_been(decision: Decision) -> Option<String> {
    match decision {
        Decision::Crun { why, .. } | Decision::Engine { why, .. } => Some(why),
        Decision::Native { .. } | Decision::Runtime { .. } => None,
        Decision::Refuse { reason, .. } => Some(format!("it would have been refused: {reason}")),
    }
}

fn subject(pod: &PodSandbox, container: &Container) -> Subject {
    Subject {
        container_id: container.id.clone(),
        env: container.env.clone(),
        image: container.annotation(IMAGE_NAME).unwrap_or_default().to_owned(),
        mounts: adjust::mounts(container),
        program: container.args.first().cloned().unwrap_or_default(),
        sandbox_id: pod.id.clone(),
    }
}

/// An error with its causes, on one line.
fn on_one_line(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}
