//! Fair words, parts of answers, noise.

use std::collections::BTreeMap;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue};

use super::said::{Round, again};
use super::*;

fn raw(kind: &str, encoding: Option<&str>, body: &[u8]) -> Raw {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", kind.parse().unwrap());
    if let Some(encoding) = encoding {
        headers.insert("content-encoding", encoding.parse().unwrap());
    }
    headers.insert("date", HeaderValue::from_static("never compared"));
    let mut raw = Raw::begin(200, &headers);
    raw.push(&Bytes::copy_from_slice(body));
    raw
}

fn json(text: &str) -> Answer {
    Answer::of(&raw(
        "application/json; charset=utf-8",
        None,
        text.as_bytes(),
    ))
    .unwrap()
}

fn names(answer: &Answer) -> Vec<&str> {
    answer.parts.iter().map(|(name, _)| &**name).collect()
}

#[test]
fn every_labelling_is_fair() {
    let sign = |said: Said| match said {
        Said::AgainstShadow | Said::Apart => 1,
        Said::AgainstOriginal => -1,
        Said::Agree | Said::Unclear => 0,
    };
    let swap = |round: Round, swapped: bool| Round {
        original: if swapped {
            round.shadow
        } else {
            round.original
        },
        shadow: if swapped {
            round.original
        } else {
            round.shadow
        },
    };
    let mut words = BTreeMap::new();
    for code in 0..256_u64 {
        let digit = |place: u32| code / 4_u64.pow(place) % 4;
        let first = Round {
            original: digit(0),
            shadow: digit(1),
        };
        let second = Round {
            original: digit(2),
            shadow: digit(3),
        };
        let mut sum = 0;
        for (one, two) in [(false, false), (true, false), (false, true), (true, true)] {
            sum += sign(said(swap(first, one), swap(second, two)));
        }
        assert_eq!(sum, 0, "{first:?} {second:?}");
        *words.entry(sign(said(first, second))).or_insert(0) += 1;
        // Asked again: the reverse is as likely.
        assert_eq!(
            first.original == first.shadow
                || sign(again(first, second)) == -sign(again(first, swap(second, true))),
            true
        );
    }
    assert_eq!(words.len(), 3, "all words occur: {words:?}");
}

#[test]
fn json_is_compared_by_field_and_the_order_of_fields_does_not_matter() {
    let one = json(r#"{"a": 1, "b": {"c": "x", "d": null}, "list": [{"e": 1}, {"e": 2}]}"#);
    assert_eq!(
        names(&one),
        [
            "body.a",
            "body.b.c",
            "body.b.d",
            "body.list",
            "body.list[].e",
            "header.content-type",
            "status"
        ]
    );
    let same = json(r#"{"list": [{"e": 1}, {"e": 2}], "b": {"d": null, "c": "x"}, "a": 1}"#);
    assert_eq!(one, same);
    let other = json(r#"{"a": 1, "b": {"c": "y", "d": null}, "list": [{"e": 2}, {"e": 1}]}"#);
    assert_eq!(one.differing(&other), ["body.b.c", "body.list[].e"]);
    // A list that only got longer, a field that is missing, another type.
    for (text, part) in [
        (r#"{"a": 1, "list": []}"#, "body.b.c"),
        (
            r#"{"a": "1", "b": {"c": "x", "d": null}, "list": [{"e": 1}, {"e": 2}]}"#,
            "body.a",
        ),
    ] {
        assert!(one.differing(&json(text)).contains(&part), "{text}");
    }
}

#[test]
fn a_compressed_body_is_compared_by_what_it_says() {
    let text = br#"{"a": 1}"#;
    let gzip = |level| {
        let mut encoder = GzEncoder::new(Vec::new(), level);
        encoder.write_all(text).unwrap();
        Answer::of(&raw(
            "application/json",
            Some("gzip"),
            &encoder.finish().unwrap(),
        ))
        .unwrap()
    };
    let plain = Answer::of(&raw("application/json", None, text)).unwrap();
    assert_eq!(gzip(Compression::none()), gzip(Compression::best()));
    assert_eq!(gzip(Compression::best()), plain);
    let of = |raw: &Raw| Answer::of(raw).unwrap_err();
    assert_eq!(
        of(&raw("text/plain", Some("br"), b"x")),
        "encoding not known"
    );
    assert_eq!(
        of(&raw("text/plain", Some("gzip"), b"x")),
        "encoding broken"
    );
    // A bomb: little on the wire, too much to compare.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; LARGEST_BODY + 1]).unwrap();
    assert_eq!(
        of(&raw("text/plain", Some("gzip"), &bomb.finish().unwrap())),
        "too large"
    );
}

#[test]
fn what_is_too_large_or_has_no_end_is_not_comparable() {
    let large = raw("text/plain", None, &vec![b'x'; LARGEST_BODY + 1]);
    assert_eq!(Answer::of(&large).unwrap_err(), "too large");
    assert_eq!(large.len(), 0, "nothing of it is kept");
    for kind in ["text/event-stream", "application/grpc+proto"] {
        assert_eq!(Answer::of(&raw(kind, None, b"x")).unwrap_err(), "streaming");
    }
}

#[test]
fn a_thousand_fields_or_endless_names_stay_bounded() {
    let object: serde_json::Map<_, _> = (0..1_000).map(|i| (format!("f{i}"), i.into())).collect();
    let text = serde_json::Value::Object(object).to_string();
    let answer = json(&text);
    assert!(answer.parts.len() <= 260, "{}", answer.parts.len());
    assert_ne!(answer, json(&text.replace("999", "998")));
    let long = json(&format!(r#"{{"{}": 1}}"#, "n".repeat(5_000)));
    assert!(names(&long).iter().all(|name| name.len() <= 80));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
    assert!(names(&json(&deep)).iter().all(|name| name.len() <= 80));
}

#[test]
fn what_the_original_does_not_repeat_is_left_out_and_a_rare_difference_is_not() {
    let answer = |at: u32, value: u32| json(&format!(r#"{{"at": {at}, "value": {value}}}"#));
    let mut noise = Noise::default();
    for at in 0..200 {
        noise.learn("/items", &answer(at, 1), &answer(at + 1, 1));
    }
    // Two in two hundred: not noise.
    noise.learn("/items", &answer(0, 1), &answer(0, 2));
    noise.learn("/items", &answer(0, 1), &answer(0, 2));
    let left_out = noise.of("/items", &[&answer(0, 1)]);
    assert_eq!(left_out, ["body.at"]);
    assert!(!noise.covers("/other", "body.at"));
    let digest = |answer: &Answer| answer.digest(|part| left_out.iter().any(|one| one == part));
    assert_eq!(digest(&answer(5, 1)), digest(&answer(6, 1)));
    assert_ne!(digest(&answer(5, 1)), digest(&answer(5, 2)));
}

#[test]
fn the_original_is_asked_again_no_more_than_it_was_agreed() {
    let pace = Pace::new(10);
    // A thousand requests in one second.
    let taken = (0..1_000).filter(|&ms| pace.takes(ms)).count();
    assert!((250..=265).contains(&taken), "{taken}");
    // Five in a second: all of them.
    let pace = Pace::new(10);
    assert_eq!((0..5).filter(|&turn| pace.takes(turn * 200)).count(), 5);
    let none = Pace::new(0);
    assert!((0..100).all(|ms| !none.takes(ms)));
}
