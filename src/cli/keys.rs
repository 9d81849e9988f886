//! Keys that are sent to servers, and secrets that are only kept out of what is stored.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, bail};

use crate::{
    execute::engine::{ApiKey, Keys},
    scenario::{Scenario, TargetKind, secret},
};

/// Longest file that is read for an API key.
const KEY_BYTES_MAX: u64 = 64 << 10;
/// Shortest value of the environment that is taken for a secret: a shorter one would be found in half of all words.
const SECRET_BYTES_MIN: usize = 8;

/// The environment's key for every server, and for a target with an `api_key_file` that file's alone.
#[expect(clippy::disallowed_methods, reason = "cli is where the environment is read")]
pub(super) fn api_keys(scenario: &Scenario) -> anyhow::Result<Keys> {
    let everywhere = match std::env::var("KVBENCH_API_KEY") {
        Ok(key) => ApiKey::new(&key),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => bail!("KVBENCH_API_KEY: expected UTF-8"),
    };
    everywhere.iter().try_for_each(ApiKey::check)?;
    let mut keys = Keys::from(everywhere);
    let others = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let secret = secret::is_name(&name) && value.trim().len() >= SECRET_BYTES_MIN;
        secret.then(|| ApiKey::new(&value))?
    });
    keys.unsent = others.collect();
    for target in &scenario.targets {
        if let TargetKind::Engine(engine) = &target.kind
            && let Some(file) = &engine.api_key_file
        {
            keys.by_file.insert(file.clone(), key_in(file)?);
        }
    }
    Ok(keys)
}

/// A key is short: a limit keeps a mistyped path (a device, a log) from being read for ever.
fn key_in(file: &Path) -> anyhow::Result<ApiKey> {
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text))
        .with_context(|| format!("{}: cannot read the API key (`api_key_file`)", file.display()))?;
    let key = ApiKey::new(&text)
        .with_context(|| format!("{}: expected an API key, got nothing", file.display()))?;
    key.check().with_context(|| file.display().to_string())?;
    Ok(key)
}
