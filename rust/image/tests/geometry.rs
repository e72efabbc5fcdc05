//! Properties of plans: the right sides, windows inside the image, the same image however it is stored.

use proptest::prelude::*;
use turbo_fetch_image::geometry::{Size, plan};
use turbo_fetch_image::options::{DigestKind, Encoding, Filter, Limits, Mode, Options};
use turbo_fetch_image::orient::Orientation;

fn options(width: u32, height: u32, mode: Mode, only_if_bigger: bool) -> Options {
    Options {
        width,
        height,
        more_sizes: Vec::new(),
        mode,
        only_if_bigger,
        downscale: Filter::Area,
        upscale: Filter::Cubic,
        encode: Encoding::Jpeg,
        quality: 95,
        skip_reencode: false,
        limits: Limits {
            min_side: 0,
            max_pixels: u64::MAX,
            max_aspect: 0.0,
        },
        digest: DigestKind::None,
        exif: false,
        phash: false,
        crop: false,
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![
        Mode::No,
        Mode::Border,
        Mode::KeepRatio,
        Mode::KeepRatioLargest,
        Mode::CenterCrop,
        Mode::Stretch,
    ])
}

fn sizes() -> impl Strategy<Value = Size> {
    (1_u32..5_000, 1_u32..5_000).prop_map(|(width, height)| Size::new(width, height))
}

/// Sides of the image that a plan makes of `source`.
fn made(options: &Options, source: Size) -> Size {
    let plan = plan(options, source);
    let resized = plan.resampling.map_or(source, |resampling| resampling.size);
    plan.canvas.map_or(resized, |canvas| canvas.size)
}

proptest! {
    #[test]
    fn a_window_lies_inside_the_picture(mode in modes(), source in sizes(), target in sizes()) {
        if let Some(resampling) = plan(&options(target.width, target.height, mode, false), source).resampling {
            let window = resampling.window;
            prop_assert!(window.left >= 0.0 && window.top >= 0.0);
            prop_assert!(window.width > 0.0 && window.height > 0.0);
            prop_assert!(window.left + window.width <= f64::from(source.width) + 1e-6);
            prop_assert!(window.top + window.height <= f64::from(source.height) + 1e-6);
        }
    }

    #[test]
    fn modes_with_a_fixed_size_give_it(source in sizes(), target in sizes()) {
        for mode in [Mode::Border, Mode::CenterCrop, Mode::Stretch] {
            prop_assert_eq!(made(&options(target.width, target.height, mode, false), source), target);
        }
    }

    #[test]
    fn modes_that_keep_the_ratio_meet_the_box_at_one_side(source in sizes(), target in sizes()) {
        let inside = made(&options(target.width, target.height, Mode::KeepRatioLargest, false), source);
        prop_assert!(inside.width <= target.width && inside.height <= target.height);
        prop_assert!(inside.width == target.width || inside.height == target.height);
        let outside = made(&options(target.width, target.height, Mode::KeepRatio, false), source);
        prop_assert!(outside.width >= target.width && outside.height >= target.height);
    }

    #[test]
    fn only_if_bigger_never_enlarges(mode in modes(), source in sizes(), side in 1_u32..5_000) {
        let plan = plan(&options(side, side, mode, true), source);
        if let Some(resampling) = plan.resampling {
            prop_assert!(resampling.whole.width <= source.width || mode == Mode::Stretch);
            prop_assert_eq!(resampling.filter, Filter::Area);
        } else {
            prop_assert!(plan.canvas.is_none() || source.width.max(source.height) > side);
        }
    }

    #[test]
    fn a_plan_maps_to_stored_pixels_and_back(orientation in 1_u16..=8, stored in sizes(), target in sizes()) {
        let orientation = Orientation::from_exif(orientation);
        let upright = orientation.size(stored);
        let wanted = plan(&options(target.width, target.height, Mode::CenterCrop, false), upright);
        if let Some(resampling) = wanted.resampling {
            let mapped = orientation.stored(resampling, stored);
            prop_assert_eq!(orientation.size(mapped.size), resampling.size);
            prop_assert!(mapped.window.left >= -1e-6 && mapped.window.top >= -1e-6);
            prop_assert!(mapped.window.left + mapped.window.width <= f64::from(stored.width) + 1e-6);
            prop_assert!(mapped.window.top + mapped.window.height <= f64::from(stored.height) + 1e-6);
        }
    }
}

#[test]
fn sides_round_half_to_even_as_in_the_peer() {
    // 5 × 2.5 is 12.5 and 7 × 2.5 is 17.5: Python rounds the first down and the second up.
    assert_eq!(
        made(&options(5, 5, Mode::KeepRatio, false), Size::new(2, 5)),
        Size::new(5, 12)
    );
    assert_eq!(
        made(&options(5, 5, Mode::KeepRatio, false), Size::new(2, 7)),
        Size::new(5, 18)
    );
}
