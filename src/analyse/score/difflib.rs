//! Similarity of texts as Python's `difflib.SequenceMatcher` computes it (Ratcliff and Obershelp's gestalt matching with
//! its rule against popular characters).

use std::collections::HashMap;

/// Twice the matched characters over all characters, 1 for two empty texts.
pub fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let total = a.len() + b.len();
    if total == 0 {
        return 1.0;
    }
    2.0 * matched(&a, &b) as f64 / total as f64
}

/// From here on a character that makes up more than a hundredth of `b` starts no match.
const POPULAR_FROM: usize = 200;

fn matched(a: &[char], b: &[char]) -> usize {
    let mut places: HashMap<char, Vec<usize>> = HashMap::new();
    b.iter().enumerate().for_each(|(j, c)| places.entry(*c).or_default().push(j));
    if b.len() >= POPULAR_FROM {
        let most = b.len() / 100 + 1;
        places.retain(|_, places| places.len() <= most);
    }
    let mut total = 0;
    let mut open = vec![(0, a.len(), 0, b.len())];
    while let Some((a_low, a_high, b_low, b_high)) = open.pop() {
        let (i, j, n) = longest(a, b, &places, (a_low, a_high, b_low, b_high));
        if n == 0 {
            continue;
        }
        total += n;
        if a_low < i && b_low < j {
            open.push((a_low, i, b_low, j));
        }
        if i + n < a_high && j + n < b_high {
            open.push((i + n, a_high, j + n, b_high));
        }
    }
    total
}

type Range = (usize, usize, usize, usize);

/// The longest common run, the earliest in `a` and then in `b` where several are as long, grown by popular characters at
/// its ends.
fn longest(a: &[char], b: &[char], places: &HashMap<char, Vec<usize>>, range: Range) -> Range3 {
    let (a_low, a_high, b_low, b_high) = range;
    let (mut best_i, mut best_j, mut best_n) = (a_low, b_low, 0);
    let mut runs: HashMap<usize, usize> = HashMap::new();
    for (i, c) in a.iter().enumerate().take(a_high).skip(a_low) {
        let mut next = HashMap::new();
        for &j in places.get(c).map(Vec::as_slice).unwrap_or_default() {
            if j < b_low {
                continue;
            }
            if j >= b_high {
                break;
            }
            let n = 1 + j.checked_sub(1).and_then(|j| runs.get(&j)).copied().unwrap_or(0);
            next.insert(j, n);
            if n > best_n {
                (best_i, best_j, best_n) = (i + 1 - n, j + 1 - n, n);
            }
        }
        runs = next;
    }
    while best_i > a_low && best_j > b_low && a[best_i - 1] == b[best_j - 1] {
        (best_i, best_j, best_n) = (best_i - 1, best_j - 1, best_n + 1);
    }
    while best_i + best_n < a_high
        && best_j + best_n < b_high
        && a[best_i + best_n] == b[best_j + best_n]
    {
        best_n += 1;
    }
    (best_i, best_j, best_n)
}

/// Start in `a`, start in `b`, length.
type Range3 = (usize, usize, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_pythons() {
        // Obtained from Python 3.11: difflib.SequenceMatcher(None, a, b).ratio().
        for (a, b, expected) in [
            ("abcd", "bcde", 0.75),
            ("", "", 1.0),
            (
                "private Thread currentThread;",
                "private volatile Thread currentThread;",
                0.865_671_641_791_044_8,
            ),
            ("tide", "diet", 0.25),
            ("diet", "tide", 0.5),
        ] {
            assert!((ratio(a, b) - expected).abs() < 1e-12, "{a} {b}: {}", ratio(a, b));
        }
        // A popular character starts no match, but one at the very start is grown from nothing.
        let (a, b) = ("x".repeat(100), "x".repeat(200));
        assert!((ratio(&a, &b) - 2.0 / 3.0).abs() < 1e-12);
        assert!(ratio(&format!("y{a}"), &b).abs() < 1e-12);
    }
}
