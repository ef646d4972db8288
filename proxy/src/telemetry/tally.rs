//! The accounting of one request.

use std::sync::Arc;
use std::time::Duration;

use super::counters::{Counters, InProgress, Outcome};

/// The accounting of one request: whatever happens to it, it is counted once, and nothing stays in
/// progress after it is gone.
#[derive(Debug, Default)]
pub struct Tally {
    owner: Option<Arc<Counters>>,
    /// Whether it is the first one of its session there.
    first: bool,
    counted: bool,
    active: Option<(Arc<Counters>, InProgress)>,
}

impl Tally {
    /// The weights chose this cluster: the request is counted there.
    pub fn chosen(&mut self, counters: &Arc<Counters>) {
        self.owner.get_or_insert_with(|| Arc::clone(counters));
    }

    /// The same for a request of a session, by the hash of the session's name.
    pub fn chosen_by(&mut self, counters: &Arc<Counters>, session: u64, now_ms: u64) {
        if self.owner.is_none() {
            self.first = counters.is_first_of(session, now_ms);
            self.chosen(counters);
        }
    }

    /// The request goes to this cluster now. If that is not the one it is counted for, that one
    /// has failed it.
    pub fn attempt(&mut self, counters: &Arc<Counters>, elapsed: Duration) {
        counters.issue();
        let here = self
            .active
            .as_ref()
            .is_some_and(|(active, _)| Arc::ptr_eq(active, counters));
        if !here {
            self.active = Some((Arc::clone(counters), InProgress::begin(counters)));
        }
        let own = self
            .owner
            .as_ref()
            .is_none_or(|owner| Arc::ptr_eq(owner, counters));
        if !own {
            self.count(Outcome::Error, elapsed);
        }
    }

    /// The request has ended.
    pub fn end(&mut self, outcome: Outcome, took: Duration) {
        self.count(outcome, took);
        self.active = None;
    }

    fn count(&mut self, outcome: Outcome, took: Duration) {
        if let Some(owner) = &self.owner
            && !self.counted
        {
            self.counted = true;
            owner.ended(outcome, took);
            if self.first {
                owner.session_ended(outcome, took);
            }
        }
    }
}

impl Drop for Tally {
    /// A request whose task was dropped had no answer: its client is gone.
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_another_cluster_rescued_is_an_error_of_the_first_and_counted_once() {
        let (first, second) = (Arc::new(Counters::default()), Arc::new(Counters::default()));
        let mut tally = Tally::default();
        tally.chosen(&first);
        tally.attempt(&first, Duration::ZERO);
        tally.attempt(&second, Duration::from_millis(2));
        assert_eq!(second.snapshot().counts.in_progress, 1);
        tally.end(Outcome::Success, Duration::from_millis(5));
        drop(tally);
        let (first, second) = (first.snapshot(), second.snapshot());
        assert_eq!(
            (first.counts.success, first.counts.error, first.issued),
            (0, 1, 1)
        );
        assert_eq!((second.counts.ended(), second.issued), (0, 1));
        assert_eq!(first.counts.in_progress + second.counts.in_progress, 0);
        assert_eq!(first.counts.latency.total(), 1);
    }

    #[test]
    fn a_session_is_counted_once_by_the_cluster_that_was_chosen_and_others_not_at_all() {
        let cluster = Arc::new(Counters::default());
        for (session, outcome) in [
            (Some(7), Outcome::Error),
            (Some(7), Outcome::Error),
            (Some(8), Outcome::Success),
            (None, Outcome::Error),
        ] {
            let mut tally = Tally::default();
            match session {
                Some(session) => tally.chosen_by(&cluster, session, 5),
                None => tally.chosen(&cluster),
            }
            tally.attempt(&cluster, Duration::ZERO);
            tally.end(outcome, Duration::from_millis(3));
        }
        let totals = cluster.snapshot();
        assert_eq!((totals.counts.success, totals.counts.error), (1, 3));
        assert_eq!((totals.sessions.success, totals.sessions.error), (1, 1));
        assert_eq!(totals.sessions.latency.total(), 2);
    }

    #[test]
    fn a_client_that_went_away_is_neither_success_nor_error_and_leaves_nothing_in_progress() {
        let cluster = Arc::new(Counters::default());
        let mut tally = Tally::default();
        tally.chosen(&cluster);
        tally.attempt(&cluster, Duration::ZERO);
        drop(tally);
        let totals = cluster.snapshot();
        assert_eq!((totals.counts.ended(), totals.counts.in_progress), (0, 0));
        assert_eq!((totals.cancelled, totals.counts.latency.total()), (1, 0));
    }
}
