//! The one font of all pictures.

use anyhow::anyhow;
use ttf_parser::{Face, GlyphId};

/// DejaVu Sans, cut to Latin, Greek and mathematics; licence beside it.
pub(super) static FONT: &[u8] = include_bytes!("../assets/dejavu-sans-subset.ttf");

/// Its measures as PDF wants them: thousandths of the font's size.
pub(super) struct Measures<'a> {
    face: Face<'a>,
}

impl Measures<'static> {
    /// Reads the embedded font.
    pub(super) fn new() -> anyhow::Result<Self> {
        let face = Face::parse(FONT, 0);
        Ok(Self { face: face.map_err(|e| anyhow!("the embedded font cannot be used: {e}"))? })
    }
}

impl Measures<'_> {
    /// The glyph of a character; 0, the box for what is missing, where there is none.
    pub(super) fn glyph(&self, c: char) -> u16 {
        self.face.glyph_index(c).map_or(0, |glyph| glyph.0)
    }

    /// How far the next glyph stands.
    pub(super) fn advance(&self, glyph: u16) -> f32 {
        self.thousandths(self.face.glyph_hor_advance(GlyphId(glyph)).unwrap_or(0).into())
    }

    /// Advances of all glyphs, in order.
    pub(super) fn advances(&self) -> Vec<f32> {
        (0..self.face.number_of_glyphs()).map(|glyph| self.advance(glyph)).collect()
    }

    /// From the base line up, and down (negative).
    pub(super) fn ascent_descent(&self) -> (f32, f32) {
        let of = |units: i16| self.thousandths(units.into());
        (of(self.face.ascender()), of(self.face.descender()))
    }

    /// Left, bottom, right and top of the box that holds every glyph.
    pub(super) fn bounds(&self) -> [f32; 4] {
        let bounds = self.face.global_bounding_box();
        [bounds.x_min, bounds.y_min, bounds.x_max, bounds.y_max]
            .map(|units| self.thousandths(units.into()))
    }

    fn thousandths(&self, units: f32) -> f32 {
        1000.0 * units / f32::from(self.face.units_per_em())
    }
}
