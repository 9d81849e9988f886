//! Head shapes of known models, from the `config.json` each was published with.

use super::ModelShape;

/// Name, query heads, KV heads, head dimension, layers.
const PRESETS: [(&str, usize, usize, usize, usize); 6] = [
    ("llama-2-7b", 32, 32, 128, 32),
    ("llama-2-13b", 40, 40, 128, 40),
    ("llama-2-70b", 64, 8, 128, 80),
    ("llama-3-8b", 32, 8, 128, 32),
    ("mistral-7b", 32, 8, 128, 32),
    ("codellama-7b", 32, 32, 128, 32),
];

/// The preset of that name.
pub(super) fn find(name: &str) -> Option<ModelShape> {
    PRESETS.iter().find(|preset| preset.0 == name).map(
        |&(name, num_heads, num_kv_heads, head_dim, num_layers)| ModelShape {
            name: name.to_owned(),
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
        },
    )
}

/// All names.
pub(super) fn names() -> [&'static str; 6] {
    PRESETS.map(|preset| preset.0)
}
