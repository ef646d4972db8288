//! Cron expressions: minute, hour, day of month, month, day of week, in a fixed offset from UTC.
//!
//! `*`, lists, ranges and steps (`*/15`, `8-18/2`); Sunday is 0 and 7. As in cron, where day of
//! month and day of week are both restricted, either suffices.

/// Most minutes that are looked at in one question: about a month.
const MOST: u64 = 45_000;
const DAY: i64 = 1_440;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether day of month and day of week are both restricted.
    either_day: bool,
    offset_min: i32,
}

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cron expression, {field}: {value:?}; allowed is {allowed}")]
pub struct CronError {
    /// The field's name.
    pub field: &'static str,
    /// What was found.
    pub value: String,
    /// What would be allowed.
    pub allowed: String,
}

const FIELDS: [(&str, u32, u32); 5] = [
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
];

fn wrong<T>(field: &'static str, value: &str, allowed: String) -> Result<T, CronError> {
    let value = value.chars().take(80).collect();
    Err(CronError {
        field,
        value,
        allowed,
    })
}

impl Cron {
    /// Parses an expression; `offset_min` is local time less UTC, in minutes.
    ///
    /// # Errors
    /// [`CronError`] naming the field; also for one that never comes (30 February).
    pub fn parse(text: &str, offset_min: i32) -> Result<Self, CronError> {
        if offset_min.abs() > 14 * 60 {
            return wrong("offset", &offset_min.to_string(), "-840 to 840".to_owned());
        }
        let parts: Vec<_> = text.split_whitespace().collect();
        let Ok(parts) = <[&str; 5]>::try_from(parts) else {
            let allowed = "minute hour day month weekday".to_owned();
            return wrong("number of fields", text, allowed);
        };
        let mut sets = [0_u64; 5];
        for ((set, text), (name, low, high)) in sets.iter_mut().zip(parts).zip(FIELDS) {
            *set = field(name, text, low, high)?;
        }
        let [minutes, hours, days, months, mut weekdays] = sets;
        if weekdays & (1 << 7) != 0 {
            weekdays |= 1;
        }
        let cron = Self {
            minutes,
            hours,
            days,
            months,
            weekdays,
            either_day: !parts[2].starts_with('*') && !parts[4].starts_with('*'),
            offset_min,
        };
        // Every weekday meets every date within 28 years, but dates that exist come within 8.
        if !(0..8 * 366).any(|day| cron.has_day(day)) {
            return wrong("day of month", text, "a day that the month has".to_owned());
        }
        Ok(cron)
    }

    /// Starts in `[from, to)`, milliseconds since the epoch, oldest first; of a longer span only
    /// the last month.
    pub fn starts(&self, from_ms: u64, to_ms: u64) -> Vec<u64> {
        let to = to_ms.div_ceil(60_000);
        let from = from_ms.div_ceil(60_000).max(to.saturating_sub(MOST));
        let comes = |minute: &u64| i64::try_from(*minute).is_ok_and(|minute| self.comes(minute));
        (from..to)
            .filter(comes)
            .map(|minute| minute * 60_000)
            .collect()
    }

    fn comes(&self, minute: i64) -> bool {
        let local = minute + i64::from(self.offset_min);
        let (day, of_day) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        has(self.minutes, of_day % 60) && has(self.hours, of_day / 60) && self.has_day(day)
    }

    /// Whether it comes on a day, counted from the epoch.
    fn has_day(&self, day: i64) -> bool {
        let (month, of_month) = civil(day);
        // The epoch was a Thursday.
        let weekday = has(self.weekdays, (day + 4).rem_euclid(7));
        let of_month = has(self.days, of_month);
        let fits = if self.either_day {
            weekday || of_month
        } else {
            weekday && of_month
        };
        fits && has(self.months, month)
    }
}

fn has(set: u64, place: i64) -> bool {
    (0..64).contains(&place) && set & (1 << place) != 0
}

fn field(name: &'static str, text: &str, low: u32, high: u32) -> Result<u64, CronError> {
    let allowed = || format!("*, or numbers from {low} to {high}: lists, ranges a-b, steps /n");
    let number = |text: &str| match text.parse::<u32>() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => wrong(name, text, allowed()),
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => match step.parse::<u32>() {
                Ok(step) if (1..=high).contains(&step) => (range, step),
                _ => return wrong(name, part, allowed()),
            },
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10` is "from 5 on, every 10".
            None if step > 1 => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return wrong(name, part, allowed());
        }
        let mut at = from;
        while at <= to {
            set |= 1 << at;
            at += step;
        }
    }
    Ok(set)
}

/// Month and day of month of a day counted from the epoch (Hinnant, "chrono-compatible low-level
/// date algorithms").
fn civil(day: i64) -> (i64, i64) {
    let z = day + 719_468;
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-28 00:00 UTC, a Wednesday in a leap year.
    const LEAP: u64 = 1_709_078_400_000;
    const HOUR: u64 = 3_600_000;

    fn starts(text: &str, offset: i32, hours: u64) -> Vec<u64> {
        let cron = Cron::parse(text, offset).unwrap();
        let starts = cron.starts(LEAP, LEAP + hours * HOUR);
        starts.into_iter().map(|at| (at - LEAP) / 60_000).collect()
    }

    #[test]
    fn every_kind_of_field_means_what_cron_means() {
        assert_eq!(starts("*/15 1 * * *", 0, 24), [60, 75, 90, 105]);
        assert_eq!(starts("0 8-18/5 * * *", 0, 24), [480, 780, 1_080]);
        assert_eq!(starts("30 2 * * 4", 0, 72), [1_440 + 150], "Thursday");
        assert_eq!(starts("0 0 1 * 4", 0, 96), [1_440, 2_880], "either day");
    }

    #[test]
    fn leap_days_and_time_zones_are_known() {
        assert_eq!(starts("0 12 29 2 *", 0, 96), [1_440 + 720]);
        assert_eq!(starts("0 2 * * *", 120, 24), [0], "2 o'clock at UTC+2");
        assert_eq!(starts("0 20 27 2 *", -240, 24), [0], "still the day before");
    }

    #[test]
    fn what_is_no_expression_or_never_comes_is_refused_by_the_field() {
        for (text, field) in [
            ("* * * *", "number of fields"),
            ("60 * * * *", "minute"),
            ("* 5-2 * * *", "hour"),
            ("* * * 13 *", "month"),
            ("*/0 * * * *", "minute"),
            ("0 0 30 2 *", "day of month"),
            ("0 0 * * mon", "day of week"),
        ] {
            assert_eq!(Cron::parse(text, 0).unwrap_err().field, field, "{text}");
        }
        assert_eq!(Cron::parse("* * * * *", 900).unwrap_err().field, "offset");
    }

    #[test]
    fn the_longest_span_costs_no_more_than_a_month() {
        let cron = Cron::parse("* * * * *", 0).unwrap();
        assert_eq!(cron.starts(0, u64::MAX).len() as u64, MOST);
    }
}
