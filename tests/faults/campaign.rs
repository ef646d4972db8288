//! Migrations one after another while control planes are killed or stand still, until enough of
//! them were; in labs of limited size, each of which is ended and looked over.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::{MigrationId, Phase};
use foreshadow::status::Status;

use crate::history::{Seen, What};
use crate::lab::{Backing, LEASE_MS, Lab, SetUp, active, may_abort, within};
use crate::points::{Place, Places};

/// How long after the last recovery everything must be at rest, in milliseconds.
pub(crate) const REST_MS: u64 = 60_000;
/// Beyond this a campaign is not waited for: what is not at rest by then is noted.
const PATIENCE_MS: u64 = 120_000;
/// Faults that one lab bears: its store and its answers grow with every migration.
const PER_LAB: usize = 40;

/// What becomes of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// They are killed.
    Kill,
    /// They stand still for longer than their lease, and go on when another leads.
    Stand,
}

/// What shall happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Campaign {
    pub(crate) set_up: SetUp,
    pub(crate) blow: Blow,
    pub(crate) count: usize,
    pub(crate) seed: u64,
}

/// What one lab has to show.
pub(crate) struct Shown {
    pub(crate) campaign: Campaign,
    pub(crate) history: Vec<Seen>,
    pub(crate) failures: Vec<String>,
}

impl Campaign {
    /// Runs it, in as many labs as it takes. Histories go to files in `folder`.
    pub(crate) async fn run(self, folder: &Path) -> Vec<Shown> {
        let mut shown = Vec::new();
        let mut left = self.count;
        let mut places = Places::new(self.seed, |_| true);
        while left > 0 {
            let count = left.min(PER_LAB);
            left -= count;
            let name = format!("{:?}-{:?}-{}", self.set_up.backing, self.blow, shown.len());
            let file = folder.join(format!("{}.jsonl", name.to_lowercase()));
            let _ = std::fs::remove_file(&file);
            let lab = Lab::start(self.set_up, &file).await;
            let run = Run::new(lab, self, count, &mut places);
            let one = run.run().await;
            one.say(&file);
            shown.push(one);
        }
        shown
    }
}

impl Shown {
    fn say(&self, file: &Path) {
        let struck = crate::check::struck(&self.history);
        println!("{}: {struck} blows", file.display());
        for failure in &self.failures {
            println!("  failed request: {failure}");
        }
    }
}

/// A migration that is being watched.
struct Watched {
    id: MigrationId,
    /// The phase in which it is to be undone, if it is to be.
    abort_at: Option<usize>,
    aborted: bool,
    /// When it was over, by the history's time.
    over_at: Option<u64>,
}

struct Run<'a> {
    lab: Lab,
    campaign: Campaign,
    places: &'a mut Places,
    left: usize,
    /// What the next blow is asked for.
    armed: Option<Place>,
    /// The highest epoch when it was: whoever takes over has a higher one, and may have it before
    /// the blow is noticed here.
    epoch: u64,
    watched: Option<Watched>,
    /// When the last control plane recovered, by the history's time.
    recovered_at: u64,
    progress_at: Instant,
    /// The last record that was looked at.
    sampled: Option<domain::Migration>,
}

impl<'a> Run<'a> {
    fn new(lab: Lab, campaign: Campaign, count: usize, places: &'a mut Places) -> Self {
        Self {
            lab,
            campaign,
            places,
            left: count,
            armed: None,
            epoch: 0,
            watched: None,
            recovered_at: 0,
            progress_at: Instant::now(),
            sampled: None,
        }
    }

