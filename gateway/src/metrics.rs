//! `/metrics` in Prometheus' text form. All labels are from closed sets: routes as written in the router, statuses, error codes.

use std::{
    fmt::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    cluster::Cluster,
    limits::Limits,
    sessions::{Counters, LATENCY_BOUNDS_US, Latency},
    telemetry::Tracer,
};

/// What is on the page beside the HTTP side's own counts: whatever of it the process has.
#[derive(Debug, Default)]
pub struct Shown<'a> {
    /// What connections do.
    pub(crate) sessions: Option<&'a Counters>,
    /// What gateways say to one another.
    pub(crate) cluster: Option<&'a Cluster>,
    /// How much anybody may ask for.
    pub(crate) limits: Option<&'a Limits>,
    /// What became of traces.
    pub(crate) tracer: Option<&'a Tracer>,
}

/// Counts of the HTTP side, and what other crates record through the `metrics` facade.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that speak HTTP just now.
    pub(crate) http_connections: AtomicU64,
    /// Connections turned away because there were too many.
    pub(crate) http_turned_away: AtomicU64,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
}

/// The process's recorder: one, however many servers a test starts.
fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let seconds = [0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
            // A recorder that somebody else has installed keeps its measurements; ours then shows only what we count ourselves.
            let messages = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
            let counted = Matcher::Suffix("_messages".to_owned());
            PrometheusBuilder::new().set_buckets(&seconds).ok()?.set_buckets_for_metric(counted, &messages).ok()?.install_recorder().ok()
        })
        .as_ref()
}

impl Metrics {
    /// Counts from now on.
    #[must_use]
    pub fn start() -> Self {
        recorder();
        Self::default()
    }

    /// An answered request.
    pub(crate) fn answered(route: &str, method: &'static str, status: u16, took: Duration) {
        metrics::counter!("kith_http_requests_total", "route" => route.to_owned(), "method" => method, "status" => status.to_string()).increment(1);
        metrics::histogram!("kith_http_request_seconds", "route" => route.to_owned()).record(took.as_secs_f64());
    }

    /// The page.
    #[must_use]
    pub fn render(&self, shown: &Shown<'_>) -> String {
        let mut page = String::new();
        if let Some(recorder) = recorder() {
            recorder.run_upkeep();
            page = recorder.render();
        }
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        one("kith_http_connections", "gauge", "Connections that speak HTTP.", load(&self.http_connections));
        one("kith_http_turned_away_total", "counter", "Connections turned away.", load(&self.http_turned_away));
        one("kith_panics_total", "counter", "Handlers that panicked.", load(&self.panics));
        if let Some(sessions) = shown.sessions {
            of_sessions(&mut page, sessions);
        }
        if let Some(cluster) = shown.cluster {
            links(&mut page, cluster);
        }
        if let Some(limits) = shown.limits {
            let (name, help) =
                ("kith_limits_unshared_total", "Times that a limit was counted by this gateway alone, because the shared count was away.");
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", limits.unshared.value());
        }
        if let Some(tracer) = shown.tracer {
            traces(&mut page, tracer);
        }
        page
    }
}

fn of_sessions(page: &mut String, sessions: &Counters) {
    {
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one("kith_ws_connections", "gauge", "WebSocket connections.", sessions.connections.value());
        one("kith_ws_unauthenticated", "gauge", "Of these, such as have not said who they are.", sessions.unauthenticated.value());
        one("kith_ws_turned_away_total", "counter", "Upgrades refused for lack of room.", sessions.turned_away.value());
        one("kith_ws_logins_total", "counter", "Connections that became usable.", sessions.logins.value());
        one("kith_messages_accepted_total", "counter", "Messages accepted, duplicates left out.", sessions.accepted.value());
        one("kith_messages_duplicate_total", "counter", "Retries answered with the original seq.", sessions.duplicates.value());
        one("kith_messages_delivered_live_total", "counter", "Deliveries put into a connection's inbox.", sessions.delivered_live.value());
        one("kith_messages_delivered_from_log_total", "counter", "Deliveries read from the log.", sessions.delivered_from_log.value());
        one("kith_ws_overflows_total", "counter", "Inboxes that ran over.", sessions.overflows.value());
        one("kith_ws_rescues_total", "counter", "Devices that a keep-alive found behind.", sessions.rescues.value());
        one("kith_ws_too_slow_total", "counter", "Connections cut because they did not read.", sessions.too_slow.value());
        one("kith_ws_slowed_total", "counter", "Times a connection was not read for sending too much that was not new.", sessions.slowed.value());
        one("kith_log_full_total", "counter", "Messages refused because the log's queue was full.", sessions.log_full.value());
        one("kith_log_appends_waiting", "gauge", "Appends on their way through the log.", sessions.in_log.value());
    }
    refusals(page, sessions);
    latency(page, "kith_accept_seconds", "From a Send to its Accepted; one in sixteen is measured.", &sessions.accept_latency);
    stages(page, sessions);
}

