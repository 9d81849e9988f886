//! T2 with encoders that are made up, so that what they know is known.

use std::collections::HashMap;

use super::{
    super::encoder::{Encoder, Identity, embed},
    *,
};

/// An encoder that has a vector for each prompt by heart, and counts what it was asked.
struct Fake {
    identity: Identity,
    vectors: HashMap<String, Vec<f32>>,
    n_asked: usize,
}

impl Fake {
    fn of(vectors: HashMap<String, Vec<f32>>) -> Self {
        let width = vectors.values().next().map_or(0, Vec::len);
        Self { identity: identity(width), vectors, n_asked: 0 }
    }
}

impl Encoder for Fake {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn n_cut(&self) -> usize {
        0
    }

    fn encode(
        &mut self,
        texts: &[&str],
        told: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        self.n_asked += texts.len();
        told(texts.len());
        Ok(texts.iter().map(|text| self.vectors[*text].clone()).collect())
    }
}

fn identity(width: usize) -> Identity {
    Identity {
        sha256: "ab".into(),
        tokenizer_sha256: "cd".into(),
        output: "sentence_embedding".into(),
        width,
        tokens_max: 128,
    }
}

const WIDTH: usize = 24;

/// Prompts of words that no other prompt has, two answers each with an error of 0.3. What their lengths depend on stands in the first two
/// numbers of their vectors alone; `length` makes words of them, the other numbers are noise.
fn hidden(n: usize, length: impl Fn(f64, f64) -> f64) -> (Corpus, Fake) {
    let mut rng = stats::seeded(11);
    let mut vectors = HashMap::new();
    let samples = (0..n).map(|at| {
        let body: String = (0..12).map(|word| format!("w{at}v{word} ")).collect();
        let mut normal = |scale: f64| Normal::new(0.0, scale).unwrap().sample(&mut rng);
        let (first, second) = (normal(1.0), normal(1.0));
        let mut vector = vec![first as f32, second as f32];
        vector.extend((2..WIDTH).map(|_| normal(0.2) as f32));
        let tokens = [(); 2].map(|()| length(first, second) * f64::exp(normal(0.3)));
        vectors.insert(body.clone(), vector);
        sample(body, BASE, 4096, &tokens)
    });
    let mut corpus = Corpus::of(samples.collect());
    let mut fake = Fake::of(vectors);
    corpus.encode(&mut fake);
    (corpus, fake)
}

impl Corpus {
    fn encode(&mut self, encoder: &mut dyn Encoder) {
        let prompts: Vec<&str> = self.samples.iter().map(|one| one.prompt.as_str()).collect();
        let embeddings = embed(&prompts, encoder, &mut |_, _| {}).unwrap();
        let reads = std::mem::take(&mut self.reads).into_iter();
        self.reads = reads.zip(embeddings).map(|(read, it)| read.with(it)).collect();
    }

    fn judged_with(&self, identity: &Identity) -> Evaluation {
        let tier = Tier::T2(identity);
        let options = evaluate::Options { baseline: BASE, folds: 4, seed: 1, resamples: 40, tier };
        evaluate::evaluate(&self.known(), &options).unwrap()
    }

    fn fit_with(&self, identity: &Identity) -> Result<Model, FitError> {
        let inputs = Inputs::PromptAndTask;
        let options = Options { baseline: BASE, llm: None, inputs, seed: 1 };
        Model::fit_with(&self.known(), &options, Some(identity))
    }
}

/// Lower end of what the first has more of tau than the second.
fn gain(found: &Evaluation, first: Predictor, second: Predictor) -> f64 {
    let all = &found.judged.differences;
    let (.., verdicts) = all.iter().find(|(a, b, _)| (*a, *b) == (first, second)).unwrap();
    verdicts[TAU].unwrap().1.unwrap().low
}

