//! How an engine is started: the exact command line, environment and files of one method.

use std::collections::BTreeMap;

use super::{Engine, KvSetting, PrefixCache, secret};

/// What a target says about starting its engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// What to serve: a folder, a file or a name.
    pub model: String,
    /// Program in the place of the command's first word.
    pub program: Option<String>,
    /// Words added under every method.
    pub flags: Vec<String>,
    /// Sets of words to measure under every method, by name; one without a name and words where the file has none.
    pub variants: BTreeMap<String, Vec<String>>,
    /// Environment beside the engine's own.
    pub env: BTreeMap<String, String>,
    /// Command that the start command is handed to.
    pub wrapper: Vec<String>,
    /// Address the engine binds to.
    pub host: String,
    /// Port it listens on; `None` = a free one.
    pub port: Option<u16>,
    /// Longest start.
    pub timeout_s: f64,
}

/// One start, word by word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command {
    /// The words; the first is the program.
    pub words: Vec<String>,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
    /// Files to write into `{dir}` before, by name.
    pub files: BTreeMap<String, String>,
}

/// What is filled into places such as `{port}`.
struct Places<'a> {
    values: Vec<(&'a str, &'a str)>,
}

impl Places<'_> {
    fn fill(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        })
    }
}

/// Where one start listens and keeps its files.
#[derive(Debug, Clone, Copy)]
pub struct Spot<'a> {
    /// Port.
    pub port: u16,
    /// Folder for the engine's files.
    pub dir: &'a str,
}

impl Start {
    /// Name under which the model is served: the last part of its path.
    pub fn served_name(&self) -> &str {
        let trimmed = self.model.trim_end_matches('/');
        trimmed.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(trimmed)
    }

    /// The command of one KV setting and variant. Order of the words: the engine's launch command, the setting's, the
    /// prefix cache's, the variant's, the target's: the last word of the user wins where an engine takes the last one.
    pub fn command(
        &self,
        engine: &Engine,
        setting: &KvSetting,
        variant: &str,
        cache: PrefixCache,
        spot: Spot<'_>,
    ) -> Command {
        let port = spot.port.to_string();
        let mut values = vec![
            ("model", self.model.as_str()),
            ("name", self.served_name()),
            ("host", self.host.as_str()),
            ("port", port.as_str()),
            ("dir", spot.dir),
        ];
        let set = engine.set.iter().chain(&setting.set);
        // A method's value stands before the engine's own: the first that is filled in leaves no place for another.
        values.extend(set.rev().map(|(name, value)| (name.as_str(), value.as_str())));
        let places = Places { values };
        let env: BTreeMap<String, String> = engine
            .env
            .iter()
            .chain(&self.env)
            .map(|(key, value)| (key.clone(), places.fill(value)))
            .collect();
        let mut words: Vec<String> = engine.launch.iter().map(|word| places.fill(word)).collect();
        if let (Some(program), Some(first)) = (&self.program, words.first_mut()) {
            first.clone_from(program);
        }
        let off: &[String] =
            if cache == PrefixCache::Off { &engine.prefix_cache.off_flags } else { &[] };
        let variant = self.variants.get(variant).map(Vec::as_slice).unwrap_or_default();
        for more in [&setting.flags, off, variant, &self.flags] {
            words.extend(more.iter().map(|word| places.fill(word)));
        }
        let files =
            engine.files.iter().map(|(name, text)| (name.clone(), places.fill(text))).collect();
        Command { words: self.wrapped(words, &env), env, files }
    }

    /// The command that prints the version, wrapped likewise.
    pub fn version_command(&self, engine: &Engine) -> Option<Command> {
        let mut words = engine.version_command.clone()?;
        let same_program = words.first() == engine.launch.first();
        if let (Some(program), Some(first), true) = (&self.program, words.first_mut(), same_program)
        {
            first.clone_from(program);
        }
        let env: BTreeMap<String, String> =
            self.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Some(Command { words: self.wrapped(words, &env), env, files: BTreeMap::new() })
    }

    fn wrapped(&self, words: Vec<String>, env: &BTreeMap<String, String>) -> Vec<String> {
        let mut all = Vec::new();
        for word in &self.wrapper {
            match word.as_str() {
                "{env}" => all.extend(env.iter().map(|(key, value)| format!("{key}={value}"))),
                "{docker-env}" => all.extend(
                    env.iter().flat_map(|(key, value)| ["-e".to_owned(), format!("{key}={value}")]),
                ),
                other => all.push(other.replace("{model}", &self.model)),
            }
        }
        all.extend(words);
        all
    }
}

impl Command {
    /// As one would type it in a shell, environment first, and stars for secrets.
    pub fn shown(&self) -> String {
        let one = |(key, value): (&String, &String)| {
            format!("{key}={}", quoted(&secret::hidden_value(key, value)))
        };
        let env = self.env.iter().map(one);
        let words = secret::hidden(&self.words);
        env.chain(words.iter().map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
    }
}

/// Quoted where a shell would read it otherwise.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
