//! Which colour and marker a method has: by its name alone, so that it looks the same in every figure of every run.
//!
//! A slot is a number below 90; its remainder by nine is the colour, by ten the marker (see `svg`). Names that papers and our
//! scenarios use have a slot of their own; a variant of one (`gear-2`, `streaming-256`) keeps its colour and gets a marker by its
//! name; any other name, and a control of the baseline (`f16-seed`), gets a slot by its hash.

/// Slots that look different from one another.
const SLOTS: usize = 90;
/// Colours; see `svg::marks`.
const COLOURS: usize = 9;

/// Names with a slot of their own.
const KNOWN: [(&str, usize); 29] = [
    ("fp16", 0),
    ("f16", 0),
    ("float16", 0),
    ("auto", 0),
    ("baseline", 0),
    ("bf16", 18),
    ("kivi", 1),
    ("kivi-4", 1),
    ("kivi-2", 6),
    ("h2o", 2),
    ("h2o-512", 2),
    ("gear", 3),
    ("gear-4", 3),
    ("snapkv", 4),
    ("snapkv-512", 4),
    ("streaming", 5),
    ("streaming-512", 5),
    ("stream", 5),
    ("fp8", 7),
    ("fp8-e4m3", 7),
    ("int4", 8),
    ("q4", 8),
    ("q4-0", 8),
    // GEAR's green, in another marker: nine colours are all that everyone can tell apart.
    ("int8", 12),
    ("q8", 12),
    ("q8-0", 12),
    ("turboquant", 13),
    ("turbo", 13),
    // Of negative samples: what every method breaks.
    ("all", 26),
];

/// Slot of a method by its name.
pub fn slot_of(method: &str) -> usize {
    let name = method.to_lowercase();
    if let Some((_, slot)) = KNOWN.iter().find(|(known, _)| *known == name) {
        return *slot;
    }
    let hash = hash(&name) as usize;
    let again = name.ends_with("-aa");
    // Controls (`f16-seed`) are drawn without markers: the baseline's colour would make them one.
    let control = |slot: usize, known: &str| slot == 0 && known != "baseline" && !again;
    let family = KNOWN.iter().filter(|(known, slot)| {
        *known != "all" && name.starts_with(known) && !control(*slot, known)
    });
    match family.max_by_key(|(known, _)| known.len()) {
        // The A/A control is the baseline once more: its colour, hollow.
        Some((_, slot)) if again => (slot + COLOURS) % SLOTS,
        Some((_, slot)) => (slot + COLOURS * (2 + hash % 8)) % SLOTS,
        None => hash % SLOTS,
    }
}

/// Slots of methods that share a figure, in their order: that of each name, and where an earlier method has it already, the next
/// marker of the same colour, then the next slot.
pub fn slots(methods: &[String]) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for method in methods {
        let own = slot_of(method);
        let alike = (0..SLOTS / COLOURS).map(|n| (own + COLOURS * n) % SLOTS);
        let mut others = alike.chain((0..SLOTS).map(|n| (own + n) % SLOTS));
        taken.push(others.find(|slot| !taken.contains(slot)).unwrap_or(own));
    }
    taken
}

/// Slot of any of these methods by its name, as [`slots`] gives them.
pub fn looks(methods: Vec<String>) -> impl Fn(&str) -> usize {
    let slots = slots(&methods);
    move |method: &str| {
        let known = methods.iter().zip(&slots).find(|(known, _)| *known == method);
        known.map_or_else(|| slot_of(method), |(_, slot)| *slot)
    }
}

/// FNV-1a (Fowler, Noll and Vo), which is the same on every machine and in every version.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_method_looks_the_same_whatever_stands_beside_it() {
        let all = names(&[
            "fp16",
            "int8",
            "int4",
            "fp8",
            "kivi-4",
            "kivi-2",
            "streaming",
            "h2o",
            "snapkv",
        ]);
        let alone = |name: &String| slots(std::slice::from_ref(name))[0];
        assert_eq!(slots(&all), all.iter().map(alone).collect::<Vec<_>>());
        let mut turned = all.clone();
        turned.reverse();
        let mut slots_turned = slots(&turned);
        slots_turned.reverse();
        assert_eq!(slots(&all), slots_turned);
    }

    #[test]
    fn every_method_of_one_figure_looks_different() {
        let many: Vec<String> = (0..90).map(|n| format!("method-{n}")).collect();
        let mut seen = slots(&many);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 90);
        let twins = slots(&names(&["fp16", "f16", "auto", "fp16-aa"]));
        assert!(twins.iter().all(|slot| slot % COLOURS == 0) && twins[0] == 0, "{twins:?}");
    }

    #[test]
    fn variants_keep_the_colour_of_their_family() {
        for (family, variant) in [
            ("gear", "gear-2"),
            ("streaming", "streaming-256"),
            ("fp16", "fp16-aa"),
            ("kivi-2", "kivi-2-r64"),
        ] {
            let (a, b) = (slot_of(family), slot_of(variant));
            assert!(a % COLOURS == b % COLOURS && a != b, "{family} {a}, {variant} {b}");
        }
        assert_eq!(slot_of("KIVI-4"), slot_of("kivi-4"));
        let controls = ["f16-seed", "f16-cooler", "f16-warmer"].map(|name| slot_of(name) % COLOURS);
        assert!(controls.iter().any(|colour| *colour != controls[0]), "{controls:?}");
    }
}
