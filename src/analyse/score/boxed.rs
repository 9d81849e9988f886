//! Answers in a box, as MATH has them (arXiv 2103.03874): what the last `\boxed{...}` holds is compared with the reference
//! after the rewriting of hendrycks/math (`is_equiv`: units, degrees, blanks, spellings of fractions and roots go).
//!
//! One thing is added: two numbers or fractions of numbers that are equal are, whatever they look like (`1,000` and `1000`,
//! `2/4` and `0.50`). That is computed in whole numbers.

use super::number::Number;

/// 1 where the answer's box holds the reference, 0 where it holds something else or there is none.
pub(super) fn accuracy(prediction: &str, reference: &str) -> f64 {
    let right = boxed(reference).unwrap_or(reference.trim().trim_matches('$'));
    let same = boxed(prediction).is_some_and(|own| is_equal(&rewritten(own), &rewritten(right)));
    if same { 1.0 } else { 0.0 }
}

/// What the last box holds; `None` without one, or where its brace is not closed.
fn boxed(text: &str) -> Option<&str> {
    let mark = [r"\boxed", r"\fbox"]
        .into_iter()
        .find_map(|mark| text.rfind(mark).map(|at| text[at + mark.len()..].trim_start()))?;
    let Some(inside) = mark.strip_prefix('{') else { return mark.split('$').next() };
    let mut depth = 1;
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inside[..at]);
        }
    }
    None
}

/// The rewriting of hendrycks/math, in its order.
fn rewritten(text: &str) -> String {
    const GONE: [&str; 6] = [r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", r"\%"];
    let mut out = text.replace('\n', "").replace(r"\!", "").replace(r"\\", r"\");
    out = out.replace("tfrac", "frac").replace("dfrac", "frac");
    for mark in GONE {
        out = out.replace(mark, "");
    }
    // `\text{ ` stands before units.
    if let Some((before, _)) = out.split_once(r"\text{ ") {
        out = before.to_owned();
    }
    out = out.replace(" .", " 0.").replace("{.", "{0.");
    if out.starts_with('.') {
        out.insert(0, '0');
    }
    // `x =` before the only equals sign.
    let is_named = |(name, value): &(&str, &str)| name.chars().count() <= 2 && !value.contains('=');
    if let Some((_, value)) = out.split_once('=').filter(is_named) {
        out = value.to_owned();
    }
    out = braced(&out, r"\sqrt", 1).replace(' ', "");
    out = braced(&out, r"\frac", 2);
    if out == "0.5" {
        out = r"\frac{1}{2}".to_owned();
    }
    match out.split_once('/') {
        Some((a, b)) if is_whole(a) && is_whole(b) => format!(r"\frac{{{a}}}{{{b}}}"),
        _ => out,
    }
}

fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Puts braces around the `n` single characters behind each `name` that stand there without: `\frac12`, `\sqrt3`.
fn braced(text: &str, name: &str, n: usize) -> String {
    let mut parts = text.split(name);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(name);
        let mut rest = part;
        for _ in 0..n {
            let Some(c) = rest.chars().next().filter(|c| *c != '{') else { break };
            out.push_str(&format!("{{{c}}}"));
            rest = &rest[c.len_utf8()..];
        }
        out.push_str(rest);
    }
    out
}

fn is_equal(a: &str, b: &str) -> bool {
    a == b || equal_numbers(a, b) == Some(true)
}

/// `None` where one of them is no number, or too long to multiply out.
fn equal_numbers(a: &str, b: &str) -> Option<bool> {
    let ((a, of_a), (b, of_b)) = (fraction(a)?, fraction(b)?);
    Some(a.checked_mul(of_b)? == b.checked_mul(of_a)?)
}

/// Numerator and denominator of a number or of `\frac{a}{b}`.
fn fraction(text: &str) -> Option<(i128, i128)> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) if rest.starts_with('\\') => (-1, rest),
        _ => (1, text),
    };
    let inside = unsigned.strip_prefix(r"\frac{").and_then(|rest| rest.strip_suffix('}'));
    let Some((above, below)) = inside.and_then(|inside| inside.split_once("}{")) else {
        return decimal(text);
    };
    let ((a, of_a), (b, of_b)) = (decimal(above)?, decimal(below)?);
    let (above, below) = (a.checked_mul(of_b)?.checked_mul(sign)?, of_a.checked_mul(b)?);
    (below != 0).then_some((above, below))
}

fn decimal(text: &str) -> Option<(i128, i128)> {
    let Number { negative, whole, fraction } = Number::only(text)?;
    let digits = format!("0{whole}{fraction}").parse::<i128>().ok()?;
    let of = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    Some((if negative { -digits } else { digits }, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_compared_as_mathematics() {
        for (prediction, reference, right) in [
            (r"so \boxed{42}", "42", true),
            (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"thus $\boxed{\dfrac12}$", true),
            (r"\boxed{0.5}", "1/2", true),
            (r"\boxed{2/4}", r"\frac{1}{2}", true),
            (r"\boxed{-\frac{3}{6}}", "-0.50", true),
            (r"\boxed{1,000}", "1000", true),
            (r"\boxed{x = 5}", "5", true),
            (r"\boxed{90^\circ}", "90", true),
            (r"\boxed{12 \text{ inches}}", "12", true),
            (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", true),
            (r"\boxed{\sqrt3}", r"\sqrt{3}", true),
            (r"\boxed 7$", "7", true),
            (r"\boxed{0.3333333333}", r"\frac{1}{3}", false),
            (r"\boxed{\frac{1}{0}}", r"\frac{2}{0}", false),
            (r"\boxed{42", "42", false),
            ("42", "42", false),
            (r"\boxed{}", "42", false),
        ] {
            assert_eq!(accuracy(prediction, reference) > 0.5, right, "{prediction} {reference}");
        }
    }
}
