//! The header of a GGUF file (llama.cpp's models): as much of it as tells how large a cached token is.
//!
//! Layout: `GGUF`, version (2 or 3), number of tensors, number of metadata entries, then the entries: key, type, value. All
//! numbers are little-endian, a text is its length and its bytes. See `docs/gguf.md` of ggml.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

/// Longest key; the format's own limit.
const KEY_BYTES_MAX: u64 = 65_535;
/// Longest text that is kept; longer ones are chat templates and are passed over.
const TEXT_BYTES_MAX: u64 = 256;
/// Most layers.
const LAYERS_MAX: u64 = 65_536;
/// Arrays of arrays of arrays.
const DEPTH_MAX: u32 = 4;

/// What the KV cache of a model is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// KV heads of all layers together.
    pub(super) kv_heads: f64,
    /// Numbers of a head's key.
    pub(super) key_dim: f64,
    /// Numbers of a head's value.
    pub(super) value_dim: f64,
}

/// Metadata that is kept.
#[derive(Debug, Default)]
struct Metadata {
    architecture: Option<String>,
    /// Whole numbers, one or one a layer, by key.
    numbers: BTreeMap<String, Vec<u64>>,
}

/// The shape of the KV cache of a file.
///
/// `None` where it is no GGUF, or where layers do not all keep every token in full (sliding windows, MLA, recurrent layers): a
/// product of heads and layers says nothing there.
///
/// # Errors
/// It cannot be read, is cut off, or is no valid GGUF.
pub(super) fn shape_of(path: &Path) -> anyhow::Result<Option<Shape>> {
    let file = File::open(path)?;
    shape(&mut BufReader::new(file))
}

fn shape<R: BufRead + Seek>(reader: &mut R) -> anyhow::Result<Option<Shape>> {
    let mut magic = [0; 4];
    match reader.read_exact(&mut magic) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if magic != *b"GGUF" {
        return Ok(None);
    }
    let version = u32_of(reader)?;
    ensure!(matches!(version, 2 | 3), "expected GGUF version 2 or 3, little-endian, got {version}");
    let _tensors = u64_of(reader)?;
    let n_entries = u64_of(reader)?;
    let mut metadata = Metadata::default();
    for index in 0..n_entries {
        entry(reader, &mut metadata)
            .with_context(|| format!("GGUF metadata entry {index} of {n_entries}"))?;
    }
    metadata.shape()
}

impl Metadata {
    fn shape(&self) -> anyhow::Result<Option<Shape>> {
        let name = self.architecture.as_deref().context("GGUF: no general.architecture")?;
        let list = |key: &str| self.numbers.get(&format!("{name}.{key}")).map(Vec::as_slice);
        let one = |key: &str| match list(key) {
            Some([value]) => Some(*value as f64),
            _ => None,
        };
        let special =
            ["attention.sliding_window", "attention.kv_lora_rank", "attention.shared_kv_layers"];
        let recurrent = |key: &String| key.contains(".ssm.") || key.contains(".wkv.");
        if special.iter().any(|key| list(key).is_some_and(|values| values.iter().any(|n| *n > 0)))
            || self.numbers.keys().any(recurrent)
        {
            return Ok(None);
        }
        let layers = one("block_count").with_context(|| format!("GGUF: no {name}.block_count"))?;
        let heads = list("attention.head_count_kv").or(list("attention.head_count"));
        let kv_heads = match heads {
            Some([every]) => *every as f64 * layers,
            Some(each) if (each.len() as f64).total_cmp(&layers).is_eq() => {
                each.iter().map(|n| *n as f64).sum()
            }
            _ => bail!(
                "GGUF: expected {name}.attention.head_count_kv to be one number, or one a layer"
            ),
        };
        let head_dim = || {
            let dim = one("embedding_length")? / one("attention.head_count")?;
            (dim.is_finite() && dim > 0.0).then_some(dim)
        };
        let dim = |key: &str| one(key).or_else(head_dim);
        let shape = dim("attention.key_length").zip(dim("attention.value_length"));
        let (key_dim, value_dim) =
            shape.with_context(|| format!("GGUF: nothing tells the head dimension of {name}"))?;
        Ok(Some(Shape { kv_heads, key_dim, value_dim }))
    }
}

