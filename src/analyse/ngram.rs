//! How well a text is foretold by other texts: a model of characters with back-off.
//!
//! Interpolated Witten-Bell smoothing (Witten and Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37 (4), 1991):
//! the next character is foretold from the three before it, mixed with what two, one and none would say, the more of it the
//! more often a context was followed by something new. Three, because a handful of answers holds too few longer contexts.

use std::collections::HashMap;

/// Characters of context.
const ORDER: usize = 3;
/// Characters that are thought possible before any was seen: an unseen one costs at least eight bits.
const ALPHABET: f64 = 256.0;

/// What stands before a character: up to three, flush right, and how many of them are looked at.
type Context = (usize, [Option<char>; ORDER]);

/// What followed a context.
#[derive(Debug, Clone, Copy, Default)]
struct Followers {
    /// Characters.
    total: u32,
    /// Different ones.
    kinds: u32,
}

/// Counts of every context and what followed it.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pairs: HashMap<(Context, char), u32>,
    contexts: HashMap<Context, Followers>,
}

impl Counts {
    /// Learns a text.
    pub(super) fn learn(&mut self, text: &str) {
        each(text, |contexts, next| {
            for context in contexts {
                let count = self.pairs.entry((context, next)).or_default();
                *count += 1;
                let followers = self.contexts.entry(context).or_default();
                followers.total += 1;
                followers.kinds += u32::from(*count == 1);
            }
        });
    }

    /// Everything learned but `own`, a part of it.
    pub(super) fn without<'a>(&'a self, own: &'a Counts) -> Others<'a> {
        let mut only_own: HashMap<Context, u32> = HashMap::new();
        for (pair, count) in &own.pairs {
            if self.pairs.get(pair) == Some(count) {
                *only_own.entry(pair.0).or_default() += 1;
            }
        }
        Others { all: self, own, only_own }
    }
}

/// A model of all texts but some.
pub(super) struct Others<'a> {
    all: &'a Counts,
    own: &'a Counts,
    /// Followers of a context that only the left-out texts have.
    only_own: HashMap<Context, u32>,
}

impl Others<'_> {
    /// Bits a character; `None` of an empty text.
    pub(super) fn bits_per_character(&self, text: &str) -> Option<f64> {
        let (mut bits, mut n) = (0.0, 0_u32);
        each(text, |contexts, next| {
            let p = contexts
                .iter()
                .fold(1.0 / ALPHABET, |below, context| self.mixed(below, *context, next));
            bits -= p.log2();
            n += 1;
        });
        (n > 0).then(|| bits / f64::from(n))
    }

    /// Probability of `next` after `context`, where one character less of context gives `below`.
    fn mixed(&self, below: f64, context: Context, next: char) -> f64 {
        let of = |counts: &Counts| counts.contexts.get(&context).copied().unwrap_or_default();
        let (all, own) = (of(self.all), of(self.own));
        let total = f64::from(all.total - own.total);
        if total == 0.0 {
            return below;
        }
        let kinds = f64::from(all.kinds - self.only_own.get(&context).copied().unwrap_or(0));
        let seen = |counts: &Counts| counts.pairs.get(&(context, next)).copied().unwrap_or(0);
        let count = f64::from(seen(self.all) - seen(self.own));
        (count + kinds * below) / (total + kinds)
    }
}

/// Calls `f` for each character with its contexts, shortest first.
fn each(text: &str, mut f: impl FnMut([Context; ORDER + 1], char)) {
    let mut before = [None; ORDER];
    for next in text.chars() {
        let mut contexts = [(0, [None; ORDER]); ORDER + 1];
        for (length, (looked_at, context)) in contexts.iter_mut().enumerate() {
            *looked_at = length;
            context[ORDER - length..].copy_from_slice(&before[ORDER - length..]);
        }
        f(contexts, next);
        before.rotate_left(1);
        before[ORDER - 1] = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(texts: &[&str]) -> Counts {
        let mut counts = Counts::default();
        texts.iter().for_each(|text| counts.learn(text));
        counts
    }

    /// "a" was read once: each of the four contexts was followed by one character of one kind, so each mixes half and half.
    #[test]
    fn bits_by_hand() {
        let (all, none) = (learned(&["a"]), Counts::default());
        let bits = all.without(&none).bits_per_character("a").unwrap();
        let p = (0..4).fold(1.0 / 256.0, |below, _| (1.0 + below) / 2.0);
        assert!((bits + f64::log2(p)).abs() < 1e-12, "{bits}");
        assert_eq!(all.without(&none).bits_per_character(""), None);
    }

    #[test]
    fn leaving_out_is_as_never_learning() {
        let texts = ["the cat sat on the mat", "a dog ate the cat", "the end"];
        let (all, own, rest) = (
            learned(&texts),
            learned(&texts[1..2]),
            learned(&["the cat sat on the mat", "the end"]),
        );
        let none = Counts::default();
        for text in ["the dog", "mat", "xyz"] {
            let left_out = all.without(&own).bits_per_character(text).unwrap();
            let never = rest.without(&none).bits_per_character(text).unwrap();
            assert!((left_out - never).abs() < 1e-12, "{text}: {left_out} {never}");
        }
    }

    #[test]
    fn what_was_read_before_is_cheaper() {
        let all = learned(&["they played together in the park and had fun"; 3]);
        let none = Counts::default();
        let of = |text| all.without(&none).bits_per_character(text).unwrap();
        assert!(of("they had fun in the park") + 2.0 < of("thitarrveradadadaddlebomade"));
    }
}
