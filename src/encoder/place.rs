//! Where an encoder's files are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// File of the graph in a folder; in the second place exporters of sentence encoders put it.
const MODELS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];
const TOKENIZER: &str = "tokenizer.json";
/// Largest graph: a protobuf message holds no more.
const BYTES_MAX: u64 = (2 << 30) - 1;

/// The two files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) model: PathBuf,
    pub(super) tokenizer: PathBuf,
}

impl Place {
    /// Files of the folder or graph at `path`. A tokenizer may stand beside the graph or in the folder above.
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        ensure!(
            path.exists(),
            "{shown}: expected an encoder's folder or ONNX file, got nothing there\n  hint: the path is relative to the working directory"
        );
        let model = if path.is_dir() {
            let found = MODELS.iter().map(|name| path.join(name)).find(|file| file.is_file());
            found.with_context(|| {
                format!("{shown}: expected `model.onnx` in the folder, got none\n  hint: `optimum-cli export onnx` makes one of a model on Hugging Face's hub")
            })?
        } else {
            path.to_owned()
        };
        let folder = model.parent().unwrap_or(Path::new(""));
        let above = folder.parent().unwrap_or(Path::new(""));
        let found = [folder, above].iter().map(|at| at.join(TOKENIZER)).find(|at| at.is_file());
        let Some(tokenizer) = found else {
            bail!(
                "{}: expected `{TOKENIZER}` beside it, got none\n  hint: the tokenizer of the encoder's model, in Hugging Face's layout",
                model.display()
            );
        };
        Ok(Self { model, tokenizer })
    }

    /// The graph's bytes.
    pub(super) fn model_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let shown = self.model.display();
        let n_bytes = std::fs::metadata(&self.model).map(|data| data.len());
        let n_bytes = n_bytes.with_context(|| format!("{shown}: cannot be read"))?;
        ensure!(
            n_bytes <= BYTES_MAX,
            "{shown}: expected an ONNX file below 2 GiB, got one of {n_bytes} bytes"
        );
        std::fs::read(&self.model).with_context(|| format!("{shown}: cannot be read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_the_layouts_of_exporters() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refused = |path: &Path| Place::of(path).unwrap_err().to_string();
        assert!(refused(&at("absent")).contains("got nothing there"));
        assert!(refused(folder.path()).contains("expected `model.onnx` in the folder, got none"));
        std::fs::create_dir(at("onnx")).unwrap();
        std::fs::write(at("onnx/model.onnx"), "x").unwrap();
        assert!(refused(folder.path()).contains("expected `tokenizer.json` beside it, got none"));
        std::fs::write(at("tokenizer.json"), "{}").unwrap();
        let expected = Place { model: at("onnx/model.onnx"), tokenizer: at("tokenizer.json") };
        assert_eq!(Place::of(folder.path()).unwrap(), expected);
        assert_eq!(Place::of(&at("onnx/model.onnx")).unwrap(), expected);
        std::fs::write(at("model.onnx"), "y").unwrap();
        let found = Place::of(folder.path()).unwrap();
        assert_eq!(
            (&found.model, found.model_bytes().unwrap()),
            (&at("model.onnx"), b"y".to_vec())
        );
    }
}