#[test]
fn what_no_word_tells_is_found_in_the_vectors() {
    let (corpus, fake) = hidden(320, |first, _| 100.0 * first.exp());
    let found = corpus.judged_with(&fake.identity);
    let tau = |predictor| value(&found, predictor, TAU).unwrap();
    assert!(tau(Predictor::T1).abs() < 0.2, "{}", tau(Predictor::T1));
    assert!(tau(Predictor::T2) > 0.5, "{}", tau(Predictor::T2));
    assert!(tau(Predictor::T2) < tau(Predictor::Ceiling) + 0.1);
    for (tier, other) in
        [(Predictor::T2, Predictor::T1), (Predictor::T2NoTask, Predictor::T1NoTask)]
    {
        assert!(gain(&found, tier, other) > 0.3);
    }
    let coverage = value(&found, Predictor::T2, COVERAGE).unwrap();
    assert!((0.85..=0.95).contains(&coverage), "{coverage}");
    assert_eq!(found.reader(), Predictor::T2);
}

/// Long where both numbers have one sign: no sum of them ranks, so the components must.
#[test]
fn what_is_no_sum_is_found_in_the_components() {
    let of_signs = |first: f64, second: f64| if first * second > 0.0 { 400.0 } else { 40.0 };
    let (corpus, fake) = hidden(320, of_signs);
    let found = corpus.judged_with(&fake.identity);
    let tau = value(&found, Predictor::T2, TAU).unwrap();
    assert!(tau > 0.3, "{tau}");
}

/// As many numbers as prompts: whoever fitted the score on the rows that the trees then see would rank them perfectly.
#[test]
fn vectors_that_say_nothing_are_not_learnt_by_heart() {
    let mut rng = stats::seeded(12);
    let mut corpus = Corpus::of(
        (0..200)
            .map(|at| {
                let body: String = (0..12).map(|word| format!("w{at}v{word} ")).collect();
                sample(body, BASE, 4096, &[rng.random_range(20.0..400.0), 100.0])
            })
            .collect(),
    );
    let mut vector = |_: &Sample| (0..200).map(|_| rng.random_range(-1.0..1.0)).collect();
    let vectors = corpus.samples.iter().map(|one| (one.prompt.clone(), vector(one))).collect();
    let mut fake = Fake::of(vectors);
    corpus.encode(&mut fake);
    let found = corpus.judged_with(&fake.identity);
    let [t1, t2] = [Predictor::T1, Predictor::T2].map(|it| value(&found, it, TAU).unwrap());
    assert!(t2.abs() < 0.2, "{t2} {t1}");
    let coverage = value(&found, Predictor::T2, COVERAGE).unwrap();
    assert!(coverage > 0.85, "{coverage}");
}

#[test]
fn a_file_with_an_encoder_is_the_same_model_and_asks_for_it() {
    let (corpus, fake) = hidden(120, |first, _| 100.0 * first.exp());
    let model = corpus.fit_with(&fake.identity).unwrap();
    let text = model.to_json().unwrap();
    assert!(text.starts_with("{\"schema\":\"kvbench-length/2\""), "{}", &text[..60]);
    let read = Model::from_json(&text, "m.json").unwrap();
    assert_eq!(model, read);
    let known = corpus.known();
    let of = |model: &Model, at: usize| {
        model.predict_read(&Query::of(known[at].sample), known[at].read).unwrap().map(f64::to_bits)
    };
    assert!((0..120).all(|at| of(&model, at) == of(&read, at)));

    let query = Query::of(known[0].sample);
    let said = model.predict(&query).unwrap_err().to_string();
    assert!(said.contains("expected the prompt's vector of 24 numbers, got none"), "{said}");
    let other = Read::of(query.prompt).with(vec![1.0; 3].into());
    let said = model.explain_read(&query, &other).unwrap_err().to_string();
    assert!(said.contains("got one of 3"), "{said}");
    let told = model.explain_read(&query, known[0].read).unwrap();
    assert!(told.moved.iter().any(|it| it.feature.starts_with("encoder")), "{:?}", told.moved);
}

