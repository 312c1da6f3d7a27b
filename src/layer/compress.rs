//! Compressed streams, told by their first bytes rather than by their names.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;

use liblzma::stream::{CONCATENATED, Stream};

use super::GzipEncoder;

/// How a layer is stored in a blob that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// As it is.
    None,
    /// What every registry and runtime reads.
    #[default]
    Gzip,
    /// Smaller and faster, for OCI images only.
    Zstd,
}

/// How a stream that we read is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Not at all, or in a way that mica does not read.
    Plain,
    /// One gzip member or more.
    Gzip,
    /// One Zstandard frame or more.
    Zstd,
    /// One bzip2 stream or more.
    Bzip2,
    /// One xz stream or more.
    Xz,
}

impl Format {
    /// How many bytes [`Format::sniff`] needs to see.
    pub const SNIFF_BYTES: usize = 6;

    /// Tells the format from the first bytes of a stream; fewer than
    /// [`SNIFF_BYTES`](Self::SNIFF_BYTES) mean that there are no more.
    pub fn sniff(start: &[u8]) -> Self {
        let formats: [(&[u8], Self); 4] = [
            (&[0x1f, 0x8b, 8], Self::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd], Self::Zstd),
            (b"BZh", Self::Bzip2),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Self::Xz),
        ];
        let found = formats.into_iter().find(|(magic, _)| start.starts_with(magic));
        found.map_or(Self::Plain, |(_, format)| format)
    }
}

/// A window of 128 MiB, what the `zstd` program itself accepts; a hostile frame asks for terabytes.
const ZSTD_WINDOW_LOG: u32 = 27;
/// `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES: u64 = 256 << 20;

/// With which a push is over soonest on all but slow lines: level 4 takes twice the time to make a
/// fiftieth less. What Go's default makes, at five times the cost, is between the two.
const GZIP_LEVEL: u32 = 1;

/// Decompresses `reader`. Streams that follow one another are one; other trailing bytes are an error,
/// as is a stream that is cut off or whose checksum is wrong. Memory is bounded whatever the stream
/// claims.
pub fn decoder<'a>(
    format: Format,
    reader: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    decode(format, BufReader::with_capacity(128 << 10, reader))
}

/// Decompresses a stream of whichever format it begins like, and tells which.
pub fn open_archive<'a>(
    reader: impl Read + Send + 'a,
) -> io::Result<(Format, Box<dyn Read + Send + 'a>)> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let mut start = Vec::with_capacity(Format::SNIFF_BYTES);
    // A pipe may give fewer bytes than asked for at first.
    (&mut reader).take(Format::SNIFF_BYTES as u64).read_to_end(&mut start)?;
    let format = Format::sniff(&start);
    let whole = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(reader));
    Ok((format, decode(format, whole)?))
}

fn decode<'a>(
    format: Format,
    reader: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match format {
        Format::Plain => Box::new(reader),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
        Format::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(reader, stream))
        }
    })
}

/// Compresses what is written to it; [`Encoder::finish`] ends it.
///
/// The bytes depend on the input and the compression alone, never on the number of threads.
#[expect(missing_debug_implementations, reason = "the zstd encoder has none")]
pub enum Encoder<W: Write> {
    /// Passes everything through.
    None(W),
    /// In members, on all cores.
    Gzip(GzipEncoder<W>),
    /// With a checksum.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl Compression {
    /// The levels that it can be asked for; without one it is 1 for gzip, 3 for zstd.
    pub fn levels(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::None => 0..=0,
            Self::Gzip => 0..=9,
            Self::Zstd => 0..=22,
        }
    }

    /// A writer that compresses into `out` on `threads` threads.
    pub fn encoder<W: Write>(
        self,
        level: Option<u32>,
        out: W,
        threads: NonZeroUsize,
    ) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::None => Encoder::None(out),
            Self::Gzip => {
                let level = level.unwrap_or(GZIP_LEVEL);
                Encoder::Gzip(GzipEncoder::new(out, level, threads)?)
            }
            Self::Zstd => {
                // Those above take gigabytes; zstd's own program hides them behind `--ultra`.
                let level = level.unwrap_or(3).clamp(1, 19).cast_signed();
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                // One thread or more give the same bytes; none at all would give others.
                encoder.multithread(u32::try_from(threads.get()).unwrap_or(u32::MAX).min(64))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        })
    }
}

impl<W: Write> Encoder<W> {
    /// Writes what is left and gives back what it was written to, which is not flushed.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            // Flushing would end a block early and change the bytes.
            Self::Zstd(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    /// Text-like and reproducible: compresses, but not to nothing.
    fn sample(bytes: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24
        };
        let words: Vec<Vec<u8>> = (0..200)
            .map(|_| (0..3 + next() % 7).map(|_| b'a' + (next() % 26) as u8).collect())
            .collect();
        let mut text = Vec::with_capacity(bytes + 16);
        while text.len() < bytes {
            text.extend_from_slice(&words[next() as usize % words.len()]);
            text.push(b' ');
        }
        text.truncate(bytes);
        text
    }

