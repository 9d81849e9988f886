//! Engines whose surroundings fail: another server on their port, a supervisor or a kvbench that is gone, version commands that
//! hang, secrets that are printed.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kvbench::record::Manifest;

use crate::engine::{GOOD, POLL, Place, SLOW, begun};

/// A server in this process, which is no child of any kvbench, on every port that an engine writes into `port`. It is healthy,
/// lists a model, and tells no version.
struct Impostor {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    fn watch(place: &Place) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (file, ended) = (place.folder.path().join("port"), Arc::clone(&stop));
        let watch = move || {
            let mut known = BTreeSet::new();
            while !ended.load(Ordering::SeqCst) {
                let text = fs::read_to_string(&file).unwrap_or_default();
                // Half-written while it has no newline.
                let port = text.strip_suffix('\n').and_then(|port| port.parse::<u16>().ok());
                if let Some(port) = port.filter(|port| known.insert(*port)) {
                    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
                }
                std::thread::sleep(POLL);
            }
        };
        Self { stop, thread: Some(std::thread::spawn(watch)) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One request on a connection of its own.
fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut line) = (String::new(), String::new());
    if reader.read_line(&mut first).is_err() {
        return;
    }
    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
        line.clear();
    }
    let (status, body) = match first.split(' ').nth(1) {
        Some("/health") => ("200 OK", "ok"),
        Some("/v1/models") => ("200 OK", "{\"data\": [{\"id\": \"m\"}]}"),
        _ => ("404 Not Found", "no"),
    };
    let n = body.len();
    // A client that is gone needs no answer.
    let _ = write!(
        &stream,
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {n}\r\n\r\n{body}"
    );
}

/// An engine that never listens, and says on which port it should.
const DEAF: &str = "echo $1 >port; exec sleep 1000";

/// One start: one method, one repeat, no A/A control.
fn one_start(engine: &str, more: &str) -> Place {
    let place = Place::new(engine, &format!("{more}\nmethods = [\"base\"]"));
    place.edit("repeats = 2", "repeats = 1\naa_control = false");
    place
}

#[test]
fn another_server_on_the_port_is_not_measured() {
    let place = one_start(DEAF, "");
    let impostor = Impostor::watch(&place);
    let (output, said) = place.run();
    drop(impostor);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let rows = place.rows();
    assert_eq!((rows.len(), rows[0].sent_ns), (1, None));
    let err = rows[0].err.as_deref().unwrap();
    let own = format!("is answered by process {} (", std::process::id());
    for part in ["Fake is not measured: port ", &own, "not the engine that was started", "hint:"] {
        assert!(err.contains(part), "{part:?} not in {err}");
    }
}

fn with_version(command: &str) -> Place {
    let place = one_start(DEAF, "wrapper = [\"env\"]");
    place.edit("version.json = { path = \"/version\", pointer = \"/version\" }", "");
    place.edit(
        "[engine.fake.tells]",
        &format!("version_command = [\"sh\", \"-c\", '''{command}''']\n[engine.fake.tells]"),
    );
    place
}

#[test]
fn behind_a_wrapper_the_listener_is_said_to_be_unchecked_and_a_talkative_version_command_ends() {
    let place = with_version("head -c 300000 /dev/zero | tr \"\\0\" e >&2; echo 9.9; seq 100000");
    let impostor = Impostor::watch(&place);
    let (_, said) = place.run();
    drop(impostor);
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    let proof = &manifest.engines["fake_base_r0"]["proof"];
    assert_eq!(proof["listener"], "not_checked_wrapper", "{said}");
    assert_eq!(proof["version"], "9.9");
    assert_eq!(proof["version_source"], "command");
}

#[test]
fn a_version_command_that_fails_is_quoted_and_run_once() {
    let place = with_version("echo asked >>asked; echo \"no such module\" >&2; exit 3");
    place.edit("methods = [\"base\"]", "methods = [\"base\", \"less\"]");
    let impostor = Impostor::watch(&place);
    let (output, said) = place.run();
    drop(impostor);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errs: Vec<String> = place.rows().into_iter().map(|row| row.err.unwrap()).collect();
    assert_eq!(errs.len(), 2);
    assert!(errs.iter().all(|err| err.contains("exit status: 3: no such module")), "{errs:?}");
    let asked = fs::read_to_string(place.folder.path().join("asked")).unwrap();
    assert_eq!(asked.lines().count(), 1);
}

