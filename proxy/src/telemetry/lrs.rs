//! Load reports to the control plane.
//!
//! The stream of reports draws its content from the [`Registry`] at the moment at which the
//! transport asks for the next message: what could not be sent has never been taken out, and is in
//! the next report.

use std::sync::Arc;
use std::time::Duration;

use api::envoy::envoy::service::load_stats::v3::{
    LoadStatsRequest, LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;

use crate::state::Shared;
use crate::xds::client::chain;
use crate::xds::{backoff, dial, node};

/// Shortest interval that a control plane may ask for.
const SHORTEST: Duration = Duration::from_millis(50);
/// Longest; also what holds when none is given.
const LONGEST: Duration = Duration::from_mins(1);
/// How long the control plane may take to end the stream after the last report.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Reports until `stop`, and then once more.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let last_word = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WORD).await;
        };
        let (ended, was_good) = tokio::select! {
            biased;
            ended = report(&shared, &stop) => ended,
            () = last_word => return,
        };
        failures = if was_good { 0 } else { failures + 1 };
        tracing::debug!(reason = ended, "no stream for load reports");
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff(failures, rand::random())) => {}
        }
    }
}

/// One stream. Gives why it ended, and whether the control plane had answered.
async fn report(shared: &Arc<Shared>, stop: &CancellationToken) -> (String, bool) {
    let connected = match dial(&shared.config).await {
        Ok(connected) => connected,
        Err(reason) => return (reason, false),
    };
    let (wishes, interval) = watch::channel(None);
    let reports = reports(Arc::clone(shared), interval, stop.clone());
    let opened = LoadReportingServiceClient::new(connected)
        .stream_load_stats(reports)
        .await;
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return (chain(&status), false),
    };
    let mut answered = false;
    loop {
        match responses.message().await {
            Ok(Some(wish)) => {
                answered = true;
                wishes.send_replace(Some(interval_of(&wish)));
            }
            Ok(None) => return ("the control plane ended it".to_owned(), answered),
            Err(status) => return (chain(&status), answered),
        }
    }
}

fn interval_of(wish: &LoadStatsResponse) -> Duration {
    let asked = wish.load_reporting_interval.as_ref().and_then(|asked| {
        let seconds = u64::try_from(asked.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(asked.nanos).ok()?))
    });
    asked.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
}

struct Reporter {
    shared: Arc<Shared>,
    interval: watch::Receiver<Option<Duration>>,
    stop: CancellationToken,
    last: Option<Instant>,
    finished: bool,
}

fn reports(
    shared: Arc<Shared>,
    interval: watch::Receiver<Option<Duration>>,
    stop: CancellationToken,
) -> impl Stream<Item = LoadStatsRequest> + Send + 'static {
    let reporter = Reporter {
        shared,
        interval,
        stop,
        last: None,
        finished: false,
    };
    futures::stream::unfold(reporter, |mut reporter| async move {
        let message = reporter.next().await?;
        Some((message, reporter))
    })
}

impl Reporter {
    async fn next(&mut self) -> Option<LoadStatsRequest> {
        if self.finished {
            return None;
        }
        let Some(last) = self.last else {
            self.last = Some(Instant::now());
            let node = Some(node(&self.shared.config.node_id));
            return Some(LoadStatsRequest {
                node,
                cluster_stats: Vec::new(),
            });
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => self.finished = true,
            () = due(&mut self.interval, last) => {}
        }
        let now = Instant::now();
        self.last = Some(now);
        let cluster_stats = self.shared.registry.take_report(now.duration_since(last));
        Some(LoadStatsRequest {
            node: None,
            cluster_stats,
        })
    }
}

/// Waits until the interval since `last` is over; for ever while none has been asked for.
async fn due(interval: &mut watch::Receiver<Option<Duration>>, last: Instant) {
    loop {
        let asked = *interval.borrow_and_update();
        let over = async {
            match asked {
                None => std::future::pending().await,
                Some(asked) => tokio::time::sleep_until(last + asked).await,
            }
        };
        tokio::select! {
            biased;
            changed = interval.changed() => {
                if changed.is_err() {
                    // The stream has ended; what is counted goes into the next one.
                    std::future::pending::<()>().await;
                }
            }
            () = over => return,
        }
    }
}
