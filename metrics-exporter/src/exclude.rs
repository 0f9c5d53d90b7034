//! Which requests are not the workload's own business: a kubelet's probes and, if wanted, Prometheus' scrapes.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use crate::counts::Exclusion;

/// How a kubelet's probes over HTTP introduce themselves.
pub const PROBE_USER_AGENT: &str = "kube-probe/";
/// The service that a kubelet's probes over gRPC call.
pub const HEALTH_PATH: &str = "/grpc.health.v1.Health/";
/// How Prometheus introduces itself.
pub const SCRAPE_USER_AGENT: &str = "Prometheus/";

/// What is excluded, by how a value begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By path.
    pub paths: Vec<(String, Exclusion)>,
    /// By the value of `User-Agent`.
    pub user_agents: Vec<(String, Exclusion)>,
}

impl Rules {
    /// Excludes a kubelet's probes.
    pub fn probes() -> Self {
        Self {
            paths: vec![(HEALTH_PATH.to_owned(), Exclusion::GrpcHealth)],
            user_agents: vec![(PROBE_USER_AGENT.to_owned(), Exclusion::HttpProbe)],
        }
    }

    /// Excludes Prometheus' scrapes too.
    #[must_use]
    pub fn and_scrapes(mut self) -> Self {
        self.user_agents
            .push((SCRAPE_USER_AGENT.to_owned(), Exclusion::Scrape));
        self
    }

    /// Why a request by such an agent is excluded, if it is.
    pub fn by_user_agent(&self, value: &[u8]) -> Option<Exclusion> {
        first_that_begins(&self.user_agents, value)
    }

    /// Why a request for such a path is excluded, if it is.
    pub fn by_path(&self, path: &[u8]) -> Option<Exclusion> {
        first_that_begins(&self.paths, path)
    }
}

fn first_that_begins(rules: &[(String, Exclusion)], value: &[u8]) -> Option<Exclusion> {
    let mut rules = rules.iter();
    rules
        .find(|(prefix, _)| value.starts_with(prefix.as_bytes()))
        .map(|(_, exclusion)| *exclusion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_excluded_and_scrapes_if_wanted() {
        let rules = Rules::probes();
        assert_eq!(
            rules.by_user_agent(b"kube-probe/1.33"),
            Some(Exclusion::HttpProbe)
        );
        assert_eq!(rules.by_user_agent(b"curl/8 kube-probe/1.33"), None);
        assert_eq!(rules.by_user_agent(b"Prometheus/3.5.0"), None);
        let scrapes = rules.clone().and_scrapes();
        assert_eq!(
            scrapes.by_user_agent(b"Prometheus/3.5.0"),
            Some(Exclusion::Scrape)
        );
        assert_eq!(
            rules.by_path(b"/grpc.health.v1.Health/Check"),
            Some(Exclusion::GrpcHealth)
        );
        assert_eq!(rules.by_path(b"/healthz"), None);
    }
}
