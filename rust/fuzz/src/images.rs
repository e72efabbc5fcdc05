//! Damaged images, and a sound one after each.

use std::collections::HashMap;

use turbo_fetch_image::blur::Bounds;
use turbo_fetch_image::error::Rejection;
use turbo_fetch_image::foreign::Layout;
use turbo_fetch_image::geometry::Size;
use turbo_fetch_image::options::{DigestKind, Encoding, Filter, Limits, Mode, Options};
use turbo_fetch_image::scratch::Scratch;
use turbo_fetch_image::transform::{ForeignPixels, Transformed, transform, transform_pixels};

use crate::random::Random;

const MAX_PIXELS: u64 = 1_000_000;

/// Layouts of foreign pixels, and how many samples a pixel has in each.
const LAYOUTS: [(Layout, usize); 6] = [
    (Layout::Grey, 1),
    (Layout::GreyAlpha, 2),
    (Layout::Rgb, 3),
    (Layout::Rgba, 4),
    (Layout::Cmyk, 4),
    (Layout::Bgr, 3),
];

/// A way to transform images, and the boxes of each.
struct Setting {
    options: Options,
    boxes: Vec<Bounds>,
}

fn settings() -> Vec<Setting> {
    let plain = Options {
        width: 48,
        height: 48,
        more_sizes: Vec::new(),
        mode: Mode::Border,
        only_if_bigger: false,
        downscale: Filter::Area,
        upscale: Filter::Cubic,
        encode: Encoding::Jpeg,
        quality: 90,
        skip_reencode: false,
        limits: Limits {
            min_side: 0,
            max_pixels: MAX_PIXELS,
            max_aspect: 0.0,
        },
        digest: DigestKind::Md5,
        exif: true,
        phash: true,
        crop: false,
    };
    let whole = Options {
        mode: Mode::No,
        encode: Encoding::Png,
        quality: 1,
        ..plain.clone()
    };
    let webp = Options {
        mode: Mode::CenterCrop,
        encode: Encoding::Webp,
        quality: 80,
        downscale: Filter::Lanczos,
        phash: false,
        ..plain.clone()
    };
    let kept = Options {
        mode: Mode::KeepRatio,
        only_if_bigger: true,
        width: 4000,
        height: 4000,
        skip_reencode: true,
        ..plain.clone()
    };
    let original = Options {
        encode: Encoding::Original,
        ..plain.clone()
    };
    let stretched = Options {
        mode: Mode::Stretch,
        downscale: Filter::Linear,
        width: 31,
        height: 17,
        ..plain.clone()
    };
    let cropped = Options {
        crop: true,
        ..webp.clone()
    };
    // Of which some are the image as it is, and some larger.
    let several = Options {
        only_if_bigger: true,
        more_sizes: [(4000, 4000), (3, 300), (16, 16)]
            .map(|(width, height)| Size::new(width, height))
            .to_vec(),
        ..plain.clone()
    };
    let boxes = vec![[0.1, 0.2, 0.6, 0.9], [0.5, -1.0, f64::NAN, 2.0]];
    [
        plain,
        whole,
        webp,
        kept,
        original,
        stretched.clone(),
        several,
    ]
    .map(|options| (options, Vec::new()))
    .into_iter()
    .chain([(stretched, boxes.clone()), (cropped, boxes)])
    .map(|(options, boxes)| Setting { options, boxes })
    .collect()
}

/// Sound images, and the one thread's scratch that all images share.
pub struct Images {
    pub sound: Vec<Vec<u8>>,
    settings: Vec<Setting>,
    scratch: Scratch,
    expected: HashMap<(usize, usize), Transformed>,
    pub checked: usize,
}

impl Images {
    pub fn new(sound: Vec<Vec<u8>>) -> Self {
        Self {
            sound,
            settings: settings(),
            scratch: Scratch::default(),
            expected: HashMap::new(),
            checked: 0,
        }
    }

    /// Transform `body` in one of the ways, then a sound image; return what is wrong, if anything.
    pub fn take(&mut self, body: &[u8], random: &mut Random) -> Option<&'static str> {
        let way = random.below(self.settings.len());
        let seed = random.next();
        let setting = &self.settings[way];
        let found = whole(setting, body, seed, &mut self.scratch);
        if !same(&found, &whole(setting, body, seed, &mut Scratch::default())) {
            return Some("depends-on-neighbours");
        }
        let number = random.below(self.sound.len());
        let neighbour = &self.sound[number];
        let expected = self
            .expected
            .entry((number, way))
            .or_insert_with(|| whole(setting, neighbour, 0, &mut Scratch::default()));
        let found = whole(setting, neighbour, 0, &mut self.scratch);
        self.checked += 1;
        (!same(&found, expected)).then_some("damages-neighbours")
    }
}

/// Transform one image; the pixels of a foreign one are drawn from `seed`, since its decoder is elsewhere.
fn whole(setting: &Setting, body: &[u8], seed: u64, scratch: &mut Scratch) -> Transformed {
    let (options, boxes) = (&setting.options, &setting.boxes);
    let found = transform(options, body, boxes, scratch);
    let (Some(size), Err(Rejection::Foreign(_))) = (found.original_size, &found.result) else {
        return found;
    };
    let mut random = Random::new(seed);
    let area = u64::from(size.width) * u64::from(size.height);
    let (layout, channels) = *random.pick(&LAYOUTS);
    let bits = *random.pick(&[8, 16]);
    let length = area.min(MAX_PIXELS) as usize * channels * usize::from(bits / 8);
    let samples: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
    let pixels = ForeignPixels {
        samples: &samples,
        size,
        layout,
        bits,
    };
    transform_pixels(options, body, &pixels, boxes, scratch)
}

fn same(left: &Transformed, right: &Transformed) -> bool {
    let results = match (&left.result, &right.result) {
        (Ok(left), Ok(right)) => left.images == right.images,
        (Err(left), Err(right)) => left == right,
        _ => false,
    };
    results
        && left.original_size == right.original_size
        && left.original_format == right.original_format
        && left.exif == right.exif
        && left.phash == right.phash
}
