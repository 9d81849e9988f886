//! Tokenizers from disk, in Hugging Face's layout.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokenizers::{PostProcessor as _, TruncationDirection};

use crate::units::hex;

/// The one file that is needed.
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Special tokens and, in most models, the chat template.
const CONFIG_FILE: &str = "tokenizer_config.json";
/// The chat template where a model keeps it in a file of its own, which then goes first.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// Largest file that is read: the largest published ones have some 40 MB.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// A `tokenizer.json` with what stands beside it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    sha256: String,
    n_bytes: u64,
    special: BTreeMap<String, String>,
    template: Option<(PathBuf, String)>,
    adds_bos: bool,
    tokens_max: Option<usize>,
    note: Option<String>,
}

/// The first tokens of a text, as an encoder reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Ids, those included that the tokenizer adds around a text.
    pub ids: Vec<u32>,
    /// Number of the segment that each is of.
    pub type_ids: Vec<u32>,
    /// Whether a part of the text is missing.
    pub is_cut: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a folder that holds one; `tokenizer_config.json` and `chat_template.jinja` beside it are
    /// read where they exist. Truncation and padding that the file asks for are switched off: they would change counts.
    ///
    /// # Errors
    /// No `tokenizer.json`, one that the tokenizers library cannot read, or a broken file beside it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let path = if path.is_dir() { tokenizer_in(path)? } else { path.to_owned() };
        let bytes = read(&path)?;
        let mut inner = parse(&bytes).with_context(|| path.display().to_string())?;
        inner.with_padding(None);
        let truncated = inner.get_truncation().map(|truncation| truncation.max_length);
        inner.with_truncation(None).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let config = config(&folder.join(CONFIG_FILE))?;
        let special = special(&config);
        let template = template(folder, &config)?;
        let added = ids(&inner, "", true)?;
        let bos = special.get("bos_token").and_then(|bos| inner.token_to_id(bos));
        let adds_bos = bos.is_some() && added.first().copied() == bos;
        Ok(Self {
            note: contradiction(&config, adds_bos),
            tokens_max: truncated.or_else(|| model_max(&config)),
            sha256: hex(&Sha256::digest(&bytes)),
            n_bytes: bytes.len() as u64,
            inner,
            path,
            special,
            template,
            adds_bos,
        })
    }

    /// Tokens of a text, those included that the tokenizer adds around it: what a server counts for `/v1/completions`.
    ///
    /// # Errors
    /// The tokenizer has no token for a part of the text.
    pub fn count(&self, text: &str) -> anyhow::Result<usize> {
        self.encode(text, true).map(|ids| ids.len())
    }

    /// Ids of the tokens of a text, with or without those that the tokenizer adds around it.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn encode(&self, text: &str, add_special: bool) -> anyhow::Result<Vec<u32>> {
        ids(&self.inner, text, add_special).with_context(|| self.path.display().to_string())
    }

    /// The first tokens of a text, at most `tokens_max` with those that the tokenizer adds around it: the text is cut and not they, because
    /// an encoder looks for its end sign.
    ///
    /// # Errors
    /// As [`Self::count`]; a `tokens_max` that leaves no room for the text.
    pub fn head(&self, text: &str, tokens_max: usize) -> anyhow::Result<Head> {
        head(&self.inner, text, tokens_max).with_context(|| self.path.display().to_string())
    }

    /// The most tokens that its files name for the model: where `tokenizer.json` cuts, else `model_max_length` in
    /// `tokenizer_config.json`. `None` where they name none.
    pub fn tokens_max(&self) -> Option<usize> {
        self.tokens_max
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    /// The decoder does not know an id.
    pub fn decode(&self, ids: &[u32]) -> anyhow::Result<String> {
        self.inner.decode(ids, true).map_err(|error| anyhow!("{}: {error}", self.path.display()))
    }

    /// Tokens of a text that goes on after another: without BOS, and without the blank that some tokenizers put before the
    /// first word. The text is counted behind a sign that no tokenizer joins with it, and the sign is taken off again.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn count_continued(&self, text: &str) -> anyhow::Result<usize> {
        if text.is_empty() {
            return Ok(0);
        }
        // Digits join with digits only, and a line end with no digit.
        let anchor = if text.starts_with(char::is_numeric) { "\n" } else { "0" };
        let with = self.encode(&format!("{anchor}{text}"), false)?.len();
        Ok(with.saturating_sub(self.encode(anchor, false)?.len()))
    }

    /// Whether the tokenizer itself puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// A special token by its name in `tokenizer_config.json`, such as `bos_token`.
    pub fn special(&self, name: &str) -> Option<&str> {
        self.special.get(name).map(String::as_str)
    }

    /// All special tokens that have a name.
    pub fn specials(&self) -> &BTreeMap<String, String> {
        &self.special
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.template.as_ref().map(|(_, text)| text.as_str())
    }

    /// The file that the chat template stands in.
    pub fn template_path(&self) -> Option<&Path> {
        self.template.as_ref().map(|(path, _)| path.as_path())
    }

    /// How the vocabulary spells a token.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The `tokenizer.json`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// sha256 of the `tokenizer.json`, hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Length of the `tokenizer.json`.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// What a user of its counts should know: files that contradict each other about BOS.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

