//! What is typed on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use podwasm_daemon::logging::LogFormat;
use podwasm_metrics_exporter::counts::Exclusion;
use podwasm_metrics_exporter::exclude::{self, Rules};
use podwasm_metrics_exporter::filter::Choice;

/// Counts the requests of this node's pods, and publishes them for Prometheus and podwasm-scaler.
///
/// It hears of pods as an NRI plugin that changes nothing, so it needs containerd with NRI switched on (the default since 2.0).
/// It runs until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Flags {
    /// The plugin's name, as NRI knows it.
    #[arg(long, default_value = "podwasm-exporter")]
    pub name: String,
    /// The plugin's index, two digits: plugins are called in ascending order.
    #[arg(long, default_value = "90")]
    pub idx: String,
    /// NRI's socket.
    #[arg(long, default_value = nri::DEFAULT_SOCKET)]
    pub nri_socket: PathBuf,
    /// The node's name, the same whenever the exporter comes back to it. Without it, the host name.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Where to serve /metrics, the rates as JSON, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:9466")]
    pub http: SocketAddr,
    /// Where to serve the counts to podwasm-scaler, over gRPC.
    #[arg(long, default_value = "0.0.0.0:9467")]
    pub grpc: SocketAddr,
    /// How often counts are read, and told to scalers.
    #[arg(long, default_value = "250ms", value_parser = interval)]
    pub interval: Duration,
    /// How many pods are counted one by one. What is more is counted together, and scalers are told that it is not known.
    #[arg(long, default_value_t = 1_024)]
    pub max_pods: usize,
    /// How long the series of a pod are shown after its end.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
    pub keep_ended: Duration,
    /// Requests whose `User-Agent` begins so are a kubelet's probes, which are not counted. May be given several times.
    #[arg(long, value_name = "PREFIX", default_value = exclude::PROBE_USER_AGENT, action = ArgAction::Append)]
    pub probe_user_agent: Vec<String>,
    /// Requests whose path begins so are health checks over gRPC, which are not counted. May be given several times.
    #[arg(long, value_name = "PREFIX", default_value = exclude::HEALTH_PATH, action = ArgAction::Append)]
    pub health_path: Vec<String>,
    /// Does not count Prometheus' scrapes of pods either.
    #[arg(long)]
    pub exclude_scrapes: bool,
    /// How the kernel tells which packets have to be looked at.
    #[arg(long, value_enum, default_value_t)]
    pub filter: Choice,
    /// How to write log lines. `RUST_LOG` says which: info by default.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Flags {
    /// What is not counted.
    pub fn rules(&self) -> Rules {
        let rule = |prefixes: &[String], reason| {
            let prefixes = prefixes.iter().filter(|prefix| !prefix.is_empty());
            prefixes.map(|prefix| (prefix.clone(), reason)).collect()
        };
        let rules = Rules {
            paths: rule(&self.health_path, Exclusion::GrpcHealth),
            user_agents: rule(&self.probe_user_agent, Exclusion::HttpProbe),
        };
        if self.exclude_scrapes {
            rules.and_scrapes()
        } else {
            rules
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_secs(1);
    if allowed.contains(&interval) {
        Ok(interval)
    } else {
        Err("it has to be 10ms to 1s".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn probes_are_excluded_unless_told_otherwise() {
        let rules = |arguments: &[&str]| {
            let name = ["podwasm-exporter"].iter();
            Flags::parse_from(name.chain(arguments)).rules()
        };
        assert_eq!(rules(&[]), Rules::probes());
        assert_eq!(rules(&["--exclude-scrapes"]), Rules::probes().and_scrapes());
        assert_eq!(
            rules(&["--probe-user-agent=", "--health-path="]),
            Rules::default()
        );
        let own = rules(&["--probe-user-agent", "a/", "--probe-user-agent", "b/"]);
        assert_eq!(own.by_user_agent(b"b/1"), Some(Exclusion::HttpProbe));
        assert_eq!(own.by_user_agent(b"kube-probe/1"), None);
    }

    #[test]
    fn intervals_are_bounded() {
        let parse = |interval| Flags::try_parse_from(["podwasm-exporter", "--interval", interval]);
        assert_eq!(parse("1s").unwrap().interval, Duration::from_secs(1));
        for wrong in ["0s", "2s", "often"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commands_in_documents_are_understood() {
        let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        crate::documents::check_commands(&project, "podwasm-exporter", 1, |words| {
            Flags::try_parse_from(words).map(drop)
        });
    }
}
