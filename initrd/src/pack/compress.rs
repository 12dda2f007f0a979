//! How an initrd is compressed: as well as its kernel can undo.

use std::io::Write;

/// A compression that kernels know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Small and quickly undone; kernels from 5.9 on, if configured.
    Zstd,
    /// Every kernel that has initrds.
    Gzip,
}

/// Level for zstd: 13 takes more than four times as long for 1 % less.
const ZSTD_LEVEL: i32 = 9;

impl Compression {
    /// The best that a kernel with this configuration (`/boot/config-RELEASE`) undoes; without one, what all undo.
    pub fn for_kernel(config: Option<&str>) -> Self {
        let zstd = config.is_some_and(|text| text.lines().any(|line| line == "CONFIG_RD_ZSTD=y"));
        if zstd { Compression::Zstd } else { Compression::Gzip }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        }
    }

    /// Hands a compressing writer to `fill`; what it writes goes to `out`, and is complete on return.
    ///
    /// # Errors
    /// What `fill` says, or `out`.
    pub fn write<W: Write>(self, out: W, fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<W> {
        match self {
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
                fill(&mut encoder)?;
                Ok(encoder.finish()?)
            }
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                fill(&mut encoder)?;
                Ok(encoder.finish()?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_kernel_decides() {
        for (name, config, expected) in [
            ("no configuration", None, Compression::Gzip),
            ("zstd", Some("CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"), Compression::Zstd),
            ("no zstd", Some("CONFIG_RD_GZIP=y\n# CONFIG_RD_ZSTD is not set\n"), Compression::Gzip),
        ] {
            assert_eq!(Compression::for_kernel(config), expected, "{name}");
        }
    }

    #[test]
    fn what_is_written_comes_out_again() {
        let fill = |out: &mut dyn Write| Ok(out.write_all(&[b'x'; 100_000])?);
        let packed = Compression::Zstd.write(Vec::new(), fill).expect("written");
        assert_eq!(zstd::decode_all(packed.as_slice()).expect("zstd"), vec![b'x'; 100_000]);
        let packed = Compression::Gzip.write(Vec::new(), fill).expect("written");
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut out).expect("gzip");
        assert_eq!(out, vec![b'x'; 100_000]);
    }
}
