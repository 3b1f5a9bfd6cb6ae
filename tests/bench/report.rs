//! Collects and prints the lines of a benchmark.

use anyhow::Result;

/// What a ratio must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The ratio must not be above.
    AtMost(f64),
    /// The ratio must not be below.
    AtLeast(f64),
    /// The value with us, in the unit of the line, must not be above.
    ValueAtMost(f64),
    /// For comparison only.
    None,
}

/// Lines so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    missed: Vec<String>,
}

impl Report {
    /// Prints one line from the rounds' pairs (without, with).
    pub(crate) fn line(&mut self, name: &str, unit: &str, rounds: &[(f64, f64)], goal: Goal) {
        let ratios = sorted(rounds.iter().map(|(without, with)| with / without));
        let without = sorted(rounds.iter().map(|(without, _)| *without));
        let with = sorted(rounds.iter().map(|(_, with)| *with));
        let (low, ratio, high) = (ratios.first().copied(), median(&ratios), ratios.last().copied());
        let (met, must) = match goal {
            Goal::AtMost(limit) => (ratio <= limit, format!("<= {limit}")),
            Goal::AtLeast(limit) => (ratio >= limit, format!(">= {limit}")),
            Goal::ValueAtMost(limit) => (median(&with) <= limit, format!("<= {limit} {unit}")),
            Goal::None => (true, String::new()),
        };
        println!(
            "{name:<44} {:>10.1} -> {:>10.1} {unit:<6} ratio {ratio:>6.2} [{:.2}..{:.2}]  {} {must}",
            median(&without),
            median(&with),
            low.unwrap_or_default(),
            high.unwrap_or_default(),
            match goal {
                Goal::None => "     ",
                _ if met => "ok   ",
                _ => "MISS ",
            },
        );
        if !met {
            self.missed.push(name.to_owned());
        }
    }

    /// Says which goals were missed; missing one is a finding, not a failure of the run.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.missed.as_slice() {
            [] => println!("\nall goals are met"),
            missed => println!("\nmissed: {}", missed.join(", ")),
        }
        Ok(())
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
