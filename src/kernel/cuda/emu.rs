//! The device of the tests: the kernels' own sources, compiled by the system's C++ compiler under `kernels/emu/emu.h` and
//! run on the CPU, one fiber a CUDA thread. Memory is the host's, with guard zones that are checked when it is freed.

use std::{
    collections::HashMap,
    ffi::{CString, c_char, c_int, c_uint, c_void},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::{
    device::{Arg, Device, Function, Graph, Launch, Limits},
    program::{self, Instance, Source},
};

/// Bytes before and after every allocation that nothing may write to.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xA5;

/// A textual change of one file of `kernels/`, for planted bugs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Mutation {
    file: String,
    find: String,
    replace: String,
}

struct Block {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

#[derive(Default)]
struct State {
    blocks: HashMap<u64, Block>,
    functions: Vec<(Arc<libloading::Library>, CString)>,
    graphs: Vec<Vec<(Function, Launch, Vec<Arg>)>>,
    capturing: Option<Vec<(Function, Launch, Vec<Arg>)>>,
}

/// See the module's docs.
pub(crate) struct Emulator {
    limits: Limits,
    mutation: Option<Mutation>,
    state: Mutex<State>,
}

/// The emulator; `None`, with a printed line, on a machine without a C++20 compiler.
pub(crate) fn device() -> Option<Arc<dyn Device>> {
    compiler().map(|_| Arc::new(Emulator::new(None)) as Arc<dyn Device>)
}

/// The emulator with one bug planted: in `file`, the text `find`, which must occur exactly once, becomes `replace`.
pub(crate) fn mutant(file: &str, find: &str, replace: &str) -> Option<Arc<dyn Device>> {
    let mutation =
        Mutation { file: file.to_owned(), find: find.to_owned(), replace: replace.to_owned() };
    compiler().map(|_| Arc::new(Emulator::new(Some(mutation))) as Arc<dyn Device>)
}

#[expect(clippy::print_stdout, reason = "a test that was skipped says so")]
fn compiler() -> Option<&'static str> {
    static FOUND: OnceLock<Option<&'static str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = ["g++", "c++", "clang++"].into_iter().find(|name| understands_cpp20(name));
        if found.is_none() {
            println!("skipped: the kernel emulator needs a C++20 compiler (g++ 12 or newer)");
        }
        found
    })
}

fn understands_cpp20(name: &str) -> bool {
    let input = std::process::Stdio::null();
    let run = Command::new(name).args(["-std=c++20", "-E", "-x", "c++", "-"]).stdin(input).output();
    run.is_ok_and(|output| output.status.success())
}

impl Emulator {
    fn new(mutation: Option<Mutation>) -> Self {
        let limits = Limits {
            name: "emulator".to_owned(),
            arch: "emu".to_owned(),
            n_sm: 2,
            l2_bytes: 1 << 16,
            smem_block_bytes: 227 << 10,
            smem_sm_bytes: 228 << 10,
            sm_clock_khz: None,
        };
        Self { limits, mutation, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Every file of a build, mutated where asked.
    fn files(&self, source: Source) -> Result<Vec<(String, String)>> {
        let mut files: Vec<(String, String)> =
            program::HEADERS.iter().map(|&(n, t)| (n.to_owned(), t.to_owned())).collect();
        files.push((source.file().to_owned(), source.text().to_owned()));
        if let Some(Mutation { file, find, replace }) = &self.mutation {
            if let Some((_, text)) = files.iter_mut().find(|(name, _)| name == file) {
                let count = text.matches(find.as_str()).count();
                ensure!(
                    count == 1,
                    "mutation of {file}: expected `{find}` once, got {count} times"
                );
                *text = text.replace(find.as_str(), replace);
            } else {
                ensure!(Source::ALL.iter().any(|s| s.file() == file), "no such file: {file}");
            }
        }
        Ok(files)
    }

    fn run(&self, function: Function, launch: Launch, args: &[Arg]) -> Result<()> {
        let (library, name) = self.state().functions[function.0].clone();
        let mut slots: Vec<u64> = args.iter().map(|arg| arg.slot()).collect();
        let mut places: Vec<*mut c_void> =
            slots.iter_mut().map(|slot| std::ptr::from_mut(slot).cast()).collect();
        type Entry = unsafe extern "C" fn(
            *const c_char,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            usize,
            *mut *mut c_void,
        ) -> c_int;
        // SAFETY: `kernels/emu/entry.h` defines this symbol with this signature.
        let entry = unsafe { library.get::<Entry>(b"kvb_emu_launch") }?;
        let [x, y, z] = launch.grid;
        ensure!(launch.block > 0 && launch.block.is_multiple_of(32), "block of {}", launch.block);
        ensure!(x > 0 && y > 0 && z > 0, "empty grid {:?}", launch.grid);
        ensure!(launch.smem_bytes <= self.limits.smem_block_bytes, "too much shared memory");
        let places = places.as_mut_ptr();
        // SAFETY: every argument has its own slot of 8 bytes, and the kernels write to buffers of this device only, which
        // the guard zones check.
        let status =
            unsafe { entry(name.as_ptr(), x, y, z, launch.block, launch.smem_bytes, places) };
        match status {
            0 => Ok(()),
            1 => bail!("{name:?}: threads wait for others that never come"),
            _ => bail!("{name:?} is not among the instances of its source"),
        }
    }
}

impl Device for Emulator {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn free_bytes(&self) -> Option<u64> {
        None
    }

    fn alloc(&self, bytes: u64) -> Result<u64> {
        let len = usize::try_from(bytes)?;
        let bytes = vec![GUARD_BYTE; len + 2 * GUARD + 256];
        let base = bytes.as_ptr() as usize;
        let start = (base + GUARD).next_multiple_of(256) - base;
        let address = (base + start) as u64;
        self.state().blocks.insert(address, Block { bytes, start, len });
        Ok(address)
    }

    fn free(&self, address: u64) {
        let Some(block) = self.state().blocks.remove(&address) else { return };
        let end = block.start + block.len;
        let intact = |zone: &[u8]| zone.iter().all(|&byte| byte == GUARD_BYTE);
        let whole = intact(&block.bytes[..block.start]) && intact(&block.bytes[end..]);
        assert!(
            whole || std::thread::panicking(),
            "a kernel wrote outside a buffer of {} bytes",
            block.len
        );
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: `Buffer` keeps writes inside a live block of this device.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, address: u64, into: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, into.as_mut_ptr(), into.len());
        }
        Ok(())
    }

