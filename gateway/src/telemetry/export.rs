//! Tells a collector, by OTLP over HTTP.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Span, Stage, Tracer};
use crate::config;

/// Spans in one request.
const AT_ONCE: usize = 2_048;
/// How long spans wait for more.
const EVERY: Duration = Duration::from_secs(1);
/// For one request with all its attempts.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// For what is left at the end.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The collector's address is none. It is not repeated: it may hold a password.
    #[error("telemetry.otlp_endpoint cannot be used")]
    Endpoint(#[source] ExporterBuildError),
    /// No HTTP client can be made.
    #[error("traces cannot be sent")]
    Client(#[source] reqwest::Error),
}

/// The way to the collector.
pub(crate) struct Exporter {
    tracer: Arc<Tracer>,
    way: SpanExporter,
    scope: InstrumentationScope,
    /// The operator knows that the collector is away.
    told: bool,
}

impl Exporter {
    /// `instance` names this run of the process. `None` without an address in the configuration.
    pub(crate) fn new(settings: &config::Telemetry, instance: u64) -> Result<Option<Self>, TelemetryError> {
        if settings.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let client = reqwest::Client::builder().timeout(TOLD_WITHIN).build().map_err(TelemetryError::Client)?;
        let endpoint = format!("{}/v1/traces", settings.otlp_endpoint.trim_end_matches('/'));
        let builder = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint).with_timeout(TOLD_WITHIN);
        let mut way = builder.build().map_err(TelemetryError::Endpoint)?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "kith"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{instance:016x}")),
        ]);
        way.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("kith").build();
        Ok(Some(Self { tracer: Arc::new(Tracer::new(settings.sample_one_in)), way, scope, told: false }))
    }

    pub(crate) fn tracer(&self) -> Arc<Tracer> {
        Arc::clone(&self.tracer)
    }

    /// Until `end`, and then what is left.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        while end.run_until_cancelled(self.due()).await.is_some() {
            self.tracer.compare_clocks();
            self.tell_some().await;
        }
        let _ = timeout(LAST_WITHIN, self.tell_some()).await;
    }

    async fn due(&self) {
        let _ = timeout(EVERY, self.tracer.many.notified()).await;
        // At most twice a second, however much there is: the rest is dropped.
        sleep(EVERY / 2).await;
    }

    async fn tell_some(&mut self) {
        let spans = self.tracer.take(AT_ONCE);
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let data = spans.into_iter().map(|span| self.data(span)).collect();
        match timeout(TOLD_WITHIN, self.way.export(data)).await {
            Ok(Ok(())) => {
                self.tracer.exported.add(count);
                if std::mem::take(&mut self.told) {
                    tracing::info!("the collector takes traces again");
                }
            }
            failed => {
                self.tracer.dropped.add(count);
                if !std::mem::replace(&mut self.told, true) {
                    let error = failed.err().map_or_else(|| "it refused them".to_owned(), |late| late.to_string());
                    tracing::warn!(error, "the collector takes no traces; they are dropped until it does");
                }
            }
        }
    }

    fn data(&self, span: Span) -> SpanData {
        let kind = match span.stage {
            Stage::Message => SpanKind::Server,
            Stage::Route => SpanKind::Producer,
            Stage::Link => SpanKind::Consumer,
            _ => SpanKind::Internal,
        };
        SpanData {
            span_context: SpanContext::new(TraceId::from(span.trace), SpanId::from(span.id), TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::from(span.parent),
            parent_span_is_remote: span.parent_is_remote,
            span_kind: kind,
            name: span.stage.name().into(),
            start_time: span.start,
            end_time: span.end,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}
