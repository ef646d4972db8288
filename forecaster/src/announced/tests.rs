use domain::{InstanceId, Resources, Timestamp};

use super::*;

const STEP: u64 = 300_000;
const HOUR: u64 = 3_600_000;
/// 2024-02-28 00:00 UTC.
const NOW: u64 = 1_709_078_400_000;

fn job(when: When, cpu: f64, times: Option<f64>) -> Job {
    let name = |text| InstanceId::new(text).unwrap();
    Job::new(Announcement {
        id: name("job"),
        instances: vec![name("a1")],
        when,
        duration_ms: HOUR,
        adds: Resources {
            cpu: (cpu > 0.0).then_some(cpu),
            ..Resources::default()
        },
        times,
        spread: 0.1,
    })
    .unwrap()
}

fn cron(text: &str) -> When {
    When::Cron {
        expression: text.to_owned(),
        offset_min: 0,
        until: None,
    }
}

fn announced(job: &Job, history: &[f32]) -> Option<Announced> {
    let grid = Grid {
        step_ms: STEP,
        newest_ms: NOW,
    };
    Announced::new(std::iter::once(job), Resource::Cpu, grid, history, 288)
}

fn certain(value: f64) -> QuantileCurve {
    QuantileCurve::certain(value).unwrap()
}

#[test]
fn an_event_is_added_while_it_lasts_and_in_part_where_it_covers_a_part() {
    let event = job(When::At(Timestamp(NOW + 10 * STEP + STEP / 2)), 100.0, None);
    let announced = announced(&event, &[50.0; 100]).unwrap();
    let median = |steps| announced.add(&certain(50.0), steps).median();
    assert!((median(9) - 50.0).abs() < 1e-9);
    assert!((median(10) - 100.0).abs() < 1e-9, "half of the step");
    assert!((median(11) - 150.0).abs() < 1e-9);
    assert!((median(23) - 50.0).abs() < 1e-9);
}

#[test]
fn the_uncertainty_of_an_announcement_widens_the_curve() {
    let event = job(When::At(Timestamp(NOW)), 100.0, None);
    let curve = announced(&event, &[50.0; 100])
        .unwrap()
        .add(&certain(50.0), 1);
    assert!((curve.at(0.9) - (150.0 + 1.281_552 * 10.0)).abs() < 1e-6);
    assert!((curve.at(0.1) - (150.0 - 1.281_552 * 10.0)).abs() < 1e-6);
}

#[test]
fn twice_the_users_double_the_curve() {
    let event = job(When::At(Timestamp(NOW)), 0.0, Some(2.0));
    let announced = announced(&event, &[50.0; 100]).unwrap();
    assert!((announced.add(&certain(50.0), 3).median() - 100.0).abs() < 1e-9);
}

/// Four days in which a job at six o'clock adds this much.
fn with_runs(added: f32) -> Vec<f32> {
    let count = 4 * 288 + 1;
    (0..count)
        .map(|place| {
            let of_day = (place + 288 * 4 - (count - 1)) % 288;
            if (72..84).contains(&of_day) {
                50.0 + added
            } else {
                50.0
            }
        })
        .collect()
}

#[test]
fn past_runs_are_taken_out_of_the_history() {
    let mut history = with_runs(100.0);
    announced(&job(cron("0 6 * * *"), 100.0, None), &history)
        .unwrap()
        .strip(&mut history);
    assert!(history.iter().all(|v| (v - 50.0).abs() < 1e-3));
}

#[test]
fn how_much_a_job_really_adds_is_learnt_from_its_runs() {
    let nightly = job(cron("0 6 * * *"), 100.0, None);
    let announced = announced(&nightly, &with_runs(60.0)).unwrap();
    let median = announced.add(&certain(50.0), 73).median();
    // Four runs of 60 and twice the announced 100.
    assert!(
        (median - (50.0 + (4.0 * 60.0 + 2.0 * 100.0) / 6.0)).abs() < 1.0,
        "{median}"
    );
}

#[test]
fn a_job_that_begins_more_often_than_it_ends_runs_once_at_a_time() {
    let endless = job(cron("* * * * *"), 100.0, None);
    let announced = announced(&endless, &[50.0; 4]).unwrap();
    let median = announced.add(&certain(50.0), 5).median();
    assert!(median <= 150.0 + 1e-9, "{median}");
}

#[test]
fn a_series_that_no_job_touches_has_nothing_announced() {
    let past = job(When::At(Timestamp(5)), 100.0, None);
    assert!(announced(&past, &[50.0; 10]).is_none());
    let other = Job::new(Announcement {
        adds: Resources {
            memory: Some(5.0),
            ..Resources::default()
        },
        ..job(cron("* * * * *"), 1.0, None).announcement().clone()
    });
    assert!(announced(&other.unwrap(), &[50.0; 10]).is_none());
}

#[test]
fn a_schedule_that_is_none_is_refused_by_the_announcement_and_the_field() {
    let mut wrong = job(cron("* * * * *"), 1.0, None).announcement().clone();
    wrong.when = cron("61 * * * *");
    let error = Job::new(wrong).unwrap_err().to_string();
    assert!(error.contains("job") && error.contains("minute"), "{error}");
}