fn entry<R: BufRead + Seek>(reader: &mut R, metadata: &mut Metadata) -> anyhow::Result<()> {
    let len = u64_of(reader)?;
    ensure!(len <= KEY_BYTES_MAX, "expected a key of at most {KEY_BYTES_MAX} bytes, got {len}");
    let key = text(reader, len)?;
    let kind = u32_of(reader)?;
    match kind {
        STRING if key == "general.architecture" => {
            let len = u64_of(reader)?;
            ensure!(
                len <= TEXT_BYTES_MAX,
                "expected an architecture of a few letters, got {len} bytes"
            );
            metadata.architecture = Some(text(reader, len)?);
        }
        ARRAY => {
            let (of, n) = (u32_of(reader)?, u64_of(reader)?);
            match size(of).filter(|_| is_whole(of) && n <= LAYERS_MAX) {
                Some(size) => {
                    let values: anyhow::Result<Vec<u64>> =
                        (0..n).map(|_| whole(reader, size)).collect();
                    metadata.numbers.insert(key, values?);
                }
                None => skip_array(reader, of, n, 1)?,
            }
        }
        kind => match size(kind).filter(|_| is_whole(kind)) {
            Some(size) => {
                let value = whole(reader, size)?;
                metadata.numbers.insert(key, vec![value]);
            }
            None => skip(reader, kind, 0)?,
        },
    }
    Ok(())
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a type of fixed size.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Whether a type is a whole number: not a float, a truth value, a text or an array.
fn is_whole(kind: u32) -> bool {
    matches!(kind, 0..=5 | 10 | 11)
}

/// A whole number of `size` bytes. A negative one becomes a huge one, which no shape is made of.
fn whole(reader: &mut impl Read, size: u64) -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let size = usize::try_from(size)?;
    reader.read_exact(&mut bytes[..size])?;
    Ok(u64::from_le_bytes(bytes))
}

fn skip<R: BufRead + Seek>(reader: &mut R, kind: u32, depth: u32) -> anyhow::Result<()> {
    match kind {
        STRING => {
            let len = u64_of(reader)?;
            forward(reader, len)
        }
        ARRAY => {
            let (of, n) = (u32_of(reader)?, u64_of(reader)?);
            skip_array(reader, of, n, depth + 1)
        }
        kind => match size(kind) {
            Some(size) => forward(reader, size),
            None => bail!("expected a type from 0 to 12, got {kind}"),
        },
    }
}

fn skip_array<R: BufRead + Seek>(
    reader: &mut R,
    of: u32,
    n: u64,
    depth: u32,
) -> anyhow::Result<()> {
    ensure!(depth <= DEPTH_MAX, "expected arrays at most {DEPTH_MAX} deep");
    match size(of) {
        Some(size) => {
            forward(reader, n.checked_mul(size).context("an array longer than any file")?)
        }
        // Each of them takes bytes: the end of the file ends a count that is too large.
        None => (0..n).try_for_each(|_| skip(reader, of, depth)),
    }
}

/// Passes over bytes, which must be there.
fn forward<R: BufRead + Seek>(reader: &mut R, n: u64) -> anyhow::Result<()> {
    let Some(before_last) = n.checked_sub(1) else { return Ok(()) };
    reader.seek_relative(i64::try_from(before_last).context("a value longer than any file")?)?;
    let mut last = [0];
    reader.read_exact(&mut last).context("the file is cut off")
}

fn text(reader: &mut impl Read, len: u64) -> anyhow::Result<String> {
    let mut bytes = vec![0; usize::try_from(len)?];
    reader.read_exact(&mut bytes).context("the file is cut off")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn u32_of(reader: &mut impl Read) -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).context("the file is cut off")?;
    Ok(u32::from_le_bytes(bytes))
}