#[test]
fn another_encoder_is_refused() {
    let (corpus, fake) = hidden(120, |first, _| 100.0 * first.exp());
    let model = corpus.fit_with(&fake.identity).unwrap();
    let plain = corpus.fit(Inputs::Prompt).unwrap();
    model.accepts(Some(&fake.identity)).unwrap();
    plain.accepts(None).unwrap();
    let said =
        |model: &Model, offered: Option<&Identity>| model.accepts(offered).unwrap_err().to_string();
    let same = &fake.identity;
    let cases = [
        (Identity { sha256: "ef".into(), ..same.clone() }, "(sha256 ab), got another (sha256 ef)"),
        (Identity { tokenizer_sha256: "x".into(), ..same.clone() }, "sha256 of the tokenizer cd"),
        (Identity { tokens_max: 9, ..same.clone() }, "most tokens 128"),
        (Identity { output: "o".into(), ..same.clone() }, "output sentence_embedding"),
    ];
    for (other, part) in cases {
        let said = said(&model, Some(&other));
        assert!(said.contains(part) && said.contains("hint:"), "{said}");
    }
    assert!(said(&model, None).contains("(sha256 ab), got none"));
    assert!(
        said(&plain, Some(same)).contains("expected none, because the model was fitted without")
    );
}

#[test]
fn files_of_t1_are_as_they_were_and_damaged_ones_are_refused() {
    let (corpus, fake) = hidden(120, |first, _| 100.0 * first.exp());
    let plain = corpus.fit(Inputs::Prompt).unwrap().to_json().unwrap();
    assert!(plain.starts_with("{\"schema\":\"kvbench-length/1\"") && !plain.contains("encoder"));
    let good: serde_json::Value =
        serde_json::from_str(&corpus.fit_with(&fake.identity).unwrap().to_json().unwrap()).unwrap();
    let bad = [
        ("/schema", serde_json::json!(SCHEMA), "an `encoder`, or none"),
        ("/encoder/components/2", serde_json::json!([]), "not of its width"),
        ("/encoder/identity/width", serde_json::json!(99), "not of its width"),
        ("/encoder/score/weights/3", serde_json::json!(1e300), "not of numbers"),
        ("/inputs", serde_json::json!("prompt_length"), "features other than"),
    ];
    for (place, value, part) in bad {
        let mut file = good.clone();
        *file.pointer_mut(place).unwrap() = value;
        let said = Model::from_json(&file.to_string(), "m.json").unwrap_err().to_string();
        assert!(said.contains(part), "{place}: {said}");
    }
}

#[test]
fn prompts_are_encoded_once_and_vectors_are_checked() {
    let vectors = [("a", vec![3.0, 4.0]), ("b", vec![0.0, 0.0]), ("c", vec![f32::NAN, 0.0])];
    let mut fake = Fake::of(vectors.map(|(text, it)| (text.to_owned(), it)).into());
    let mut told = Vec::new();
    let found = embed(&["a", "b", "a"], &mut fake, &mut |done, all| told.push((done, all)));
    let found = found.unwrap();
    assert_eq!((fake.n_asked, told), (2, vec![(2, 2)]));
    assert!((found[0][0] - 0.6).abs() < 1e-6 && found[0] == found[2], "{found:?}");
    assert!(found[1].iter().all(|value| value.abs() < 1e-12), "zeros have no direction");
    let said = embed(&["c"], &mut fake, &mut |_, _| {}).unwrap_err().to_string();
    assert!(said.contains("finite numbers") && said.contains("hint:"), "{said}");
    fake.identity.width = 3;
    let said = embed(&["a"], &mut fake, &mut |_, _| {}).unwrap_err().to_string();
    assert!(said.contains("expected vectors of 3 numbers, got one of 2"), "{said}");
    let (corpus, _) = hidden(60, |first, _| first.exp());
    let said = corpus.fit_with(&identity(7)).unwrap_err().to_string();
    assert!(said.contains("a vector of 7 numbers of each of 60 prompts, got none of 60"), "{said}");
}
