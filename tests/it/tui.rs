//! `run --tui` as a terminal sees it: taken over, given back however the run ends, and left alone where there is none.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use kvbench::record::{KernelRow, Manifest, manifest::Status, parquet::read_rows};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

/// Two cells; `samples` decides how long it takes.
fn scenario(samples: usize) -> String {
    format!(
        r#"
name = "view"
baseline = "fp16"
[timing]
warmup = 1
min_samples = {samples}
max_samples = {samples}
max_seconds = 600
rotate_llc = 0.01
[target.cpu.kernel]
model = "tiny"
device = "cpu"
[model.tiny]
num_layers = 1
num_heads = 4
num_kv_heads = 2
head_dim = 64
[method.fp16.fp16]
[method.int8.int8]
[workload.grid.shapes]
ops = ["decode"]
batch = [1]
kv_len = [2048]
"#
    )
}

/// A run that ends by itself at once, and one that takes minutes: the most samples that a scenario may ask for.
const SHORT: usize = 4;
const ENDLESS: usize = 100_000;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(samples: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("view.toml"), scenario(samples)).unwrap();
        Self { dir }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
        command.current_dir(self.dir.path()).env_remove("KVBENCH_API_KEY").env_remove("NO_COLOR");
        command.args(["run", "view.toml", "--out", "results", "--tui"]);
        command
    }

    fn run_dir(&self) -> std::path::PathBuf {
        let results = self.dir.path().join("results");
        std::fs::read_dir(results).unwrap().next().unwrap().unwrap().path()
    }
}

fn rows(dir: &Path) -> usize {
    read_rows::<KernelRow>(dir).unwrap().len()
}

/// Rows of a run that has not come to its end.
fn has_parts(dir: &Path) -> bool {
    let mut parts = std::fs::read_dir(dir.join("parts")).unwrap();
    parts.any(|part| part.unwrap().file_name().to_string_lossy().starts_with("kernels-"))
}

#[test]
fn without_a_terminal_it_says_so_once_and_measures() {
    let place = Place::new(SHORT);
    let Output { status, stdout, stderr } = place.command().env("TERM", "xterm").output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{stderr}");
    assert_eq!(stderr.matches("--tui needs a terminal").count(), 1, "{stderr}");
    assert!(!stderr.contains('\u{1b}') && !stdout.contains(&0x1b));
    // Rows of the two cells, and of the probe of the bandwidth beside them.
    assert!(rows(&place.run_dir()) >= 2 * SHORT);
}

#[test]
fn quiet_and_a_view_exclude_each_other_before_anything_is_written() {
    let place = Place::new(SHORT);
    let output = place.command().arg("--quiet").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("leave one of them out"));
    assert!(!place.dir.path().join("results").exists());
}

/// A terminal with a run in it.
struct Tty {
    master: File,
    slave: OwnedFd,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    before: libc::tcflag_t,
}

impl Tty {
    fn run(mut command: Command) -> Self {
        let (mut master, mut slave) = (0, 0);
        let size = libc::winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let (name, settings) = (std::ptr::null_mut(), std::ptr::null());
        // SAFETY: the descriptors and the size outlive the call; name and settings may be null.
        let opened = unsafe {
            libc::openpty(&raw mut master, &raw mut slave, name, settings, &raw const size)
        };
        assert_eq!(opened, 0);
        // SAFETY: both were just opened and belong to nobody else.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let before = flags(&slave);
        let side = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side());
        // SAFETY: both calls are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                // A session of its own, whose terminal this is.
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        drop(command);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (master.try_clone().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                into.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Self { master, slave, child, seen, reader, before }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until this is on the terminal; fails where the run ends before.
    fn await_text(&mut self, text: &str) {
        while !self.text().contains(text) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status} before `{text}`:\n{}", self.text());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Exit code and everything that was written; the terminal must be as it was.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        assert_eq!(flags(&self.slave), self.before, "the terminal's mode");
        // With its last holder gone, the reader comes to an end.
        drop(self.slave);
        self.reader.join().unwrap();
        let text = String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned();
        (status.code(), text)
    }
}

/// How a terminal handles lines, echo and Ctrl-C.
fn flags(tty: &OwnedFd) -> libc::tcflag_t {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the call fills the settings, or says that it did not.
    unsafe {
        assert_eq!(libc::tcgetattr(tty.as_raw_fd(), settings.as_mut_ptr()), 0);
        settings.assume_init().c_lflag
    }
}

#[test]
fn a_run_takes_the_terminal_and_gives_it_back() {
    let place = Place::new(SHORT);
    let mut command = place.command();
    command.env("TERM", "xterm-256color");
    let (code, text) = Tty::run(command).end();
    assert_eq!(code, Some(0), "{text}");
    let (view, after) = text
        .split_once(ENTER)
        .and_then(|(_, rest)| rest.rsplit_once(LEAVE))
        .unwrap_or_else(|| panic!("no view in {text:?}"));
    assert!(view.contains("kvbench run view"), "{view:?}");
    // The report is printed where it stays.
    assert!(after.contains("decode"), "{after:?}");
    assert!(rows(&place.run_dir()) >= 2 * SHORT);
}

fn stopped_by(keys: &[u8]) {
    let place = Place::new(ENDLESS);
    let mut command = place.command();
    command.env("TERM", "xterm");
    let mut tty = Tty::run(command);
    tty.await_text("running");
    tty.await_text("round ");
    tty.type_in(keys);
    let (code, text) = tty.end();
    assert_eq!(code, Some(130), "{text}");
    let after = text.rsplit_once(LEAVE).unwrap().1;
    assert!(after.contains("go on with: kvbench run --resume"), "{after:?}");
    assert!(has_parts(&place.run_dir()), "no rows were kept");
    assert_eq!(Manifest::read(&place.run_dir()).unwrap().status, Status::Interrupted);
}

#[test]
fn q_stops_a_run_and_keeps_its_rows() {
    stopped_by(b"q");
}

#[test]
fn ctrl_c_stops_it_as_it_does_without_a_view() {
    stopped_by(&[3]);
}

#[test]
fn a_terminal_that_cannot_place_text_is_left_alone() {
    let place = Place::new(SHORT);
    let mut command = place.command();
    command.env("TERM", "dumb");
    let (code, text) = Tty::run(command).end();
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains(ENTER), "{text:?}");
    assert_eq!(text.matches("--tui needs a terminal").count(), 1, "{text}");
}