fn u64_of(reader: &mut impl Read) -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).context("the file is cut off")?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// A GGUF header; values are u32 or, where several, an array of i32.
    pub(in super::super) fn written(
        version: u32,
        architecture: &str,
        numbers: &[(&str, &[u32])],
    ) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, text: &str| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let mut out = b"GGUF".to_vec();
        out.extend(version.to_le_bytes());
        out.extend(7_u64.to_le_bytes());
        out.extend((numbers.len() as u64 + 3).to_le_bytes());
        // A vocabulary and a float, to be passed over.
        put(&mut out, "tokenizer.ggml.tokens");
        [ARRAY, STRING].iter().for_each(|kind| out.extend(kind.to_le_bytes()));
        out.extend(2_u64.to_le_bytes());
        ["a", "bc"].iter().for_each(|word| put(&mut out, word));
        put(&mut out, "x.rope.freq_base");
        out.extend(6_u32.to_le_bytes());
        out.extend(1e4_f32.to_le_bytes());
        for (key, values) in numbers {
            put(&mut out, &format!("{architecture}.{key}"));
            if let [value] = values {
                out.extend(4_u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            } else {
                [ARRAY, 5].iter().for_each(|kind| out.extend(kind.to_le_bytes()));
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
        put(&mut out, "general.architecture");
        out.extend(STRING.to_le_bytes());
        put(&mut out, architecture);
        out
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Option<Shape>> {
        shape(&mut Cursor::new(bytes))
    }

    const LLAMA: [(&str, &[u32]); 4] = [
        ("block_count", &[3]),
        ("embedding_length", &[256]),
        ("attention.head_count", &[8]),
        ("attention.head_count_kv", &[2]),
    ];

    #[test]
    fn the_shape_of_a_cache_is_read() {
        for version in [2, 3] {
            let found = read(&written(version, "llama", &LLAMA)).unwrap().unwrap();
            assert_eq!(found, Shape { kv_heads: 6.0, key_dim: 32.0, value_dim: 32.0 });
        }
        let own: [(&str, &[u32]); 5] = [
            ("block_count", &[3]),
            ("attention.head_count", &[8]),
            ("attention.head_count_kv", &[1, 2, 4]),
            ("attention.key_length", &[192]),
            ("attention.value_length", &[128]),
        ];
        let found = read(&written(3, "x", &own)).unwrap().unwrap();
        assert_eq!(found, Shape { kv_heads: 7.0, key_dim: 192.0, value_dim: 128.0 });
        let all = [&LLAMA[..], &[("attention.sliding_window", &[1024])]].concat();
        assert_eq!(read(&written(3, "gemma", &all)).unwrap(), None, "not every layer keeps all");
        assert_eq!(read(b"PK\x03\x04 another file").unwrap(), None);
        assert_eq!(read(b"").unwrap(), None);
        let error = |bytes: &[u8]| format!("{:#}", read(bytes).unwrap_err());
        assert!(error(&written(1, "llama", &LLAMA)).contains("version 2 or 3"));
        assert!(error(&written(3, "llama", &LLAMA[1..])).contains("no llama.block_count"));
        let whole = written(3, "llama", &LLAMA);
        assert!(error(&whole[..whole.len() - 1]).contains("cut off"));
        // A text of 2^63 bytes must neither be allocated nor believed.
        let mut hostile = whole.clone();
        let at = hostile.len() - 13;
        hostile[at..at + 8].copy_from_slice(&(u64::MAX >> 1).to_le_bytes());
        assert!(error(&hostile).contains("an architecture of a few letters"));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is told by the environment where models lie"
    )]
    fn a_real_file_is_read() {
        let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
            let mut stderr = std::io::stderr();
            std::io::Write::write_all(&mut stderr, b"skipped: KVBENCH_SHARED is not set\n")
                .unwrap();
            return;
        };
        let path = Path::new(&shared).join("models/stories260k.gguf");
        // 5 layers of 4 KV heads of 64; llama-server says 10.00 MiB for 2048 tokens of f16.
        let found = shape_of(&path).unwrap().unwrap();
        assert_eq!(found, Shape { kv_heads: 20.0, key_dim: 64.0, value_dim: 64.0 });
    }

    proptest! {
        #![proptest_config(crate::scenario::fuzz::config())]

        #[test]
        fn whatever_the_bytes(
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..10)), 1..6),
            cut in any::<prop::sample::Index>(), random in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = written(3, "llama", &LLAMA);
            for (at, patch) in changes {
                let at = at.index(bytes.len());
                let end = (at + patch.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&patch[..end - at]);
            }
            for text in [&bytes[..], &bytes[..cut.index(bytes.len())], &[&b"GGUF\x03\0\0\0"[..], &random].concat()] {
                if let Ok(Some(shape)) = read(text) {
                    prop_assert!(shape.kv_heads.is_finite() && shape.key_dim.is_finite() && shape.value_dim.is_finite());
                }
            }
        }
    }
}
