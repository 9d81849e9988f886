//! Encoders that ONNX Runtime runs.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{Session, SessionInputValue},
    value::Tensor,
};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{
    Opened,
    graph::{self, Feed, Input},
    place::Place,
};
use crate::{
    predict::length::encoder::{Encoder, Identity},
    token::{Head, Tokenizer},
    units::hex,
};

/// Most texts of a batch.
const BATCH: usize = 32;
/// Tokens that are read where nobody names a limit: what encoders since BERT (Devlin et al. 2019) have positions for.
const TOKENS_DEFAULT: usize = 512;

struct Onnx {
    identity: Identity,
    path: PathBuf,
    tokenizer: Tokenizer,
    session: Session,
    inputs: Vec<Input>,
    output: String,
    n_cut: usize,
}

pub(super) fn open(
    path: &Path,
    runtime: Option<&Path>,
    tokens_max: Option<usize>,
) -> anyhow::Result<Opened> {
    let place = Place::of(path)?;
    let tokenizer = Tokenizer::load(&place.tokenizer)?;
    let (limit, source) = match (tokens_max, tokenizer.tokens_max()) {
        (Some(asked), _) => (asked, "as asked for"),
        (None, Some(named)) => (named, "as its tokenizer's files say"),
        (None, None) => (TOKENS_DEFAULT, "because its tokenizer's files name no limit"),
    };
    let environment = environment(runtime)?;
    let shown = place.model.display().to_string();
    let mut onnx = Onnx::of(&place, tokenizer, limit, environment).context(shown.clone())?;
    // One text shows what no name tells: whether the graph runs, and how many numbers it gives.
    let probe = onnx.encode(&["a text"], &mut |_| {})?;
    onnx.identity.width = probe.first().map_or(0, Vec::len);
    ensure!(onnx.identity.width > 0, "{shown}: expected vectors, got empty ones");
    onnx.n_cut = 0;
    Ok(Opened {
        told: format!(
            "{shown}: {} numbers ({}), at most {limit} tokens of a prompt, {source}",
            onnx.identity.width, onnx.identity.output
        ),
        encoder: Box::new(onnx),
        runtime: ort::info().to_owned(),
    })
}

/// The one environment of the process.
fn environment(runtime: Option<&Path>) -> anyhow::Result<&'static Environment> {
    static ONE: OnceLock<Environment> = OnceLock::new();
    if let Some(known) = ONE.get() {
        return Ok(known);
    }
    // The library looks beside the program for a relative path before it looks into the working directory.
    let named = runtime.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
    let path = named.unwrap_or_else(|| libloading::library_filename("onnxruntime").into());
    let builder = ort::init_from(&path).map_err(|error| {
        anyhow!(
            "{}: expected the ONNX Runtime library, version 1.{} or later: {error}\n  hint: name it with --onnxruntime or ORT_DYLIB_PATH; the \
             Python package onnxruntime has it as onnxruntime/capi/libonnxruntime.so.*",
            path.display(),
            ort::MINOR_VERSION
        )
    })?;
    let log = |_: LogLevel, category: &str, _: &str, place: &str, message: &str| {
        tracing::debug!("onnxruntime: {category} {place}: {message}");
    };
    let made = builder.with_telemetry(false).with_logger(Arc::new(log)).build();
    let made = made.map_err(|error| anyhow!("ONNX Runtime: {error}"))?;
    Ok(ONE.get_or_init(|| made))
}

impl Onnx {
    fn of(
        place: &Place,
        tokenizer: Tokenizer,
        tokens_max: usize,
        environment: &Environment,
    ) -> anyhow::Result<Self> {
        let bytes = place.model_bytes()?;
        let session = session(&bytes, &place.model, environment)?;
        let output = graph::output(&session)?;
        Ok(Self {
            identity: Identity {
                sha256: hex(&Sha256::digest(&bytes)),
                tokenizer_sha256: tokenizer.sha256().to_owned(),
                output: String::new(),
                width: 0,
                tokens_max,
            },
            path: place.model.clone(),
            tokenizer,
            inputs: graph::inputs(&session)?,
            output,
            session,
            n_cut: 0,
        })
    }

    /// Vectors of texts that have as many tokens each, so that nothing is padded and no vector depends on its neighbours' lengths.
    fn batch(&mut self, heads: &[&Head]) -> anyhow::Result<Vec<Vec<f32>>> {
        let n_tokens = heads.first().map_or(0, |head| head.ids.len());
        if n_tokens == 0 {
            return Ok(vec![vec![0.0; self.identity.width]; heads.len()]);
        }
        let tensor =
            |(name, feed): &Input| -> anyhow::Result<(Cow<'_, str>, SessionInputValue<'_>)> {
                let values: Vec<i64> = heads.iter().flat_map(|head| values(head, *feed)).collect();
                let tensor = Tensor::from_array(([heads.len(), n_tokens], values)).map_err(said)?;
                Ok((Cow::Owned(name.clone()), tensor.into()))
            };
        let inputs: Vec<_> = self.inputs.iter().map(tensor).collect::<anyhow::Result<_>>()?;
        let outputs = self.session.run(inputs).map_err(|error| {
            anyhow!(
                "ONNX Runtime, on texts of {n_tokens} tokens: {error}\n  hint: an encoder has positions for so many tokens and no more: \
                 --encoder-tokens sets a limit"
            )
        })?;
        let name = self.output.as_str();
        let output = outputs.get(name).with_context(|| format!("no output `{name}`"))?;
        let (shape, numbers) = output.try_extract_tensor::<f32>().map_err(|error| {
            anyhow!("expected float32 as output `{name}`: {error}\n  hint: export the encoder in float32")
        })?;
        let (vectors, how) = pooled(shape, numbers, heads.len(), name)?;
        self.identity.output = how;
        Ok(vectors)
    }
}

