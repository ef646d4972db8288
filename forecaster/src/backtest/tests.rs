use super::*;

fn subject(name: &str, value: impl Fn(usize) -> f32) -> Subject {
    Subject {
        name: name.to_owned(),
        group: "cpu".to_owned(),
        values: (0..STEPS + 288).map(value).collect(),
        activity: Vec::new(),
    }
}

fn plan() -> Plan {
    Plan {
        from: STEPS,
        stride: 24,
        score_from: STEPS,
        score_every: 1,
        origins: 5,
        ahead: 24,
    }
}

fn find<'a>(rows: &'a [Row], method: &str, steps: usize) -> &'a Row {
    let wanted = |row: &&Row| row.method == method && row.steps == steps;
    rows.iter().find(wanted).unwrap()
}

#[test]
fn a_day_that_repeats_itself_is_no_news_to_the_seasonal_naive_and_to_the_model() {
    let noise = |t: usize| (t * 7_919 % 101) as f32 / 101.0;
    let daily = subject("a", |t| if t % DAY < 144 { 100.0 } else { 20.0 } + noise(t));
    let rows = run(
        &[daily],
        &plan(),
        &mut Model::shipped(None).unwrap(),
        |_, _| {},
    )
    .unwrap();
    assert_eq!(rows.len(), 8, "four methods over 12 and over 24 steps");
    let naive = find(&rows, "seasonal naive", 24);
    assert!((naive.rel_crps - 1.0).abs() < 1e-9);
    assert!(find(&rows, "model", 24).wql < find(&rows, "last value", 24).wql);
    for row in &rows {
        assert!(row.reliability.is_sorted(), "{row:?}");
        assert!((0.0..=1.0).contains(&row.coverage_80));
        assert!(row.coverage_80 <= row.coverage_95);
    }
}

#[test]
fn intervals_that_are_always_missed_are_wider_after_learning() {
    // Every day is ten times the one before: nothing that looks back can know.
    let growing = |t: usize| 10_f32.powi(i32::try_from(t / DAY).unwrap()) + (t % 7) as f32;
    let rows = run(
        &[subject("a", growing)],
        &Plan {
            stride: 6,
            origins: 40,
            ..plan()
        },
        &mut Model::shipped(None).unwrap(),
        |_, _| {},
    )
    .unwrap();
    let (before, after) = (
        find(&rows, "model", 24),
        find(&rows, "model, calibrated online", 24),
    );
    assert!(after.coverage_80 >= before.coverage_80);
}

#[test]
fn gaps_and_short_series_are_passed_over() {
    let gaps = subject("a", |t| if t % 3 == 0 { f32::NAN } else { 5.0 });
    let mut short = subject("b", |_| 1.0);
    short.values.truncate(100);
    let rows = run(
        &[gaps, short],
        &plan(),
        &mut Model::shipped(None).unwrap(),
        |_, _| {},
    )
    .unwrap();
    assert!(
        rows.iter()
            .all(|row| row.wql.is_finite() && row.rel_crps.is_finite())
    );
}
