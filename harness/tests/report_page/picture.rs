//! What can be said of a picture without a person: that it is not blank, and whether it is dark.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// A blank page has one colour; text, signs and bars have many.
pub(crate) const FEWEST: usize = 16;

/// A picture that was taken.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// How many colours are in it.
    pub(crate) colours: usize,
    /// Whether most of it is nearer to black than to white.
    pub(crate) is_dark: bool,
}

impl Picture {
    pub(crate) fn read(path: &Path) -> Self {
        let file = BufReader::new(File::open(path).unwrap());
        let mut decoder = png::Decoder::new(file);
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        let mut colours: HashMap<[u8; 3], usize> = HashMap::new();
        for pixel in pixels.chunks_exact(frame.color_type.samples()) {
            *colours.entry([pixel[0], pixel[1], pixel[2]]).or_default() += 1;
        }
        let is_dark =
            |colour: &[u8; 3]| colour.iter().map(|part| u32::from(*part)).sum::<u32>() < 384;
        let dark: usize =
            colours.iter().filter(|(colour, _)| is_dark(colour)).map(|(_, count)| count).sum();
        let all: usize = colours.values().sum();
        Self {
            width: frame.width,
            height: frame.height,
            colours: colours.len(),
            is_dark: dark * 2 > all,
        }
    }
}