impl Encoder for Onnx {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn n_cut(&self) -> usize {
        self.n_cut
    }

    fn encode(
        &mut self,
        texts: &[&str],
        told: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let limit = self.identity.tokens_max;
        let heads = texts.par_iter().map(|text| self.tokenizer.head(text, limit));
        let heads: Vec<Head> = heads.collect::<anyhow::Result<_>>()?;
        self.n_cut += heads.iter().filter(|head| head.is_cut).count();
        let mut order: Vec<usize> = (0..heads.len()).collect();
        order.sort_by_key(|at| heads[*at].ids.len());
        let same = order.chunk_by(|a, b| heads[*a].ids.len() == heads[*b].ids.len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let mut done = 0;
        for batch in same.flat_map(|same| same.chunks(BATCH)) {
            let of_batch: Vec<&Head> = batch.iter().map(|at| &heads[*at]).collect();
            let made = self.batch(&of_batch).with_context(|| self.path.display().to_string())?;
            batch.iter().zip(made).for_each(|(at, vector)| vectors[*at] = vector);
            done += batch.len();
            told(done);
        }
        Ok(vectors)
    }
}

/// The graph in memory, so that what runs is what was hashed. Weights beside the file would be in no hash: they are looked for below a
/// file, where nothing can be.
fn session(bytes: &[u8], path: &Path, environment: &Environment) -> anyhow::Result<Session> {
    const EXTERNAL: &str = "session.model_external_initializers_file_folder_path";
    let nowhere = path.canonicalize()?;
    let made = Session::builder(environment)
        .map_err(said)?
        .with_config_entry(EXTERNAL, nowhere.to_string_lossy());
    let made = made.map_err(said)?.commit_from_memory(bytes);
    made.map_err(|error| {
        anyhow!("expected an ONNX file that ONNX Runtime reads, with its weights inside: {error}\n  hint: weights in a file beside it (`model.onnx_data`) \
             are not read; `onnx.save(onnx.load(\"model.onnx\"), \"whole.onnx\")` in Python puts them inside")
    })
}

fn said<T>(error: ort::Error<T>) -> anyhow::Error {
    anyhow!("ONNX Runtime: {error}")
}

fn values(head: &Head, feed: Feed) -> Vec<i64> {
    match feed {
        Feed::Ids => head.ids.iter().copied().map(i64::from).collect(),
        Feed::Types => head.type_ids.iter().copied().map(i64::from).collect(),
        Feed::Mask => vec![1; head.ids.len()],
    }
}

/// One vector a text, and how it was made: an output of one vector a text as it is, the mean of one of a vector a token, as
/// sentence encoders are trained with (Reimers and Gurevych 2019).
fn pooled(
    shape: &[i64],
    numbers: &[f32],
    n_texts: usize,
    name: &str,
) -> anyhow::Result<(Vec<Vec<f32>>, String)> {
    let shape: Vec<usize> = shape
        .iter()
        .map(|n| usize::try_from(*n))
        .collect::<Result<_, _>>()
        .context("a shape below 0")?;
    match *shape.as_slice() {
        [n, width] if n == n_texts && width > 0 => {
            Ok((numbers.chunks(width).map(<[f32]>::to_vec).collect(), name.to_owned()))
        }
        [n, n_tokens, width] if n == n_texts && n_tokens * width > 0 => {
            let means = numbers.chunks(n_tokens * width).map(|text| mean(text, width));
            Ok((means.collect(), format!("mean of {name}")))
        }
        _ => bail!(
            "expected output `{name}` of {n_texts} x width, or of {n_texts} x tokens x width, got the shape {shape:?}"
        ),
    }
}

fn mean(text: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; width];
    for token in text.chunks(width) {
        sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let n = (text.len() / width) as f64;
    sums.into_iter().map(|sum| (sum / n) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_averaged_and_vectors_kept() {
        let numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let (vectors, how) = pooled(&[2, 2, 2], &numbers, 2, "last_hidden_state").unwrap();
        assert_eq!(vectors, [[2.0, 3.0], [6.0, 7.0]]);
        assert_eq!(how, "mean of last_hidden_state");
        let (vectors, how) = pooled(&[2, 4], &numbers, 2, "sentence_embedding").unwrap();
        assert_eq!((vectors[1].as_slice(), how.as_str()), (&numbers[4..], "sentence_embedding"));
        for shape in [&[8][..], &[3, 2], &[-1, 4], &[2, 0, 4]] {
            assert!(pooled(shape, &numbers, 2, "x").is_err(), "{shape:?}");
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_the_remedy() {
        let error =
            environment(Some(Path::new("/nowhere/libonnxruntime.so"))).err().unwrap().to_string();
        assert!(
            error.starts_with("/nowhere/libonnxruntime.so: expected the ONNX Runtime library"),
            "{error}"
        );
        assert!(error.contains("hint:") && error.contains("ORT_DYLIB_PATH"), "{error}");
    }
}
