//! What is typed on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use podwasm_daemon::logging::LogFormat;
use podwasm_metrics_exporter::scaler::fleet::{Partial, Patience};
use podwasm_metrics_exporter::scaler::tls::Files;

/// Adds up what podwasm-exporter counts on all nodes, and answers KEDA's triggers `external` and `external-push`.
///
/// Run two or more: each knows everything, and KEDA asks them in turn. It runs until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Flags {
    /// Where the exporters are: the name of a headless Service and a port. May be given several times.
    #[arg(long, value_name = "NAME:PORT", required = true, action = clap::ArgAction::Append)]
    pub exporters: Vec<String>,
    /// How often exporters are looked for.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub refresh: Duration,
    /// How long an exporter may be silent before what it told is too old.
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    pub stale_after: Duration,
    /// How long an exporter that is no longer listed is waited for, before its node is taken for gone.
    #[arg(long, default_value = "1m", value_parser = humantime::parse_duration)]
    pub forget_after: Duration,
    /// What to answer while an exporter is missing. An error leaves replicas as they are.
    #[arg(long, value_enum, default_value_t)]
    pub partial: Partial,
    /// Where to serve KEDA, over gRPC.
    #[arg(long, default_value = "0.0.0.0:9468")]
    pub grpc: SocketAddr,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:9469")]
    pub http: SocketAddr,
    /// The certificate for KEDA, and those between it and its authority: a PEM file, followed when it changes. Without it,
    /// there is no TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of which KEDA has to have a certificate, a PEM file. Without it, it needs none.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// How to write log lines. `RUST_LOG` says which: info by default, debug shows every question that is not answered.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Flags {
    /// When exporters are missing, and what then.
    pub fn patience(&self) -> Patience {
        Patience {
            stale_after: self.stale_after,
            forget_after: self.forget_after,
            partial: self.partial,
        }
    }

    /// The files for TLS, if it is wanted.
    pub fn tls(&self) -> Option<Files> {
        let (certificates, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(Files {
            certificates,
            key,
            client_authorities: self.tls_client_ca.clone(),
        })
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
    fn tls_needs_a_certificate_and_its_key() {
        let parse = |flags: &[&str]| {
            let needed = ["podwasm-scaler", "--exporters", "a:1", "--exporters", "b:2"];
            Flags::try_parse_from(needed.iter().chain(flags))
        };
        assert_eq!(parse(&[]).unwrap().exporters, ["a:1", "b:2"]);
        assert!(parse(&[]).unwrap().tls().is_none());
        assert!(
            parse(&["--tls-cert", "c", "--tls-key", "k"])
                .unwrap()
                .tls()
                .is_some()
        );
        for wrong in [
            &["--tls-cert", "c"][..],
            &["--tls-key", "k"],
            &["--tls-client-ca", "a"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Flags::try_parse_from(["podwasm-scaler"]).is_err());
    }

    #[test]
    fn commands_in_documents_are_understood() {
        let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        crate::documents::check_commands(&project, "podwasm-scaler", 1, |words| {
            Flags::try_parse_from(words).map(drop)
        });
    }
}
