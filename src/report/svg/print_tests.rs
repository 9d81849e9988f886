use std::io::Read as _;

use super::*;
use crate::report::svg::{
    layout::tests::{all, text_box},
    marks::{Text, Xy},
};

/// Every figure alone, some side by side, some below one another.
fn sheets() -> Vec<Sheet> {
    let sheet = |name: &str, parts: Vec<Figure>, stacked| Sheet {
        name: name.to_owned(),
        caption: "n = 3".to_owned(),
        parts,
        stacked,
    };
    let figures: Vec<Figure> = all().into_iter().map(|(_, figure)| figure).collect();
    let mut out: Vec<Sheet> =
        all().into_iter().map(|(name, figure)| sheet(name, vec![figure], false)).collect();
    out.push(sheet(
        "beside",
        vec![figures[0].clone(), figures[4].clone(), figures[5].clone()],
        false,
    ));
    out.push(sheet(
        "mixed",
        vec![figures[0].clone(), figures[2].clone(), figures[1].clone()],
        false,
    ));
    out.push(sheet("stacked", vec![figures[4].clone(), figures[5].clone()], true));
    out
}

fn texts(laid: &Laid) -> Vec<&Text> {
    laid.marks
        .iter()
        .filter_map(|mark| if let Mark::Text(text) = mark { Some(text) } else { None })
        .collect()
}

#[test]
fn no_text_overlaps_another_or_is_cut_at_either_width() {
    for (sheet, size) in sheets().iter().flat_map(|s| [(s, Size::Column), (s, Size::Page)]) {
        let laid = laid(sheet, size).unwrap();
        let (name, texts) = (&sheet.name, texts(&laid));
        for (n, text) in texts.iter().enumerate() {
            let [l, t, r, b] = text_box(text);
            let inside = l >= -0.5 && t >= -0.5 && r <= laid.width + 0.5 && b <= laid.height + 0.5;
            assert!(inside, "{name} {size:?}: `{}` leaves the picture", text.text);
            for other in &texts[..n] {
                let [ol, ot, or, ob] = text_box(other);
                let apart = r <= ol || or <= l || b <= ot || ob <= t;
                assert!(apart, "{name} {size:?}: `{}` overlaps `{}`", text.text, other.text);
            }
        }
    }
}

#[test]
fn marks_stay_inside_and_are_no_larger_than_the_width_allows() {
    for (sheet, size) in sheets().iter().flat_map(|s| [(s, Size::Column), (s, Size::Page)]) {
        let laid = laid(sheet, size).unwrap();
        let inside =
            |p: &Xy| (0.0..=laid.width).contains(&p.0) && (0.0..=laid.height).contains(&p.1);
        for mark in &laid.marks {
            let points = match mark {
                Mark::Path { points, .. } | Mark::Fill { points, .. } => points,
                Mark::Disc { center, .. } => &vec![*center],
                Mark::Text(_) => continue,
            };
            assert!(points.iter().all(inside), "{} {size:?}: {points:?}", sheet.name);
        }
    }
}

#[test]
fn letters_are_six_to_nine_points_high_in_print() {
    for (sheet, size) in sheets().iter().flat_map(|s| [(s, Size::Column), (s, Size::Page)]) {
        let laid = laid(sheet, size).unwrap();
        let points = size.inches() * POINTS_PER_INCH / laid.width;
        for text in texts(&laid) {
            // A line of DejaVu Sans is 1.164 em high.
            let em = text.size * points / 1.164;
            assert!((5.9..=9.0).contains(&em) || text.text == "no data", "{} {em}", text.text);
        }
    }
}

/// Bytes between `stream` and `endstream` of every object.
fn streams(pdf: &[u8]) -> Vec<&[u8]> {
    let find = |from: usize, what: &[u8]| {
        pdf[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
    };
    let (mut out, mut from) = (Vec::new(), 0);
    while let Some(start) = find(from, b"\nstream\n") {
        let end = find(start, b"\nendstream").unwrap();
        out.push(&pdf[start + 8..end]);
        from = end + 9;
    }
    out
}

#[test]
fn a_pdf_holds_every_text_and_the_font() {
    let sheet = &sheets()[0];
    let bytes = pdf(sheet, Size::Column).unwrap();
    assert_eq!(bytes, pdf(sheet, Size::Column).unwrap(), "the same sheet gives the same bytes");
    assert!(bytes.starts_with(b"%PDF-1.") && bytes.trim_ascii_end().ends_with(b"%%EOF"));
    let unpacked: Vec<Vec<u8>> = streams(&bytes)
        .into_iter()
        .filter_map(|stream| {
            let mut out = Vec::new();
            flate2::read::ZlibDecoder::new(stream).read_to_end(&mut out).ok().map(|_| out)
        })
        .collect();
    let shown = |stream: &Vec<u8>| stream.windows(3).filter(|w| w == b" Tj").count();
    let laid = laid(sheet, Size::Column).unwrap();
    assert_eq!(unpacked.iter().map(shown).max(), Some(texts(&laid).len()));
    assert!(unpacked.iter().any(|stream| stream == FONT), "the font is embedded whole");
}

#[test]
fn an_svg_has_its_width_and_its_font() {
    let sheet = &sheets()[0];
    for (size, inches) in [(Size::Column, "width=\"3.33in\""), (Size::Page, "width=\"7in\"")] {
        let text = svg(sheet, size).unwrap();
        assert!(text.contains(inches) && text.contains("@font-face"), "{}", &text[..200]);
        assert!(text.contains(&STANDARD.encode(FONT)));
        assert!(!text.contains("n = 3"), "the caption stands beside the picture");
    }
}

#[test]
fn a_png_tells_its_dots() {
    let bytes = png(&sheets()[7], Size::Column).unwrap();
    assert_eq!(&bytes[16..20], &999_u32.to_be_bytes(), "3.33 inches at 300 dots");
    let at = bytes.windows(4).position(|w| w == b"pHYs").unwrap();
    assert_eq!(&bytes[at + 4..at + 8], &11_811_u32.to_be_bytes());
}