/// [`Tokenizer::load`], once for each path: large vocabularies take a second, and every cell asks again. A file that changes
/// while a run goes on is not read again, so that all cells count alike.
///
/// # Errors
/// As [`Tokenizer::load`].
pub fn shared(path: &Path) -> anyhow::Result<Arc<Tokenizer>> {
    static LOADED: Mutex<BTreeMap<PathBuf, Arc<Tokenizer>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = loaded.get(path) {
        return Ok(known.clone());
    }
    let tokenizer = Arc::new(Tokenizer::load(path)?);
    loaded.insert(path.to_owned(), tokenizer.clone());
    Ok(tokenizer)
}

fn tokenizer_in(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join(TOKENIZER_FILE);
    if path.is_file() {
        return Ok(path);
    }
    let others = ["tokenizer.model", "spiece.model", "vocab.json", "tekken.json", "vocab.txt"];
    match others.into_iter().find(|name| folder.join(name).is_file()) {
        Some(other) => bail!(
            "{}: expected `{TOKENIZER_FILE}`, got only `{other}`\n  hint: Python's `transformers.AutoTokenizer` reads it, and its \
             `save_pretrained` writes `{TOKENIZER_FILE}`",
            folder.display()
        ),
        None => bail!(
            "{}: expected `{TOKENIZER_FILE}` in the folder, got none\n  hint: name the folder of a model in Hugging Face's layout",
            folder.display()
        ),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let hint = "hint: paths in a scenario are relative to the working directory";
    let length = std::fs::metadata(path)
        .with_context(|| format!("{shown}: cannot open the tokenizer\n  {hint}"))?
        .len();
    ensure!(
        length <= FILE_BYTES_MAX,
        "{shown}: expected at most {FILE_BYTES_MAX} bytes, got {length}"
    );
    std::fs::read(path).with_context(|| format!("{shown}: cannot read the tokenizer"))
}

fn parse(bytes: &[u8]) -> anyhow::Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| {
        anyhow!("expected a `tokenizer.json` as Hugging Face's tokenizers write it: {error}")
    })
}

fn ids(inner: &tokenizers::Tokenizer, text: &str, add_special: bool) -> anyhow::Result<Vec<u32>> {
    let encoding = inner
        .encode_fast(text, add_special)
        .map_err(|error| anyhow!("the text cannot be encoded: {error}"))?;
    Ok(encoding.get_ids().to_vec())
}

fn head(inner: &tokenizers::Tokenizer, text: &str, tokens_max: usize) -> anyhow::Result<Head> {
    let added = inner.get_post_processor().map_or(0, |post| post.added_tokens(false));
    ensure!(
        tokens_max > added,
        "expected room for at least {} tokens, of which the tokenizer adds {added} to every text, got {tokens_max}",
        added + 1
    );
    let cannot = |error| anyhow!("the text cannot be encoded: {error}");
    let mut own = inner.encode_fast(text, false).map_err(cannot)?;
    let is_cut = own.len() > tokens_max - added;
    own.truncate(tokens_max - added, 0, TruncationDirection::Right);
    // The rest would be kept, in pieces that all get an end sign.
    drop(own.take_overflowing());
    let whole = inner.post_process(own, None, true).map_err(cannot)?;
    Ok(Head { ids: whole.get_ids().to_vec(), type_ids: whole.get_type_ids().to_vec(), is_cut })
}

/// Some files write 1e30 where they know no limit, which is no whole number.
fn model_max(config: &Value) -> Option<usize> {
    config.get("model_max_length")?.as_u64().and_then(|max| usize::try_from(max).ok())
}

/// An absent file is an empty object: many tokenizers need none.
fn config(path: &Path) -> anyhow::Result<Value> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => {
            return Err(error).with_context(|| format!("{}: cannot read", path.display()));
        }
    };
    serde_json::from_str(&text).with_context(|| format!("{}: expected JSON", path.display()))
}

/// `"bos_token": "<s>"`, or `"bos_token": {"content": "<s>", ..}`.
fn special(config: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| {
        value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
    };
    let named = config.as_object().into_iter().flatten();
    named
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
        .collect()
}

/// The file with the chat template, and the template.
fn template(folder: &Path, config: &Value) -> anyhow::Result<Option<(PathBuf, String)>> {
    let path = folder.join(TEMPLATE_FILE);
    if path.is_file() {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot read", path.display()))?;
        return Ok(Some((path, text)));
    }
    let text = match config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        // Several by name; the others are for tools or retrieval.
        Some(Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_owned),
        _ => None,
    };
    Ok(text.map(|text| (folder.join(CONFIG_FILE), text)))
}

/// `add_bos_token` makes some tokenizer classes of `transformers` override the file that we follow.
fn contradiction(config: &Value, adds_bos: bool) -> Option<String> {
    let asked = config.get("add_bos_token")?.as_bool()?;
    (asked != adds_bos).then(|| {
        format!(
            "{CONFIG_FILE} says `add_bos_token = {asked}`, {TOKENIZER_FILE} {} BOS: counts follow {TOKENIZER_FILE}, an engine may not",
            if adds_bos { "adds" } else { "does not add" }
        )
    })
}
