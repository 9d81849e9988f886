//! Which prompts are the same but for a few words: they must not stand on both sides of a split.
//!
//! MinHash (Broder 1997) on shingles of three words, in bands (Indyk and Motwani 1998): prompts that share a band are compared,
//! and those whose signatures agree in 70 % of the places are joined, as are their friends' friends.

use std::collections::HashMap;

use super::text;
use crate::stats;

const SHINGLE: usize = 3;
const BANDS: usize = 12;
const ROWS: usize = 4;
const PLACES: usize = BANDS * ROWS;
/// Agreement of signatures, an estimate of Jaccard's index, from which prompts are one family.
const ALIKE: f64 = 0.7;

type Signature = [u64; PLACES];

/// A number for each prompt's family, from 0 in order of first sight.
pub fn families(prompts: &[&str]) -> Vec<usize> {
    let signatures: Vec<Signature> = prompts.iter().map(|prompt| signature(prompt)).collect();
    of_signatures(&signatures)
}

/// Every prompt is compared with all before it that share a band: a stranger to both may be the first that has their band.
fn of_signatures(signatures: &[Signature]) -> Vec<usize> {
    let mut joined: Vec<usize> = (0..signatures.len()).collect();
    for band in 0..BANDS {
        let mut seen: HashMap<&[u64], Vec<usize>> = HashMap::new();
        for (at, signature) in signatures.iter().enumerate() {
            let key = &signature[band * ROWS..(band + 1) * ROWS];
            let earlier = seen.entry(key).or_default();
            let mut is_known = false;
            for other in earlier.iter().copied() {
                is_known |= signatures[other] == *signature;
                if root(&mut joined, other) != root(&mut joined, at)
                    && alike(&signatures[other], signature)
                {
                    join(&mut joined, other, at);
                }
            }
            // Of equal signatures one is enough to compare with.
            if !is_known {
                earlier.push(at);
            }
        }
    }
    let mut numbers: HashMap<usize, usize> = HashMap::new();
    (0..signatures.len())
        .map(|at| {
            let root = root(&mut joined, at);
            let next = numbers.len();
            *numbers.entry(root).or_insert(next)
        })
        .collect()
}

fn alike(a: &Signature, b: &Signature) -> bool {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    same as f64 >= ALIKE * PLACES as f64
}

/// The smallest hash of any shingle, under each of the hash functions. A prompt of fewer words is one shingle.
fn signature(prompt: &str) -> Signature {
    let (head, tail) = text::ends(prompt);
    let words: Vec<u64> =
        [head, tail].iter().flat_map(|part| text::words(part)).map(|word| hash(&word)).collect();
    let mut smallest = [u64::MAX; PLACES];
    let mut take = |shingle: &[u64]| {
        let base = shingle.iter().fold(0_u64, |all, word| scattered(all ^ word));
        for (place, smallest) in smallest.iter_mut().enumerate() {
            *smallest = (*smallest).min(scattered(base ^ scattered(place as u64 + 1)));
        }
    };
    if words.len() < SHINGLE {
        // Without words (only signs, say) the text itself must tell prompts apart.
        let whole = if words.is_empty() { vec![hash(prompt)] } else { words };
        take(&whole);
    } else {
        words.windows(SHINGLE).for_each(take);
    }
    smallest
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A value that tells nothing of its neighbours'.
pub(super) fn scattered(value: u64) -> u64 {
    stats::mixed(value, 0)
}

fn root(joined: &mut [usize], mut at: usize) -> usize {
    while joined[at] != at {
        joined[at] = joined[joined[at]];
        at = joined[at];
    }
    at
}

fn join(joined: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(joined, a), root(joined, b));
    // The earlier one stays, so that numbers do not depend on the order of joins.
    joined[a.max(b)] = a.min(b);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of one family in all bands but the first differ in one place a band, and the first band a stranger has before them.
    #[test]
    fn a_stranger_in_the_first_place_hides_no_family() {
        let numbered =
            |from: u64| -> Signature { std::array::from_fn(|place| from + place as u64) };
        let (mut stranger, one, mut other) = (numbered(1000), numbered(0), numbered(0));
        stranger[..ROWS].copy_from_slice(&one[..ROWS]);
        (1..BANDS).for_each(|band| other[band * ROWS] = 5000);
        assert!(alike(&one, &other) && !alike(&stranger, &one));
        assert_eq!(of_signatures(&[stranger, one, other]), [0, 1, 1]);
    }

    #[test]
    fn a_changed_word_is_the_same_family() {
        let long: String = (0..60).map(|i| format!("word{i} ")).collect();
        let changed = long.replace("word30", "other");
        let strangers: Vec<String> =
            (0..20).map(|i| format!("question {i} about thing {i} x{i}")).collect();
        let mut prompts: Vec<&str> =
            vec![&long, &changed, &long, "", "", "?", "Hi there", "hi THERE!"];
        prompts.extend(strangers.iter().map(String::as_str));
        let families = families(&prompts);
        assert_eq!(families[..8], [0, 0, 0, 1, 1, 2, 3, 3]);
        let mut rest = families[8..].to_vec();
        rest.dedup();
        assert_eq!(rest.len(), 20, "{families:?}");
    }
}
