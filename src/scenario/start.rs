//! How an engine is started: the exact command line, environment and files of one method.

use std::collections::BTreeMap;

use super::{
    Engine, Host, KvSetting, PrefixCache,
    places::{Places, Syntax},
    secret,
};

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
    pub host: Host,
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
    /// Those of the words that select the method, as they stand in the command; a version command has none.
    pub method_flags: Vec<String>,
}

/// What a wrapper of the version command sees as `{port}` where the scenario gives none: nothing listens there.
const NO_PORT: u16 = 65_535;
/// What it sees as `{dir}`: a folder that is there, since there are no files yet.
const NO_DIR: &str = "/tmp";

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
        let filling = Filling::of(self, spot);
        let places = filling.places(engine.set.iter().chain(&setting.set));
        let env: BTreeMap<String, String> = engine
            .env
            .iter()
            .chain(&self.env)
            .map(|(key, value)| (key.clone(), places.fill(value)))
            .collect();
        let fill = |words: &[String]| words.iter().map(|word| places.fill(word)).collect();
        let mut words: Vec<String> = fill(&engine.launch);
        if let (Some(program), Some(first)) = (&self.program, words.first_mut()) {
            first.clone_from(program);
        }
        let off: &[String] =
            if cache == PrefixCache::Off { &engine.prefix_cache.off_flags } else { &[] };
        let variant = self.variants.get(variant).map(Vec::as_slice).unwrap_or_default();
        let method_flags: Vec<String> = fill(&setting.flags);
        words.extend(method_flags.iter().cloned());
        for more in [off, variant, &self.flags] {
            let more: Vec<String> = fill(more);
            words.extend(more);
        }
        let file = |(name, text): (&String, &String)| {
            (name.clone(), places.fill_file(text, Syntax::of(name)))
        };
        let files = engine.files.iter().map(file).collect();
        Command { words: self.wrapped(words, &env, &places), env, files, method_flags }
    }

    /// The command that prints the version, wrapped likewise. It listens nowhere and has no files.
    pub fn version_command(&self, engine: &Engine) -> Option<Command> {
        let spot = Spot { port: self.port.unwrap_or(NO_PORT), dir: NO_DIR };
        let filling = Filling::of(self, spot);
        let places = filling.places(engine.set.iter());
        let command = engine.version_command.as_ref()?;
        let same_program = command.first() == engine.launch.first();
        let mut words: Vec<String> = command.iter().map(|word| places.fill(word)).collect();
        if let (Some(program), Some(first), true) = (&self.program, words.first_mut(), same_program)
        {
            first.clone_from(program);
        }
        let env: BTreeMap<String, String> =
            self.env.iter().map(|(key, value)| (key.clone(), places.fill(value))).collect();
        Some(Command {
            words: self.wrapped(words, &env, &places),
            env,
            files: BTreeMap::new(),
            method_flags: Vec::new(),
        })
    }

    fn wrapped(
        &self,
        words: Vec<String>,
        env: &BTreeMap<String, String>,
        places: &Places<'_>,
    ) -> Vec<String> {
        let mut all = Vec::new();
        for word in &self.wrapper {
            match word.as_str() {
                "{env}" => all.extend(env.iter().map(|(key, value)| format!("{key}={value}"))),
                "{docker-env}" => all.extend(
                    env.iter().flat_map(|(key, value)| ["-e".to_owned(), format!("{key}={value}")]),
                ),
                other => all.push(places.fill(other)),
            }
        }
        all.extend(words);
        all
    }
}

/// The values of the built-in places of one start.
struct Filling<'a> {
    start: &'a Start,
    port: String,
    address: String,
    dir: &'a str,
}

impl<'a> Filling<'a> {
    fn of(start: &'a Start, spot: Spot<'a>) -> Self {
        let port = spot.port.to_string();
        let address = format!("{}:{port}", start.host);
        Self { start, port, address, dir: spot.dir }
    }

    /// With the values of `set`, the later one where two have one name.
    fn places<'b>(&'b self, set: impl Iterator<Item = (&'b String, &'b String)>) -> Places<'b> {
        let set = set.map(|(name, value)| (name.as_str(), value.as_str()));
        let built_in = [
            ("model", self.start.model.as_str()),
            ("name", self.start.served_name()),
            ("host", &*self.start.host),
            ("port", self.port.as_str()),
            ("address", self.address.as_str()),
            ("dir", self.dir),
        ];
        Places { values: set.chain(built_in).collect() }
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
