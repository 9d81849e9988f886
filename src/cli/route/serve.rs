//! `kvbench route serve`: the live router.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{signals::INTERRUPTED, ui::Ui},
    execute::engine::files,
    record::{
        RouteKind, RouteLog, RouteManifest,
        env::{self, Machine},
        manifest::Input,
    },
    scenario::proxy::Proxy,
    serve::route::{self, Running, Secret, Setup},
    workload::dataset::sha256_hex,
};

/// How often the user is told how many requests a drain waits for.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Serve an OpenAI-compatible proxy that chooses among engines with different KV caches.
///
/// SIGTERM or Ctrl-C: takes no more connections, lets streams end, exits 0; a second one ends it at once. SIGHUP: reads models and
/// risks anew.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Configuration, such as scenarios/route-live-llamacpp.toml.
    config: PathBuf,
    /// Listen here instead of where the configuration says; port 0 is a free one. The address must be this machine's own.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Folder in which the run folder is made, instead of the configuration's.
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// Serves until a signal; prints the address on stdout when it listens.
///
/// # Errors
/// The configuration, a variable, a file, the address or the run folder is not what it should be.
pub fn run(args: &ServeArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let mut proxy = Proxy::load(&args.config)?;
    if let Some(port) = args.port {
        proxy.listen.set_port(port);
    }
    if let Some(results) = &args.results {
        proxy.results.clone_from(results);
    }
    if let Some(room) = files::streams_max() {
        // Behind each request that is being answered stands a connection to an engine.
        let most = room.saturating_sub(proxy.limits.requests).max(room / 2).max(1);
        if proxy.limits.connections > most {
            ui.note(&format!(
                "note: {most} connections instead of {}: the limit of open files (ulimit -Hn) leaves room for no more",
                proxy.limits.connections
            ));
            proxy.limits.connections = most;
        }
    }
    let setup = setup(proxy, &args.config, *ui)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(setup, ui));
    // What a second signal left behind is not waited for.
    runtime.shutdown_background();
    code
}

fn setup(proxy: Proxy, path: &Path, ui: Ui) -> anyhow::Result<Setup> {
    let keys = proxy.engines.iter().map(|engine| engine.key_env.as_deref().map(secret).transpose());
    let keys = keys.collect::<anyhow::Result<_>>()?;
    let token = proxy.token_env.as_deref().map(secret).transpose()?;
    let path = path.to_owned();
    let log = Box::new(move |proxy: &Proxy| make_log(proxy, &path));
    Ok(Setup { proxy, keys, token, log, say: Arc::new(move |text| ui.note(text)) })
}

#[expect(clippy::disallowed_methods, reason = "cli is where the environment is read")]
fn secret(name: &str) -> anyhow::Result<Secret> {
    let value = std::env::var(name).map_err(|_| {
        anyhow::anyhow!("{name}: expected a variable of the environment with a secret, got none\n  hint: export {name}=...")
    })?;
    Secret::new(&value).map_err(|why| {
        anyhow::anyhow!("{name}: {why}\n  hint: export {name}=... with the secret alone")
    })
}

fn make_log(proxy: &Proxy, path: &Path) -> anyhow::Result<(RouteLog, RouteManifest)> {
    let now = env::wall_clock()?;
    let mut manifest = RouteManifest::begun(
        RouteKind::Live,
        &proxy.name,
        &proxy.text,
        proxy.seed,
        env::rfc3339(now),
    );
    manifest.kvbench_git_revision =
        Some(env!("KVBENCH_GIT_REV").to_owned()).filter(|revision| !revision.is_empty());
    manifest.command_line =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    manifest.machine = Machine::read();
    manifest.path = Some(path.display().to_string());
    manifest.inputs =
        route::files(proxy).iter().map(|file| input(file)).collect::<anyhow::Result<_>>()?;
    let id = sha256_hex(format!("{}{}", proxy.text, manifest.origin).as_bytes());
    let short = id.get(..6).unwrap_or("000000");
    let folder = RouteLog::create(&proxy.results, &env::stamp(now), short, &mut manifest)?;
    Ok((folder, manifest))
}

fn input(path: &Path) -> anyhow::Result<Input> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(Input {
        path: path.display().to_string(),
        sha256: sha256_hex(&bytes),
        bytes: bytes.len() as u64,
    })
}

async fn serve(setup: Setup, ui: &Ui) -> anyhow::Result<ExitCode> {
    let listen = |kind: SignalKind| signal(kind).context("signals: cannot listen");
    let mut stops = [listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?];
    let mut reloads = listen(SignalKind::hangup())?;
    let running = route::start(setup).await?;
    ui.out(&format!("http://{}\n", running.address()))?;
    ui.note(&format!("rows go to {}", running.folder().display()));
    loop {
        tokio::select! {
            () = any(&mut stops) => break,
            _ = reloads.recv() => running.reload(),
        }
    }
    drain(running, &mut stops, ui).await
}

async fn any([a, b]: &mut [Signal; 2]) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}

async fn drain(running: Running, stops: &mut [Signal; 2], ui: &Ui) -> anyhow::Result<ExitCode> {
    let in_work = running.in_work_reader();
    let mut drained = std::pin::pin!(running.drain());
    let ended = loop {
        ui.note(&format!("draining: {} requests are being answered", in_work()));
        tokio::select! {
            ended = &mut drained => break ended?,
            () = any(stops) => return Ok(ExitCode::from(INTERRUPTED)),
            () = tokio::time::sleep(TOLD_EVERY) => {}
        }
    };
    if ended.n_cut_off > 0 {
        ui.note(&format!(
            "warning: {} connections were cut off at the end of the drain",
            ended.n_cut_off
        ));
    }
    ui.note(&format!("drained; rows are in {}", ended.folder.display()));
    Ok(ExitCode::SUCCESS)
}
