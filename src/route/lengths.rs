//! Expected lengths of answers for a router that reads prompts.

use anyhow::ensure;

use crate::predict::length::{
    self,
    model::{Query, Read},
};

/// Where expected lengths come from.
#[derive(Debug, Clone)]
pub enum Lengths {
    /// The same tokens for every request and method.
    Constant(f64),
    /// A fitted model, with the name that it has for each method of the pool.
    Model {
        /// The model.
        model: Box<length::Model>,
        /// Names of the pool's methods, in its order.
        methods: Vec<String>,
    },
}

/// What lengths are predicted from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prompt<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its task, where one is known.
    pub task: Option<&'a str>,
    /// Most tokens of the answer, where there is such a limit.
    pub max_tokens: Option<u32>,
}

impl Lengths {
    /// One length for all.
    ///
    /// # Errors
    /// Fewer than 1 token, or no number.
    pub fn constant(tokens: f64) -> anyhow::Result<Self> {
        ensure!(
            tokens.is_finite() && tokens >= 1.0,
            "expected answers: expected at least 1 token, got {tokens}"
        );
        Ok(Self::Constant(tokens))
    }

    /// A model that knows every method of the pool.
    ///
    /// # Errors
    /// A method that the model has no shift for.
    pub fn model(model: length::Model, methods: &[String]) -> anyhow::Result<Self> {
        for method in methods {
            model.shift(Some(method))?;
        }
        Ok(Self::Model { model: Box::new(model), methods: methods.to_vec() })
    }

    /// Writes the expected tokens of the answer under each of `n_methods` methods into `out`, for [`super::Ask::output_tokens`]; a
    /// model has as many as it was made with. None is below 1 or above `max_tokens`.
    ///
    /// Costs grow with the tokens, so they need the mean. Of a model it is 0.3 q10 + 0.4 q50 + 0.3 q90, Swanson's rule for skewed
    /// quantities (Hurst, Brown and Swanson 2000): the median alone would leave out that some answers get very long.
    ///
    /// # Errors
    /// A model whose numbers add up to no length.
    pub fn fill(
        &self,
        prompt: &Prompt<'_>,
        n_methods: usize,
        out: &mut Vec<f64>,
    ) -> anyhow::Result<()> {
        out.clear();
        let most = prompt.max_tokens.map_or(f64::INFINITY, f64::from);
        match self {
            Self::Constant(tokens) => out.extend(std::iter::repeat_n(*tokens, n_methods)),
            Self::Model { model, methods } => {
                let read = Read::of(prompt.text);
                for method in methods {
                    let query = Query {
                        prompt: prompt.text,
                        task: prompt.task,
                        max_tokens: prompt.max_tokens,
                        method: Some(method),
                    };
                    let [low, middle, high] = model.predict_read(&query, &read)?;
                    out.push(0.3 * low + 0.4 * middle + 0.3 * high);
                }
            }
        }
        out.iter_mut().for_each(|tokens| *tokens = tokens.min(most).max(1.0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::length::{
        Inputs, Length, Sample,
        model::{Known, Options},
    };

    fn sample(at: usize, method: &str, tokens: u32) -> Sample {
        Sample {
            prompt: format!(
                "{} number {at}",
                if at.is_multiple_of(2) { "an essay on" } else { "yes or no," }
            ),
            family: at,
            task: None,
            max_tokens: 2000,
            method: method.to_owned(),
            lengths: vec![Length { tokens, censored: false }],
        }
    }

    /// Essays get some 400 tokens, other answers some 20; the method makes both half as long again.
    fn model() -> length::Model {
        let base =
            |at: usize| if at.is_multiple_of(2) { 400 + at as u32 } else { 20 + at as u32 / 10 };
        let samples: Vec<Sample> = (0..160)
            .flat_map(|at| [sample(at, "fp16", base(at)), sample(at, "kivi-4", base(at) * 3 / 2)])
            .collect();
        let read: Vec<Read> = samples.iter().map(|sample| Read::of(&sample.prompt)).collect();
        let known: Vec<Known<'_>> =
            samples.iter().zip(&read).map(|(sample, read)| Known { sample, read }).collect();
        let options = Options { baseline: "fp16", llm: None, inputs: Inputs::Prompt, seed: 1 };
        length::Model::fit(&known, &options).unwrap()
    }

    fn prompt(text: &str, max_tokens: Option<u32>) -> Prompt<'_> {
        Prompt { text, task: None, max_tokens }
    }

    #[test]
    fn a_model_tells_prompts_and_methods_apart() {
        let methods = ["kivi-4".to_owned(), "fp16".to_owned()];
        let lengths = Lengths::model(model(), &methods).unwrap();
        let mut out = vec![9.0; 7];
        let mut of = |text, max_tokens| {
            lengths.fill(&prompt(text, max_tokens), 2, &mut out).unwrap();
            out.clone()
        };
        let essay = of("an essay on number 500", None);
        assert_eq!(essay.len(), 2);
        assert!(essay[1] > 300.0 && essay[0] > 1.3 * essay[1], "{essay:?}");
        assert!(of("yes or no, number 501", None)[1] < 100.0);
        assert_eq!(of("an essay on number 500", Some(30)), [30.0, 30.0]);
        let strange = Lengths::model(model(), &["h2o".to_owned()]).unwrap_err();
        assert!(strange.to_string().contains("got h2o"), "{strange}");
    }

    #[test]
    fn a_constant_is_cut_at_what_is_asked_for() {
        let lengths = Lengths::constant(200.0).unwrap();
        let mut out = Vec::new();
        lengths.fill(&prompt("", None), 3, &mut out).unwrap();
        assert_eq!(out, [200.0; 3]);
        lengths.fill(&prompt("", Some(0)), 1, &mut out).unwrap();
        assert_eq!(out, [1.0]);
        for wrong in [0.0, f64::NAN, f64::INFINITY] {
            assert!(Lengths::constant(wrong).is_err());
        }
    }
}
