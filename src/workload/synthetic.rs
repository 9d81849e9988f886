//! Prompts made of common words: no data set, any length; exact in tokens where the workload names a tokenizer.

use rand_chacha::ChaCha8Rng;

use super::{
    Counted,
    draw::{Stream, below, stream},
    exact,
};
use crate::{
    scenario::LengthDist,
    token::{Fitter, Meter},
};

/// 256 frequent words that usual tokenizers know as one token each with the blank before them.
const WORDS: &str = "\
able above after again air all along also animal answer any area arm ask away baby back ball bank base bear beat bed \
before began behind best better big bird black blue board boat body bone book both box boy bread bring brown build busy \
call came camp car card care carry case cat catch cause center chair chance change check child city class clean clear \
climb close cloud coast cold color come cook cool copy corn cost cover cross crowd cut dance dark day deal dear deep \
desk dinner door down draw dream dress drive drop dry dust each ear early earth east easy edge egg eight end engine \
enough even event every eye face fact fair fall farm fast father feel feet field fight figure fill final find fine \
finger fire first fish five floor flow flower fly follow food foot force forest form four free fresh friend front fruit \
full game garden gave gift girl give glass goal gold good grass gray great green ground group grow guess guide hair \
half hall hand happy hard head hear heart heat heavy help high hill hold hole home hope horse hot hour house human \
idea inch iron island join jump keep key kind king knee know lady lake land large last late laugh law lead leaf learn \
leave left leg less letter level life light line list listen live long look lost love low lunch machine main make map \
mark market match matter meal mean meat mile milk mind mine minute miss money moon morning";

/// One drawn prompt.
pub(super) struct Drawn {
    pub(super) prompt: String,
    /// Tokens asked for; words, without a tokenizer.
    pub(super) asked_tokens: u32,
    /// What the tokenizer makes of the prompt.
    pub(super) counted: Option<Counted>,
    pub(super) output_tokens: u32,
}

/// `n` prompts. Each starts with three words that spell its number, the fastest-changing first, so that no two prompts
/// share a prefix for a cache to serve (a prompt of one or two words is too short to hold all numbers).
pub(super) fn draw(
    n: usize,
    prompt: &LengthDist,
    output: &LengthDist,
    seed: u64,
    meter: Option<&Meter>,
) -> anyhow::Result<Vec<Drawn>> {
    let words = words();
    let mut lengths = stream(seed, Stream::Length);
    let mut text = stream(seed, Stream::Text);
    let offset = offset(&words, &mut text);
    let mut fitter = meter.map(Fitter::new).transpose()?;
    let mut one = |id: usize| {
        let asked_tokens = length(prompt, &mut lengths);
        let output_tokens = length(output, &mut lengths);
        let mut next = in_turn(&words, id + offset, &mut text);
        let (prompt, counted) = match (&mut fitter, meter) {
            (Some(fitter), Some(meter)) => {
                let fitted = fitter.fit(asked_tokens as usize, &mut next)?;
                let counted = Counted {
                    tokens: u32::try_from(fitted.tokens)?,
                    rendered: meter.rendered(&fitted.text)?,
                };
                (fitted.text, Some(counted))
            }
            _ => ((0..asked_tokens).map(|_| next()).collect::<Vec<_>>().join(" "), None),
        };
        Ok(Drawn { prompt, asked_tokens, counted, output_tokens })
    };
    (0..n).map(&mut one).collect()
}

/// The words that prompts are made of.
pub(super) fn words() -> Vec<&'static str> {
    WORDS.split_whitespace().collect()
}

/// Where the numbers begin that prompts are told apart by.
pub(super) fn offset(words: &[&str], rng: &mut ChaCha8Rng) -> usize {
    below(rng, words.len().pow(3))
}

/// `n_words` words, the first three of which spell the number.
pub(super) fn sentence(
    words: &[&str],
    number: usize,
    n_words: u32,
    rng: &mut ChaCha8Rng,
) -> String {
    let mut next = in_turn(words, number, rng);
    let mut text = String::with_capacity(n_words as usize * 6);
    (0..n_words).for_each(|_| push(&mut text, next()));
    text
}

/// One word after another, without end.
pub(super) fn in_turn<'a>(
    words: &'a [&'a str],
    number: usize,
    rng: &'a mut ChaCha8Rng,
) -> impl FnMut() -> &'a str {
    let base = words.len();
    let mut spelled =
        [number % base, number / base % base, number / base / base % base].into_iter();
    move || words[spelled.next().unwrap_or_else(|| below(rng, base))]
}

/// Appends drawn words.
pub(super) fn append(words: &[&str], n_words: u32, rng: &mut ChaCha8Rng, text: &mut String) {
    (0..n_words).for_each(|_| push(text, words[below(rng, words.len())]));
}

fn push(text: &mut String, word: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(word);
}

pub(super) fn length(dist: &LengthDist, rng: &mut ChaCha8Rng) -> u32 {
    match *dist {
        LengthDist::Fixed(n) => n,
        LengthDist::Uniform { min, max } => {
            min + below(rng, max.saturating_sub(min) as usize + 1) as u32
        }
        LengthDist::Lognormal { median, sigma, max } => {
            let normal = exact::normal(rng);
            // A cast from float saturates, so an overflow to infinity ends at `max` too.
            ((median * exact::exp(sigma * normal)).round() as u32).clamp(1, max)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_word_list_has_no_twins() {
        let words: Vec<_> = WORDS.split_whitespace().collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
        assert_eq!(words.len(), 256);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn prompts_have_the_drawn_length_and_their_own_prefix(seed: u64, median in 3.0_f64..60.0, sigma in 0.0_f64..2.0) {
            let dist = LengthDist::Lognormal { median, sigma, max: 100 };
            let drawn = draw(300, &dist, &LengthDist::Uniform { min: 5, max: 9 }, seed, None).expect("no tokenizer");
            for one in &drawn {
                prop_assert_eq!(one.prompt.split(' ').count(), one.asked_tokens as usize);
                prop_assert!((1..=100).contains(&one.asked_tokens) && (5..=9).contains(&one.output_tokens));
            }
            let prefixes: BTreeSet<_> = drawn
                .iter()
                .filter(|one| one.asked_tokens >= 3)
                .map(|one| one.prompt.split(' ').take(3).collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(prefixes.len(), drawn.iter().filter(|one| one.asked_tokens >= 3).count());
        }
    }

    #[test]
    fn the_median_is_the_median() {
        let dist = LengthDist::Lognormal { median: 200.0, sigma: 0.8, max: 100_000 };
        let drawn = draw(4001, &dist, &LengthDist::Fixed(1), 3, None).expect("no tokenizer");
        let mut lengths: Vec<_> = drawn.iter().map(|one| one.asked_tokens).collect();
        lengths.sort_unstable();
        // Standard error of the median here is about 2 %.
        assert!((180..=220).contains(&lengths[2000]), "{}", lengths[2000]);
    }
}