    fn compress(compression: Compression, data: &[u8], threads: usize, piece: usize) -> Vec<u8> {
        let threads = NonZeroUsize::new(threads).unwrap();
        let mut encoder = compression.encoder(None, Vec::new(), threads).unwrap();
        for piece in data.chunks(piece) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn decompress(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        open_archive(data)?.1.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn threads_do_not_change_the_bytes() {
        for size in [0, 1, 100, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 5_000_000] {
            let data = sample(size);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let one = compress(compression, &data, 1, 1 << 16);
                assert!(one == compress(compression, &data, 2, 777_777), "{compression:?} {size}");
                assert!(one == compress(compression, &data, 5, 4096), "{compression:?} {size}");
                assert!(decompress(&one).unwrap() == data, "{compression:?} {size}");
            }
        }
    }

    /// A change of these bytes changes the digest of every layer that is pushed.
    #[test]
    fn gzip_bytes_are_golden() {
        let packed = compress(Compression::Gzip, &sample(3_000_000), 2, 1 << 16);
        assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff]);
        let digest = Digest::of(&packed).to_string();
        assert_eq!(digest, GOLDEN);
    }

    const GOLDEN: &str = "sha256:b60a9f3f1b175cad5794aaf955012c24ad2a39352c7b7295ca401a2bfc0ec328";

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        })
        .take(bytes)
        .collect()
    }

    #[test]
    fn incompressible_data_is_stored() {
        let noise = noise(2_500_000);
        let packed = compress(Compression::Gzip, &noise, 2, 1 << 16);
        assert!(packed.len() < noise.len() + noise.len() / 1000 + 1000);
        assert!(decompress(&packed).unwrap() == noise);
        // Only what is in whole members that hold nothing else.
        let mixed = [&noise[..1_000_000], &sample(1_000_000)].concat();
        let packed = compress(Compression::Gzip, &mixed, 2, 1 << 16);
        assert!(packed.len() < 1_500_000, "{}", packed.len());
        assert!(decompress(&packed).unwrap() == mixed);
    }

    #[test]
    fn levels_of_gzip() {
        let data = sample(1_000_000);
        let at = |level| {
            let threads = NonZeroUsize::new(2).unwrap();
            let mut encoder = Compression::Gzip.encoder(level, Vec::new(), threads).unwrap();
            encoder.write_all(&data).unwrap();
            let packed = encoder.finish().unwrap();
            assert!(decompress(&packed).unwrap() == data, "{level:?}");
            packed.len()
        };
        assert_eq!(at(None), at(Some(GZIP_LEVEL)));
        assert!(at(Some(0)) > data.len() && at(Some(0)) > at(Some(1)));
        assert_ne!(at(Some(1)), at(Some(9)));
        assert_eq!(at(Some(9)), at(Some(99)));
    }

    #[test]
    fn reads_what_is_found_in_the_wild() {
        let data = sample(300_000);
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&data).unwrap();
        let bzip2 = bzip2.finish().unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&data).unwrap();
        let xz = xz.finish().unwrap();
        let gzip = compress(Compression::Gzip, &data, 1, 1 << 16);
        let zstd = compress(Compression::Zstd, &data, 1, 1 << 16);
        for (packed, format) in [
            (&gzip, Format::Gzip),
            (&zstd, Format::Zstd),
            (&bzip2, Format::Bzip2),
            (&xz, Format::Xz),
        ] {
            assert_eq!(Format::sniff(packed), format);
            assert!(decompress(packed).unwrap() == data, "{format:?}");
            let twice = [&packed[..], packed].concat();
            assert!(decompress(&twice).unwrap() == [&data[..], &data].concat(), "{format:?}");
            assert!(decompress(&packed[..packed.len() - 3]).is_err(), "{format:?} cut off");
        }
        assert!(decompress(&[&gzip[..], b"garbage garbage garbage"].concat()).is_err());
        let mut flipped = gzip.clone();
        let at = flipped.len() - 6;
        flipped[at] ^= 0xff;
        assert!(decompress(&flipped).is_err());
        assert_eq!(Format::sniff(b"etc/"), Format::Plain);
        assert_eq!(decompress(b"etc/").unwrap(), b"etc/");
        assert_eq!(decompress(b"").unwrap(), b"");
    }

    #[test]
    fn many_empty_gzip_members_end() {
        let empty = compress(Compression::Gzip, b"", 1, 1);
        let bomb = empty.repeat(200_000);
        assert_eq!(decompress(&bomb).unwrap(), b"");
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        // Magic, a descriptor without a content size, a window of 2³¹ bytes, an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
        assert!(decompress(&frame).is_err());
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 1, 0, 0];
        assert_eq!(decompress(&frame).unwrap(), b"");
    }
}
