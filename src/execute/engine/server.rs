//! Which server a cell talks to: one that runs already, or the session of its configuration and repeat.

use std::{collections::BTreeMap, io::Read as _};

use anyhow::Context as _;
use reqwest::{Client, Url};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    facts::{self, EngineFacts},
    health::Verdict,
    key::Keys,
    proof::{self, Proof},
    session::{Around, Key, Order, Session, Starter},
    version,
};
use crate::{
    execute::{self, StopFlag},
    plan::{Cell, Task},
    scenario::{Command, EngineTarget, Place, PrefixCache},
};

/// Whether one cell's server was what the scenario says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellProof {
    /// The cell.
    pub cell_id: String,
    /// Was it?
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
    /// What kept its prompts out of the prefix caches of other cells; `None` where its requests carried no salt.
    pub salt: Option<String>,
}

/// Every server of a run; at most one of those that kvbench starts is up.
pub(super) struct Servers {
    pub(super) starter: Option<Starter>,
    pub(super) known: BTreeMap<String, (EngineFacts, Proof)>,
    pub(super) cells: Vec<CellProof>,
    session: Option<Session>,
    /// Starts that failed: their other cells need not wait for the same again.
    failed: BTreeMap<Key, String>,
    /// What came of version commands: the next cell would get the same.
    versions: BTreeMap<Command, version::Answer>,
    /// Random, and new with every kvbench: a server that outlives an interrupted run must not know the resumed one's salts.
    nonce: String,
}

/// With whom and how long.
pub(super) struct Asking<'a, 'b> {
    pub(super) runtime: &'a tokio::runtime::Runtime,
    pub(super) client: &'a Client,
    /// Kept out of everything that is said.
    pub(super) keys: &'a Keys,
    pub(super) context: &'a execute::Context<'b>,
}

/// A server that is ready.
pub(super) struct Ready {
    pub(super) base: Url,
    /// Name of the model to ask for.
    pub(super) model: String,
    /// The cell's own, should its requests carry one.
    pub(super) salt: String,
}

impl Servers {
    /// Knows no server yet.
    ///
    /// # Errors
    /// No random numbers.
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            starter: None,
            known: BTreeMap::new(),
            cells: Vec::new(),
            session: None,
            failed: BTreeMap::new(),
            versions: BTreeMap::new(),
            nonce: nonce()?,
        })
    }

    /// The server of a cell, asked what it is. The inner error is a sentence for a row.
    pub(super) fn serve(
        &mut self,
        cell: &Cell,
        asking: &Asking<'_, '_>,
    ) -> anyhow::Result<Result<Ready, String>> {
        let Task::Serve { target, variant, .. } = &cell.task else {
            anyhow::bail!("{}: expected an engine cell, got a kernel cell", cell.id);
        };
        let base = match &target.place {
            Place::Running { url } => match Url::parse(url) {
                Ok(base) => base,
                Err(error) => return Ok(Err(format!("url: expected http://host:port ({error})"))),
            },
            Place::Start(_) => match self.started(cell, target, variant, asking)? {
                Ok(base) => base,
                Err(text) => return Ok(Err(text)),
            },
        };
        Ok(self.ask(cell, target, base, asking))
    }

    /// The base URL of the cell's own engine, which is started if it is not up.
    fn started(
        &mut self,
        cell: &Cell,
        target: &EngineTarget,
        variant: &str,
        asking: &Asking<'_, '_>,
    ) -> anyhow::Result<Result<Url, String>> {
        let key = Key::of(cell);
        if let Some(text) = self.failed.get(&key) {
            return Ok(Err(text.clone()));
        }
        if let Some(session) = self.session.as_mut().filter(|session| session.key == key) {
            match session.died() {
                None => return Ok(Ok(session.base.clone())),
                Some(how) => {
                    let text = format!("{}: the engine {how}\nit is started again", session.label);
                    asking.context.observer.notice(&asking.keys.redact(&text));
                }
            }
        }
        // The old one has to be gone first: two of them would share the machine.
        if let Some(old) = self.session.take() {
            let text =
                format!("ending the engine of {}, method {}", old.key.target, old.key.method);
            asking.context.observer.status(&text);
        }
        let (Some(starter), Some(start), Some(engine)) =
            (&self.starter, target.start(), target.engine.as_deref())
        else {
            anyhow::bail!("{}: nothing here can start an engine", cell.id);
        };
        let around = Around {
            starter,
            client: asking.client,
            runtime: asking.runtime,
            observer: asking.context.observer,
            stop: &asking.context.stop,
        };
        let order = Order { key: key.clone(), target, variant, start, engine };
        Ok(match Session::start(order, &around)? {
            Ok(session) => Ok(self.session.insert(session).base.clone()),
            Err(text) => {
                self.failed.insert(key, text.clone());
                Err(text)
            }
        })
    }

    fn ask(
        &mut self,
        cell: &Cell,
        target: &EngineTarget,
        base: Url,
        asking: &Asking<'_, '_>,
    ) -> Result<Ready, String> {
        let facts = asking.runtime.block_on(facts::ask(asking.client, &base))?;
        let model = facts.model(target.model.as_deref())?;
        let session = self.session.as_ref().filter(|_| target.start().is_some());
        let question = proof::Question {
            client: asking.client,
            base: &base,
            target,
            name: &cell.target,
            method: &cell.method.name,
            version: facts.version.as_deref(),
            session,
        };
        let versions = &mut self.versions;
        let starter = self.starter.as_ref();
        let stop = &asking.context.stop;
        let title =
            target.engine.as_ref().map_or(cell.target.as_str(), |engine| engine.title.as_str());
        let text = format!("{title}, method {}: awaiting what it says of itself", cell.method.name);
        asking.context.observer.status(&text);
        let by_command = || command_version(versions, starter, target, stop);
        let mut proof = asking.runtime.block_on(proof::ask(&question, by_command))?;
        let redact = |reason: &String| asking.keys.redact(reason);
        proof.reasons = proof.reasons.iter().map(redact).collect();
        let salt = salt(&self.nonce, asking.context.run_id, &cell.id);
        self.cells.retain(|known| known.cell_id != cell.id);
        self.cells.push(CellProof {
            cell_id: cell.id.clone(),
            verdict: proof.verdict,
            reasons: proof.reasons.clone(),
            salt: carries_salt(target).then(|| salt.clone()),
        });
        let name = session.map_or_else(|| facts.url.clone(), |session| session.label.clone());
        self.known.insert(name, (facts, proof));
        Ok(Ready { base, model, salt })
    }
}

