//! NVRTC: CUDA C++ to machine code (CUBIN) for one architecture, without a GPU.
//!
//! The library is opened by path and only its few stable functions are used. cudarc looks for the names its binding level
//! knows (level 12.4 never finds `libnvrtc.so.13`) and panics where there is none; a missing compiler must be a clear
//! error. CUBIN and not PTX, since a driver refuses PTX of a newer NVRTC than itself.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Where tools are looked for first; read from the environment by the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tools {
    /// `KVBENCH_NVRTC_DIR`: the folder of `libnvrtc.so.*`; nothing else is searched when it is set.
    pub nvrtc_dir: Option<PathBuf>,
    /// `KVBENCH_KERNEL_CACHE`, or the user's cache folder: where compiled kernels are kept; `None` keeps none.
    pub cache_dir: Option<PathBuf>,
}

/// Names of the library, newest first.
const NAMES: [&str; 4] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];

const HINT: &str = "hint: `pip install nvidia-cuda-nvrtc==13.0.88` is enough, or set KVBENCH_NVRTC_DIR to the folder of \
                    libnvrtc.so; see kvbench doctor";

type Program = *mut c_void;
type Status = c_int;

/// The opened library. Its handle is never closed: NVRTC keeps threads and finds its builtins by name.
#[derive(Clone)]
pub struct Nvrtc {
    library: Arc<Library>,
    /// Where it was found.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (i32, i32),
}

/// What came out of the compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// Machine code.
    pub(crate) cubin: Vec<u8>,
    /// Mangled name of the instance.
    pub(crate) lowered: String,
    /// Compiler and assembler log.
    pub(crate) log: String,
}

/// What is compiled.
pub(crate) struct Job<'a> {
    /// Text and file name of the source.
    pub(crate) source: (&'a str, &'a str),
    /// Name and text of every header.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Compiler options.
    pub(crate) options: &'a [String],
    /// Name expression of the one kernel that is wanted.
    pub(crate) expression: &'a str,
}

impl Nvrtc {
    /// Finds and opens the library: `tools.nvrtc_dir`, else the loader's path, `/usr/local/cuda*`, then Python's packages.
    ///
    /// # Errors
    /// It is nowhere, or does not answer.
    pub fn find(tools: &Tools) -> Result<Self> {
        if let Some(dir) = &tools.nvrtc_dir {
            return Self::in_folder(dir).with_context(|| {
                format!(
                    "KVBENCH_NVRTC_DIR: expected a folder with libnvrtc.so, got {}\n  {HINT}",
                    dir.display()
                )
            });
        }
        let by_name = NAMES.iter().find_map(|name| Self::open(Path::new(name)).ok());
        let found = by_name
            .or_else(|| cuda_folders().iter().find_map(|dir| Self::in_folder(dir).ok()))
            .or_else(|| python_folders().iter().find_map(|dir| Self::in_folder(dir).ok()));
        found.with_context(|| {
            format!(
                "no NVRTC: libnvrtc.so is not on the loader's path, below /usr/local/cuda* or in Python's packages\n  {HINT}"
            )
        })
    }

    fn in_folder(dir: &Path) -> Result<Self> {
        // NVRTC opens its builtins by name: they must be in the process before it asks for them.
        for builtins in files(dir, "libnvrtc-builtins.so") {
            // SAFETY: NVIDIA's library; its initialisers only register tables.
            if let Ok(library) = unsafe { Library::open(Some(&builtins), RTLD_NOW | RTLD_GLOBAL) } {
                std::mem::forget(library);
            }
        }
        let found = NAMES.iter().map(|name| dir.join(name)).find(|path| path.exists());
        Self::open(&found.with_context(|| format!("{}: no libnvrtc.so", dir.display()))?)
    }

