//! Numbers and names as reports print them.
use crate::stats::Estimate;

pub const NOT_MEASURED: &str = "not measured";

/// A share of 1 as a number of 100.
pub fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

pub fn interval(estimate: &Estimate) -> String {
    format!(
        "{} [{}, {}]",
        percent(estimate.mean),
        percent(estimate.low),
        percent(estimate.high)
    )
}

pub fn signed(share: f64) -> String {
    format!("{:+.1}", 100.0 * share).replace('-', "−")
}

pub fn signed_interval(estimate: &Estimate) -> String {
    let [mean, low, high] = [estimate.mean, estimate.low, estimate.high].map(signed);
    format!("{mean} [{low}, {high}]")
}

pub fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.0995 => format!("{:.0} ms", 1000.0 * s),
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

pub fn bytes(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = units.into_iter().find(|(_, size)| bytes as f64 >= *size);
    unit.map_or(format!("{bytes} B"), |(name, size)| {
        format!("{:.1} {name}", bytes as f64 / size)
    })
}

/// `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn money(amount: f64, currency: &str) -> String {
    if amount > 0.0 && amount < 0.01 {
        format!("{amount:.1e} {currency}")
    } else {
        format!("{amount:.2} {currency}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [seconds(0.0034), seconds(0.0996), seconds(1.5), seconds(600.0)],
            ["3 ms", "0.10 s", "1.50 s", "10 min"]
        );
        assert_eq!(
            [grouped(999), grouped(1000), grouped(1234567)],
            ["999", "1,000", "1,234,567"]
        );
        assert_eq!([bytes(12), bytes(1_500_000)], ["12 B", "1.5 MB"]);
        assert_eq!([p_value(0.0002), p_value(0.04)], ["< 0.001", "0.040"]);
    }
}
