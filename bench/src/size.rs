//! Sizes on the command line: `4096`, `64K`, `8M`, `2G` (powers of 1024).

/// Bytes of a size as people write it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        unit => return Err(format!("{unit} is no unit: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no size"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_powers_of_1024() {
        let sizes = ["0", "4096", "64k", "8MiB", "2G"].map(|t| parse(t).unwrap());
        assert_eq!(sizes, [0, 4096, 65536, 8 << 20, 2 << 30]);
        assert!(["", "M", "1T", "x", "-1", "99999999999G"].iter().all(|t| parse(t).is_err()));
    }
}