    fn open(path: &Path) -> Result<Self> {
        // SAFETY: as above.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
        let library = Arc::new(library);
        std::mem::forget(Arc::clone(&library));
        let mut nvrtc = Self { library, path: place(path), version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
        let version = nvrtc.function::<Version>(c"nvrtcVersion")?;
        // SAFETY: both places are valid for one int each.
        nvrtc.check(unsafe { version(&raw mut major, &raw mut minor) })?;
        nvrtc.version = (major, minor);
        Ok(nvrtc)
    }

    fn function<T: Copy>(&self, name: &CStr) -> Result<T> {
        // SAFETY: every caller names the signature that nvrtc.h declares for `name`.
        let symbol = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        symbol.map(|symbol| *symbol).with_context(|| {
            format!("{}: {} is missing\n  {HINT}", self.path.display(), name.to_string_lossy())
        })
    }

    fn check(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let text =
            self.function::<unsafe extern "C" fn(Status) -> *const c_char>(c"nvrtcGetErrorString")?;
        // SAFETY: the function gives a static C string for every status.
        let text = unsafe { CStr::from_ptr(text(status)) };
        bail!("NVRTC: {}", text.to_string_lossy())
    }

    /// Compiles one instance.
    ///
    /// # Errors
    /// What the compiler said, with its log.
    pub(crate) fn compile(&self, job: &Job<'_>) -> Result<Compiled> {
        let program = self.create(job)?;
        let compiled = self.compile_program(program, job);
        type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
        let destroy = self.function::<Destroy>(c"nvrtcDestroyProgram")?;
        let mut program = program;
        // SAFETY: `program` was created above and is not used again.
        self.check(unsafe { destroy(&raw mut program) })?;
        compiled
    }

    fn create(&self, job: &Job<'_>) -> Result<Program> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        let create = self.function::<Create>(c"nvrtcCreateProgram")?;
        let (text, name) = (CString::new(job.source.0)?, CString::new(job.source.1)?);
        let names: Vec<CString> =
            job.headers.iter().map(|(name, _)| CString::new(*name)).collect::<Result<_, _>>()?;
        let texts: Vec<CString> =
            job.headers.iter().map(|(_, text)| CString::new(*text)).collect::<Result<_, _>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let texts: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        let count = c_int::try_from(job.headers.len())?;
        let (text, name) = (text.as_ptr(), name.as_ptr());
        // SAFETY: all strings end in NUL and outlive the call, which copies them; the lists have `count` entries.
        let status =
            unsafe { create(&raw mut program, text, name, count, texts.as_ptr(), names.as_ptr()) };
        self.check(status)?;
        Ok(program)
    }

    fn compile_program(&self, program: Program, job: &Job<'_>) -> Result<Compiled> {
        type Named = unsafe extern "C" fn(Program, *const c_char) -> Status;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        type Lowered = unsafe extern "C" fn(Program, *const c_char, *mut *const c_char) -> Status;
        let expression = CString::new(job.expression)?;
        let add = self.function::<Named>(c"nvrtcAddNameExpression")?;
        // SAFETY: the program is live and the string ends in NUL.
        self.check(unsafe { add(program, expression.as_ptr()) })?;
        let options: Vec<CString> = job
            .options
            .iter()
            .map(|option| CString::new(option.as_str()))
            .collect::<Result<_, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let compile = self.function::<Compile>(c"nvrtcCompileProgram")?;
        let count = c_int::try_from(options.len())?;
        // SAFETY: the program is live and the list has `count` strings that end in NUL.
        let status = unsafe { compile(program, count, options.as_ptr()) };
        let log = self.bytes(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim_end().to_owned();
        self.check(status).with_context(|| {
            format!("{} `{}` with {}\n{log}", job.source.1, job.expression, job.options.join(" "))
        })?;
        let lowered = self.function::<Lowered>(c"nvrtcGetLoweredName")?;
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: the program is compiled and the expression was added before.
        self.check(unsafe { lowered(program, expression.as_ptr(), &raw mut name) })?;
        // SAFETY: on success `name` is a C string that lives as long as the program.
        let lowered = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let cubin = self.bytes(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?;
        ensure!(!cubin.is_empty(), "NVRTC gave no machine code for {}", job.options.join(" "));
        Ok(Compiled { cubin, lowered, log })
    }

    fn bytes(&self, program: Program, size: &CStr, get: &CStr) -> Result<Vec<u8>> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;
        let (size, get) = (self.function::<Size>(size)?, self.function::<Get>(get)?);
        let mut n_bytes = 0;
        // SAFETY: the program is live and `n_bytes` is a valid place.
        self.check(unsafe { size(program, &raw mut n_bytes) })?;
        let mut bytes = vec![0_u8; n_bytes];
        // SAFETY: the buffer has as many bytes as the library asked for.
        self.check(unsafe { get(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    /// Version as text.
    pub fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }
}

/// Where a library that was opened by name lies: Linux lists what is mapped. Tools are looked for beside it.
fn place(path: &Path) -> PathBuf {
    if path.parent().is_some_and(|folder| folder.is_dir()) {
        return path.to_owned();
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let found = mapped.map(Path::new).find(|mapped| {
        let name = mapped.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libnvrtc.so")
    });
    found.unwrap_or(path).to_owned()
}

/// Files of a folder whose name begins with `prefix`.
fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(prefix) && !name.contains(".alt")
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Toolkits below /usr/local, the newest name first.
fn cuda_folders() -> Vec<PathBuf> {
    let mut roots = files(Path::new("/usr/local"), "cuda");
    roots.reverse();
    roots.into_iter().flat_map(|root| [root.join("lib64"), root.join("lib")]).collect()
}

/// NVIDIA's packages on Python's path.
fn python_folders() -> Vec<PathBuf> {
    let script = "import sys; print('\\n'.join(sys.path))";
    let Ok(output) = Command::new("python3").args(["-c", script]).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let below = |root: &str| {
        ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map(|folder| Path::new(root).join(folder))
    };
    text.lines().filter(|line| !line.is_empty()).flat_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_library_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools { nvrtc_dir: Some(dir.path().to_owned()), cache_dir: None };
        let error = format!("{:#}", Nvrtc::find(&tools).err().unwrap());
        assert!(
            error.contains("KVBENCH_NVRTC_DIR: expected a folder") && error.contains("hint:"),
            "{error}"
        );
    }

    #[test]
    fn builtins_are_found_and_other_builds_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0", "libother.so"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = files(dir.path(), "libnvrtc-builtins");
        assert_eq!(found, [dir.path().join("libnvrtc-builtins.so.13.0")]);
    }
}
