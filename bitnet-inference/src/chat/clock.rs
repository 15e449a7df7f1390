//! Dates for `strftime_now`: the few format codes that templates use, in UTC.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A moment as year, month 1-12, day 1-31, day of the week 0-6 from Monday,
/// day of the year 1-366 and seconds of the day.
struct Moment {
    year: i64,
    month: usize,
    day: u64,
    weekday: usize,
    year_day: u64,
    seconds: u64,
}

/// Splits seconds since 1970 by the proleptic Gregorian calendar (days from civil, in 400-year cycles).
fn moment(unix: u64) -> Moment {
    let days = unix / 86_400;
    let shifted = days + 719_468;
    let cycle = shifted / 146_097;
    let in_cycle = shifted % 146_097;
    let year_of_cycle =
        (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let from_march = in_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * from_march + 2) / 153;
    let day = from_march - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + u64::from(month <= 2);
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let month = month as usize;
    let year_day = before.get(month - 1).copied().unwrap_or(0) + u64::from(leap && month > 2) + day;
    Moment {
        year: year as i64,
        month,
        day,
        weekday: ((days + 3) % 7) as usize,
        year_day,
        seconds: unix % 86_400,
    }
}

/// Formats seconds since 1970, at most the year 9999, by Python's `strftime` codes, in UTC.
///
/// # Errors
/// If a code is not known.
pub fn strftime(format: &str, unix: u64) -> Result<String, String> {
    let at = moment(unix.min(253_402_300_799));
    let (hour, minute, second) = (at.seconds / 3600, at.seconds / 60 % 60, at.seconds % 60);
    let month = MONTHS.get(at.month - 1).copied().unwrap_or_default();
    let weekday = DAYS.get(at.weekday).copied().unwrap_or_default();
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut code = letters.next();
        let bare = code == Some('-');
        if bare {
            code = letters.next();
        }
        let number = |value: u64, width: usize| {
            if bare { value.to_string() } else { format!("{value:0width$}") }
        };
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        out.push_str(&match code {
            Some('Y') => at.year.to_string(),
            Some('y') => number((at.year % 100).unsigned_abs(), 2),
            Some('m') => number(at.month as u64, 2),
            Some('d') => number(at.day, 2),
            Some('e') => format!("{:2}", at.day),
            Some('j') => number(at.year_day, 3),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month.chars().take(3).collect(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday.chars().take(3).collect(),
            Some('H') => number(hour, 2),
            Some('I') => number(twelve, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{}-{:02}-{:02}", at.year, at.month, at.day),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            Some('c') => strftime("%a %b %e %H:%M:%S %Y", unix)?,
            Some('x' | 'D') => strftime("%m/%d/%y", unix)?,
            Some('X') => strftime("%H:%M:%S", unix)?,
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('C') => number((at.year / 100).unsigned_abs(), 2),
            Some('u') => (at.weekday + 1).to_string(),
            Some('w') => ((at.weekday + 1) % 7).to_string(),
            // Weeks of the year that begin with its first Sunday or Monday.
            Some('U') => number((at.year_day + 6 - (at.weekday as u64 + 1) % 7) / 7, 2),
            Some('W') => number((at.year_day + 6 - at.weekday as u64) / 7, 2),
            Some('n') => "\n".to_owned(),
            Some('t') => "\t".to_owned(),
            // A moment without a time zone, as Python's `datetime.now()` gives it.
            Some('z' | 'Z') => String::new(),
            other => {
                return Err(format!("the date code %{} is not supported", other.unwrap_or(' ')));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(strftime("%d %b %Y", 1_721_952_000).unwrap(), "26 Jul 2024");
        assert_eq!(
            strftime("%A, %B %-d, %Y %H:%M:%S %j", 1_709_210_096).unwrap(),
            "Thursday, February 29, 2024 12:34:56 060"
        );
        assert_eq!(strftime("%F %T %I %p %%", 0).unwrap(), "1970-01-01 00:00:00 12 AM %");
        // CPython's `strftime` of the same moments.
        let codes = "%c|%x|%X|%D|%R|%C|%u|%w|%U|%W|%z%Z|%n";
        assert_eq!(
            strftime(codes, 1_709_210_096).unwrap(),
            "Thu Feb 29 12:34:56 2024|02/29/24|12:34:56|02/29/24|12:34|20|4|4|08|09||\n"
        );
        assert_eq!(strftime("%U %W", 1_704_585_600).unwrap(), "01 01");
        assert!(strftime("%Q", 0).is_err());
    }
}
