//! JFIF colours (ITU-T T.871): full-range luma and chroma to RGB.

const SHIFT: u32 = 16;
const HALF: i32 = 1 << (SHIFT - 1);
// 1.402, 0.344136, 0.714136 and 1.772 in 16-bit fixed point.
const RED_FROM_CR: i32 = 91_881;
const GREEN_FROM_CB: i32 = 22_554;
const GREEN_FROM_CR: i32 = 46_802;
const BLUE_FROM_CB: i32 = 116_130;

/// Convert planes of equal length to interleaved pixels of three bytes.
pub fn to_rgb(luma: &[u8], blue: &[u8], red: &[u8], pixels: &mut [u8]) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for (((pixel, &y), &cb), &cr) in pixels.iter_mut().zip(luma).zip(blue).zip(red) {
        let y = (i32::from(y) << SHIFT) + HALF;
        let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
        pixel[0] = clamped((y + RED_FROM_CR * cr) >> SHIFT);
        pixel[1] = clamped((y - GREEN_FROM_CB * cb - GREEN_FROM_CR * cr) >> SHIFT);
        pixel[2] = clamped((y + BLUE_FROM_CB * cb) >> SHIFT);
    }
}

fn clamped(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}
