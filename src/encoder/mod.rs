//! Encoders that the user supplies as files, for tier T2 of the length predictor: `model.onnx` beside a `tokenizer.json`.
//!
//! ONNX Runtime runs them, a library that the user supplies as well: it is opened when an encoder is, and nothing of it is linked,
//! downloaded or carried along. All of it is behind the Cargo feature `encoder`; without it [`open`] says how to get it.

use std::path::Path;

use crate::predict::length::encoder::Encoder;

#[cfg(feature = "encoder")]
mod graph;
#[cfg(feature = "encoder")]
mod onnx;
#[cfg(feature = "encoder")]
mod place;

/// An encoder that was opened.
pub struct Opened {
    /// The encoder.
    pub encoder: Box<dyn Encoder>,
    /// What else a user should know of it, in words: its file, and where its limit of tokens comes from.
    pub told: String,
    /// The ONNX Runtime library, as it describes itself.
    pub runtime: String,
}

/// Opens the encoder at `path`, a folder that holds `model.onnx` and `tokenizer.json` or the ONNX file itself, with the ONNX Runtime library
/// at `runtime`, or the one that the system finds. It reads at most `tokens_max` tokens of a text, or where that is `None` as many as
/// the tokenizer's files say.
///
/// # Errors
/// Files or a library that are not there or cannot be used, or a graph that is no encoder of text.
#[cfg(feature = "encoder")]
pub fn open(
    path: &Path,
    runtime: Option<&Path>,
    tokens_max: Option<usize>,
) -> anyhow::Result<Opened> {
    onnx::open(path, runtime, tokens_max)
}

/// Says that this kvbench cannot run encoders.
///
/// # Errors
/// Always.
#[cfg(not(feature = "encoder"))]
pub fn open(
    path: &Path,
    _runtime: Option<&Path>,
    _tokens_max: Option<usize>,
) -> anyhow::Result<Opened> {
    anyhow::bail!(
        "{}: expected a kvbench that can run encoders, got one that was built without the feature `encoder`\n  hint: build it with `cargo \
         build --release --features encoder`",
        path.display()
    )
}

#[cfg(all(test, not(feature = "encoder")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_it_is_named() {
        let error = open(Path::new("here"), None, None).err().unwrap().to_string();
        assert!(
            error.starts_with("here: expected a kvbench that can run encoders, got"),
            "{error}"
        );
        assert!(error.contains("--features encoder") && error.contains("hint:"), "{error}");
    }
}