    fn fill(&self, address: u64, byte: u8, bytes: u64) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe { std::ptr::write_bytes(address as *mut u8, byte, usize::try_from(bytes)?) };
        Ok(())
    }

    fn function(&self, instance: &Instance) -> Result<Function> {
        let listed = super::instances();
        ensure!(listed.contains(instance), "{instance:?} is not in super::instances()");
        let same = |other: &&Instance| {
            other.source == instance.source && other.head_dim == instance.head_dim
        };
        let entries: Vec<&str> =
            listed.iter().filter(same).map(|other| other.expression.as_str()).collect();
        let library = build(&self.files(instance.source)?, instance, &entries)?;
        let mut state = self.state();
        state.functions.push((library, CString::new(instance.expression.as_str())?));
        Ok(Function(state.functions.len() - 1))
    }

    fn instructions_per_element(&self, _function: Function) -> Option<f64> {
        None
    }

    fn launch(&self, function: Function, launch: Launch, args: &[Arg]) -> Result<()> {
        if let Some(captured) = &mut self.state().capturing {
            captured.push((function, launch, args.to_vec()));
            return Ok(());
        }
        self.run(function, launch, args)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn capture(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.state().capturing = Some(Vec::new());
        let outcome = body();
        let mut state = self.state();
        let captured = state.capturing.take().unwrap_or_default();
        outcome?;
        state.graphs.push(captured);
        Ok(Graph(state.graphs.len() - 1))
    }

    fn replay(&self, graph: Graph) -> Result<Option<i64>> {
        let launches = self.state().graphs[graph.0].clone();
        launches
            .iter()
            .try_for_each(|(function, launch, args)| self.run(*function, *launch, args))?;
        Ok(None)
    }

    fn forget(&self, graph: Graph) {
        self.state().graphs[graph.0].clear();
    }
}

/// The shared library of one source at one head dimension, built once for the same text and kept among the system's
/// temporary files.
fn build(
    files: &[(String, String)],
    instance: &Instance,
    entries: &[&str],
) -> Result<Arc<libloading::Library>> {
    static LOADED: Mutex<Option<HashMap<PathBuf, Arc<libloading::Library>>>> = Mutex::new(None);
    let mut text = String::from("#define KVB_EMU 1\n");
    text += &format!("#define KVB_D {}\n", instance.head_dim);
    text += &format!(
        "#include \"{}\"\nstatic const emu::Entry entries[] = {{\n",
        instance.source.file()
    );
    entries.iter().for_each(|name| text += &format!("KVB_ENTRY(\"{name}\", {name}),\n"));
    text += "};\n#include \"entry.h\"\n";
    let mut files = files.to_vec();
    files.push(("emu.h".to_owned(), include_str!("../../../kernels/emu/emu.h").to_owned()));
    files.push(("entry.h".to_owned(), include_str!("../../../kernels/emu/entry.h").to_owned()));
    files.push(("main.cpp".to_owned(), text));
    let folder = std::env::temp_dir().join("kvbench-emu").join(key(&files));
    let mut loaded = LOADED.lock().unwrap();
    let loaded = loaded.get_or_insert_default();
    if let Some(library) = loaded.get(&folder) {
        return Ok(Arc::clone(library));
    }
    let object = folder.join("kernels.so");
    if !object.exists() {
        compile(&files, &folder, &object)?;
    }
    // SAFETY: the library was built from our sources and has no initialiser that does more than fill a table.
    let library = Arc::new(unsafe { libloading::Library::new(&object) }?);
    loaded.insert(folder, Arc::clone(&library));
    Ok(library)
}

fn key(files: &[(String, String)]) -> String {
    let mut hash = Sha256::new();
    for (name, text) in files {
        hash.update(name);
        hash.update([0]);
        hash.update(text);
        hash.update([0]);
    }
    hash.update(FLAGS.join(" "));
    crate::units::hex(&hash.finalize()[..12])
}

const FLAGS: &[&str] =
    &["-std=c++20", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-w", "-ffp-contract=off"];

fn compile(files: &[(String, String)], folder: &Path, object: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let work = tempfile::tempdir_in(folder)?;
    for (name, text) in files {
        std::fs::write(work.path().join(name), text)?;
    }
    let compiler = compiler().context("no C++20 compiler")?;
    let built = work.path().join("kernels.so");
    let mut command = Command::new(compiler);
    command.args(FLAGS);
    if std::path::Path::new(compiler).ends_with("g++") {
        command.arg("-fno-gnu-unique");
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") {
        command.arg("-mf16c");
    }
    let output = command.arg(work.path().join("main.cpp")).arg("-o").arg(&built).output()?;
    ensure!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    // Another test may have built the same meanwhile: either file will do.
    std::fs::rename(&built, object)?;
    Ok(())
}
