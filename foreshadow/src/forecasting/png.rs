//! A canvas of pixels, and PNG (RFC 2083) without compression: pictures need no library.

/// A colour: red, green, blue.
pub(super) type Colour = [u8; 3];

/// Pixels, white at first.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// Digits and a few signs, three by five points each; the lowest bit is the last point.
const GLYPHS: [(char, u16); 15] = [
    ('0', 0b111_101_101_101_111),
    ('1', 0b010_110_010_010_111),
    ('2', 0b111_001_111_100_111),
    ('3', 0b111_001_111_001_111),
    ('4', 0b101_101_111_001_001),
    ('5', 0b111_100_111_001_111),
    ('6', 0b111_100_111_101_111),
    ('7', 0b111_001_010_010_010),
    ('8', 0b111_101_111_101_111),
    ('9', 0b111_101_111_001_111),
    ('.', 0b000_000_000_000_010),
    ('-', 0b000_000_111_000_000),
    ('e', 0b000_111_111_100_111),
    ('+', 0b000_010_111_010_000),
    ('%', 0b101_001_010_100_101),
];

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            pixels: vec![255; width * height * 3],
        }
    }

    pub(super) fn dot(&mut self, x: usize, y: usize, colour: Colour) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// A line, two pixels thick.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Colour) {
        let steps = (to.0 - from.0)
            .abs()
            .max((to.1 - from.1).abs())
            .ceil()
            .clamp(1.0, 1e4);
        let mut done = 0.0;
        while done <= steps {
            let share = done / steps;
            let x = whole(from.0 + (to.0 - from.0) * share);
            let y = whole(from.1 + (to.1 - from.1) * share);
            for (dx, dy) in [(0, 0), (0, 1), (1, 0)] {
                self.dot(x + dx, y + dy, colour);
            }
            done += 1.0;
        }
    }

    /// A column of pixels.
    pub(super) fn column(&mut self, x: f64, from: f64, to: f64, colour: Colour) {
        for y in whole(from.min(to))..=whole(from.max(to)) {
            self.dot(whole(x), y, colour);
        }
    }

    pub(super) fn text(&mut self, x: usize, y: usize, text: &str) {
        for (place, c) in text.chars().enumerate() {
            let glyph = GLYPHS.iter().find(|(known, _)| *known == c);
            let Some((_, bits)) = glyph else { continue };
            for point in 0..15 {
                if (bits >> (14 - point)) & 1 == 1 {
                    let (dx, dy) = (point % 3 * 2, point / 3 * 2);
                    for (right, down) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        self.dot(x + place * 8 + dx + right, y + dy + down, [60, 60, 60]);
                    }
                }
            }
        }
    }

    /// The picture as a PNG file.
    pub(super) fn png(&self) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut head = Vec::new();
        head.extend(number(self.width));
        head.extend(number(self.height));
        head.extend([8, 2, 0, 0, 0]);
        chunk(&mut file, *b"IHDR", &head);
        let mut raw = Vec::with_capacity(self.pixels.len() + self.height);
        for row in self.pixels.chunks_exact(self.width * 3) {
            raw.push(0);
            raw.extend_from_slice(row);
        }
        chunk(&mut file, *b"IDAT", &stored(&raw));
        chunk(&mut file, *b"IEND", &[]);
        file
    }
}

/// A pixel's place; what lies outside of every canvas is at its edge.
pub(super) fn whole(value: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what a canvas can have"
    )]
    let place = value.round().clamp(0.0, 1e5) as usize;
    place
}

/// The zlib format with blocks that are stored as they are.
fn stored(raw: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let mut blocks = raw.chunks(65_535).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let (mut a, mut b) = (1_u32, 0_u32);
    for &byte in raw {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend(((b << 16) | a).to_be_bytes());
    out
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    file.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    let begin = file.len();
    file.extend_from_slice(&kind);
    file.extend_from_slice(data);
    let sum = crc(&file[begin..]);
    file.extend(sum.to_be_bytes());
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sums_are_those_of_the_standards() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc(b"IEND"), 0xae42_6082);
        // Adler-32 of "Wikipedia" is 0x11e60398.
        assert!(stored(b"Wikipedia").ends_with(&[0x11, 0xe6, 0x03, 0x98]));
    }

    #[test]
    fn what_is_drawn_beyond_the_edge_is_left_out() {
        let mut canvas = Canvas::new(10, 10);
        canvas.line((-50.0, -50.0), (500.0, 500.0), [0, 0, 0]);
        canvas.text(8, 8, "12345");
        let png = canvas.png();
        assert!(png.starts_with(b"\x89PNG"));
        assert_eq!(png.len(), 8 + 25 + (12 + 2 + 5 + 310 + 4) + 12);
    }
}
