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
