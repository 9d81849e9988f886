//! Chunked bodies, held to the letter: a size in hexadecimal digits alone, no extensions, no trailers (RFC 9112, section 7.1).

/// Longest size line: a body of sixteen hexadecimal digits of bytes comes from no client of ours.
const SIZE_DIGITS_MAX: usize = 8;

/// Where a chunked body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the digits of a size, with how many of them there were.
    Size(usize),
    /// After the CR of a size.
    SizeLf,
    /// In the bytes of a chunk.
    Data,
    /// After them.
    DataCr,
    DataLf,
    /// After the line of a size of 0.
    LastCr,
    LastLf,
    /// After the body.
    End,
}

/// What a stretch of bytes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    /// All of them belong to the body, which goes on.
    More,
    /// The body ended after so many of them.
    End(usize),
    /// The byte after so many of them is wrong.
    Bad(usize),
}

/// Follows a chunked body through reads of any size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    left: u64,
}

impl Chunks {
    /// At the beginning of a body.
    pub(super) fn new() -> Self {
        Self { at: At::Size(0), left: 0 }
    }

    /// Takes bytes.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut n = 0;
        while n < bytes.len() {
            if self.at == At::Data {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - n);
                self.left -= step as u64;
                n += step;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            match self.step(bytes[n]) {
                None => return Scanned::Bad(n),
                Some(At::End) => return Scanned::End(n + 1),
                Some(at) => self.at = at,
            }
            n += 1;
        }
        Scanned::More
    }

    /// Where one byte outside of data leads.
    fn step(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size(n), b'\r') if n > 0 => Some(At::SizeLf),
            (At::Size(n), digit) if n < SIZE_DIGITS_MAX => {
                let value = char::from(digit).to_digit(16)?;
                self.left = self.left * 16 + u64::from(value);
                Some(At::Size(n + 1))
            }
            (At::SizeLf, b'\n') if self.left == 0 => Some(At::LastCr),
            (At::SizeLf, b'\n') => Some(At::Data),
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::Size(0)),
            (At::LastCr, b'\r') => Some(At::LastLf),
            (At::LastLf, b'\n') => Some(At::End),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\nPOST /";

    #[test]
    fn a_body_ends_at_the_same_byte_however_it_is_cut() {
        let end = GOOD.len() - 6;
        assert_eq!(Chunks::new().scan(GOOD), Scanned::End(end));
        for cut in 1..end {
            let mut chunks = Chunks::new();
            assert_eq!(chunks.scan(&GOOD[..cut]), Scanned::More, "{cut}");
            assert_eq!(chunks.scan(&GOOD[cut..]), Scanned::End(end - cut), "{cut}");
        }
    }

    #[test]
    fn odd_chunks_are_bad_at_their_first_odd_byte() {
        for (body, at) in [
            ("5;a=b\r\nhello\r\n", 1),
            ("5 \r\nhello\r\n", 1),
            ("5\nhello\r\n", 1),
            ("\r\n", 0),
            ("-1\r\n", 0),
            ("0x5\r\n", 1),
            ("5\r\nhelloX", 8),
            ("5\r\nhello\rX", 9),
            ("5\r\nhello\n", 8),
            ("000000005\r\n", 8),
            ("0\r\nTrailer: x\r\n\r\n", 3),
            ("0\r\n\n", 3),
            ("g\r\n", 0),
        ] {
            assert_eq!(Chunks::new().scan(body.as_bytes()), Scanned::Bad(at), "{body:?}");
        }
    }
}