/// The version that the engine's command prints, asked once a run: a Python engine takes half a minute for it, and what failed
/// once fails again.
fn command_version(
    versions: &mut BTreeMap<Command, version::Answer>,
    starter: Option<&Starter>,
    target: &EngineTarget,
    stop: &StopFlag,
) -> Result<Option<String>, String> {
    let (Some(starter), Some(start), Some(engine)) =
        (starter, target.start(), target.engine.as_deref())
    else {
        return Ok(None);
    };
    let Some(words) = start.version_command(engine) else { return Ok(None) };
    if let Some(known) = versions.get(&words) {
        return known.clone().map(Some);
    }
    let Some(answer) = version::ask(&words, starter, stop, version::TIMEOUT) else {
        return Err(format!("{}: not waited for: interrupted", words.shown()));
    };
    versions.insert(words, answer.clone());
    answer.map(Some)
}

/// In the place of a cell's salt.
const SALT: &str = "{salt}";

/// What requests of a target carry beside the usual: the engine's own needs, and what keeps its prefix cache out.
fn more_fields(target: &EngineTarget) -> Vec<(&String, &Value)> {
    let Some(engine) = &target.engine else { return Vec::new() };
    let cache = match target.prefix_cache {
        PrefixCache::Off => Some(&engine.prefix_cache.off_request),
        PrefixCache::Salt => Some(&engine.prefix_cache.salt_request),
        PrefixCache::On => None,
    };
    engine.request.iter().chain(cache.into_iter().flatten()).collect()
}

fn carries_salt(target: &EngineTarget) -> bool {
    let holds = |value: &Value| value.as_str().is_some_and(|text| text.contains(SALT));
    more_fields(target).into_iter().any(|(_, value)| holds(value))
}

/// What each request of a cell carries beside the usual.
pub(super) fn fields(target: &EngineTarget, salt: &str) -> Map<String, Value> {
    let filled = |value: &Value| match value {
        Value::String(text) => Value::String(text.replace(SALT, salt)),
        other => other.clone(),
    };
    let fields = more_fields(target).into_iter();
    fields.map(|(key, value)| (key.clone(), filled(value))).collect()
}

fn salt(nonce: &str, run_id: &str, cell_id: &str) -> String {
    let digest = Sha256::digest(format!("{nonce}\n{run_id}\n{cell_id}"));
    hex(&digest[..16])
}

