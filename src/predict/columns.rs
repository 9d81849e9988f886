//! A CSV table of others, by column: profiles and measurements. Columns that nobody asks for may be there.

use std::io::Read;

use anyhow::{Context as _, bail};

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A table as text.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Name for messages: the file.
    pub name: String,
    /// Columns in file order.
    pub headers: Vec<String>,
    rows: Vec<csv::StringRecord>,
}

/// What a file holds, unpacked where it is gzip: its first bytes tell, not its name.
///
/// # Errors
/// It cannot be read or unpacked.
pub fn unpacked(mut reader: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).with_context(|| format!("{name}: cannot be read"))?;
    if !bytes.starts_with(&GZIP) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).with_context(|| {
        format!("{name}: expected a whole gzip file\n  hint: copy or download it again")
    })?;
    Ok(plain)
}

impl Columns {
    /// Reads a CSV file with a header, gzip or not.
    ///
    /// # Errors
    /// It cannot be read, has no rows, or a row of another width (with its line).
    pub fn read(reader: impl Read, name: &str) -> anyhow::Result<Self> {
        let bytes = unpacked(reader, name)?;
        let mut csv = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&bytes[..]);
        let headers = csv
            .headers()
            .with_context(|| format!("{name}: expected a CSV header"))?
            .iter()
            .map(str::to_owned)
            .collect();
        let rows = csv.records().collect::<Result<Vec<_>, _>>().with_context(|| {
            format!("{name}: expected CSV with as many fields in every row as in the header")
        })?;
        if rows.is_empty() {
            bail!("{name}: expected rows below the header, got none\n  hint: is the file whole?");
        }
        Ok(Self { name: name.to_owned(), headers, rows })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows; a table that was read has some.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether there is such a column.
    pub fn has(&self, column: &str) -> bool {
        self.headers.iter().any(|header| header == column)
    }

    /// Line of a row in the (unpacked) file, from 1.
    pub fn line(&self, row: usize) -> u64 {
        self.rows[row].position().map_or(0, csv::Position::line)
    }

    /// A column as text.
    ///
    /// # Errors
    /// No such column; the message lists those that are there.
    pub fn texts(&self, column: &str) -> anyhow::Result<Vec<&str>> {
        let at = self.headers.iter().position(|header| header == column).with_context(|| {
            format!(
                "{}: expected a column `{column}`, got {}\n  hint: is this the file for that option?",
                self.name,
                shown(&self.headers)
            )
        })?;
        Ok(self.rows.iter().map(|row| row.get(at).unwrap_or_default()).collect())
    }

    /// A column as numbers; an empty field is `None`, `True` and `False` are 1 and 0.
    ///
    /// # Errors
    /// No such column, or a field that is no finite number (with its line).
    pub fn numbers(&self, column: &str) -> anyhow::Result<Vec<Option<f64>>> {
        let one = |(row, text): (usize, &str)| match text {
            "" => Ok(None),
            "True" | "true" => Ok(Some(1.0)),
            "False" | "false" => Ok(Some(0.0)),
            text => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => bail!(
                    "{}:{}: expected a number in `{column}`, got `{text}`\n  hint: correct the field, leave it empty, or take the row out",
                    self.name,
                    self.line(row)
                ),
            },
        };
        self.texts(column)?.into_iter().enumerate().map(one).collect()
    }
}

/// The first few names.
fn shown(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    let more = names.len().saturating_sub(first.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn packed_and_plain_read_the_same() {
        let text = "a,b\n1,x\n,y\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        for bytes in [text.as_bytes(), &packed[..]] {
            let table = Columns::read(bytes, "t.csv").unwrap();
            assert_eq!(table.numbers("a").unwrap(), [Some(1.0), None]);
            assert_eq!((table.texts("b").unwrap(), table.line(1)), (vec!["x", "y"], 3));
        }
        let error = format!("{:#}", Columns::read(&packed[..20], "t.csv.gz").unwrap_err());
        assert!(error.contains("t.csv.gz: expected a whole gzip file"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let table = Columns::read(&b"a,b\n1,x\n"[..], "t.csv").unwrap();
        let error = table.numbers("b").unwrap_err().to_string();
        assert!(
            error.starts_with("t.csv:2: expected a number in `b`, got `x`\n  hint:"),
            "{error}"
        );
        let error = format!("{:#}", table.numbers("c").unwrap_err());
        assert!(error.contains("expected a column `c`, got a, b"), "{error}");
        assert!(Columns::read(&b"a\n"[..], "t").is_err());
        assert!(Columns::read(&b"a,b\n1\n"[..], "t").is_err());
    }
}
