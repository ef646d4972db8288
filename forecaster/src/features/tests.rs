use super::*;

fn extract_all(history: &[f32], horizons: &[usize]) -> Option<(Scaling, Vec<f32>, Vec<f32>)> {
    let known = Known {
        history,
        activity: &[],
        local_s: None,
    };
    let mut context = vec![0.0; CONTEXT];
    let mut ahead = vec![0.0; AHEAD * horizons.len()];
    let scaling = extract(
        &known,
        horizons,
        &mut Scratch::default(),
        &mut context,
        &mut ahead,
    )?;
    Some((scaling, context, ahead))
}

fn daily(step: usize) -> f32 {
    if step % DAY < 144 { 100.0 } else { 20.0 }
}

#[test]
fn nothing_known_has_no_features() {
    assert!(extract_all(&[], &[1]).is_none());
    assert!(extract_all(&[f32::NAN; 5], &[1]).is_none());
}

#[test]
fn units_do_not_matter() {
    let history: Vec<f32> = (0..STEPS).map(daily).collect();
    let larger: Vec<f32> = history.iter().map(|v| v * 4_096.0).collect();
    let (small, a, b) = extract_all(&history, &[1, 12, 288]).unwrap();
    let (large, c, d) = extract_all(&larger, &[1, 12, 288]).unwrap();
    assert!((large.scale / small.scale / 4_096.0 - 1.0).abs() < 1e-5);
    for (one, other) in a.iter().zip(&c).chain(b.iter().zip(&d)) {
        assert!((one - other).abs() < 1e-3, "{one} {other}");
    }
}

#[test]
fn the_habit_of_the_horizons_time_of_day_is_the_first_expert() {
    // The next step is step 2 016, the beginning of a day; half a day later it is low.
    let history: Vec<f32> = (0..STEPS).map(daily).collect();
    let (scaling, _, ahead) = extract_all(&history, &[72, 216]).unwrap();
    assert!((scaling.restore(ahead[0]) - 100.0).abs() < 0.1);
    assert!((scaling.restore(ahead[AHEAD]) - 20.0).abs() < 0.1);
}

#[test]
fn whatever_is_known_all_features_are_finite() {
    let cases: [Vec<f32>; 5] = [
        vec![5.0],
        vec![0.0; STEPS],
        vec![3e38; STEPS],
        (0..STEPS)
            .map(|i| if i % 7 == 0 { 1e9 } else { f32::NAN })
            .collect(),
        (0..4 * STEPS).map(daily).collect(),
    ];
    for history in cases {
        let (_, context, ahead) = extract_all(&history, &[1, 13, 288]).unwrap();
        assert!(
            context.iter().chain(&ahead).all(|v| v.is_finite()),
            "{:?}",
            history.first()
        );
    }
}

#[test]
fn the_scratch_remembers_nothing_of_the_series_before() {
    let mut scratch = Scratch::default();
    let mut run = |history: &[f32]| {
        let known = Known {
            history,
            activity: &[],
            local_s: Some(1e9),
        };
        let (mut context, mut ahead) = (vec![0.0; CONTEXT], vec![0.0; AHEAD]);
        extract(&known, &[6], &mut scratch, &mut context, &mut ahead).map(|s| (s, context, ahead))
    };
    let short = [1.0, 5.0, 2.0];
    let before = run(&short).unwrap();
    run(&(0..STEPS).map(daily).collect::<Vec<_>>()).unwrap();
    assert_eq!(run(&short).unwrap(), before);
}
