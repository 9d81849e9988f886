//! Instances to machine code: options, what the assembler says it used, and a cache on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    nvrtc::{Compiled, Job, Nvrtc, Tools},
    program::{HEADERS, Instance},
    sass,
};
use crate::units::hex;

/// What one kernel takes of the machine, as ptxas reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes stored to and loaded from local memory because registers ran out.
    pub spill_bytes: u32,
    /// Bytes of local memory for arrays.
    pub stack_bytes: u32,
    /// Static shared memory.
    pub smem_bytes: u32,
}

/// One instance as machine code.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// What it was made from.
    pub instance: Instance,
    /// Machine code.
    pub cubin: Vec<u8>,
    /// Mangled name.
    pub lowered: String,
    /// See [`Resources`].
    pub resources: Resources,
    /// Warp instructions of one pass of the main loop, where cuobjdump was at hand.
    pub loop_instructions: Option<u32>,
    /// Whether it came from the cache.
    pub cached: bool,
}

impl Binary {
    /// Lane instructions per KV element (one of K or V): what the issue limit is about.
    pub fn instructions_per_element(&self) -> Option<f64> {
        let elements = self.instance.loop_elements.filter(|&n| n > 0)?;
        Some(f64::from(self.loop_instructions?) * 32.0 / f64::from(elements))
    }
}

/// Changes whenever the facts below are found in another way, so that entries of an older kvbench are made again.
const FACTS_VERSION: &str = "facts 2";

/// What is kept beside the machine code.
#[derive(Serialize, Deserialize)]
struct Facts {
    lowered: String,
    resources: Resources,
    loop_instructions: Option<u32>,
    cubin_sha256: String,
}

/// Compiles instances for one architecture.
pub struct Compiler {
    nvrtc: Nvrtc,
    arch: String,
    cache: Option<PathBuf>,
    cuobjdump: Option<PathBuf>,
}

impl Compiler {
    /// `arch` as NVRTC names it: `sm_80`, `sm_90a`.
    ///
    /// # Errors
    /// There is no NVRTC.
    pub fn new(tools: &Tools, arch: &str) -> Result<Self> {
        let nvrtc = Nvrtc::find(tools)?;
        let cuobjdump = sass::find(&nvrtc.path);
        Ok(Self { nvrtc, arch: arch.to_owned(), cache: tools.cache_dir.clone(), cuobjdump })
    }

    /// The compiler library.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The disassembler, if there is one.
    pub fn cuobjdump(&self) -> Option<&Path> {
        self.cuobjdump.as_deref()
    }

    /// From the cache, or compiled and kept there. A cache that cannot be written to is no error: the code is used anyway.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn build(&self, instance: &Instance) -> Result<Binary> {
        let options = self.options(instance);
        let place = self.cache.as_ref().map(|dir| dir.join(self.key(instance, &options)));
        if let Some(found) = place.as_ref().and_then(|place| read(place, instance)) {
            return Ok(found);
        }
        let compiled = self.nvrtc.compile(&Job {
            source: (instance.source.text(), instance.source.file()),
            headers: HEADERS,
            options: &options,
            expression: &instance.expression,
        })?;
        let binary = self.binary(instance, compiled)?;
        if let Some(place) = place {
            let _ = write(&place, &binary);
        }
        Ok(binary)
    }

    fn binary(&self, instance: &Instance, compiled: Compiled) -> Result<Binary> {
        let Compiled { cubin, lowered, log } = compiled;
        let resources = resources(&log, &lowered).with_context(|| {
            format!("{}: the assembler did not report on `{lowered}`\n{log}", instance.expression)
        })?;
        let tool = self.cuobjdump.as_deref();
        let loop_instructions = tool.and_then(|tool| sass::main_loop(tool, &cubin, &lowered));
        let instance = instance.clone();
        Ok(Binary { instance, cubin, lowered, resources, loop_instructions, cached: false })
    }

    fn options(&self, instance: &Instance) -> Vec<String> {
        vec![
            format!("--gpu-architecture={}", self.arch),
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
            "--ptxas-options=-v".to_owned(),
            format!("-DKVB_D={}", instance.head_dim),
        ]
    }

    fn key(&self, instance: &Instance, options: &[String]) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(text);
            hash.update([0]);
        };
        add(FACTS_VERSION);
        add(&self.nvrtc.version_text());
        add(&instance.expression);
        add(instance.source.text());
        options.iter().for_each(|option| add(option));
        HEADERS.iter().for_each(|(name, text)| {
            add(name);
            add(text);
        });
        // Facts without a disassembler lack the instruction counts: another entry.
        add(if self.cuobjdump.is_some() { "sass" } else { "" });
        hex(&hash.finalize())
    }
}

