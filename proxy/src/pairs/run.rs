//! Asking both sides, and comparing what they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::Pairs;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::oneshot;

use super::book::count;
use super::said::{Round, again};
use super::{Answer, Book, Raw, Said, said};
use crate::config::Endpoint;
use crate::telemetry::{Counters, InProgress, Outcome, Tally};

/// Further rounds when both sides repeat themselves and differ.
const FURTHER_ROUNDS: usize = 7;
/// Bodies above this are compared on a thread that may block.
const LARGE: usize = 16 * 1024;

/// How many requests are compared: the original answers each of them once more.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: u32,
    next_ms: AtomicU64,
    turn: AtomicU64,
}

impl Pace {
    /// One in so many requests is compared, whatever their rate.
    const ONE_IN: u64 = 4;

    /// At least so many a second, as far as there are.
    pub(crate) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            next_ms: AtomicU64::new(0),
            turn: AtomicU64::new(0),
        }
    }

    /// Whether this one is compared.
    pub(crate) fn takes(&self, now_ms: u64) -> bool {
        let Some(gap) = 1_000_u64.checked_div(self.per_second.into()) else {
            return false;
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if turn.is_multiple_of(Self::ONE_IN) {
            return true;
        }
        let next = self.next_ms.load(Ordering::Relaxed);
        let due = now_ms >= next;
        let change = |next: u64| {
            self.next_ms
                .compare_exchange(
                    next,
                    now_ms.saturating_add(gap),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
        };
        due && change(next)
    }
}

/// A request that can be sent again and again.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: http::uri::PathAndQuery,
    pub(crate) headers: HeaderMap,
}

impl Ask {
    /// The request for an endpoint.
    pub(crate) fn to(&self, endpoint: &Endpoint) -> Option<Request<Empty<Bytes>>> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(endpoint.address.to_string())
            .path_and_query(self.path.clone())
            .build()
            .ok()?;
        let mut copy = Request::new(Empty::new());
        *copy.method_mut() = self.method.clone();
        *copy.uri_mut() = uri;
        *copy.version_mut() = Version::HTTP_11;
        copy.headers_mut().clone_from(&self.headers);
        Some(copy)
    }

    /// Requests with the same first segment are taken to be answered in the same form.
    fn group(&self) -> String {
        let path = self.path.path();
        let end = path.get(1..).and_then(|rest| rest.find('/'));
        let group = end.map_or(path, |end| path.get(..=end).unwrap_or(path));
        group.chars().take(32).collect()
    }
}

/// One request, and whom to ask.
pub(crate) struct Pairing {
    pub(crate) client: Client<HttpConnector, Empty<Bytes>>,
    pub(crate) ask: Ask,
    pub(crate) shadow: Arc<Endpoint>,
    pub(crate) shadow_counters: Arc<Counters>,
    pub(crate) timeout: Duration,
    pub(crate) now_ms: u64,
    /// Set when the answers are compared and not only awaited.
    pub(crate) compare: Option<Compare>,
}

/// What comparing needs besides.
pub(crate) struct Compare {
    pub(crate) original: Arc<Endpoint>,
    pub(crate) original_counters: Arc<Counters>,
    /// The client's own answer.
    pub(crate) own: oneshot::Receiver<Raw>,
    pub(crate) book: Arc<Book>,
}

/// One answer, and how long it took.
struct Answered {
    raw: Raw,
    took: Duration,
}

impl Pairing {
    /// Sends the copy, awaits its answer, and compares.
    pub(crate) async fn run(mut self) {
        let mut tally = Tally::default();
        tally.chosen(&self.shadow_counters);
        tally.attempt(&self.shadow_counters, Duration::ZERO);
        let first = self.ask(&self.shadow).await;
        let outcome = if first.raw.is_answered() {
            Outcome::of_status(first.raw.status())
        } else {
            Outcome::Error
        };
        tally.end(outcome, first.took);
        if let Some(compare) = self.compare.take() {
            match compare.own.await {
                Ok(own) => {
                    let with = (compare.original, compare.original_counters);
                    self.compare(own, first.raw, with, &compare.book).await;
                }
                Err(_) => compare.book.incomparable("no answer to the client"),
            }
        }
    }

