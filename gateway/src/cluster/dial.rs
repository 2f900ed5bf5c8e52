//! The stream to one other gateway, from the side that dials: connected, proven, served, and again after a while when it ends.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use kith_chat_core::sessions::GatewayId;
use kith_proto::peer::v1::peer_client::PeerClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use super::{Cluster, links::Link, proof::ProofError};
use crate::sessions::Sessions;

/// A peer that cannot be reached, or does not answer, by then is tried again later.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Pings on a quiet link, and how long an answer may take: a link that swallows everything is noticed within their sum.
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(3);
/// What may be under way on a link.
pub(super) const WINDOW: u32 = 4 << 20;
/// Pauses between attempts grow from the first to the last; each is drawn from its second half.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// A link that has held so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Where the proof stands in the metadata.
pub(super) const PROOF: &str = "kith-link";

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("its address is not known")]
    NoAddress,
    #[error("cannot connect")]
    Transport(#[from] tonic::transport::Error),
    #[error("no answer in time")]
    Overdue(#[from] tokio::time::error::Elapsed),
    #[error("refused")]
    Refused(#[from] Status),
    #[error("whoever answers is no gateway of this service")]
    Unproven(#[from] ProofError),
}

impl Cluster {
    /// Of two gateways the one with the lower id dials.
    pub(super) fn dials(&self, other: GatewayId) -> bool {
        self.me() < other
    }

    /// Keeps the link up until the other gateway is gone.
    pub(super) async fn keep_link(self: Arc<Self>, sessions: Arc<Sessions>, link: Arc<Link>) {
        let gone = link.gone.clone();
        let keeping = async {
            let mut pause = FIRST_PAUSE;
            let mut told = false;
            loop {
                let begun = Instant::now();
                if let Err(error) = self.link_once(&sessions, &link).await
                    && !told
                {
                    // Once per outage.
                    tracing::warn!(peer = %link.gateway, error = &error as &dyn std::error::Error, "no link to another gateway; what is for it waits in the log");
                    told = true;
                }
                if begun.elapsed() >= GOOD_AFTER {
                    (pause, told) = (FIRST_PAUSE, false);
                }
                sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        };
        gone.run_until_cancelled(keeping).await;
    }

    /// Connects and serves until the stream ends.
    async fn link_once(&self, sessions: &Arc<Sessions>, link: &Arc<Link>) -> Result<(), DialError> {
        let address = link.address.lock().clone().ok_or(DialError::NoAddress)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel = timeout(CONNECT_WITHIN, endpoint.connect()).await??;
        let mut client = PeerClient::new(channel).max_decoding_message_size(super::MAX_MESSAGE);
        // Attached before the other side hears of it: what was dropped before, it finds when it now checks its heads.
        let (frames, over) = link.outbox.attach();
        let (claim, proof) = self.proofs.dial(link.gateway, self.clock.now_ms());
        let mut request = Request::new(frames.take_until(over.clone().cancelled_owned()));
        request.metadata_mut().insert(PROOF, ascii(&proof)?);
        let response = timeout(CONNECT_WITHIN, client.link(request)).await??;
        let answer = response.metadata().get(PROOF).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.proofs.check_answer(&claim, answer)?;
        self.serve_link(sessions, link, response.into_inner(), &over).await;
        Ok(())
    }
}

/// Text for the metadata.
pub(super) fn ascii(text: &str) -> Result<MetadataValue<Ascii>, ProofError> {
    text.parse().map_err(|_| ProofError::Invalid)
}
