//! Boxes made unrecognisable: what is inside is replaced by a few mean colours, so that nothing is left to recover.

use crate::raster::Raster;

/// Left, top, right, bottom of a box, relative to the sides of the upright image.
pub type Bounds = [f64; 4];

/// Mean colours along the longer side of a box: at most 16 of them remain of what it showed, too few for a face or text.
const CELLS: f64 = 4.0;
/// Width of the soft edge around a box, relative to its longer side.
const MARGIN: f64 = 0.1;

/// Blur `boxes` of an upright image in place.
///
/// All pixels of a box become a smooth blend of its mean colours. The edge fades into the image outside of the box, so
/// that no pixel inside keeps a share of its old value.
pub fn blur(raster: &mut Raster, boxes: &[Bounds]) {
    for &bounds in boxes {
        if let Some(area) = Area::of(raster, bounds) {
            let means = Means::of(raster, &area);
            area.cover(raster, &means);
        }
    }
}

/// Half-open ranges of pixels: of the box, and of the box with its soft edge.
struct Area {
    across: [Span; 2],
    down: [Span; 2],
    margin: f64,
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn of(start: f64, end: f64, side: usize) -> Self {
        let limit = side as f64;
        Self {
            start: start.floor().clamp(0.0, limit) as usize,
            end: end.ceil().clamp(0.0, limit) as usize,
        }
    }

    fn len(self) -> usize {
        self.end - self.start
    }

    /// Pixels from `place` to the span, 0 inside.
    fn distance(self, place: usize) -> f64 {
        let before = self.start.saturating_sub(place);
        before.max((place + 1).saturating_sub(self.end)) as f64
    }
}

impl Area {
    fn of(raster: &Raster, [left, top, right, bottom]: Bounds) -> Option<Self> {
        let (width, height) = (raster.size.width as usize, raster.size.height as usize);
        let (left, right) = (left * width as f64, right * width as f64);
        let (top, bottom) = (top * height as f64, bottom * height as f64);
        let margin = MARGIN
            * (right - left)
                .max(bottom - top)
                .min(width.max(height) as f64);
        let area = Self {
            across: [
                Span::of(left, right, width),
                Span::of(left - margin, right + margin, width),
            ],
            down: [
                Span::of(top, bottom, height),
                Span::of(top - margin, bottom + margin, height),
            ],
            margin,
        };
        (area.across[0].start < area.across[0].end && area.down[0].start < area.down[0].end)
            .then_some(area)
    }

    /// Share of the means in the pixel at (x, y): 1 in the box, less the further away.
    fn share(&self, x: usize, y: usize) -> f64 {
        let away = self.across[0].distance(x).max(self.down[0].distance(y));
        if away == 0.0 {
            1.0
        } else {
            (1.0 - away / (self.margin + 1.0)).max(0.0)
        }
    }

    fn cover(&self, raster: &mut Raster, means: &Means) {
        let channels = raster.model.channels();
        let stride = raster.size.width as usize * channels;
        for y in self.down[1].start..self.down[1].end {
            for x in self.across[1].start..self.across[1].end {
                let share = self.share(x, y);
                let pixel = &mut raster.pixels[y * stride + x * channels..][..channels];
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let mean = means.at(x - self.across[1].start, y - self.down[1].start, channel);
                    *value = (f64::from(*value) * (1.0 - share) + mean * share).round() as u8;
                }
            }
        }
    }
}

/// Mean colours of a grid of cells over an area.
struct Means {
    columns: usize,
    rows: usize,
    channels: usize,
    width: f64,
    height: f64,
    values: Vec<f64>,
}

impl Means {
    fn of(raster: &Raster, area: &Area) -> Self {
        let channels = raster.model.channels();
        let (width, height) = (area.across[1].len(), area.down[1].len());
        let cell = width.max(height) as f64 / CELLS;
        let columns = ((width as f64 / cell).round() as usize).max(1);
        let rows = ((height as f64 / cell).round() as usize).max(1);
        let mut sums = vec![0_u64; columns * rows * channels];
        let mut counts = vec![0_u64; columns * rows];
        let stride = raster.size.width as usize * channels;
        for y in 0..height {
            for x in 0..width {
                let cell = (y * rows / height) * columns + x * columns / width;
                let start =
                    (y + area.down[1].start) * stride + (x + area.across[1].start) * channels;
                counts[cell] += 1;
                for channel in 0..channels {
                    sums[cell * channels + channel] += u64::from(raster.pixels[start + channel]);
                }
            }
        }
        let values = sums
            .iter()
            .enumerate()
            .map(|(index, &sum)| sum as f64 / counts[index / channels].max(1) as f64)
            .collect();
        Self {
            columns,
            rows,
            channels,
            width: width as f64,
            height: height as f64,
            values,
        }
    }

    /// The means blended linearly between the middles of the cells, at a pixel of the area.
    fn at(&self, x: usize, y: usize, channel: usize) -> f64 {
        let (left, right, to_right) = neighbours(x, self.width, self.columns);
        let (above, below, down) = neighbours(y, self.height, self.rows);
        let value = |row: usize, column: usize| {
            self.values[(row * self.columns + column) * self.channels + channel]
        };
        let upper = value(above, left) * (1.0 - to_right) + value(above, right) * to_right;
        let lower = value(below, left) * (1.0 - to_right) + value(below, right) * to_right;
        upper * (1.0 - down) + lower * down
    }
}

/// The two cells between whose middles a pixel lies, and how far it is from the first.
fn neighbours(place: usize, side: f64, cells: usize) -> (usize, usize, f64) {
    let last = cells - 1;
    let position = ((place as f64 + 0.5) * cells as f64 / side - 0.5).clamp(0.0, last as f64);
    let first = position as usize;
    (first, (first + 1).min(last), position - first as f64)
}
