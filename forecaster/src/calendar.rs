//! Local time for the features of the calendar: time of day, weekday, holidays.
//!
//! The model was trained with a calendar that was left out at random, so that none is fine: it is
//! used only where a time zone is named. A holiday counts as a Sunday.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};

/// Seconds of a day.
const DAY_S: i64 = 86_400;
/// The first Sunday, in days since the epoch, which was a Thursday.
const SUNDAY: i64 = 3;
/// Most holidays.
const MOST: usize = 1_000;

/// What is wrong with a calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}; allowed is {allowed}")]
pub struct CalendarError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What would be allowed.
    pub allowed: &'static str,
}

/// A time zone and its holidays.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    zone: TimeZone,
    /// In days since the epoch.
    holidays: BTreeSet<i64>,
}

impl Calendar {
    /// The calendar of a time zone by its name (`Europe/Berlin`) or its offset (`+02:00`), with
    /// holidays as `2026-12-25`.
    ///
    /// # Errors
    /// [`CalendarError`] naming the field and its value.
    pub fn new(zone: &str, holidays: &[String]) -> Result<Self, CalendarError> {
        let wrong = |field, value: &str, allowed| CalendarError {
            field,
            value: value.chars().take(80).collect(),
            allowed,
        };
        let found = offset(zone).map(TimeZone::fixed);
        let found = found.or_else(|| TimeZone::get(zone).ok());
        let zone = found.ok_or_else(|| {
            let allowed = "the name of a time zone, as Europe/Berlin, or an offset, as +02:00";
            wrong("zone", zone, allowed)
        })?;
        if holidays.len() > MOST {
            let value = format!("a list of {}", holidays.len());
            return Err(wrong("holidays", &value, "at most 1000 of them"));
        }
        let day = |text: &String| {
            let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
            let midnight = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok());
            let midnight =
                midnight.ok_or_else(|| wrong("holidays", text, "dates as 2026-12-25"))?;
            Ok(midnight.timestamp().as_second().div_euclid(DAY_S))
        };
        Ok(Self {
            zone,
            holidays: holidays.iter().map(day).collect::<Result<_, _>>()?,
        })
    }

    /// The local time in seconds since a Thursday's midnight; nothing for a time that is none.
    pub fn local_s(&self, at_ms: u64) -> Option<f64> {
        let at = jiff::Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
        let offset = i64::from(self.zone.to_offset(at).seconds());
        let local = at.as_second() + offset;
        let day = local.div_euclid(DAY_S);
        let shown = if self.holidays.contains(&day) {
            SUNDAY * DAY_S + local.rem_euclid(DAY_S)
        } else {
            local
        };
        Some(shown as f64)
    }
}

/// An offset as `+02:00`.
fn offset(text: &str) -> Option<Offset> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    let number = |part: &str, most: i32| {
        let fits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i32>().ok().filter(|n| fits && *n <= most)
    };
    let seconds = number(hours, 18)? * 3_600 + number(minutes, 59)? * 60;
    Offset::from_seconds(sign * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3_600.0;
    const DAY: f64 = 24.0 * HOUR;
    /// 2026-03-29 00:30 UTC, a Sunday: in Berlin clocks go forward half an hour later.
    const SPRING: u64 = 1_774_744_200_000;

    fn calendar(zone: &str, holidays: &[&str]) -> Result<Calendar, CalendarError> {
        let holidays: Vec<String> = holidays.iter().map(|&day| day.to_owned()).collect();
        Calendar::new(zone, &holidays)
    }

    /// Weekday (Thursday is 0) and hour.
    fn told(calendar: &Calendar, at_ms: u64) -> (f64, f64) {
        let local = calendar.local_s(at_ms).unwrap();
        (
            (local / DAY).floor().rem_euclid(7.0),
            local.rem_euclid(DAY) / HOUR,
        )
    }

    #[test]
    fn local_time_follows_the_clocks_of_the_zone() {
        let berlin = calendar("Europe/Berlin", &[]).unwrap();
        assert_eq!(told(&berlin, SPRING), (3.0, 1.5));
        assert_eq!(told(&berlin, SPRING + 3_600_000), (3.0, 3.5));
        let fixed = calendar("-05:30", &[]).unwrap();
        assert_eq!(told(&fixed, SPRING), (2.0, 19.0), "still Saturday");
        assert_eq!(told(&calendar("UTC", &[]).unwrap(), SPRING), (3.0, 0.5));
    }

    #[test]
    fn a_holiday_is_a_sunday_from_midnight_to_midnight_local_time_and_leap_days_are_days() {
        // 2028-02-29 is a Tuesday.
        let midnight = 1_835_395_200_000;
        let plain = calendar("+01:00", &[]).unwrap();
        let festive = calendar("+01:00", &["2028-02-29"]).unwrap();
        let before = midnight - 3_600_001;
        assert_eq!(told(&festive, before), told(&plain, before));
        let begin = midnight - 3_600_000;
        assert_eq!(told(&plain, begin), (5.0, 0.0));
        assert_eq!(told(&festive, begin), (3.0, 0.0));
        let after = begin + 86_400_000;
        assert_eq!(told(&festive, after), (6.0, 0.0));
    }

    #[test]
    fn zones_and_days_that_are_none_are_refused_by_field_and_value() {
        for zone in [
            "Europe/Atlantis",
            "",
            "+2",
            "+25:00",
            "02:00",
            "+02:60",
            "../UTC",
        ] {
            let error = calendar(zone, &[]).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("zone", zone));
        }
        for day in ["2027-02-29", "25.12.2026", "tomorrow", "2026-12-25T00:00"] {
            let error = calendar("UTC", &[day]).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), ("holidays", day));
        }
        assert_eq!(calendar("UTC", &[]).unwrap().local_s(u64::MAX), None);
    }
}
