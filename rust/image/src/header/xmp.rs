//! The orientation that a packet of XMP states, found as Pillow finds it: by its text.

/// The digit of the first `tiff:Orientation` that has one, as an attribute or an element.
pub fn orientation(packet: &[u8]) -> Option<u16> {
    const NAME: &[u8] = b"tiff:Orientation";
    memchr::memmem::find_iter(packet, NAME).find_map(|at| {
        let after = &packet[at + NAME.len()..];
        let value = after.strip_prefix(b"=\"").or(after.strip_prefix(b">"))?;
        let digit = value.first().filter(|byte| byte.is_ascii_digit())?;
        Some(u16::from(digit - b'0'))
    })
}
