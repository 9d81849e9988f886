//! A small PNG writer: 8-bit RGB, each row stored as its difference to the row above, runs of equal bytes packed with
//! fixed Huffman codes. Charts are mostly flat, so this reaches a few per cent of the raw size without a codec crate.

/// Encodes `width * height` RGB triples, rows from the top. `per_metre` pixels tell how large it is meant to be.
pub(super) fn encode(rgb: &[u8], width: u32, height: u32, per_metre: Option<u32>) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::with_capacity(13);
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // 8 bits, RGB, deflate, adaptive filters, not interlaced
    chunk(&mut out, *b"IHDR", &header);
    if let Some(pixels) = per_metre {
        let pixels = pixels.to_be_bytes();
        chunk(&mut out, *b"pHYs", &[&pixels[..], &pixels, &[1]].concat()); // across, down, unit: metre
    }
    chunk(&mut out, *b"IDAT", &zlib(&filter_up(rgb, width as usize * 3)));
    chunk(&mut out, *b"IEND", &[]);
    out
}

fn chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend(kind);
    out.extend(data);
    let crc = crc32(&out[start..]);
    out.extend(crc.to_be_bytes());
}

/// PNG filter 2: a flat area becomes zeros.
fn filter_up(rgb: &[u8], stride: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() + rgb.len() / stride.max(1));
    let mut above = vec![0_u8; stride];
    for row in rgb.chunks_exact(stride) {
        out.push(2);
        out.extend(row.iter().zip(&above).map(|(now, up)| now.wrapping_sub(*up)));
        above.copy_from_slice(row);
    }
    out
}

/// RFC 1950 around one final block of RFC 1951 with fixed codes; the only matches are runs (distance 1).
fn zlib(data: &[u8]) -> Vec<u8> {
    let mut bits = Bits { out: vec![0x78, 0x01], buffer: 0, filled: 0 };
    bits.push(0b011, 3);
    let mut at = 0;
    while at < data.len() {
        let run = if at == 0 { 0 } else { run_length(&data[at - 1..]) };
        if run >= 3 {
            bits.run(run);
            at += run;
        } else {
            bits.symbol(u16::from(data[at]));
            at += 1;
        }
    }
    bits.symbol(256);
    bits.finish(adler32(data))
}

/// How many bytes after the first equal it, at most the 258 one code can hold.
fn run_length(data: &[u8]) -> usize {
    data[1..].iter().take(258).take_while(|byte| **byte == data[0]).count()
}

/// Bits in deflate's order: from the lowest of each byte.
struct Bits {
    out: Vec<u8>,
    buffer: u32,
    filled: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        self.buffer |= value << self.filled;
        self.filled += count;
        while self.filled >= 8 {
            self.out.push((self.buffer & 0xff) as u8);
            self.buffer >>= 8;
            self.filled -= 8;
        }
    }

    /// Huffman codes go highest bit first.
    fn code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }

    /// RFC 1951, 3.2.6.
    fn symbol(&mut self, symbol: u16) {
        let s = u32::from(symbol);
        match s {
            0..=143 => self.code(0x30 + s, 8),
            144..=255 => self.code(0x190 + s - 144, 9),
            256..=279 => self.code(s - 256, 7),
            _ => self.code(0xc0 + s - 280, 8),
        }
    }

    /// Length code with its extra bits (RFC 1951, 3.2.5), then distance code 0 = one byte back.
    fn run(&mut self, length: usize) {
        let (symbol, extra, count) = match length {
            3..=10 => (254 + length, 0, 0),
            258 => (285, 0, 0),
            _ => {
                let count = (length - 3).ilog2() - 2;
                let within = length - 3 - (4 << count);
                (261 + 4 * count as usize + (within >> count), within & ((1 << count) - 1), count)
            }
        };
        self.symbol(symbol as u16);
        self.push(extra as u32, count);
        self.push(0, 5);
    }

    fn finish(mut self, checksum: u32) -> Vec<u8> {
        self.push(0, (8 - self.filled) % 8);
        self.out.extend(checksum.to_be_bytes());
        self.out
    }
}

fn adler32(data: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    for part in data.chunks(5552) {
        for byte in part {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % 65_521, b % 65_521);
    }
    b << 16 | a
}

fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    let table: Vec<u32> = (0..256_u32).map(|n| (0..8).fold(n, step)).collect();
    !data
        .iter()
        .fold(!0, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_their_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
    }

    #[test]
    fn every_run_length_is_coded_as_the_standard_says() {
        // (length, symbol, extra bits, their value), from the table of RFC 1951, 3.2.5
        for (length, symbol, count, extra) in [
            (3, 257, 0, 0),
            (10, 264, 0, 0),
            (11, 265, 1, 0),
            (18, 268, 1, 1),
            (19, 269, 2, 0),
            (66, 276, 3, 7),
            (130, 280, 4, 15),
            (131, 281, 5, 0),
            (257, 284, 5, 30),
            (258, 285, 0, 0),
        ] {
            let mut got = Bits { out: vec![], buffer: 0, filled: 0 };
            got.run(length);
            let mut expected = Bits { out: vec![], buffer: 0, filled: 0 };
            expected.symbol(symbol);
            expected.push(extra, count);
            expected.push(0, 5);
            assert_eq!(got.finish(0), expected.finish(0), "{length}");
        }
    }

    #[test]
    fn a_flat_picture_is_small() {
        let png = encode(&vec![255; 300 * 100 * 3], 300, 100, None);
        assert!(png.len() < 2_000, "{}", png.len());
        assert_eq!(&png[12..24], b"IHDR\0\0\x01\x2c\0\0\0\x64");
    }
}