/// `None` when it is not there or damaged: then it is made again.
fn read(place: &Path, instance: &Instance) -> Option<Binary> {
    let facts = std::fs::read(place.with_extension("json")).ok()?;
    let facts: Facts = serde_json::from_slice(&facts).ok()?;
    let cubin = std::fs::read(place.with_extension("cubin")).ok()?;
    let whole = hex(&Sha256::digest(&cubin)) == facts.cubin_sha256;
    whole.then(|| Binary {
        instance: instance.clone(),
        cubin,
        lowered: facts.lowered,
        resources: facts.resources,
        loop_instructions: facts.loop_instructions,
        cached: true,
    })
}

fn write(place: &Path, binary: &Binary) -> Result<()> {
    let facts = Facts {
        lowered: binary.lowered.clone(),
        resources: binary.resources,
        loop_instructions: binary.loop_instructions,
        cubin_sha256: hex(&Sha256::digest(&binary.cubin)),
    };
    std::fs::create_dir_all(place.parent().context("a cache entry has a folder")?)?;
    replace(&place.with_extension("cubin"), &binary.cubin)?;
    replace(&place.with_extension("json"), &serde_json::to_vec_pretty(&facts)?)
}

/// Another process may write the same entry: each writes its own file and renames it.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    std::fs::write(&own, bytes)?;
    Ok(std::fs::rename(&own, path)?)
}

/// Reads ptxas' report on one function.
fn resources(log: &str, lowered: &str) -> Option<Resources> {
    let compiling = format!("Compiling entry function '{lowered}'");
    let mut lines = log.lines().skip_while(|line| !line.contains(&compiling)).skip(1);
    let mut found = Resources::default();
    for line in lines.by_ref().take_while(|line| !line.contains("Compiling entry function")) {
        if line.contains("spill stores") {
            let stores = number_before(line, "bytes spill stores")?;
            found.spill_bytes = stores + number_before(line, "bytes spill loads")?;
            found.stack_bytes = number_before(line, "bytes stack frame")?;
        }
        if let Some(registers) = number_before(line, "registers") {
            found.registers = registers;
            found.smem_bytes = number_before(line, "bytes smem").unwrap_or(0);
            return Some(found);
        }
    }
    None
}

/// The number right before `words`.
fn number_before(line: &str, words: &str) -> Option<u32> {
    line[..line.find(words)?].split([' ', ',']).rfind(|word| !word.is_empty())?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'other' for 'sm_90a'\n\
        ptxas info    : Function properties for other\n    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
        ptxas info    : Used 12 registers\n\
        ptxas info    : Compiling entry function '_Z3fooi' for 'sm_90a'\n\
        ptxas info    : Function properties for _Z3fooi\n    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 128 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]\n";

    #[test]
    fn the_assemblers_report_is_read_per_function() {
        let foo = resources(LOG, "_Z3fooi").unwrap();
        assert_eq!(
            foo,
            Resources { registers: 128, spill_bytes: 0, stack_bytes: 16, smem_bytes: 512 }
        );
        assert_eq!(resources(LOG, "other").unwrap().spill_bytes, 12);
        assert_eq!(resources(LOG, "absent"), None);
    }

    #[test]
    fn a_damaged_cache_entry_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("entry");
        let instance = super::super::instances().remove(0);
        let binary = Binary {
            instance: instance.clone(),
            cubin: vec![1, 2, 3],
            lowered: "f".to_owned(),
            resources: Resources::default(),
            loop_instructions: Some(7),
            cached: true,
        };
        write(&place, &binary).unwrap();
        assert_eq!(read(&place, &instance), Some(binary));
        std::fs::write(place.with_extension("cubin"), [1, 2, 4]).unwrap();
        assert_eq!(read(&place, &instance), None);
    }
}
