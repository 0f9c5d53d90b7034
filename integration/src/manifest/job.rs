//! A Job: its pods are made until one succeeds, or it has failed.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::objects::{FailureAction, Job, JobSpec, RestartPolicy, SetOperator};
use super::{Manifest, Object, RunningPod, pods, run};
use crate::node::Node;

/// How long one pod of a Job may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// Whether it is `Complete`; else it is `Failed`.
    pub complete: bool,
    /// Why it failed: `BackoffLimitExceeded`, or `PodFailurePolicy`.
    pub reason: &'static str,
    /// The exit codes of its tries, of the first container that failed in each, or 0.
    pub codes: Vec<i32>,
}

impl Manifest {
    /// Runs a Job of this manifest to its end. Tries follow each other at once: the delays between them are a cluster's.
    pub async fn run_job<'a>(&self, node: &'a Node, name: &str) -> Result<(JobEnd, Vec<RunningPod<'a>>)> {
        let job = self.objects.iter().find_map(|object| match object {
            Object::Job(job) if job.metadata.name == name => Some(job),
            _ => None,
        });
        let job = job.ok_or_else(|| anyhow::anyhow!("no Job {name}"))?;
        let mut codes = Vec::new();
        let mut made = Vec::new();
        let mut failures = 0;
        for attempt in 0.. {
            let (code, of) = self.attempt(node, job, attempt, &mut made).await?;
            codes.push(code);
            match judge(&job.spec, &of, code, &mut failures) {
                None => {}
                Some((complete, reason)) => {
                    return Ok((
                        JobEnd {
                            complete,
                            reason,
                            codes,
                        },
                        made,
                    ));
                }
            }
            ensure!(attempt < 100, "the Job never ends: {codes:?}");
        }
        unreachable!("the attempts are counted without end")
    }

    /// One try: a pod of its own, or where pods restart what fails, the same pod's container once more.
    async fn attempt<'a>(
        &self,
        node: &'a Node,
        job: &Job,
        attempt: u32,
        made: &mut Vec<RunningPod<'a>>,
    ) -> Result<(i32, String)> {
        let restarts = job.spec.template.spec.restart_policy == RestartPolicy::OnFailure;
        match made.last_mut().filter(|_| restarts) {
            Some(pod) => run::restart_failed(self, pod, attempt).await?,
            None => made.push(run::start(self, node, pods::job_pod(job, attempt)).await?),
        }
        let pod = made.last().expect("one was just made");
        for (name, container) in pod.containers() {
            let code = container.wait_exit_within(PATIENCE).await?;
            if code != 0 {
                return Ok((code, name.clone()));
            }
        }
        Ok((0, String::new()))
    }
}

/// Whether a Job ends with a try that ended so, and how.
fn judge(spec: &JobSpec, container: &str, code: i32, failures: &mut u32) -> Option<(bool, &'static str)> {
    if code == 0 {
        return Some((true, ""));
    }
    let rules = spec
        .pod_failure_policy
        .as_ref()
        .map_or(&[][..], |policy| &policy.rules);
    let action = rules.iter().find(|rule| {
        let codes = &rule.on_exit_codes;
        let named = codes
            .container_name
            .as_ref()
            .is_none_or(|named| named == container);
        named && codes.values.contains(&code) == (codes.operator == SetOperator::In)
    });
    match action.map_or(FailureAction::Count, |rule| rule.action) {
        FailureAction::FailJob => return Some((false, "PodFailurePolicy")),
        FailureAction::Ignore => return None,
        FailureAction::Count => *failures += 1,
    }
    (*failures > spec.backoff_limit).then_some((false, "BackoffLimitExceeded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(policy: &str) -> JobSpec {
        let text = format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: j}}
spec:
  backoffLimit: 1
  {policy}
  template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: i}}]}}}}
"
        );
        let manifest = Manifest::parse(&text).unwrap();
        let Object::Job(job) = &manifest.objects()[0] else {
            panic!("it is a Job")
        };
        job.spec.clone()
    }

    #[test]
    fn limit_counts_failures() {
        let (spec, mut failures) = (spec(""), 0);
        assert_eq!(judge(&spec, "c", 1, &mut failures), None);
        assert_eq!(
            judge(&spec, "c", 1, &mut failures),
            Some((false, "BackoffLimitExceeded"))
        );
        assert_eq!(judge(&spec, "c", 0, &mut failures), Some((true, "")));
    }

    #[test]
    fn policy_goes_before_the_limit() {
        let spec = spec(
            "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: c, operator: In, values: [42]}},
             {action: Ignore, onExitCodes: {operator: NotIn, values: [1]}}]}",
        );
        let mut failures = 0;
        assert_eq!(
            judge(&spec, "c", 42, &mut failures),
            Some((false, "PodFailurePolicy"))
        );
        assert_eq!(judge(&spec, "d", 42, &mut failures), None, "ignored");
        assert_eq!(failures, 0);
        assert_eq!(judge(&spec, "c", 1, &mut failures), None);
        assert_eq!(failures, 1);
    }
}
