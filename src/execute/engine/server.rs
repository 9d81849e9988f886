//! Which server a cell talks to: one that runs already, or the session of its configuration and repeat.

use std::collections::BTreeMap;

use reqwest::{Client, Url};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    facts::{self, EngineFacts},
    health::Verdict,
    proof::{self, Proof},
    session::{self, Around, Key, Order, Session, Starter},
};
use crate::{
    execute::Context,
    plan::{Cell, Task},
    scenario::{EngineTarget, Place, PrefixCache},
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
}

/// Every server of a run; at most one of those that kvbench starts is up.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) starter: Option<Starter>,
    pub(super) known: BTreeMap<String, (EngineFacts, Proof)>,
    pub(super) cells: Vec<CellProof>,
    session: Option<Session>,
    /// Starts that failed: their other cells need not wait for the same again.
    failed: BTreeMap<Key, String>,
    /// Versions that commands have told, by command.
    versions: BTreeMap<String, Option<String>>,
}

/// With whom and how long.
pub(super) struct Asking<'a, 'b> {
    pub(super) runtime: &'a tokio::runtime::Runtime,
    pub(super) client: &'a Client,
    pub(super) context: &'a Context<'b>,
}

/// A server that is ready.
pub(super) struct Ready {
    pub(super) base: Url,
    /// Name of the model to ask for.
    pub(super) model: String,
}

impl Servers {
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
                    let text = format!("{}: the engine {how}\nit is started again", key.label());
                    asking.context.observer.notice(&text);
                }
            }
        }
        // The old one has to be gone first: two of them would share the machine.
        self.session = None;
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
        let by_command = || command_version(versions, target);
        let proof = asking.runtime.block_on(proof::ask(&question, by_command))?;
        self.cells.retain(|known| known.cell_id != cell.id);
        self.cells.push(CellProof {
            cell_id: cell.id.clone(),
            verdict: proof.verdict,
            reasons: proof.reasons.clone(),
        });
        let name = session.map_or_else(|| facts.url.clone(), |session| session.key.label());
        self.known.insert(name, (facts, proof));
        Ok(Ready { base, model })
    }
}

/// The version that the engine's command prints, asked once: a Python engine takes half a minute for it.
fn command_version(
    versions: &mut BTreeMap<String, Option<String>>,
    target: &EngineTarget,
) -> Result<Option<String>, String> {
    let (Some(start), Some(engine)) = (target.start(), target.engine.as_deref()) else {
        return Ok(None);
    };
    let name = start.version_command(engine).map(|words| words.shown()).unwrap_or_default();
    if let Some(known) = versions.get(&name) {
        return Ok(known.clone());
    }
    let version = session::version(start, engine)?;
    versions.insert(name, version.clone());
    Ok(version)
}

/// What each request of a cell carries beside the usual: the engine's own needs, and what keeps its prefix cache out.
pub(super) fn fields(target: &EngineTarget, run_id: &str, cell_id: &str) -> Map<String, Value> {
    let Some(engine) = &target.engine else { return Map::new() };
    let cache = match target.prefix_cache {
        PrefixCache::Off => Some(&engine.prefix_cache.off_request),
        PrefixCache::Salt => Some(&engine.prefix_cache.salt_request),
        PrefixCache::On => None,
    };
    let salt = salt(run_id, cell_id);
    let filled = |value: &Value| match value {
        Value::String(text) => Value::String(text.replace("{salt}", &salt)),
        other => other.clone(),
    };
    let all = engine.request.iter().chain(cache.into_iter().flatten());
    all.map(|(key, value)| (key.clone(), filled(value))).collect()
}

fn salt(run_id: &str, cell_id: &str) -> String {
    let digest = Sha256::digest(format!("{run_id}\n{cell_id}"));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