#[test]
fn ctrl_c_ends_a_version_command_with_all_it_has_started() {
    let place = with_version("setsid sleep 1000 & echo >asked; sleep 1000; echo 1");
    let impostor = Impostor::watch(&place);
    let mut child = place.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !place.folder.path().join("asked").exists() {
        std::thread::sleep(POLL);
    }
    signal("-INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(impostor);
    place.nothing_left();
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// The child of a process that has this word in its command.
fn child_running(parent: u32, word: &str) -> u32 {
    let of = |folder: PathBuf| -> Option<u32> {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let is_child = fields.nth(1)?.parse() == Ok(parent);
        let words = fs::read_to_string(folder.join("cmdline")).ok()?;
        let runs = words.split('\0').any(|given| given == word);
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        (is_child && runs).then_some(pid)
    };
    let folders = fs::read_dir("/proc").unwrap().flatten();
    folders.map(|entry| entry.path()).find_map(of).unwrap()
}

/// The worker has left the engine's process group, so that only kvbench can find it.
#[test]
fn kill_9_of_the_supervisor_leaves_nothing_behind() {
    let place = Place::new(SLOW, "");
    place.edit("repeats = 2", "repeats = 1\naa_control = false");
    let mut child = begun(&place);
    signal("-KILL", child_running(child.id(), "supervise"));
    child.wait().unwrap();
    place.nothing_left();
    // The next method has an engine of its own, and the rows of the first say what happened.
    let rows = place.rows();
    let failed = |method: &str| rows.iter().any(|row| row.method == method && row.err.is_some());
    assert!(failed("base") && !failed("less"), "{rows:?}");
}

/// As an upgrade does it while a run goes on.
#[test]
fn a_kvbench_whose_file_is_gone_still_starts_engines() {
    let place = Place::new(&format!("rm -f own/kvbench\n{GOOD}"), "");
    let own = place.folder.path().join("own");
    fs::create_dir(&own).unwrap();
    let program = own.join("kvbench");
    fs::copy(env!("CARGO_BIN_EXE_kvbench"), &program).unwrap();
    let output = place.command_of(&program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!program.exists());
    let rows = place.rows();
    assert_eq!(rows.len(), 24, "{said}");
    assert!(rows.iter().all(|row| row.err.is_none()), "{said}");
    place.nothing_left();
}

/// Files below a folder that hold a text.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}

/// The engine inherits it and prints it as it dies: its own log holds it, and nothing that kvbench writes does.
#[test]
fn a_secret_of_the_environment_is_in_nothing_that_kvbench_writes() {
    const SECRET: &str = "hf-very-s3cret-token";
    let place = Place::new("echo \"bad token $HF_TOKEN\"; exit 7", "");
    let output = place.command().env("HF_TOKEN", SECRET).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(place.rows()[0].err.as_deref().unwrap().contains("bad token ***"));
    let said = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&said).contains(SECRET));
    let found = files_with(&place.run_folder(), SECRET);
    let logs = place.run_folder().join("engines");
    assert!(!found.is_empty() && found.iter().all(|path| path.starts_with(&logs)), "{found:?}");
}

#[test]
fn a_long_log_is_searched_at_its_ends_and_that_is_said() {
    let long = "echo 'arguments: first'; yes filler-filler-filler-filler | head -c 9000000\n";
    let place = one_start(&format!("{long}{GOOD}"), "");
    place.edit(
        "[engine.fake.tells]",
        "[engine.fake.tells]\narguments.log = { pattern = 'arguments: (.*)' }",
    );
    let (_, said) = place.run();
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    assert_eq!(manifest.engines["fake_base_r0"]["proof"]["tells"]["arguments"], "first", "{said}");
    let reasons = manifest.proofs[0].reasons.join("; ");
    assert!(reasons.contains("bytes in the middle of its log were not searched"), "{reasons}");
}