/// 128 bits of the kernel's randomness.
fn nonce() -> anyhow::Result<String> {
    const PATH: &str = "/dev/urandom";
    let mut bytes = [0; 16];
    std::fs::File::open(PATH).and_then(|mut file| file.read_exact(&mut bytes)).context(PATH)?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        execute::{Backend as _, engine::EngineBackend},
        record::{Row, Sink},
        scenario::{Endpoint, Scenario, TargetKind, engine::built_in},
    };

    fn salted() -> EngineTarget {
        let vllm = built_in().unwrap().iter().find(|engine| engine.name == "vllm").unwrap();
        EngineTarget {
            engine: Some(Arc::new(vllm.clone())),
            prefix_cache: PrefixCache::Salt,
            ..EngineTarget::running("http://h", Endpoint::Completions, "fp16")
        }
    }

    /// A resumed run has the same run id and the same cells, and perhaps the same server.
    #[test]
    fn no_two_sessions_and_no_two_cells_share_a_salt() {
        let (first, second) = (Servers::new().unwrap(), Servers::new().unwrap());
        let of = |servers: &Servers, cell: &str| salt(&servers.nonce, "run", cell);
        assert_ne!(of(&first, "a"), of(&second, "a"));
        assert_ne!(of(&first, "a"), of(&first, "b"));
        assert_eq!(of(&first, "a"), of(&first, "a"), "requests of a cell share it");
        assert_eq!(fields(&salted(), "s1")["cache_salt"], "s1");
        assert!(carries_salt(&salted()));
        let off = EngineTarget { prefix_cache: PrefixCache::Off, ..salted() };
        assert!(!carries_salt(&off) && fields(&off, "s1").is_empty());
    }

    fn scenario(version_command: &[&str]) -> Scenario {
        let text = format!(
            r#"
name = "v"
baseline = "base"
[engine.fake]
title = "Fake"
endpoints = ["completions"]
launch = ["no", "{{port}}", "{{host}}", "{{model}}"]
version_command = {version_command:?}
health = {{ path = "/", timeout_s = 1 }}
kv.half = {{}}
[method.base.engine]
kv = "half"
[target.fake.engine]
engine = "fake"
model = "m"
endpoint = "completions"
[workload.words.synthetic]
n_requests = 1
prompt_tokens = {{ fixed = 1 }}
output_tokens = {{ fixed = 1 }}
[load.one.closed]
concurrency = [1]
"#
        );
        Scenario::parse(&text, "v.toml").unwrap()
    }

    fn starting(version_command: &[&str]) -> EngineTarget {
        match &scenario(version_command).targets[0].kind {
            TargetKind::Engine(target) => (**target).clone(),
            TargetKind::Kernel(_) => panic!("expected an engine"),
        }
    }

    struct Memory(Vec<Row>);

    impl Sink for Memory {
        fn row(&mut self, row: Row) -> anyhow::Result<()> {
            self.0.push(row);
            Ok(())
        }

        fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
            panic!("nothing of {cell_ids:?} was sent")
        }
    }

    #[test]
    fn a_supervisor_that_cannot_be_run_is_a_row_and_not_the_end_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let starter =
            Starter { supervisor: folder.path().join("none"), folder: folder.path().join("e") };
        let build = Box::new(|_: &_, _: &_, _| Ok(Vec::new()));
        let mut backend = EngineBackend::new(1, None, build).unwrap().starting(starter);
        let cells = crate::plan::expand(&scenario(&["v"]));
        let mut sink = Memory(Vec::new());
        let mut context = execute::Context {
            run_id: "r",
            sink: &mut sink,
            observer: &execute::Silent,
            stop: StopFlag::default(),
            clock: execute::clock::Clock::start(),
        };
        backend.run(&[&cells[0]], &mut context).unwrap();
        let Row::Request(row) = &sink.0[0] else { panic!("{:?}", sink.0) };
        let err = row.err.as_deref().unwrap();
        assert!(err.contains("cannot be run as its supervisor") && err.contains("hint:"), "{err}");
    }

    /// A supervisor that cannot be run fails every command; only the first time is it tried.
    #[test]
    fn a_version_command_that_failed_is_not_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut starter =
            Starter { supervisor: folder.path().join("none"), folder: folder.path().to_owned() };
        let (target, stop) = (starting(&["v"]), StopFlag::default());
        let mut versions = BTreeMap::new();
        let first = command_version(&mut versions, Some(&starter), &target, &stop).unwrap_err();
        assert!(first.contains("v: its supervisor cannot be started"), "{first}");
        starter.supervisor = "/bin/true".into();
        let again = command_version(&mut versions, Some(&starter), &target, &stop).unwrap_err();
        assert_eq!(again, first);
        assert_eq!(versions.len(), 1);
        stop.raise();
        let other = starting(&["w"]);
        let error = command_version(&mut versions, Some(&starter), &other, &stop).unwrap_err();
        assert!(error.contains("interrupted"), "{error}");
        assert_eq!(versions.len(), 1, "Ctrl-C says nothing about the command");
    }
}
