use super::*;

fn names() -> Names {
    Names::new("method", ["fp16", "fp16-aa", "int4", "int4-g32"].map(str::to_owned).to_vec())
}

#[test]
fn a_label_belongs_to_the_longest_name_it_begins_with() {
    let labels = [
        "int4",
        "int4 (compresses nothing)",
        "int4-g32, mirror",
        "int4-g64",
        "as fast as fp16",
        "",
    ];
    let found = labels.map(|label| names().leading(label));
    assert_eq!(found, [Some(2), Some(2), Some(3), None, None, None]);
    assert_eq!((names().exactly("fp16-aa"), names().exactly("fp16-aa, x")), (Some(1), None));
}

#[test]
fn who_wants_less_leaves_the_rest_to_others() {
    assert_eq!(fair_share(&[10, 100, 100], 110), 50);
    assert_eq!(fair_share(&[10, 100, 100], 300), usize::MAX, "there is enough for all");
    assert_eq!(fair_share(&[5, 5], 4), 2);
    assert_eq!(fair_share(&[], 4), usize::MAX);
    for wants in [&[3, 50, 7, 900, 12][..], &[1; 40], &[1000, 1]] {
        let share = fair_share(wants, 60);
        let given: usize = wants.iter().map(|want| *want.min(&share)).sum();
        assert!(
            given <= 60 && given + wants.len() > 60.min(wants.iter().sum()),
            "{wants:?}: {given}"
        );
    }
}

/// The value of a variable in the style: the first is that of light, the second of dark.
fn colours(name: &str) -> [[f64; 3]; 2] {
    let style = PARTS.iter().find(|(part, _)| *part == "style.css").unwrap().1;
    let (light, dark) = style.split_once("prefers-color-scheme: dark").unwrap();
    [light, dark].map(|text| {
        let (_, rest) = text.split_once(&format!("--{name}: #")).unwrap();
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&rest[at..at + 2], 16).unwrap()) / 255.0)
    })
}

/// Contrast of two colours as WCAG 2.2 defines it (relative luminance of sRGB).
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let light = |c: [f64; 3]| 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
    let (a, b) = (light(a) + 0.05, light(b) + 0.05);
    a.max(b) / a.min(b)
}

#[test]
fn text_can_be_read_in_light_and_in_dark() {
    for text in ["ink", "soft", "link"] {
        for ground in ["paper", "band"] {
            for (a, b) in colours(text).into_iter().zip(colours(ground)) {
                assert!(contrast(a, b) >= 4.5, "{text} on {ground}: {:.2}", contrast(a, b));
            }
        }
    }
    // Okabe and Ito's orange and sky blue are lighter than 3 to 1 on white; markers and words tell them apart as well.
    for slot in 0..9 {
        let (own, paper) = (colours(&format!("c{slot}")), colours("paper"));
        let [light, dark] = [0, 1].map(|n| contrast(own[n], paper[n]));
        assert!(light >= 2.0 && dark >= 4.5, "c{slot}: {light:.2}, {dark:.2}");
    }
}

#[test]
fn light_pages_have_the_colours_of_the_files() {
    let style = PARTS.iter().find(|(part, _)| *part == "style.css").unwrap().1;
    for (name, hex) in crate::report::svg::colours() {
        assert!(style.contains(&format!("--{name}: {hex};")), "--{name} is not {hex}");
        assert!(style.contains(&format!(".{name} {{ --k: var(--{name}); }}")), ".{name}");
    }
}
