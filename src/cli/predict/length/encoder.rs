//! `--encoder`: the encoder of tier T2, opened, run over all prompts, and timed.

use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value as Json, json};

use crate::{
    cli::ui::Ui,
    encoder::{self, Opened},
    execute::clock::Clock,
    predict::length::encoder::{Embedding, Identity, embed},
    stats,
};

/// Prompts that are encoded once more, each by itself: what a request would wait for.
const ALONE: usize = 30;

#[derive(Debug, clap::Args)]
pub(super) struct EncoderArgs {
    /// An encoder of yours, for tier T2: a folder with `model.onnx` and `tokenizer.json`, or the ONNX file beside its tokenizer. Needs a
    /// kvbench that was built with `--features encoder`, and the ONNX Runtime library.
    #[arg(long = "encoder", value_name = "DIR_OR_FILE")]
    pub(super) path: Option<PathBuf>,
    /// The ONNX Runtime library that runs the encoder, such as libonnxruntime.so.
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    onnxruntime: Option<PathBuf>,
}

/// What was encoded, and how long it took.
pub(super) struct Encoded {
    pub(super) identity: Identity,
    told: String,
    runtime: String,
    n_prompts: usize,
    n_cut: usize,
    /// Of all prompts, in batches, each.
    batched_ms: f64,
    n_alone: usize,
    /// Of prompts by themselves, the median.
    alone_ms_p50: Option<f64>,
}

impl EncoderArgs {
    /// The encoder, where one is asked for.
    ///
    /// # Errors
    /// As [`encoder::open`].
    pub(super) fn open(&self, tokens_max: Option<usize>) -> anyhow::Result<Option<Opened>> {
        let Some(path) = &self.path else { return Ok(None) };
        encoder::open(path, self.onnxruntime.as_deref(), tokens_max).context("--encoder").map(Some)
    }
}

/// Encodes prompts, and some of them again to see what one costs.
pub(super) fn encode(
    opened: Opened,
    prompts: &[&str],
    ui: &Ui,
) -> anyhow::Result<(Vec<Embedding>, Encoded)> {
    let Opened { mut encoder, told, runtime } = opened;
    let bar = bar(ui);
    let mut n_prompts = 0;
    let clock = Clock::start();
    let embeddings = embed(prompts, &mut *encoder, &mut |done, total| {
        n_prompts = total;
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    let batched_ms = ms(clock.now_ns()) / n_prompts.max(1) as f64;
    bar.finish_and_clear();
    let embeddings = embeddings.context("--encoder")?;
    let n_cut = encoder.n_cut();
    let mut alone: Vec<f64> = Vec::new();
    for prompt in prompts.iter().step_by(prompts.len().div_ceil(ALONE).max(1)) {
        let clock = Clock::start();
        embed(&[prompt], &mut *encoder, &mut |_, _| {}).context("--encoder")?;
        alone.push(ms(clock.now_ns()));
    }
    let encoded = Encoded {
        identity: encoder.identity().clone(),
        told,
        runtime,
        n_prompts,
        n_cut,
        batched_ms,
        n_alone: alone.len(),
        alone_ms_p50: stats::median(&mut alone),
    };
    ui.note(&encoded.words());
    Ok((embeddings, encoded))
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

fn bar(ui: &Ui) -> ProgressBar {
    let target =
        if ui.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {pos}/{len} prompts encoded, {eta} left")
    {
        bar.set_style(style);
    }
    bar
}

impl Encoded {
    fn words(&self) -> String {
        let Self { n_prompts, n_cut, batched_ms, n_alone, .. } = self;
        let cut = format!("{n_cut} of {n_prompts} prompts are longer than what it reads");
        let alone = self.alone_ms_p50.map_or_else(String::new, |alone_ms| {
            format!(", {alone_ms:.2} ms alone (median of {n_alone})")
        });
        format!("encoder {}; {cut}; {batched_ms:.2} ms a prompt in batches{alone}", self.told)
    }

    /// Its part of a command's JSON.
    pub(super) fn json(&self) -> Json {
        json!({
            "identity": self.identity,
            "runtime": self.runtime,
            "prompts": self.n_prompts,
            "prompts_cut": self.n_cut,
            "ms_a_prompt_in_batches": self.batched_ms,
            "ms_a_prompt_alone_p50": self.alone_ms_p50,
            "prompts_alone": self.n_alone,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        cli::ui::Ui,
        encoder::Opened,
        predict::length::encoder::{Encoder, Identity},
        report::Format,
    };

    /// Says how many bytes a text has.
    struct Bytes(Identity, usize);

    impl Encoder for Bytes {
        fn identity(&self) -> &Identity {
            &self.0
        }

        fn n_cut(&self) -> usize {
            self.1
        }

        fn encode(
            &mut self,
            texts: &[&str],
            told: &mut dyn FnMut(usize),
        ) -> anyhow::Result<Vec<Vec<f32>>> {
            self.1 += texts.iter().filter(|text| text.len() > 3).count();
            told(texts.len());
            Ok(texts.iter().map(|text| vec![text.len() as f32, 4.0]).collect())
        }
    }

    #[test]
    fn prompts_that_are_timed_again_are_not_counted_again() {
        let identity = Identity {
            sha256: "a".into(),
            tokenizer_sha256: "b".into(),
            output: "bytes".into(),
            width: 2,
            tokens_max: 3,
        };
        let opened = Opened {
            encoder: Box::new(Bytes(identity, 0)),
            told: "here".into(),
            runtime: "none".into(),
        };
        let ui = Ui { format: Format::Json, color: false, progress: false, quiet: true };
        let (vectors, encoded) = super::encode(opened, &["abc", "four", "abc"], &ui).unwrap();
        assert_eq!((encoded.n_prompts, encoded.n_cut, encoded.n_alone), (2, 1, 3));
        assert!((vectors[0][0] - 0.6).abs() < 1e-6 && vectors[0] == vectors[2], "{vectors:?}");
        let json = encoded.json();
        assert!(json["ms_a_prompt_alone_p50"].is_number() && json["identity"]["width"] == 2);
        assert!(encoded.words().contains("1 of 2 prompts are longer"), "{}", encoded.words());
    }
}