    async fn compare(
        &self,
        own: Raw,
        copy: Raw,
        (original, counters): (Arc<Endpoint>, Arc<Counters>),
        book: &Arc<Book>,
    ) {
        let (_one, _two) = (
            InProgress::begin(&counters),
            InProgress::begin(&self.shadow_counters),
        );
        let (theirs, ours) = self.both(&original).await;
        let answered = theirs.raw.is_answered() && ours.raw.is_answered();
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let ratio = answered.then(|| Pairs::ratio_step(micros(theirs.took), micros(ours.took)));
        let answers = match take_apart([own, copy, theirs.raw, ours.raw]).await {
            Ok(answers) => answers,
            Err(reason) => return book.incomparable(reason),
        };
        let [own, copy, theirs, ours] = answers;
        let group = self.ask.group();
        let left_out = book.noise().of(&group, &[&own, &copy, &theirs, &ours]);
        let digest = |answer: &Answer| answer.digest(|part| left_out.iter().any(|one| one == part));
        let round = |original: &Answer, shadow: &Answer| Round {
            original: digest(original),
            shadow: digest(shadow),
        };
        let first = round(&own, &copy);
        let word = said(first, round(&theirs, &ours));
        let (mut against_shadow, mut against_original) = (0, 0);
        match word {
            Said::Agree | Said::Unclear => {}
            Said::AgainstShadow => against_shadow = 1,
            Said::AgainstOriginal => against_original = 1,
            Said::Apart => {
                against_shadow = 1;
                for _ in 0..FURTHER_ROUNDS {
                    let (theirs, ours) = self.both(&original).await;
                    let pair = take_apart([theirs.raw, ours.raw]).await;
                    let Ok([theirs, ours]) = pair else { break };
                    match again(first, round(&theirs, &ours)) {
                        Said::AgainstShadow => against_shadow += 1,
                        Said::AgainstOriginal => against_original += 1,
                        Said::Agree | Said::Apart | Said::Unclear => break,
                    }
                }
            }
        }
        let mut fields = Vec::new();
        if against_shadow > 0 {
            fields = own.differing(&copy);
            fields.extend(theirs.differing(&ours));
            fields.retain(|part| !left_out.iter().any(|one| one == part));
            fields.sort_unstable();
            fields.dedup();
        }
        book.noise().learn(&group, &own, &theirs);
        book.add(|pairs| {
            pairs.compared += 1;
            pairs.against_shadow += against_shadow;
            pairs.against_original += against_original;
            for field in fields {
                count(&mut pairs.fields, &format!("{group} {field}"));
            }
            for part in &left_out {
                count(&mut pairs.noisy, &format!("{group} {part}"));
            }
            if let Some(step) = ratio {
                *pairs.ratios.entry(step).or_default() += 1;
            }
        });
    }

    /// Asks both sides at the same moment; chance says whom first.
    async fn both(&self, original: &Endpoint) -> (Answered, Answered) {
        let (theirs, ours) = (self.ask(original), self.ask(&self.shadow));
        if rand::random() {
            tokio::join!(theirs, ours)
        } else {
            let (ours, theirs) = tokio::join!(ours, theirs);
            (theirs, ours)
        }
    }

    async fn ask(&self, endpoint: &Endpoint) -> Answered {
        let began = Instant::now();
        let answer = async {
            let Some(request) = self.ask.to(endpoint) else {
                return Raw::none();
            };
            let response = match self.client.request(request).await {
                Ok(response) => response,
                Err(error) => {
                    if error.is_connect() {
                        endpoint.suspicion.failed(self.now_ms);
                    }
                    return Raw::none();
                }
            };
            let (parts, mut body) = response.into_parts();
            let mut raw = Raw::begin(parts.status.as_u16(), &parts.headers);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => {
                        if let Some(piece) = frame.data_ref() {
                            raw.push(piece);
                        }
                    }
                    Err(_) => return Raw::none(),
                }
                // It has no end, and nothing of it is compared.
                if raw.is_stream() {
                    return raw;
                }
            }
            raw
        };
        let raw = tokio::time::timeout(self.timeout, answer).await;
        Answered {
            raw: raw.unwrap_or_else(|_| Raw::none()),
            took: began.elapsed(),
        }
    }
}

/// Takes answers apart, off this thread if they are large.
async fn take_apart<const N: usize>(raws: [Raw; N]) -> Result<[Answer; N], &'static str> {
    let bytes: usize = raws.iter().map(Raw::len).sum();
    let work = move || {
        let mut answers = Vec::with_capacity(N);
        for raw in &raws {
            answers.push(Answer::of(raw)?);
        }
        answers.try_into().map_err(|_| "not compared")
    };
    if bytes <= LARGE {
        return work();
    }
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err("not compared"))
}
