//! Values over time, and whether they stay flat.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use podwasm_integration::measure::stats::Values;

/// A run has so many parts. The first is left out: caches fill in it.
const PARTS: f64 = 6.0;
/// What the median may grow by, beside what each series is allowed.
const SHARE: f64 = 0.05;

/// What was seen of one thing.
#[derive(Clone, Debug)]
pub struct Series {
    pub panel: Panel,
    /// Whose it is, where a panel has several.
    pub who: &'static str,
    /// The share of the run from which on it counts.
    pub counts_from: f64,
    /// Minutes since the start, and the value.
    pub points: Vec<(f64, f64)>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Panel {
    Cache,
    Descriptors,
    Mounts,
    Namespaces,
    Private,
    Processes,
    Pss,
    Threads,
}

impl Panel {
    pub fn title(self) -> &'static str {
        match self {
            Self::Cache => "cache MB",
            Self::Descriptors => "descriptors",
            Self::Mounts => "mounts",
            Self::Namespaces => "network namespaces",
            Self::Private => "private dirty MB",
            Self::Processes => "processes",
            Self::Pss => "PSS MB",
            Self::Threads => "threads",
        }
    }

    /// What a median may be above another without anything having grown: what comes and goes does so at no fixed time.
    fn allowance(self, who: &str) -> f64 {
        match self {
            Self::Cache | Self::Private | Self::Pss => 0.5,
            // Three for each pod that it counts, of which there are two to four.
            Self::Descriptors if who == "exporter" => 6.0,
            Self::Descriptors | Self::Namespaces | Self::Threads => 2.0,
            Self::Mounts | Self::Processes => 6.0,
        }
    }
}

/// Whether something stays as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Flat,
    Grows,
    /// Too little was seen to tell.
    Unknown,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Grows => "**grows**",
            Self::Unknown => "not known",
        }
    }
}

impl Series {
    pub fn new(panel: Panel, who: &'static str) -> Self {
        Self {
            panel,
            who,
            counts_from: 0.0,
            points: Vec::new(),
        }
    }

    /// The median of all that counts.
    pub fn median(&self) -> f64 {
        self.counted()
            .iter()
            .map(|&(_, value)| value)
            .collect::<Values>()
            .median()
    }

    /// The medians of the second sixth and of the last.
    pub fn sixths(&self) -> [f64; 2] {
        let counted = self.counted();
        let [Some((start, _)), Some((end, _))] = [counted.first(), counted.last()] else {
            return [f64::NAN; 2];
        };
        let part = (end - start) / PARTS;
        let median = |from: f64, to: f64| {
            let inside = counted.iter().filter(|(at, _)| (from..=to).contains(at));
            inside.map(|&(_, value)| value).collect::<Values>().median()
        };
        [median(start + part, start + 2.0 * part), median(end - part, *end)]
    }

    /// Flat is what has in the last sixth of the time no more than in the second, but for a twentieth or what the panel allows.
    pub fn verdict(&self) -> Verdict {
        let [early, late] = self.sixths();
        if early.is_nan() || late.is_nan() || self.counted().len() < 12 {
            return Verdict::Unknown;
        }
        if late - early <= (early * SHARE).max(self.panel.allowance(self.who)) {
            Verdict::Flat
        } else {
            Verdict::Grows
        }
    }

    /// How much it grows in an hour, by the line that fits best to all after the first sixth.
    pub fn slope_per_hour(&self) -> f64 {
        let counted = self.counted();
        let [Some((start, _)), Some((end, _))] = [counted.first(), counted.last()] else {
            return f64::NAN;
        };
        let from = start + (end - start) / PARTS;
        let points: Vec<_> = counted.iter().filter(|(at, _)| *at >= from).collect();
        #[expect(clippy::cast_precision_loss, reason = "there are few points")]
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(|point| of(point)).sum::<f64>() / count;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let (mut above, mut below) = (0.0, 0.0);
        for point in &points {
            above += (point.0 - x) * (point.1 - y);
            below += (point.0 - x).powi(2);
        }
        60.0 * above / below
    }

    fn counted(&self) -> &[(f64, f64)] {
        let end = self.points.last().map_or(0.0, |point| point.0);
        let from = self
            .points
            .partition_point(|point| point.0 < end * self.counts_from);
        &self.points[from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(value: impl Fn(f64) -> f64) -> Series {
        let points = (0..=60).map(|minute| (f64::from(minute), value(f64::from(minute))));
        Series {
            points: points.collect(),
            ..Series::new(Panel::Private, "worker")
        }
    }

    #[test]
    fn what_fills_in_the_first_sixth_is_flat() {
        let warm = series(|minute| if minute < 9.0 { minute } else { 9.0 });
        assert_eq!(warm.verdict(), Verdict::Flat);
        assert!(warm.slope_per_hour().abs() < 1e-9);
    }

    #[test]
    fn a_slow_leak_grows() {
        let leak = series(|minute| 10.0 + minute / 40.0);
        assert_eq!(leak.verdict(), Verdict::Grows);
        assert!((leak.slope_per_hour() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn what_goes_up_and_down_is_flat() {
        assert_eq!(
            series(|minute| 10.0 + (minute % 5.0) * 3.0).verdict(),
            Verdict::Flat
        );
        assert_eq!(series(|minute| 10.0 - minute / 10.0).verdict(), Verdict::Flat);
    }

    #[test]
    fn a_part_of_the_time_can_count_alone() {
        let replaced = |minute: f64| if minute < 30.0 { 5.0 } else { 20.0 };
        assert_eq!(series(replaced).verdict(), Verdict::Grows);
        let later = Series {
            counts_from: 0.5,
            ..series(replaced)
        };
        assert_eq!(later.verdict(), Verdict::Flat);
    }

    #[test]
    fn little_says_nothing() {
        let mut short = series(|_| 1.0);
        short.points.truncate(11);
        assert_eq!(short.verdict(), Verdict::Unknown);
        short.points.clear();
        assert_eq!(short.verdict(), Verdict::Unknown);
    }
}
