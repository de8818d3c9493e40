//! Kubernetes quantities, as far as CPU and memory need them.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a decimal number and a suffix,
//! decimal (`m`, none, `k`, `M`, `G`, `T`, `P`) or binary (`Ki`, `Mi`, `Gi`, `Ti`, `Pi`). Values are
//! rounded up to whole units, as Kubernetes does, so that a request is never made smaller.

/// Why a text is no quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a {what} quantity; examples: {examples}")]
pub struct InvalidQuantity {
    text: String,
    what: &'static str,
    examples: &'static str,
}

/// CPU in thousandths of a core: `"500m"` is 500, `"2"` is 2000.
///
/// # Errors
/// When the text is not a quantity, is negative, or exceeds `u64`.
pub fn parse_cpu_millis(text: &str) -> Result<u64, InvalidQuantity> {
    parse_thousandths(text)
        .and_then(|thousandths| u64::try_from(thousandths).ok())
        .ok_or_else(|| invalid(text, "CPU", "500m, 2, 0.5"))
}

/// Memory in bytes: `"1Gi"` is 1073741824.
///
/// # Errors
/// When the text is not a quantity, is negative, or exceeds `u64`.
pub fn parse_bytes(text: &str) -> Result<u64, InvalidQuantity> {
    parse_thousandths(text)
        .and_then(|thousandths| u64::try_from(thousandths.div_ceil(1000)).ok())
        .ok_or_else(|| invalid(text, "memory", "128Mi, 1Gi, 500M"))
}

fn invalid(text: &str, what: &'static str, examples: &'static str) -> InvalidQuantity {
    InvalidQuantity { text: text.chars().take(40).collect(), what, examples }
}

fn parse_thousandths(text: &str) -> Option<u128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let per_unit: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1000 * 1000,
        "M" => 1000 * 1000_u128.pow(2),
        "G" => 1000 * 1000_u128.pow(3),
        "T" => 1000 * 1000_u128.pow(4),
        "P" => 1000 * 1000_u128.pow(5),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 19 || fraction.contains('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = digits.parse().ok()?;
    Some(digits.checked_mul(per_unit)?.div_ceil(scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu() {
        for (text, millis) in [("500m", 500), ("2", 2000), ("0.5", 500), ("1.0005", 1001), ("0", 0)]
        {
            assert_eq!(parse_cpu_millis(text), Ok(millis), "{text}");
        }
    }

    #[test]
    fn memory() {
        for (text, bytes) in [
            ("128Mi", 128 << 20),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("100m", 1),
            ("7", 7),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in ["", ".", "m", "-1", "1.2.3", "1 Gi", "1GB", "0x10", "١", "99999999999999999999"]
        {
            assert!(parse_cpu_millis(bad).is_err(), "{bad}");
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
