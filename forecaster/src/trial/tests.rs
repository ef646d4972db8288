use domain::{InstanceId, Resource};

use super::*;

const SETTINGS: Settings = Settings {
    block: 2,
    blocks: 8,
    margin: 0.005,
};

fn key(number: usize) -> SeriesKey {
    let name = InstanceId::new(format!("vm-{number}")).unwrap();
    (name, Resource::Cpu)
}

/// A curve around a centre whose 80 % interval reaches `width` to each side.
fn curve(centre: f64, width: f64) -> QuantileCurve {
    let values = QUANTILE_LEVELS.map(|level| centre + width * (level - 0.5) / 0.4);
    QuantileCurve::new(values).unwrap()
}

/// Truths between 90 and 110, evenly; both versions forecast them with some centre and width.
fn tried(new: (f64, f64), old: (f64, f64), steps: u64) -> Trial {
    let mut trial = Trial::new(SETTINGS, "new".to_owned(), "old".to_owned());
    for step in 0..steps {
        for number in 0..20 {
            let (new, old) = (curve(new.0, new.1), curve(old.0, old.1));
            trial.note(&key(number), step, Some(&new), &old);
        }
        trial.settle(step, |(name, _), step| {
            let number: u64 = name.as_str()[3..].parse().unwrap();
            Some(90.5 + ((number + 7 * step) % 20) as f64)
        });
    }
    trial
}

#[test]
fn a_version_that_is_no_worse_is_used_after_the_first_look_and_not_before() {
    // The same, and a better one.
    for new in [(100.0, 8.0), (100.0, 7.9)] {
        let early = tried(new, (100.0, 8.0), 16).report();
        assert_eq!((early.blocks, &early.verdict), (7, &Verdict::Running));
        let report = tried(new, (100.0, 8.0), 17).report();
        assert_eq!((report.blocks, report.verdict), (8, Verdict::Promoted));
    }
    let better = tried((100.0, 8.0), (106.0, 8.0), 17).report();
    assert!(
        better.mean < -0.1 && better.at_most.unwrap() < 0.0,
        "{better:?}"
    );
    assert_eq!(better.verdict, Verdict::Promoted);
}

#[test]
fn a_version_with_greater_losses_is_refused_after_the_second_look() {
    let worse = |steps| tried((102.0, 8.0), (100.0, 8.0), steps).report();
    assert_eq!(worse(48).verdict, Verdict::Running, "it may still mend");
    let Verdict::Refused(reason) = worse(49).verdict else {
        panic!("a worse version is used");
    };
    assert!(reason.contains("losses may be greater"), "{reason}");
}

#[test]
fn a_version_whose_intervals_do_not_cover_is_refused() {
    let narrow = tried((100.0, 5.0), (100.0, 8.0), 49).report();
    assert!(
        narrow.coverage[0] < 0.6 && narrow.coverage[1] > 0.75,
        "{narrow:?}"
    );
    let Verdict::Refused(reason) = narrow.verdict else {
        panic!("{narrow:?}");
    };
    assert!(reason.contains("intervals cover"), "{reason}");
}

#[test]
fn a_version_that_answers_too_seldom_is_refused() {
    let mut trial = tried((100.0, 8.0), (100.0, 8.0), 16);
    for _ in 0..10 {
        trial.note(&key(0), 16, None, &curve(100.0, 8.0));
    }
    let old = curve(100.0, 8.0);
    for step in 16..49 {
        trial.note(&key(0), step, Some(&old), &old);
        trial.settle(step, |_, _| Some(100.0));
    }
    let Verdict::Refused(reason) = trial.report().verdict else {
        panic!("{:?}", trial.report());
    };
    assert!(reason.contains("no answer to 10 of"), "{reason}");
}

#[test]
fn gaps_say_nothing_and_memory_is_bounded() {
    let mut trial = Trial::new(SETTINGS, "new".to_owned(), "old".to_owned());
    let one = curve(10.0, 1.0);
    for step in 0..1_000 {
        for number in 0..200 {
            trial.note(&key(number), step, Some(&one), &one);
        }
    }
    assert_eq!(trial.waits, MAX_WAITING);
    trial.settle(2_000, |_, _| None);
    let report = trial.report();
    assert_eq!((trial.waits, report.truths, report.blocks), (0, 0, 0));
}
