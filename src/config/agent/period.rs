//! Times of the week: "Mon-Fri 08:00-18:00". They are UTC, as every time that the agents write.

/// One or more ranges of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period(Vec<Range>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    /// From Sunday on.
    days: [bool; 7],
    /// Minutes of the day; where `to` is not behind `from`, it is the next day's.
    from: u32,
    to: u32,
}

const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DAY: u32 = 24 * 60;
/// What is to be written.
pub(super) const FORM: &str =
    "write days and times of the day (UTC), such as \"Mon-Fri 08:00-18:00\", or a list of them";

impl Period {
    /// Reads the ranges.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        let ranges: Result<Vec<Range>, String> = texts.iter().map(|text| range(text)).collect();
        let ranges = ranges?;
        if ranges.is_empty() { Err("no time is named".into()) } else { Ok(Self(ranges)) }
    }

    /// Whether it is such a time, in seconds since 1970.
    #[must_use]
    pub fn contains(&self, now: u64) -> bool {
        let minute = u32::try_from(now / 60 % u64::from(DAY)).unwrap_or_default();
        // The first day of 1970 was a Thursday.
        let day = usize::try_from((now / 86_400 + 4) % 7).unwrap_or_default();
        self.0.iter().any(|range| {
            if range.from < range.to {
                range.days[day] && (range.from..range.to).contains(&minute)
            } else {
                let since_yesterday = range.days[(day + 6) % 7] && minute < range.to;
                range.days[day] && minute >= range.from || since_yesterday
            }
        })
    }
}

fn range(text: &str) -> Result<Range, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_days = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    let (days, times) = match words[..] {
        [one] if is_days(&one) => (Some(one), None),
        [one] => (None, Some(one)),
        [days, times] => (Some(days), Some(times)),
        _ => return Err(format!("`{text}` is no time of the week")),
    };
    let days = days.map_or(Ok([true; 7]), days_of)?;
    let Some(times) = times else { return Ok(Range { days, from: 0, to: DAY }) };
    let wrong = || format!("`{times}` are no times of the day");
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (minute_of(from).ok_or_else(wrong)?, minute_of(to).ok_or_else(wrong)?);
    Ok(Range { days, from, to })
}

fn days_of(text: &str) -> Result<[bool; 7], String> {
    let day = |word: &str| {
        let known = DAYS.iter().position(|day| word.to_ascii_lowercase().starts_with(day));
        known.ok_or_else(|| format!("`{word}` is no day of the week"))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Ok(days)
}

fn minute_of(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (minute < 60 && hour * 60 + minute <= DAY).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday, 5 January 1970, at that time.
    fn monday(hour: u64, minute: u64) -> u64 {
        4 * 86_400 + hour * 3600 + minute * 60
    }

    fn period(text: &str) -> Period {
        Period::parse(&[text.to_owned()]).expect("a period")
    }

    #[test]
    fn days_and_times() {
        let work = period("Mon-Fri 08:00-18:00");
        assert!(work.contains(monday(8, 0)) && work.contains(monday(17, 59)));
        assert!(!work.contains(monday(7, 59)) && !work.contains(monday(18, 0)));
        assert!(!work.contains(monday(12, 0) + 5 * 86_400), "on Saturday");
        let weekend = period("Sat,Sun");
        assert!(!weekend.contains(monday(0, 0)) && weekend.contains(monday(0, 0) - 60));
        // Over midnight, and over the end of the week.
        let night = period("sun 22:00-06:00");
        assert!(night.contains(monday(5, 59)) && !night.contains(monday(6, 0)));
        assert!(night.contains(monday(0, 0) - 3600) && !night.contains(monday(23, 0)));
        assert!(period("Fri-Mon").contains(monday(1, 0)));
        assert!(!period("Fri-Sun").contains(monday(1, 0)));
        assert!(period("00:00-24:00").contains(monday(23, 59)));
        for wrong in ["", "Mon-Fri 8", "Mon 25:00-26:00", "Moo", "a b c"] {
            assert!(Period::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