fn traces(page: &mut String, tracer: &Tracer) {
    let mut one = |name: &str, help: &str, value: u64| {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
    };
    one("kith_trace_spans_exported_total", "Spans that the collector has taken.", tracer.exported.value());
    one("kith_trace_spans_dropped_total", "Spans dropped for lack of room or because the collector was away.", tracer.dropped.value());
}

fn refusals(page: &mut String, sessions: &Counters) {
    let name = "kith_ws_errors_total";
    let _ = writeln!(page, "# HELP {name} Errors and goodbyes sent, by code.\n# TYPE {name} counter");
    for (code, count) in sessions.refusals() {
        let _ = writeln!(page, "{name}{{code=\"{}\"}} {count}", code.as_str_name());
    }
}

/// Only of a gateway that is not alone.
fn links(page: &mut String, cluster: &Cluster) {
    let counters = cluster.counters();
    let (up, cached) = cluster.sizes();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    one("kith_peer_links", "gauge", "Links to other gateways that work.", up as u64);
    one("kith_peer_connects_total", "counter", "Links that came up.", counters.connects.value());
    one("kith_peer_refused_total", "counter", "Calls of gateways that were refused.", counters.refused.value());
    one("kith_peer_rechecks_total", "counter", "Times that the heads of all devices were checked.", counters.rechecks.value());
    one("kith_directory_cached_accounts", "gauge", "Accounts in the cache of the session directory.", cached as u64);
    one("kith_directory_hits_total", "counter", "Accounts found in that cache.", counters.cached.value());
    one("kith_directory_lookups_total", "counter", "Accounts that the session directory was asked for.", counters.looked_up.value());
    one("kith_directory_failures_total", "counter", "Calls of the session directory that failed.", counters.failed.value());
    one("kith_peer_unrouted_total", "counter", "What was dropped before it was known for which gateway it was.", counters.unrouted.value());
    let directions = [("sent", &counters.sent), ("received", &counters.received), ("dropped", &counters.dropped)];
    for (direction, items) in directions {
        let name = format!("kith_peer_items_{direction}_total");
        let _ = writeln!(page, "# HELP {name} Items for or from other gateways that were {direction}, by kind.\n# TYPE {name} counter");
        for (kind, count) in items.named() {
            let _ = writeln!(page, "{name}{{kind=\"{kind}\"}} {count}");
        }
    }
    let help = "From a message's acceptance at one gateway until another gave it to its connections; the first of each frame is measured.";
    latency(page, "kith_peer_delivery_seconds", help, &counters.latency);
}

fn stages(page: &mut String, sessions: &Counters) {
    let name = "kith_message_stage_seconds";
    let help = "Parts of a message's way. receive: from the socket to the log's queue; queue: in it; commit: the transaction; deliver: from there to a \
                receiver's connection at the same gateway; acknowledge: from there to its acknowledgement. One message in sixteen is measured, and every commit.";
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (stage, latency) in sessions.stages.named() {
        series(page, name, &format!("stage=\"{stage}\""), latency);
    }
}

fn latency(page: &mut String, name: &str, help: &str, latency: &Latency) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} histogram");
    series(page, name, "", latency);
}

/// The lines of one histogram, whose label may be empty.
fn series(page: &mut String, name: &str, label: &str, latency: &Latency) {
    let (buckets, sum_us) = latency.snapshot();
    let (comma, braced) = if label.is_empty() { ("", String::new()) } else { (",", format!("{{{label}}}")) };
    let mut total = 0;
    for (at, count) in buckets.iter().enumerate() {
        total += count;
        let bound = LATENCY_BOUNDS_US.get(at).map_or("+Inf".to_owned(), |us| Duration::from_micros(*us).as_secs_f64().to_string());
        let _ = writeln!(page, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(page, "{name}_sum{braced} {}\n{name}_count{braced} {total}", Duration::from_micros(sum_us).as_secs_f64());
}
