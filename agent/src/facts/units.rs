//! Sizes, speeds and shares in the words of Facter.

/// Writes a size in the largest binary unit of which there is at least one, with two decimals: `23.42 GiB`, `512 bytes`.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let exponent = (bytes.ilog2() / 10) as usize;
    let shown = hundredths(bytes as f64 / 1024_f64.powi(i32::try_from(exponent).unwrap_or_default()));
    // What rounds to 1024 of a unit is one of the next.
    match UNITS.get(exponent) {
        Some(next) if shown >= 1024.0 => format!("1.00 {next}"),
        _ => format!("{shown:.2} {}", UNITS[exponent - 1]),
    }
}

/// Writes a frequency: `2.60 GHz`.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub(super) fn hertz(hertz: u64) -> Option<String> {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let thousands = (hertz.checked_ilog10()? / 3) as usize;
    let unit = UNITS.get(thousands)?;
    Some(format!("{:.2} {unit}Hz", hundredths(hertz as f64 / 1000_f64.powi(i32::try_from(thousands).ok()?))))
}

/// Writes how much of `total` is used: `12.34%`.
#[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
pub(super) fn share(used: u64, total: u64) -> String {
    format!("{:.2}%", used as f64 / total as f64 * 100.0)
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (size, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (1_048_575, "1.00 MiB"),
            (1_051_254_784, "1002.55 MiB"),
            (25_276_502_016, "23.54 GiB"),
            (274_877_906_944, "256.00 GiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(bytes(size), text, "{size}");
        }
    }

    #[test]
    fn speeds_and_shares() {
        assert_eq!(hertz(2_600_000_000).as_deref(), Some("2.60 GHz"));
        assert_eq!(hertz(800_000_000).as_deref(), Some("800.00 MHz"));
        assert_eq!(hertz(0), None);
        assert_eq!(share(1_051_254_784, 25_276_502_016), "4.16%");
    }
}