    async fn run(mut self) -> Shown {
        self.warm_up().await;
        self.arm();
        while self.left > 0 || self.watched.is_some() {
            self.blows().await;
            if let Some(status) = self.lab.status().await {
                self.attend(&status).await;
            }
            if self.progress_at.elapsed() > Duration::from_millis(PATIENCE_MS) {
                let left = self.left;
                self.lab
                    .history
                    .wrong(format!("no progress for {PATIENCE_MS} ms; {left} to go"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (campaign, history) = (self.campaign, self.lab.history.clone());
        let failures = self.lab.end().await;
        Shown {
            campaign,
            history: history.all(),
            failures,
        }
    }

    /// Some requests before the first blow.
    async fn warm_up(&mut self) {
        let lab = &self.lab;
        let enough = u64::from(lab.set_up.rate);
        let warm = async || {
            lab.requests();
            let last = lab.history.all().pop();
            matches!(last, Some(Seen { what: What::Requests { ok, .. }, .. }) if ok > enough)
                .then_some(())
        };
        if within(60_000, warm).await.is_none() {
            lab.history.wrong("no requests come through");
        }
        self.progress_at = Instant::now();
    }

    /// Asks for the next blow.
    fn arm(&mut self) {
        if self.left == 0 {
            return;
        }
        let place = self.places.next();
        let signal = match self.campaign.blow {
            Blow::Kill => "kill",
            Blow::Stand => "stop",
        };
        self.epoch = crate::check::highest_epoch(&self.lab.history.all());
        self.lab.arm(signal, &place.to_string());
        self.armed = Some(place);
    }

    /// Looks whether a blow has struck, and brings the control plane back.
    async fn blows(&mut self) {
        let place = self.armed.as_ref().map(Place::to_string);
        for index in 0..self.lab.controls.len() {
            let control = &mut self.lab.controls[index];
            if let Some(status) = control.died(place.as_deref()) {
                if std::os::unix::process::ExitStatusExt::signal(&status) != Some(9) {
                    let name = control.name;
                    let wrong = format!("{name} ended by itself with {status}");
                    self.lab.history.wrong(wrong);
                }
                self.struck();
                self.lab.controls[index].start();
                if self.lab.controls.len() == 1 {
                    self.lab.answers(index).await;
                }
                self.recovered();
                self.arm();
            } else if control.stood(place.as_deref()) {
                self.struck();
                self.zombie(index).await;
                self.recovered();
                self.arm();
            }
        }
    }

    fn struck(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.armed = None;
        self.progress_at = Instant::now();
        self.lab.requests();
    }

    fn recovered(&mut self) {
        self.recovered_at = self.lab.history.now();
    }

    /// Another one takes over from a leader that stands still; then that one goes on, at some time
    /// between the take-over and the end of the migration.
    async fn zombie(&mut self, index: usize) {
        // What a balancer does whose health checks get no answer.
        let others = self.lab.controls.iter().enumerate();
        let targets: Vec<_> = others
            .filter(|(other, _)| *other != index)
            .map(|(_, control)| control.xds)
            .collect();
        for link in &self.lab.to_control {
            link.lead_to(targets.clone());
        }
        let before = self.epoch;
        let history = self.lab.history.clone();
        let taken = async || {
            let now = crate::check::highest_epoch(&history.all());
            (now > before).then_some(())
        };
        let place = self.lab.controls[index].place.clone();
        // At the last place of a migration there is nothing to take over.
        let is_last = place.starts_with("release") && place.ends_with("after log");
        if within(LEASE_MS + 4_000, taken).await.is_none() && !is_last {
            let name = self.lab.controls[index].name;
            let wrong = format!("nobody takes over from {name}, which stands at {place}");
            self.lab.history.wrong(wrong);
        }
        let wait = [0, 50, 400, 1_500, 3_000][self.places.below(5)];
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.lab.controls[index].go_on();
    }

    /// Looks after the migration that runs, or begins one.
    async fn attend(&mut self, status: &Status) {
        match active(status) {
            Some(found) => {
                let (id, phase) = (found.migration.id.clone(), found.migration.phase);
                self.sample(found);
                if self.watched.as_ref().is_none_or(|known| known.id != id) {
                    self.begin_to_watch(id.clone());
                }
                if phase == Phase::Parked {
                    self.answer(&id).await;
                } else {
                    self.perhaps_abort(&id, phase).await;
                }
            }
            None => self.at_rest_or_next(status).await,
        }
    }

    /// Where nobody can look into the store beside the control plane, its answers are the records.
    fn sample(&mut self, found: &foreshadow::status::MigrationStatus) {
        let record = &found.migration;
        if self.lab.set_up.backing == Backing::Embedded && self.sampled.as_ref() != Some(record) {
            self.sampled = Some(record.clone());
            self.lab.history.add(What::Record {
                kind: "migration".to_owned(),
                id: found.migration.id.to_string(),
                generation: 0,
                value: serde_json::to_value(&found.migration).ok(),
            });
        }
    }

    fn begin_to_watch(&mut self, id: MigrationId) {
        let back = self.armed.as_ref().is_some_and(Place::is_back);
        let other = self.places.below(8) == 0;
        self.watched = Some(Watched {
            id,
            abort_at: (back || other).then(|| self.places.below(4)),
            aborted: false,
            over_at: None,
        });
    }

    async fn answer(&self, id: &MigrationId) {
        // A person who looks at it says "again" until it is over.
        let _ = self.lab.tell(id, "retry").await;
    }

    async fn perhaps_abort(&mut self, id: &MigrationId, phase: Phase) {
        let Some(watched) = &mut self.watched else {
            return;
        };
        let at = match phase {
            Phase::Verifying | Phase::Mirroring => 0,
            Phase::Ramping { stage } => stage + 1,
            Phase::Soaking => 3,
            _ => return,
        };
        let due = watched.abort_at.is_some_and(|wanted| at >= wanted);
        if due && !watched.aborted && may_abort(phase) {
            watched.aborted = self.lab.tell(id, "abort").await.is_ok();
        }
    }

    async fn at_rest_or_next(&mut self, status: &Status) {
        let now = self.lab.history.now();
        let Some(watched) = &mut self.watched else {
            if self.left > 0 {
                self.begin(status).await;
            }
            return;
        };
        let found = { status.migrations.iter() }.find(|found| found.migration.id == watched.id);
        let Some(found) = found else { return };
        let over_at = *watched.over_at.get_or_insert(now);
        if let Some(left) = self.lab.left_over(status).await {
            let since = now.saturating_sub(self.recovered_at.max(over_at));
            if since > REST_MS {
                let id = watched.id.clone();
                self.lab
                    .history
                    .wrong(format!("{REST_MS} ms after {id}: {left}"));
                self.watched = None;
            }
            return;
        }
        let id = watched.id.to_string();
        self.sample(found);
        self.routes(&id, false).await;
        let since = |at: u64| at.saturating_sub(self.recovered_at);
        self.lab.history.add(What::Rest {
            migration: id,
            phase: found.migration.phase.name().to_owned(),
            ended_after: since(over_at),
            rest_after: since(now),
        });
        self.watched = None;
        self.progress_at = Instant::now();
    }

    async fn begin(&mut self, status: &Status) {
        let digest = self.lab.routes().await;
        if let Ok(id) = self.lab.order(status).await {
            if let Some(digest) = digest {
                self.lab.history.add(What::Routes {
                    migration: id.to_string(),
                    before: true,
                    digest,
                });
            }
            self.begin_to_watch(id);
        }
    }

    async fn routes(&self, migration: &str, before: bool) {
        if let Some(digest) = self.lab.routes().await {
            self.lab.history.add(What::Routes {
                migration: migration.to_owned(),
                before,
                digest,
            });
        }
    }
}
