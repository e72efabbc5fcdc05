//! Files that no encoder wrote end as declined or as planes of the stated size, the same by every kind of processor.

use proptest::prelude::*;
use turbo_fetch_jpeg::{Decoder, Frame, Plane};

/// A header of three components of 40 × 24 pixels, 4:2:0, with all tables; what follows is data of its scans.
fn header(progressive: bool) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
    file.extend(1..=64);
    for kind in [0x00, 0x10] {
        // Two codes of two bits, two of three, and four of five for the longest runs and values.
        let values: [u8; 8] = if kind == 0 {
            [0, 2, 5, 7, 9, 11, 14, 15]
        } else if progressive {
            [0x01, 0x00, 0x11, 0x40, 0xf0, 0x21, 0xe1, 0x50]
        } else {
            [0x01, 0x00, 0x12, 0x33, 0xf0, 0xf5, 0x0f, 0x71]
        };
        file.extend_from_slice(b"\xff\xc4\0\x1b");
        file.push(kind);
        file.extend_from_slice(&[0, 2, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend_from_slice(&values);
    }
    file.extend_from_slice(&[0xff, if progressive { 0xc2 } else { 0xc0 }]);
    file.extend_from_slice(b"\0\x11\x08\0\x18\0\x28\x03\x01\x22\0\x02\x11\0\x03\x11\0");
    file
}

/// Components from 1 with their tables, then Ss, Se, and Ah and Al in one.
fn scan(file: &mut Vec<u8>, components: &[u8], parameters: [u8; 3], data: &[u8]) {
    file.extend_from_slice(&[0xff, 0xda, 0, 6 + 2 * components.len() as u8]);
    file.push(components.len() as u8);
    for &component in components {
        file.extend_from_slice(&[component, 0]);
    }
    file.extend_from_slice(&parameters);
    for &byte in data {
        file.push(byte);
        if byte == 0xff {
            file.push(0);
        }
    }
}

fn decoded(decoder: &mut Decoder, body: &[u8], eighths: usize) -> Option<Vec<Plane>> {
    let frame = Frame::read(body).ok()?;
    let count = frame.components.len();
    let mut planes = vec![Plane::default(); count];
    decoder
        .planes(body, &frame, &vec![eighths; count], &mut planes)
        .ok()?;
    Some(planes)
}

proptest! {
    #[test]
    fn no_data_breaks_the_decoder(
        progressive in any::<bool>(),
        eighths in 1_usize..=8,
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 4),
    ) {
        let mut file = header(progressive);
        if progressive {
            scan(&mut file, &[1, 2, 3], [0, 0, 0x01], &data[0]);
            scan(&mut file, &[1], [1, 63, 0x01], &data[1]);
            scan(&mut file, &[1], [1, 63, 0x10], &data[2]);
            scan(&mut file, &[2], [1, 63, 0x00], &data[3]);
        } else {
            scan(&mut file, &[1, 2, 3], [0, 63, 0], &data.concat());
        }
        file.extend_from_slice(b"\xff\xd9");
        let wide = decoded(&mut Decoder::default(), &file, eighths);
        prop_assert_eq!(wide, decoded(&mut Decoder::portable(), &file, eighths));
    }

    #[test]
    fn no_segments_break_the_decoder(tail in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..300) {
        let mut file = header(false);
        scan(&mut file, &[1, 2, 3], [0, 63, 0], &[0; 60]);
        file.truncate(cut);
        file.extend_from_slice(&tail);
        file.extend_from_slice(b"\xff\xd9");
        prop_assert_eq!(decoded(&mut Decoder::default(), &file, 4), None);
    }
}

#[test]
fn a_scan_of_the_shortest_codes_is_a_grey_picture_at_any_size() {
    // Two zero bits for a difference of zero and two more, 01, for the end of each of the 36 blocks.
    let mut file = header(false);
    scan(&mut file, &[1, 2, 3], [0, 63, 0], &[0x11; 18]);
    file.extend_from_slice(b"\xff\xd9");
    for eighths in 1..=8 {
        let planes = decoded(&mut Decoder::default(), &file, eighths).expect("a sound file");
        assert_eq!(
            (planes[0].width, planes[0].height),
            (5 * eighths, 3 * eighths)
        );
        let chroma = ((20 * eighths).div_ceil(8), (12 * eighths).div_ceil(8));
        assert_eq!((planes[1].width, planes[1].height), chroma);
        assert!(
            planes
                .iter()
                .flat_map(|plane| &plane.pixels)
                .all(|&level| level == 128)
        );
    }
    let longer = [&file[..file.len() - 2], b"\x11\xff\xd9"].concat();
    assert_eq!(decoded(&mut Decoder::default(), &longer, 8), None);
    let shorter = [&file[..file.len() - 3], b"\xff\xd9"].concat();
    assert_eq!(decoded(&mut Decoder::default(), &shorter, 8), None);
}
