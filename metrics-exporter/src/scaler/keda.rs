//! Answers KEDA.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Request, Response, Status};
use tracing::debug;

use super::cluster::Cluster;
use super::metrics::Metrics;
use super::trigger::Trigger;
use crate::pb::keda as pb;
use pb::external_scaler_server::{ExternalScaler, ExternalScalerServer};

/// More triggers than any cluster has: each may hold a stream for ever, and KEDA opens them all over one connection.
pub const MAX_STREAMS: u32 = 100_000;
/// What a trigger says fits in far less.
const MAX_REQUEST_BYTES: usize = 256 << 10;
/// How soon a trigger that is not active is looked at again, and one that is.
const PAUSE_INACTIVE: Duration = Duration::from_millis(50);
const PAUSE_ACTIVE: Duration = Duration::from_secs(1);
/// After this, what is active is said again, to a KEDA that may have missed it.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// KEDA's external scaler.
#[derive(Clone, Debug)]
pub struct Keda {
    /// What is known.
    pub cluster: Arc<Cluster>,
    /// Where answers are counted.
    pub metrics: Arc<Metrics>,
    /// Becomes true when streams are to end.
    pub closing: watch::Receiver<bool>,
}

impl Keda {
    /// The service, to be added to a server.
    pub fn service(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Answers, and counts the answer.
    fn answer<T>(
        &self,
        method: &'static str,
        answer: impl FnOnce() -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        let answer = answer();
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.metrics.answered(method, code, started.elapsed());
        if let Err(status) = &answer {
            debug!(method, ?code, message = status.message(), "not answered");
        }
        answer.map(Response::new)
    }

    fn rate(&self, question: &Question) -> Result<f64, Status> {
        let rate = self.cluster.rate(&question.namespace, &question.trigger);
        rate.map_err(|unknown| Status::unavailable(unknown.to_string()))
    }

    fn is_active(&self, question: &Question) -> Result<bool, Status> {
        Ok(self.rate(question)? > question.trigger.activation)
    }
}

/// What a ScaledObject asks.
struct Question {
    namespace: String,
    trigger: Trigger,
}

impl Question {
    fn parse(asked: pb::ScaledObjectRef) -> Result<Self, Status> {
        if asked.namespace.is_empty() {
            return Err(Status::invalid_argument("the ScaledObject has no namespace"));
        }
        let trigger = Trigger::parse(&asked.scaler_metadata);
        Ok(Self {
            trigger: trigger
                .map_err(|error| Status::invalid_argument(format!("the trigger's metadata: {error}")))?,
            namespace: asked.namespace,
        })
    }
}

type Activity = Pin<Box<dyn Stream<Item = Result<pb::IsActiveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExternalScaler for Keda {
    async fn is_active(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<pb::IsActiveResponse>, Status> {
        self.answer("IsActive", || {
            let question = Question::parse(request.into_inner())?;
            Ok(pb::IsActiveResponse {
                result: self.is_active(&question)?,
            })
        })
    }

    type StreamIsActiveStream = Activity;

    async fn stream_is_active(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<Activity>, Status> {
        self.answer("StreamIsActive", || {
            let question = Question::parse(request.into_inner())?;
            let watcher = Watcher::new(self.clone(), question);
            Ok(Box::pin(stream::unfold(watcher, async |mut watcher| {
                let result = watcher.next().await?;
                Some((Ok(pb::IsActiveResponse { result }), watcher))
            })) as Activity)
        })
    }

    async fn get_metric_spec(
        &self,
        request: Request<pb::ScaledObjectRef>,
    ) -> Result<Response<pb::GetMetricSpecResponse>, Status> {
        self.answer("GetMetricSpec", || {
            let Question { trigger, .. } = Question::parse(request.into_inner())?;
            let spec = pb::MetricSpec {
                metric_name: trigger.metric_name,
                target_size: whole(trigger.target),
                target_size_float: trigger.target,
            };
            Ok(pb::GetMetricSpecResponse {
                metric_specs: vec![spec],
            })
        })
    }

    async fn get_metrics(
        &self,
        request: Request<pb::GetMetricsRequest>,
    ) -> Result<Response<pb::GetMetricsResponse>, Status> {
        self.answer("GetMetrics", || {
            let pb::GetMetricsRequest {
                scaled_object_ref,
                metric_name,
            } = request.into_inner();
            let asked =
                scaled_object_ref.ok_or_else(|| Status::invalid_argument("no ScaledObject is named"))?;
            let question = Question::parse(asked)?;
            let known = &question.trigger.metric_name;
            if metric_name != *known {
                let message = format!("there is no metric {metric_name:?}, only {known:?}");
                return Err(Status::invalid_argument(message));
            }
            let rate = self.rate(&question)?;
            let value = pb::MetricValue {
                metric_name,
                metric_value: whole(rate),
                metric_value_float: rate,
            };
            Ok(pb::GetMetricsResponse {
                metric_values: vec![value],
            })
        })
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a rate above what an i64 holds becomes the greatest"
)]
fn whole(rate: f64) -> i64 {
    rate.ceil() as i64
}

/// A trigger that wants to be told when it becomes active.
struct Watcher {
    changes: watch::Receiver<()>,
    closing: watch::Receiver<bool>,
    keda: Keda,
    looked: Instant,
    question: Question,
    said: Option<(bool, Instant)>,
}

impl Watcher {
    fn new(keda: Keda, question: Question) -> Self {
        keda.metrics.watchers().inc();
        let mut changes = keda.cluster.changes();
        changes.mark_changed(); // the first look is now
        Self {
            changes,
            closing: keda.closing.clone(),
            looked: Instant::now()
                .checked_sub(PAUSE_ACTIVE)
                .unwrap_or_else(Instant::now),
            keda,
            question,
            said: None,
        }
    }

    /// Waits until there is something to say: a change, or after a long time that it is still active. What is not known is not said.
    async fn next(&mut self) -> Option<bool> {
        loop {
            let pause = if self.said.is_some_and(|(active, _)| active) {
                PAUSE_ACTIVE
            } else {
                PAUSE_INACTIVE
            };
            let Self {
                changes,
                closing,
                looked,
                ..
            } = self;
            let change = async {
                sleep_until(*looked + pause).await;
                changes.changed().await
            };
            tokio::select! {
                () = closed(closing) => return None,
                changed = change => changed.ok()?,
            }
            self.looked = Instant::now();
            let Ok(active) = self.keda.is_active(&self.question) else {
                continue;
            };
            let is_news = match self.said {
                Some((said, when)) => said != active || (active && when.elapsed() >= REPEAT_AFTER),
                None => true,
            };
            if is_news {
                self.said = Some((active, self.looked));
                return Some(active);
            }
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.keda.metrics.watchers().dec();
    }
}
